"""`zoo study`: experiments of many searches and trainings; `zoo study optimizers` compares optimizers, each tuned with the same budget."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import console, load_backend, print_json
from zoo.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from tuning.optimizer_plan import Plan
    from tuning.optimizer_study import Progress

HELP = "compare optimizers, each tuned with the same budget"
EXAMPLES = """  zoo study optimizers --datasets digits
  zoo study optimizers --families cnn,cnn_bn --optimizers momentum,adamw --trials 40 --out study
  zoo study optimizers --out study --resume          goes on, after an interruption too
  zoo study optimizers --out study --resume --optimizers momentum,adamw,lion    with one more than it had"""
OUT = Path("study-optimizers")
NUMBERS = ("trials", "epochs", "seeds", "batch_size")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="optimizers", choices=("optimizers",), help="what is compared")
    compared = parser.add_argument_group("what is compared, comma-separated")
    compared.add_argument("--families", help="models' names (default: sigmoid_mlp,relu_mlp,cnn,cnn_bn)")
    compared.add_argument("--datasets", help="data sets' names (default: digits,fashion_mnist)")
    compared.add_argument("--optimizers", help="(default: sgd,momentum,nesterov,adagrad,rmsprop,adam,adamw,nadam,lion,muon)")
    budget = parser.add_argument_group("the budget, the same for every optimizer")
    budget.add_argument("--trials", type=int, help="per data set, family and optimizer (default: 20)")
    budget.add_argument("--epochs", type=int, help="of each training (default: 20 where there are fewer than 2,000 training images, otherwise 10)")
    budget.add_argument("--seeds", type=int, help="final trainings of each best configuration (default: 5, or 3; see --epochs)")
    budget.add_argument("--batch-size", type=int, help="images per step (default: 32, or 128; see --epochs)")
    record = parser.add_argument_group("the record")
    record.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where it is kept; an earlier part there goes on (default: {OUT})")
    record.add_argument("--resume", action="store_true", help="go on with what stands in DIR; names given besides must hold those it has")
    record.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    record.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    load_backend()
    from tuning.optimizer_plan import NAMES, Plan, read_plan
    from tuning.optimizer_study import run_study

    chosen: dict[str, Any] = {name: names for name in NAMES if (names := _names(getattr(arguments, name), f"--{name}")) is not None}
    chosen |= {name: getattr(arguments, name) for name in NUMBERS if getattr(arguments, name) is not None}
    plan = dataclasses.replace(read_plan(arguments.out), **chosen) if arguments.resume else Plan(**chosen)
    screen = console(stderr=True)
    try:
        with screen.status("preparing") as status:
            rows = run_study(plan, arguments.out, data_dir=arguments.data_dir, watch=lambda now: _show(screen, status, now))
    except KeyboardInterrupt:
        hint = f"zoo study optimizers --out {arguments.out} --resume"
        raise KeyboardInterrupt(f"Interrupted. What was finished is kept; go on with: {hint}") from None
    report = _report(plan, arguments.out)
    if arguments.json:
        print_json({"plan": plan.to_dict(), "cells": rows, "directory": str(arguments.out)})
    else:
        _print_tables(rows)
        console().print(f"\nall of it in {arguments.out}; {report}", markup=False)
    return 0


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError(f"{option} takes comma-separated names. Received: {text!r}.")
    return names


def _show(screen: Console, status: Any, now: Progress) -> None:
    """The live line; and, where a cell has ended, a line that stays."""
    status.update(f"{place(now)}: {now.doing}")
    if now.ended is not None:
        accuracy = now.ended.best.val_accuracy if now.ended.best else None
        found = "no trial came to its end" if accuracy is None else f"best trial {100 * accuracy:.2f} % validation accuracy"
        screen.print(f"{place(now)}: {found}", markup=False, soft_wrap=True)


def place(now: Progress) -> str:
    """Returns which cell is under way, and the time left: `cell 3 of 40, time left 1:05:00: cnn on digits with adam`."""
    from tuning.display import clock

    cell = now.cell
    return f"cell {now.number} of {now.cells}, time left {clock(now.left)}: {cell.family} on {cell.dataset} with {cell.optimizer}"


def _report(plan: Plan, directory: Path) -> str:
    """Writes the report; returns where it is, or why there is none."""
    from tuning.optimizer_report import write_report

    try:
        return f"report: {write_report(plan, directory)}"
    except MissingExtraError as error:
        return f"no report: {error}"


def _print_tables(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    for dataset, family in dict.fromkeys((row["dataset"], row["family"]) for row in rows):
        table = Table(title=f"{family} on {dataset}", title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in ("optimizer", "test, %", "validation", "steps", "decades", "diverged"):
            table.add_column(column, justify="left" if column == "optimizer" else "right", no_wrap=True)
        found = [row for row in rows if (row["dataset"], row["family"]) == (dataset, family)]
        for row in sorted(found, key=lambda row: -(row["val_mean"] or 0.0)):
            known = row["val_mean"] is not None
            table.add_row(
                row["optimizer"],
                f"{100 * row['test_mean']:.2f} ± {100 * (row['test_high'] - row['test_mean']):.2f}" if known else "none",
                f"{100 * row['val_mean']:.2f}" if known else "none",
                "never" if row["steps_to_target"] is None else f"{row['steps_to_target']:,}",
                "" if row["decades"] is None else f"{row['decades']:.1f} of {row['decades_searched']:.1f}",
                f"{row['diverged']:.0%}",
            )
        console().print(table)
