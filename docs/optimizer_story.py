"""Puts what `zoo study optimizers` measured into docs/optimizer-study.md, between the markers of each data set.

    cp -r STUDY/{study.json,study.csv,seeds.csv,portfolio.csv,report} docs/optimizer-study/NAME
    python docs/optimizer_story.py

What `benchmarks/deepobs.py` measured is put there, too. No table, and no figure but those of the learning rates, is made by hand or by
the study itself; what the page says about them is. Figures that the page does not show are removed, and the others are made smaller.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import deepobs_story
from lab_story import main_of, table

from tuning.optimizer_plan import FAMILIES, Plan, read_plan
from zoo.datasets import dataset_info

PAGE = Path(__file__).with_name("optimizer-study.md")
RESULTS = PAGE.with_suffix("")
FILES = {"all figures": "study.csv", "final trainings": "seeds.csv", "configurations": "portfolio.csv"}
Row = Mapping[str, str]


def studies() -> list[tuple[Path, Plan]]:
    """Returns the studies whose results are here."""
    return [(path.parent, read_plan(path.parent)) for path in sorted(RESULTS.glob("*/study.json"))]


def rows_of(directory: Path) -> list[Row]:
    """Returns the rows of a study's table."""
    with (directory / "study.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def budget(directory: Path, plan: Plan, dataset: str) -> str:
    """Returns what one study trained on a data set, in words, with its files."""
    recipe, splits = plan.recipe(dataset, plan.families[0]), dataset_info(dataset).splits
    name = f"optimizer-study/{directory.name}"
    files = ", ".join(f"[{says}]({name}/{file})" for says, file in FILES.items())
    families = ", ".join(f"`{family}`" for family in plan.families)
    return (
        f"- {families}: {plan.trials} trials per cell, {recipe.epochs} epochs of {splits['train'] - splits['validation']:,} images, "
        f"{recipe.batch_size} per step, "
        f"{len(plan.seeds_of(dataset))} final trainings, {splits['validation']:,} validation images. Tables: {files}."
    )


def accuracy(row: Row) -> str:
    """Test accuracy with its interval, bold where no difference from the first by validation is shown."""
    if not row["test_mean"]:
        return "none came to its end"
    shown = f"{100 * float(row['test_mean']):.2f} ± {100 * (float(row['test_high']) - float(row['test_mean'])):.2f}"
    return f"**{shown}**" if level(row) else shown


def level(row: Row) -> bool:
    """Whether no difference from the first by validation is shown."""
    return bool(row["difference_mean"]) and float(row["difference_low"]) <= 0 <= float(row["difference_high"])


def steps(row: Row) -> str:
    """Median updates to the target."""
    return f"{int(row['steps_to_target']):,}" if row["steps_to_target"] else "not reached"


def sensitivity(row: Row) -> str:
    """Decades of learning rates near the best, of those searched; share of the trials that are; share that diverged."""
    decades = f"{float(row['decades']):.1f} of {float(row['decades_searched']):.1f}" if row["decades"] else "none"
    return f"{decades}; {float(row['near_best']):.0%}; {float(row['diverged']):.0%}"


def section(dataset: str) -> str:
    """Returns what stands under a data set: budgets, tables and figures."""
    found = sorted(
        ((directory, plan) for directory, plan in studies() if dataset in plan.datasets), key=lambda study: FAMILIES.index(study[1].families[0])
    )
    rows = {(row["family"], row["optimizer"]): row for directory, _ in found for row in rows_of(directory) if row["dataset"] == dataset}
    families = list(dict.fromkeys(family for _, plan in found for family in plan.families))
    optimizers = list(dict.fromkeys(optimizer for _, optimizer in rows))

    def matrix(cell: Callable[[Row], str]) -> str:
        known = [[rows.get((family, optimizer)) for family in families] for optimizer in optimizers]
        return table(["", *families], [[name, *(cell(row) if row else "" for row in line)] for name, line in zip(optimizers, known, strict=True)])

    parts = ["\n".join(budget(directory, plan, dataset) for directory, plan in found)]
    parts += ["Test accuracy, %, with its 95 % interval. Bold: no difference from the first by validation accuracy is shown.", matrix(accuracy)]
    reached = {family: row["target"] for (family, _), row in rows.items() if row["target"]}
    targets = ", ".join(f"`{family}` {100 * float(target):.1f} %" for family, target in reached.items())
    parts += [f"Steps to the target, {targets} validation accuracy.", matrix(steps)]
    parts += [
        "Decades of learning rates near the best, of those searched; share of the trials near the best; share that diverged.",
        matrix(sensitivity),
    ]
    parts += [summary(list(rows.values()), families)]
    for directory, plan in found:
        for family in plan.families:
            parts.append(f"![Accuracy with 95 % intervals, {family} on {dataset}](optimizer-study/{accuracy_figure(directory, dataset, family)}.svg)")
            figure = f"optimizer-study/{directory.name}/report/{dataset}-{family}-learning-rate.svg"
            parts.append(f"![Validation accuracy over the learning rate, {family} on {dataset}]({figure})")
    return "\n\n".join(parts)


def accuracy_figure(directory: Path, dataset: str, family: str) -> str:
    """Returns where a family's accuracies are drawn, below the folder of all results, without a suffix."""
    return f"{directory.name}/report/{dataset}-{family}-accuracy"


def draw() -> None:
    """Draws every family's accuracies from the tables."""
    from tuning.optimizer_report import draw_accuracies

    deepobs_story.draw(RESULTS / "deepobs")
    for directory, plan in studies():
        for dataset in plan.datasets:
            for family in plan.families:
                found = [row for row in rows_of(directory) if (row["dataset"], row["family"]) == (dataset, family)]
                ranked = sorted(found, key=lambda row: -float(row["val_mean"] or 0))
                rows = [{name: number(text) for name, text in row.items()} for row in ranked]
                draw_accuracies(rows, RESULTS / accuracy_figure(directory, dataset, family))


def number(text: str) -> float | str | None:
    """Returns what a cell of a table holds: a number, nothing, or text."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def summary(rows: Sequence[Row], families: Sequence[str]) -> str:
    """Returns what the tables show, counted."""
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))

    def count(condition: Callable[[Row], Any]) -> dict[str, int]:
        return {optimizer: sum(bool(condition(row)) for row in rows if row["optimizer"] == optimizer) for optimizer in optimizers}

    def listed(counts: Mapping[str, int], worth: Callable[[int], bool]) -> str:
        names = sorted((name for name, number in counts.items() if worth(number)), key=lambda name: -counts[name])
        return ", ".join(f"{name} ({counts[name]} of {len(families)})" for name in names) or "none"

    taken = {(row["family"], row["optimizer"]): int(row["steps_to_target"]) for row in rows if row["steps_to_target"]}
    least = {family: min((number for (other, _), number in taken.items() if other == family), default=0) for family in families}
    lower = count(lambda row: not level(row))
    quick = count(lambda row: taken.get((row["family"], row["optimizer"]), math.inf) <= 1.5 * least[row["family"]])
    diverged = {name: [float(row["diverged"]) for row in rows if row["optimizer"] == name] for name in optimizers}
    most = sorted(optimizers, key=lambda name: -max(diverged[name]))[:3]
    return (
        f"A difference from the first by validation is shown for {sum(lower.values())} of the {len(rows)} cells: {listed(lower, bool)}. "
        f"At the target within one and a half times the steps of the quickest: {listed(quick, bool)}. "
        f"Most trials diverged with {', '.join(f'{name} (up to {max(diverged[name]):.0%})' for name in most)}."
    )


def either(name: str) -> str:
    """Returns what stands between a pair of markers."""
    return deepobs_story.tables() if name == "deepobs" else section(name)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        draw()
    sys.exit(main_of(PAGE, either))
