"""The report of a comparison of optimizers: a table and two figures per data set and family, and the rules behind them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.display import configuration
from tuning.optimizer_plan import CELLS, Plan
from tuning.optimizer_results import PORTFOLIO, RULES, SEEDS, STUDY, Measured, groups_of, near_best, sensitivity, summarize
from tuning.report import FIGURES, REPORT, draw_learning_rates, estimate_of, learning_rate_of, panels_size, percent, table
from tuning.result import SearchResult, Trial, TrialTable
from zoo.datasets import dataset_info
from zoo.figures import BLUE, GREY, ORANGE, save_figure
from zoo.files import write_text
from zoo.lab.claim import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS_PER_DECADE = 2  # of the curve over the learning rates
LIMITS = (
    "The configuration of a cell is the best of few trials on few validation images, so that chance flatters its validation accuracy; the test "
    "accuracy has had no part in the choice. The intervals tell of the seeds alone, not of the draw of the trials. Many optimizers are compared, "
    "each with an interval of its own, so that a few of the differences that seem shown are chance."
)


def write_report(plan: Plan, directory: str | Path) -> Path:
    """Writes `report.md` and its figures to a study's directory.

    Args:
        plan: What was compared.
        directory: The study's, with at least one finished cell.

    Returns:
        The report.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    directory = Path(directory)
    groups = [group for group in groups_of(plan, directory) if group]
    sections = ["# Optimizers, each tuned with the same budget", _overview(plan)]
    for group in groups:
        sections += _group_sections(plan, directory, group)
    sections += ["## How it is measured", "\n".join(f"- {name.capitalize()}: {rule}" for name, rule in RULES.items()), LIMITS]
    sections.append(f"All figures: `{STUDY}`; every final training: `{SEEDS}`; the configurations: `{PORTFOLIO}`; the searches: `{CELLS}`.")
    path = directory / REPORT
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def _overview(plan: Plan) -> str:
    lines = [f"{plan.trials} trials per cell, drawn from each optimizer's own ranges. The architecture is each family's default."]
    for dataset in plan.datasets:
        recipe = plan.recipe(dataset, plan.families[0])
        lines.append(
            f"- {dataset}: {recipe.epochs} epochs at a constant learning rate, {recipe.batch_size} images per step, "
            f"{len(plan.seeds_of(dataset))} final trainings, {dataset_info(dataset).splits['validation']:,} validation images"
        )
    return "\n".join([lines[0], "", *lines[1:]])


def _group_sections(plan: Plan, directory: Path, group: Sequence[Measured]) -> list[str]:
    cell = group[0].cell
    rows = sorted(summarize(group), key=lambda row: -(row["val_mean"] or 0.0))
    name = f"{cell.dataset.strip('/').replace('/', '_')}-{cell.family}"
    sections = [f"## {cell.family} on {cell.dataset}"]
    if missing := len(plan.optimizers) - len(group):
        sections.append(f"{missing} of {len(plan.optimizers)} optimizers are not finished yet.")
    target = rows[0]["target"]
    sections.append(_figures_table(rows))
    if target is not None:
        sections.append(f"The target of the steps is {percent(target)} validation accuracy.")
        draw_accuracies(rows, directory / FIGURES / f"{name}-accuracy")
        sections.append(f"![accuracy of {cell.family} on {cell.dataset}]({FIGURES}/{name}-accuracy.svg)")
        save_figure(lambda figure: _draw_sensitivity(figure, group), directory / FIGURES / f"{name}-learning-rate", panels_size(len(group)))
        sections.append(f"![learning rates of {cell.family} on {cell.dataset}]({FIGURES}/{name}-learning-rate.svg)")
    sections.append(_configuration_table(rows))
    return sections


def _figures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = (
        "optimizer",
        "test accuracy",
        "validation accuracy",
        "test, beside the first by validation, points",
        "steps to the target",
        "decades of learning rates near the best",
        "trials near the best",
        "diverged trials",
        "seconds",
    )
    lines = [
        (
            row["optimizer"],
            _shown(row, "test", " %"),
            _shown(row, "val", " %"),
            _shown(row, "difference", ""),
            "" if row["steps_to_target"] is None else f"{row['steps_to_target']:,}",
            "" if row["decades"] is None else f"{row['decades']:.1f} of {row['decades_searched']:.1f}",
            f"{row['near_best']:.0%}",
            f"{row['diverged']:.0%}",
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    return table(header, lines)


def _configuration_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (
            row["optimizer"],
            f"`{configuration(json.loads(row['config']))}`" if row["config"] else "no trial came to its end",
            f"{row['learning_rate_low']:.2g} to {row['learning_rate_high']:.2g}" if row["learning_rate_low"] else "",
            row["on_the_edge"],
        )
        for row in rows
    ]
    return table(("optimizer", "best configuration", "learning rates near the best", "on the edge of its range"), lines)


def _shown(row: Mapping[str, Any], name: str, unit: str) -> str:
    mean, low, high = (row[f"{name}_{end}"] for end in ("mean", "low", "high"))
    return "" if mean is None else Interval(mean, low, high, row["seeds"]).show(100, 2, unit)


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_accuracies(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Draws the test and validation accuracies of optimizers with their intervals, in the order of the rows of `study.csv` given.

    Returns:
        The SVG and the PNG; `path` is theirs without a suffix.
    """
    return save_figure(lambda figure: _draw_accuracies(figure, rows), path, (7.5, 1.1 + 0.34 * len(rows)))


def _draw_accuracies(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    known = [row for row in rows if row["test_mean"] is not None]
    for name, colour, shift, label in (("val", ORANGE, -0.15, "validation"), ("test", BLUE, 0.15, "test")):
        means = [100 * row[f"{name}_mean"] for row in known]
        halves = [100 * (row[f"{name}_high"] - row[f"{name}_mean"]) for row in known]
        axes.errorbar(means, [place + shift for place in range(len(known))], xerr=halves, fmt="o", color=colour, markersize=4, capsize=2, label=label)
    means = sorted(100 * min(row["test_mean"], row["val_mean"]) for row in known)
    low = means[len(means) // 4]  # so that the worst do not flatten the rest
    margin = max(1.0, 0.5 * (100 - low))
    axes.set_xlim(max(0.0, low - margin), min(100.0, 100 * max(max(row["test_high"], row["val_high"]) for row in known)))
    axes.set_yticks(range(len(known)), [row["optimizer"] for row in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlabel("accuracy of the final trainings, %, with 95 % intervals (worse ones stand beyond the left edge)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _draw_sensitivity(figure: Figure, group: Sequence[Measured]) -> None:
    """Each trial over its learning rate, the best of each half decade as a curve, and the learning rates near the best as a band."""
    groups: dict[str, list[Trial]] = {}
    for measured in group:
        first = sum(map(len, groups.values()))
        groups[measured.cell.optimizer] = [dataclasses.replace(trial, number=first + place) for place, trial in enumerate(measured.search.trials)]
    trials = TrialTable(trial for found in groups.values() for trial in found)
    ranges = {name: limits for measured in group for name, limits in measured.search.ranges.items()}
    result = SearchResult(trials, Path(), seconds=math.nan, ranges=ranges)
    draw_learning_rates(figure, result, groups, estimate_of(result))
    for panel, found in zip(figure.axes, groups.values(), strict=True):
        low, high = panel.get_ylim()
        curve = envelope(found)
        if curve:
            panel.plot([rate for rate, _ in curve], [max(low, 100 * accuracy) for _, accuracy in curve], color=GREY, linewidth=1.0)
        if len(near_best(found)) > 1 and (rates := sensitivity(found)):
            panel.axvspan(*rates, color=GREY, alpha=0.15, linewidth=0)
        panel.set_ylim(low, high)


def envelope(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """Returns learning rate and validation accuracy of the best completed trial in each half decade of learning rates, in their order.

    Example:
        >>> rates = {0.001: 0.5, 0.002: 0.6, 0.1: 0.9}
        >>> config = lambda rate: {"optimizer": "sgd", "sgd.learning_rate": rate}
        >>> envelope([Trial(0, "completed", config(rate), None, accuracy, 1, 1.0) for rate, accuracy in rates.items()])
        [(0.002, 0.6), (0.1, 0.9)]
    """
    best: dict[int, tuple[float, float]] = {}
    for trial in trials:
        rate, accuracy = learning_rate_of(trial), trial.val_accuracy
        if trial.state != "completed" or rate is None or accuracy is None:
            continue
        place = math.floor(BINS_PER_DECADE * math.log10(rate) + 1e-9)
        best[place] = max(best.get(place, (rate, accuracy)), (rate, accuracy), key=lambda point: point[1])
    return [best[place] for place in sorted(best)]
