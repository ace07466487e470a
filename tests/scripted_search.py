"""A search whose trials follow a script instead of training: quick, exact, and able to be killed. Run as a program, it searches.

python scripted_search.py DIRECTORY TRIALS SCHEDULER SAMPLER SECONDS_PER_EPOCH
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from tuning.result import SearchResult
from tuning.segments import OUT_OF_TIME, OnEpoch, Segment, Snapshot
from tuning.study import ZooSubject, search
from zoo.specs import Recipe

RECIPE = Recipe("relu_mlp", "digits", schedule="constant", epochs=9)
OPTIMIZERS = ["sgd", "momentum", "adam", "rmsprop"]


class ScriptedEngine:
    """Accuracies follow from the learning rate; adam above 0.0005 diverges, rmsprop cannot be built with an epsilon above 0.01."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls = seconds, list[tuple[int, int]]()

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        rate, epoch = recipe.learning_rate or 1.0, snapshot.epoch if snapshot else 0
        self.calls.append((epoch, until))
        if recipe.optimizer == "rmsprop" and recipe.optimizer_arguments["epsilon"] > 0.01:
            raise MemoryError("the script says so")
        if recipe.optimizer == "adam" and rate > 0.0005:
            return Segment("diverged", message="the loss became nan in epoch 1")
        rows = []
        while epoch < until:
            time.sleep(self.seconds)
            if time.monotonic() >= deadline:
                return Segment("stopped", tuple(rows), snapshot, OUT_OF_TIME)
            epoch += 1
            accuracy = round((0.95 - 0.1 * abs(math.log10(rate) + 2)) * (1 - 0.5**epoch), 6)
            rows.append(
                {"epoch": epoch, "loss": 1 - accuracy, "accuracy": accuracy, "val_loss": 1 - accuracy, "val_accuracy": accuracy, "seconds": 0.0}
            )
            snapshot = Snapshot(epoch, {"weights": numpy.full(1000, accuracy)})
            if on_epoch and on_epoch(rows[-1]):
                return Segment("stopped", tuple(rows), snapshot, "pruned")
        return Segment("completed", tuple(rows), snapshot, step_seconds=self.seconds * len(rows))


def scripted(directory: Path, patch: Callable[[Any, str, Any], None] = setattr, seconds: float = 0.0, **arguments: Any) -> SearchResult:
    """Runs a search on the scripted engine."""
    patch(ZooSubject, "engine", lambda subject, kind: ScriptedEngine(seconds))
    return search(RECIPE, **{"optimizers": OPTIMIZERS, "study": "optimizers", "directory": directory, **arguments})


if __name__ == "__main__":
    scripted(Path(sys.argv[1]), trials=int(sys.argv[2]), scheduler=sys.argv[3], sampler=sys.argv[4], seconds=float(sys.argv[5]))
