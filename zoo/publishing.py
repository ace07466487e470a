"""Makes the shipped weights: a recipe over several seeds, the first of which is shipped, never the best.

    python -m zoo.publishing cnn_bn.mnist --seeds 3

Every seed trains on all training images and is evaluated once on the test images, after its last epoch. The runs stand
under `runs/publishing/` and go on where they were interrupted. The weights and the card go into the package, a row per
seed into `benchmarks/results/weights.csv`, and the README's table is written anew.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.resources
import io
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.cards import Card
from zoo.console import load_backend
from zoo.errors import UsageError, ZooError
from zoo.factory import RUN_WEIGHTS
from zoo.files import atomic_file, write_text
from zoo.recipes import list_recipes, load_recipe
from zoo.registry import list_models, resolve
from zoo.training import train
from zoo.weights import pretrained_card

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "weights.csv"
README = ROOT / "README.md"
TABLE_BEGIN, TABLE_END = "<!-- weights: begin -->", "<!-- weights: end -->"


def publish(name: str, seeds: int, runs: Path = Path("runs") / "publishing") -> Card:
    """Trains a recipe with seeds 0 to `seeds - 1` and ships seed 0.

    Returns:
        The shipped card, with every seed's test accuracy, their mean and their standard deviation.
    """
    recipe = load_recipe(name)
    _, weights = resolve(name)
    if recipe.validate or weights is None:
        raise UsageError(f"A shipped weight has a tag and trains on all training images. The recipe {name} has validate={recipe.validate}.")
    directories = [runs / f"{name}-seed{seed}" for seed in range(seeds)]
    cards = [train(dataclasses.replace(recipe, seed=seed), directory) for seed, directory in enumerate(directories)]
    accuracies = [card.results["test"]["accuracy"] for card in cards]
    shipped = dataclasses.replace(
        cards[0],
        name=name,
        seeds={
            "count": seeds,
            "test_accuracy": accuracies,
            "mean": statistics.fmean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if seeds > 1 else 0.0,
        },
    )
    package = Path(str(importlib.resources.files(weights.package)))
    with atomic_file(package / f"{name}.weights.h5") as temporary:
        shutil.copyfile(directories[0] / RUN_WEIGHTS, temporary)
    shipped.write(package / f"{name}.json")
    _record(name, cards)
    return shipped


def weights_table() -> str:
    """Returns the README's table of all shipped weights, in Markdown."""
    lines = ["| name | parameters | test accuracy, seed 0 (95 % interval) | mean ± sd over seeds | training |", "|---|---:|---|---|---:|"]
    for name in list_models(pretrained=True):
        spec, weights = resolve(name)
        assert weights is not None
        card = pretrained_card(spec.name, weights)
        test, seeds = card.results["test"], card.seeds
        low, high = test["accuracy_interval"]
        lines.append(
            f"| `{name}` | {card.parameters:,} | {100 * test['accuracy']:.2f} % ({100 * low:.2f} - {100 * high:.2f}) "
            f"| {100 * seeds['mean']:.2f} ± {100 * seeds['standard_deviation']:.2f} ({seeds['count']}) | {_duration(card.seconds)} |"
        )
    return "\n".join(lines)


def write_readme_table() -> None:
    """Puts the present table between the README's two markers."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    if not after:
        raise UsageError(f"{README} lacks the markers {TABLE_BEGIN} and {TABLE_END}.")
    write_text(README, f"{before}{TABLE_BEGIN}\n{weights_table()}\n{TABLE_END}{after}")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _record(name: str, cards: Sequence[Card]) -> None:
    """Replaces the rows of `name` in the results file by the present runs'."""
    rows = []
    if RESULTS.is_file():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["name"] != name]
    for card in cards:
        test, versions = card.results["test"], card.environment
        rows.append(
            {
                "name": name,
                "seed": str(card.recipe["seed"]),
                "epochs": str(card.recipe["epochs"]),
                "test_accuracy": f"{test['accuracy']:.4f}",
                "negative_log_likelihood": f"{test['negative_log_likelihood']:.4f}",
                "expected_calibration_error": f"{test['expected_calibration_error']:.4f}",
                "parameters": str(card.parameters),
                "seconds": f"{card.seconds:.0f}",
                "commit": versions.get("commit", ""),
                "hardware": f"{versions['processor']}, {versions['cores']} cores",
                "versions": f"keras {versions['keras']}, {versions['backend']}, python {versions['python']}",
                "command": f"python -m zoo.publishing {name} --seeds {len(cards)}",
            }
        )
    rows.sort(key=lambda row: (row["name"], int(row["seed"])))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(RESULTS, table.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Publishes the named weights, or all, and writes the README's table."""
    parser = argparse.ArgumentParser(prog="python -m zoo.publishing", description="Train recipes over several seeds and ship seed 0.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="model.tag (default: every recipe)")
    parser.add_argument("--seeds", type=int, help="how many seeds (default: 5 for digits, 3 otherwise)")
    arguments = parser.parse_args(argv)
    load_backend()
    try:
        for name in arguments.names or list_recipes():
            card = publish(name, arguments.seeds or (5 if name.endswith(".digits") else 3))
            mean, deviation = (100 * card.seeds[key] for key in ("mean", "standard_deviation"))
            print(f"{name}: {100 * card.results['test']['accuracy']:.2f} % shipped, {mean:.2f} ± {deviation:.2f} over {card.seeds['count']} seeds")
        write_readme_table()
    except ZooError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
