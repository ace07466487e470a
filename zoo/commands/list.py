"""`zoo list`: what is in the zoo."""

from __future__ import annotations

import argparse
from typing import Any

from zoo.console import console, print_json
from zoo.errors import ZooError
from zoo.registry import list_models, model_info, resolve
from zoo.weights import pretrained_card

HELP = "list the models, or with --pretrained their weights"
EXAMPLES = """  zoo list
  zoo list --pretrained '*.mnist'
  zoo list --json 'cnn*'"""

WIDE = 1000  # columns for a pipe, so that every row is one line


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell-style pattern of names (default: all)")
    parser.add_argument("--pretrained", action="store_true", help="list the pretrained weights with their test accuracy")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    rows = _weights(arguments.pattern) if arguments.pretrained else _models(arguments.pattern)
    if arguments.json:
        print_json(rows)
        return 0
    from rich.table import Table

    if not rows:
        raise ZooError(f"Nothing matches {arguments.pattern!r}.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        number = column in ("parameters", "test_accuracy")
        table.add_column(column.replace("_", " "), justify="right" if number else "left", no_wrap=column != "description")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    screen = console()
    if not screen.is_terminal:
        screen.width = WIDE
    screen.print(table)
    return 0


def _models(pattern: str) -> list[dict[str, Any]]:
    specs = [model_info(name) for name in list_models(pattern)]
    return [{"model": spec.name, "pretrained": [weights.tag for weights in spec.pretrained], "description": spec.description} for spec in specs]


def _weights(pattern: str) -> list[dict[str, Any]]:
    rows = []
    for name in list_models(pattern, pretrained=True):
        spec, weights = resolve(name)
        assert weights is not None
        card = pretrained_card(spec.name, weights)
        rows.append(
            {"name": name, "dataset": card.dataset, "parameters": card.parameters, "test_accuracy": card.results.get("test", {}).get("accuracy")}
        )
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    if isinstance(value, int):
        return f"{value:,}"
    if value is None:
        return "unknown"
    return ", ".join(value) if isinstance(value, list) else str(value)
