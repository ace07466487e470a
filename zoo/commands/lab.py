"""`zoo lab`: what a beginner's text claims, measured, with verdicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.lab import Outcome
    from zoo.specs import Recipe

HELP = "measure what a beginner's text on deep learning claims"
EXAMPLES = """  zoo lab
  zoo lab relu gradients
  zoo lab --dataset mnist --out lab-mnist"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="which claims (default: all)")
    parser.add_argument("--dataset", choices=("digits", "mnist", "fashion_mnist"), default="digits", help="measured on (default: digits)")
    parser.add_argument("--seeds", type=int, default=3, help="how often each training is repeated (default: 3)")
    parser.add_argument("--out", type=Path, help="where figures and tables go (default: lab-DATASET)")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.seeds < 2:
        raise UsageError(f"An interval needs at least two seeds. Received: --seeds {arguments.seeds}.")
    load_backend()
    from zoo.lab import Laboratory, claim, examine, list_claims, write_page

    chosen = [claim(name) for name in arguments.claims or list_claims()]
    directory = arguments.out or Path(f"lab-{arguments.dataset}")
    screen = console(stderr=arguments.json)
    outcomes: list[Outcome] = []
    with console(stderr=True).status("preparing the lab") as status:

        def show(recipe: Recipe) -> None:
            status.update(f"{entry.name} ({len(outcomes) + 1} of {len(chosen)}): training {recipe.model} with {recipe.optimizer}, seed {recipe.seed}")

        laboratory = Laboratory(arguments.dataset, range(arguments.seeds), arguments.data_dir, show)
        for entry in chosen:
            status.update(f"{entry.name} ({len(outcomes) + 1} of {len(chosen)})")
            outcomes.append(examine(entry, laboratory, directory))
            _show(screen, outcomes[-1])
    page = write_page(outcomes, directory)
    if arguments.json:
        print_json(
            {
                "dataset": arguments.dataset,
                "claims": [
                    {
                        "claim": outcome.claim.name,
                        "verdict": outcome.finding.verdict.value,
                        "sentences": list(outcome.finding.sentences),
                        "files": [str(file) for file in outcome.files],
                        "seconds": round(outcome.seconds, 1),
                    }
                    for outcome in outcomes
                ],
                "page": str(page),
            }
        )
    else:
        screen.print(f"figures, tables and the page: {page}", markup=False)
    return 0


def _show(screen: object, outcome: Outcome) -> None:
    from rich.console import Console

    assert isinstance(screen, Console)
    colour = {"holds": "green", "wrong": "red"}.get(outcome.finding.verdict.value, "yellow")
    screen.print(f"[bold]{outcome.claim.name}[/]: {outcome.claim.says}", highlight=False)
    screen.print(f"[{colour}]{outcome.finding.verdict.value}[/] ({outcome.seconds:.0f} s)", highlight=False)
    for sentence in outcome.finding.sentences:
        screen.print(f"  {sentence}", markup=False, highlight=False)
    screen.print()
