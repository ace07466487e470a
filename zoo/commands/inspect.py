"""`zoo inspect`: what goes on inside a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import console, load_backend, print_json
from zoo.datasets import load_dataset
from zoo.errors import UsageError
from zoo.factory import load_trained

if TYPE_CHECKING:
    from zoo.inspection import LayerReport

HELP = "look inside a trained model: layer by layer, or at an image's way through it"
EXAMPLES = """  zoo inspect cnn_bn.digits
  zoo inspect sigmoid_mlp.mnist --images 200
  zoo inspect cnn.mnist photo.png --out pictures"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="NAME", help="a pretrained name, or the directory of a training run")
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="an image file: also draws its way through the model")
    parser.add_argument("--images", type=int, default=500, help="test images that activations are measured on (default: 500)")
    parser.add_argument("--out", type=Path, default=Path("inspection"), help="where the pictures of IMAGE go (default: inspection)")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses

    if arguments.images < 1:
        raise UsageError(f"--images must be at least 1. Received: {arguments.images}.")
    load_backend()
    from zoo.inspection import inspect

    model, card = load_trained(arguments.source)
    data = load_dataset(card.dataset, "test", data_dir=arguments.data_dir, image_size=(card.input_shape[0], card.input_shape[1]))
    reports = inspect(model, data.images[: arguments.images], data.labels[: arguments.images])
    pictures: list[Path] = []
    if arguments.image is not None:
        from zoo.commands.predict import prepared_image
        from zoo.plots import draw_image

        pictures = draw_image(model, prepared_image(str(arguments.image), card).numpy(), card.class_names, arguments.out)
    if arguments.json:
        print_json({"name": card.name, "layers": [dataclasses.asdict(report) for report in reports], "pictures": [str(path) for path in pictures]})
        return 0
    screen = console()
    screen.print(f"[bold]{card.name}[/] on {min(arguments.images, len(data.labels))} test images of {card.dataset}\n", highlight=False)
    screen.print(layer_table(reports))
    screen.print(
        "\nsees: side of the receptive field; flat: activations at 0, or a sigmoid's within 0.05 of its ends; dead: units at 0 for every image;\n"
        "gradient: norm of the loss's gradient with respect to the layer's weights",
        style="dim",
        highlight=False,
    )
    for path in pictures:
        screen.print(str(path), markup=False, highlight=False)
    return 0


def layer_table(reports: list[LayerReport]) -> Any:
    """Returns a row per layer as a rich table, 80 characters wide for the zoo's models."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in ("layer", "shape", "params", "MACs", "sees", "mean", "sd", "flat", "dead", "gradient"):
        table.add_column(column, justify="left" if column in ("layer", "shape") else "right", no_wrap=True)
    for report in reports:
        table.add_row(
            report.name,
            "x".join(map(str, report.shape)),
            f"{report.parameters:,}" if report.parameters else "",
            _short(report.multiply_accumulates),
            "all" if report.receptive_field is None else f"{report.receptive_field} px",
            f"{report.mean:.2f}",
            f"{report.standard_deviation:.2f}",
            _percent(report.zero or None if report.saturated is None else report.saturated),
            _percent(report.dead),
            "" if report.gradient_norm is None else f"{report.gradient_norm:.2g}",
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _short(count: int) -> str:
    """`18432` -> `18k`."""
    return "" if not count else f"{count}" if count < 1000 else f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
