"""`zoo verify`: the parity certificate of shipped weights."""

from __future__ import annotations

import argparse
import dataclasses

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError
from zoo.registry import list_models
from zoo.verification import TOLERANCE, verify

HELP = "check that shipped weights answer alike wherever they run"
EXAMPLES = """  zoo verify cnn_bn.mnist
  zoo verify --all
  zoo verify --all --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="pretrained weights, model.tag")
    parser.add_argument("--all", action="store_true", help="every pretrained weight")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.all == bool(arguments.names):
        raise UsageError("Name the weights to verify, or ask for --all.")
    load_backend()
    hops = verify(*(list_models(pretrained=True) if arguments.all else arguments.names))
    failed = sum(hop.passed is False for hop in hops)
    if arguments.json:
        print_json([{**dataclasses.asdict(hop), "passed": hop.passed} for hop in hops])
        return 1 if failed else 0
    screen = console()
    for hop in hops:
        verdict = {True: "pass", False: "FAIL", None: "skipped"}[hop.passed]
        detail = f"{hop.error:.1e}" if hop.error is not None else hop.skipped
        screen.print(f"{hop.name:<24} {hop.hop:<12} {verdict:<8} {detail}", markup=False, highlight=False)
    taken = sum(hop.passed is not None for hop in hops)
    screen.print(f"{taken - failed} of {taken} hops within {TOLERANCE:g} of the golden probabilities", highlight=False)
    return 1 if failed else 0
