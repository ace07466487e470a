"""`zoo predict`: what a trained model sees in image files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.console import console, load_backend, print_json
from zoo.datasets import dataset_info, list_datasets
from zoo.errors import ImageError, UsageError
from zoo.evaluation import predict
from zoo.factory import load_trained
from zoo.images import prepare_image, read_image

if TYPE_CHECKING:
    import tensorflow as tf

HELP = "classify image files with a trained model"
EXAMPLES = """  zoo predict cnn_bn.mnist photo.jpg
  zoo predict cnn_bn.mnist scans/*.png --top 3
  zoo predict runs/my-run photo.jpg --json"""
BATCH_SIZE = 256


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="NAME", help="a pretrained name, or the directory of a training run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="PNG, JPEG, BMP, GIF or WebP files of any size, colour or gray")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="the K most probable classes (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.top < 1:
        raise UsageError(f"--top must be a whole number above 0. Received: {arguments.top}.")
    load_backend()
    model, card = load_trained(arguments.source)
    images, answers = {}, []
    for index, path in enumerate(arguments.images):
        try:
            images[index] = prepared_image(path, card)
        except ImageError as error:
            answers.append((index, {"file": path, "error": str(error)}))
    probabilities = _probabilities(model, list(images.values()))
    answers += [(index, _answer(arguments.images[index], row, card, arguments.top)) for index, row in zip(images, probabilities, strict=True)]
    rows = [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]
    if arguments.json:
        print_json(rows)
    else:
        _show([row for row in rows if "error" not in row])
    failures = [row["error"] for row in rows if "error" in row]
    for failure in failures:
        console(stderr=True).print(f"zoo: {failure}", markup=False, soft_wrap=True)
    return 1 if failures else 0


def prepared_image(path: str, card: Card) -> tf.Tensor:
    """Reads an image file and brings it to what a model expects: size, channels, polarity, place."""
    ink_box = dataset_info(card.dataset).ink_box if card.dataset in list_datasets() else None
    return prepare_image(read_image(path), card.input_shape, card.light_on_dark, ink_box)


def _probabilities(model: Any, images: list[Any]) -> list[list[float]]:
    """The softmax of the model's logits, one row per image."""
    import numpy
    from keras import ops

    if not images:
        return []
    return ops.convert_to_numpy(ops.softmax(predict(model, numpy.stack(images), BATCH_SIZE))).tolist()


def _answer(path: str, probabilities: list[float], card: Card, top: int) -> dict[str, Any]:
    best = sorted(zip(probabilities, card.class_names, strict=True), key=lambda pair: -pair[0])[:top]
    classes = [{"label": label, "probability": probability} for probability, label in best]
    return {"file": path, **classes[0], "top": classes}


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("file", "label", "probability"):
        table.add_column(column, justify="right" if column == "probability" else "left")
    for row in rows:
        for place, entry in enumerate(row["top"]):
            table.add_row("" if place else escape(row["file"]), escape(entry["label"]), f"{100 * entry['probability']:.2f} %")
    console().print(table)
