"""Puts the weights of a finished training run, with their card, into the package.

zoo train separable_cnn --dataset digits --no-validate --epochs 60 --learning-rate 0.01 --set pixel_mean=78.0 pixel_std=96.0 --out run
python ship.py run separable_cnn.digits
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

from zoo.cards import Card

PACKAGE = Path(__file__).parent / "zoo_separable"


def ship(run: Path, name: str) -> None:
    """Copies a run's weights and card to `<name>.weights.h5` and `<name>.json`, where the zoo looks for them.

    Args:
        run: The directory of a finished training run.
        name: `model.tag`; the tag stands in the model's `WeightsSpec`.
    """
    weights, card = PACKAGE / f"{name}.weights.h5", Card.read(run / "card.json")
    shutil.copyfile(run / "model.weights.h5", weights)
    dataclasses.replace(card, name=name, file_bytes=weights.stat().st_size).write(PACKAGE / f"{name}.json")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), sys.argv[2])
