"""What `benchmarks/deepobs.py` measured, for docs/optimizer_story.py: tables and a figure."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_story import table

from zoo.figures import BLUE, GREEN, ORANGE, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = {"sgd": "SGD", "momentum": "momentum 0.99", "adam": "Adam"}
COLOURS = {"sgd": BLUE, "momentum": ORANGE, "adam": GREEN}
LAST = 100
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Published:
    """What DeepOBS says of an optimizer: mean, standard deviation and number of the test accuracies at the end, %."""

    mean: float
    deviation: float
    seeds: int


def published() -> dict[str, Published]:
    """Returns what DeepOBS says, by optimizer."""
    with (BENCHMARKS / "deepobs_published.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["optimizer"]: Published(float(row["test_accuracy"]), float(row["deviation"]), int(row["seeds"])) for row in rows}


def measured() -> tuple[dict[Key, list[float]], dict[str, str]]:
    """Returns the accuracies by optimizer, order and epoch, in %, one per seed; and each optimizer's learning rate."""
    found: dict[Key, list[float]] = defaultdict(list)
    rates = {}
    with (BENCHMARKS / "results" / "deepobs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["optimizer"], row["order"], int(row["epoch"])].append(float(row["value"]))
            rates[row["optimizer"]] = row["learning_rate"]
    return dict(found), rates


def logged() -> dict[tuple[str, int], list[float]]:
    """Returns DeepOBS's own accuracies by optimizer and epoch, in %, one per log."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with (BENCHMARKS / "deepobs_logs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["optimizer"], int(row["epoch"])].append(float(row["test_accuracy"]))
    return dict(found)


def difference(values: list[float], other: Published) -> str:
    """How much higher some accuracies are than DeepOBS's, with Welch's 95 % interval."""
    from scipy.stats import t

    parts = statistics.variance(values) / len(values), other.deviation**2 / other.seeds
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (other.seeds - 1))
    return f"{statistics.fmean(values) - other.mean:+.2f} ± {t.ppf(0.975, freedom) * sum(parts) ** 0.5:.2f}"


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number; the values themselves where they are fewer than three."""
    if len(values) < 3:
        return ", ".join(f"{value:.2f}" for value in values)
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (n={len(values)})"


def tables() -> str:
    """Returns the accuracies at the end beside DeepOBS's, the figure, and what the order of the images does."""
    accuracies, rates = measured()
    logs, theirs = logged(), published()
    ends = [
        [
            name,
            rates[optimizer],
            spread(accuracies[optimizer, "fresh", LAST]),
            f"{theirs[optimizer].mean:.2f} ± {theirs[optimizer].deviation:.2f} (n={theirs[optimizer].seeds})",
            difference(accuracies[optimizer, "fresh", LAST], theirs[optimizer]),
        ]
        for optimizer, name in NAMES.items()
    ]
    orders = [
        [NAMES[optimizer], str(epoch), *(spread(accuracies[optimizer, order, epoch]) for order in ("fresh", "same")), spread(values)]
        for (optimizer, epoch), values in logs.items()
        if (optimizer, "same", epoch) in accuracies
    ]
    header = ["", "learning rate", f"here after {LAST} epochs", f"DeepOBS after {LAST} epochs", "difference, 95 % interval"]
    parts = [table(header, ends), "![Test accuracy by epoch, beside DeepOBS's logs](optimizer-study/deepobs.svg)"]
    if orders:
        parts += [table(["", "epoch", "here, a fresh order in each epoch", "here, the same order in each epoch", "DeepOBS's logs"], orders)]
    return "\n\n".join(parts)


def draw(path: Path) -> None:
    """Draws mean and standard deviation of the accuracies by epoch, with the epochs that are known of DeepOBS's logs."""
    accuracies, _ = measured()
    logs, theirs = logged(), published()

    def drawn(figure: Figure) -> None:
        axes: Any = figure.subplots(1, len(NAMES), sharey=True)
        for axis, (optimizer, name) in zip(axes, NAMES.items(), strict=True):
            for order, dashes, label in (("fresh", "-", "a fresh order in each epoch"), ("same", "--", "the same order in each epoch")):
                epochs = sorted(epoch for known, kind, epoch in accuracies if (known, kind) == (optimizer, order))
                values = [accuracies[optimizer, order, epoch] for epoch in epochs]
                means = [statistics.fmean(of_seeds) for of_seeds in values]
                if not epochs:
                    continue
                axis.plot(epochs, means, dashes, color=COLOURS[optimizer], label=f"{label} (n={len(values[0])})")
                if len(values[0]) > 2:
                    deviations = [statistics.stdev(of_seeds) for of_seeds in values]
                    low, high = ([mean + sign * deviation for mean, deviation in zip(means, deviations, strict=True)] for sign in (-1, 1))
                    axis.fill_between(epochs, low, high, color=COLOURS[optimizer], alpha=0.25, linewidth=0)
            points = [(epoch, value) for (known, epoch), of_logs in logs.items() if known == optimizer for value in of_logs]
            axis.plot(*zip(*points, strict=True), "x", color="black", markersize=4, label="two of DeepOBS's logs")
            end = theirs[optimizer]
            style: Any = {"fmt": "o", "color": "black", "markersize": 3, "capsize": 2}
            axis.errorbar([LAST + 4], [end.mean], [end.deviation], **style, label=f"DeepOBS at the end (n={end.seeds})")
            axis.set(title=name, xlabel="epoch", ylim=(88, 93.2))
            axis.legend(frameon=False, loc="lower right", fontsize=7)
        axes[0].set_ylabel("test accuracy, %")

    save_figure(drawn, path)
