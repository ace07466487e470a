"""`zoo reproduce`: trains a shipped weight again and compares with its card."""

from __future__ import annotations

import argparse
import dataclasses
import re

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError
from zoo.reproduction import reproduce

HELP = "train a shipped weight again and compare with its card"
EXAMPLES = """  zoo reproduce relu_mlp.digits
  zoo reproduce cnn_bn_tiny.mnist --seeds 3
  zoo reproduce cnn_bn.cifar10 --budget 1h     and once more, to go on"""
UNITS = {"s": 1, "m": 60, "h": 3600}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a pretrained weight, model.tag")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="how many seeds, from 0 on (default: 1)")
    parser.add_argument("--budget", metavar="T", help="pause after so long, such as 90s, 10m or 2h; the same command goes on")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    load_backend()
    budget = None if arguments.budget is None else seconds(arguments.budget)
    result = reproduce(arguments.name, seeds=arguments.seeds, budget=budget, data_dir=arguments.data_dir)
    status = 1 if result.within is False else 0
    if arguments.json:
        print_json({**dataclasses.asdict(result), "within": result.within, "difference": result.difference})
        return status
    screen = console()
    screen.print(f"card     {100 * result.claimed:.2f} %, another seed within {100 * result.low:.2f} - {100 * result.high:.2f} %")
    for seed, accuracy in enumerate(result.accuracies):
        verdict = "within" if result.low <= accuracy <= result.high else "OUTSIDE"
        screen.print(f"seed {seed}   {100 * accuracy:.2f} %, {100 * (accuracy - result.claimed):+.2f} points: {verdict} the spread")
    if result.unfinished:
        seed, done, epochs = result.unfinished
        screen.print(
            f"seed {seed}   epoch {done} of {epochs} when the budget was used up; no verdict on it yet. To go on:\n  {result.command}", soft_wrap=True
        )
    return status


def seconds(text: str) -> float:
    """`90s` -> 90, `10m` -> 600, `2h` -> 7200; a bare number is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]) > 0:
        raise UsageError(f"--budget must be a time above 0, such as 90s, 10m or 2h. Received: {text!r}.")
    return float(found[1]) * UNITS[found[2] or "s"]
