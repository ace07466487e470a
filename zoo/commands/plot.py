"""`zoo plot`: pictures of a training run, of a shipped weight, or of what another package's directory holds.

An entry point in the group `neuron_zoo.plots` names a function of a directory and of where the pictures go (None: a place of its
own choice), which returns the files that it drew, or None where the directory is none of its own.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.console import console, load_backend
from zoo.datasets import load_dataset
from zoo.factory import load_trained

if TYPE_CHECKING:
    from zoo.cards import Card

ENTRY_POINT_GROUP = "neuron_zoo.plots"
HELP = "draw a run's curves, confusion matrix and reliability diagram, or a search's sensitivity to the learning rate"
EXAMPLES = """  zoo plot runs/my-run
  zoo plot runs/my-search
  zoo plot cnn_bn.digits --out pictures"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN", help="the directory of a training run or of a search, or a pretrained name")
    parser.add_argument("--out", type=Path, help="where the pictures go (default: RUN/plots, or plots-NAME)")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")


def run(arguments: argparse.Namespace) -> int:
    load_backend()
    source = Path(arguments.source)
    files = draw_others(source, arguments.out) if source.is_dir() else None
    for file in files or draw_model(arguments):
        console().print(str(file), markup=False, highlight=False)
    return 0


def draw_others(source: Path, directory: Path | None) -> list[Path] | None:
    """Returns what the first function that knows the directory drew of it; None where none does."""
    functions = (entry_point.load() for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    drawn = (function(source, directory) for function in functions)
    return next((files for files in drawn if files is not None), None)


def draw_model(arguments: argparse.Namespace) -> list[Path]:
    """Draws a run or a shipped weight, on the test images."""
    from zoo.evaluation import evaluate_logits, predict
    from zoo.plots import draw_confusion, draw_curves, draw_reliability

    model, card = load_trained(arguments.source)
    source = Path(arguments.source)
    directory = arguments.out or (source / "plots" if source.is_dir() else Path(f"plots-{card.name}"))
    data = load_dataset(card.dataset, "test", data_dir=arguments.data_dir, image_size=(card.input_shape[0], card.input_shape[1]))
    logits = predict(model, data.images)
    files = draw_curves(history(source, card), directory / "curves")
    files += draw_confusion(evaluate_logits(logits, data.labels)["confusion"], card.class_names, directory / "confusion")
    files += draw_reliability(logits, data.labels, directory / "reliability")
    return files


def history(source: Path, card: Card) -> dict[str, list[float]]:
    """Returns a run's history by column; a shipped weight's is in its card."""
    path = source / "history.csv"
    if not path.is_file():
        return {name: list(values) for name, values in card.history.items()}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
