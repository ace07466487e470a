"""`zoo evaluate`: how good a trained model is on a data set."""

from __future__ import annotations

import argparse
from typing import Any

from zoo.console import console, load_backend, print_json
from zoo.datasets import load_dataset
from zoo.errors import UsageError
from zoo.evaluation import evaluate
from zoo.factory import load_trained
from zoo.specs import VIEWS

HELP = "evaluate a trained model on a data set"
EXAMPLES = """  zoo evaluate cnn_bn.digits
  zoo evaluate cnn_bn.mnist --json
  zoo evaluate runs/my-run --split validation
  zoo evaluate cnn.digits --dataset path/to/folder"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="NAME", help="a pretrained name, or the directory of a training run")
    parser.add_argument("--dataset", help="a data set, or a folder of images (default: what the model was trained on)")
    parser.add_argument("--split", default="test", help="test, validation, train or train_minus_validation (default: test)")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--batch-size", type=int, default=256, help="images per step (default: 256)")
    parser.add_argument("--views", nargs="*", choices=VIEWS, default=[], help="average over other views of each image too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    load_backend()
    model, card = load_trained(arguments.source)
    name = arguments.dataset or card.dataset
    size = (card.input_shape[0], card.input_shape[1])
    data = load_dataset(name, arguments.split, data_dir=arguments.data_dir, image_size=size)
    if data.images.shape[1:] != card.input_shape or len(data.spec.class_names) != card.num_classes:
        raise UsageError(
            f"{card.name} takes images {card.input_shape} of {card.num_classes} classes; "
            f"{name} has images {data.images.shape[1:]} of {len(data.spec.class_names)} classes."
        )
    result = {
        "model": card.name,
        "dataset": name,
        "split": arguments.split,
        **evaluate(model, data.images, data.labels, card.class_names, batch_size=arguments.batch_size, views=arguments.views),
    }
    if arguments.json:
        print_json(result)
    else:
        _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    screen = console()
    low, high = result["accuracy_interval"]
    screen.print(
        f"[bold]{result['model']} on {result['dataset']} {result['split']}[/]: {100 * result['accuracy']:.2f} % of {result['images']:,} images"
    )
    screen.print(f"95 % interval               {100 * low:.2f} - {100 * high:.2f} %")
    screen.print(f"negative log likelihood     {result['negative_log_likelihood']:.4f}")
    screen.print(f"expected calibration error  {result['expected_calibration_error']:.4f}")
    screen.print(f"throughput                  {result['images_per_second']:,.0f} images/s\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("class", "images", "precision", "recall", "predicted as"):
        table.add_column(column, justify="left" if column in ("class", "predicted as") else "right")
    names = [row["name"] for row in result["classes"]]
    for row, counts in zip(result["classes"], result["confusion"], strict=True):
        confused = sorted(((count, names[index]) for index, count in enumerate(counts) if count and names[index] != row["name"]), reverse=True)
        wrong = ", ".join(f"{name} x{count}" for count, name in confused[:5])
        table.add_row(row["name"], str(row["images"]), f"{100 * row['precision']:.2f} %", f"{100 * row['recall']:.2f} %", wrong)
    screen.print(table)
