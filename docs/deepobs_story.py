"""What `benchmarks/deepobs.py` measured, for docs/optimizer_story.py: tables and a figure."""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_story import table

from zoo.figures import BLUE, GREEN, ORANGE, save_figure

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from deepobs_records import End, ends, logs, spread  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"sgd": "SGD", "momentum": "momentum 0.99", "adam": "Adam"}
COLOURS = {"sgd": BLUE, "momentum": ORANGE, "adam": GREEN}
ORDERS = {"fresh": ("-", "a fresh order in each epoch"), "same": ("--", "the same order in each epoch")}
LAST = 100


def measured() -> tuple[dict[tuple[str, str], dict[int, list[float]]], dict[str, str]]:
    """Returns the accuracies by optimizer and order, then by epoch, in %, one per seed; and each optimizer's learning rate."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rates = {}
    with (BENCHMARKS / "results" / "deepobs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["optimizer"], row["order"]][int(row["epoch"])].append(float(row["value"]))
            rates[row["optimizer"]] = row["learning_rate"]
    return dict(found), rates


def difference(values: list[float], end: End) -> str:
    """How much higher some accuracies are than DeepOBS's, with Welch's 95 % interval."""
    from scipy.stats import t

    parts = statistics.variance(values) / len(values), end.deviation**2 / end.seeds
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (end.seeds - 1))
    return f"{statistics.fmean(values) - end.mean:+.2f} ± {t.ppf(0.975, freedom) * sum(parts) ** 0.5:.2f}"


def tables() -> str:
    """Returns the accuracies at the end beside DeepOBS's, the figure, and what the order of the images does."""
    accuracies, rates = measured()
    theirs = ends()
    rows = []
    for optimizer, name in NAMES.items():
        values, end = accuracies[optimizer, "fresh"][LAST], theirs[optimizer]
        rows.append([name, rates[optimizer], spread(values), str(end), difference(values, end)])
    header = ["", "learning rate", f"here after {LAST} epochs", f"DeepOBS after {LAST} epochs", "difference, 95 % interval"]
    parts = [table(header, rows), "![Test accuracy by epoch, beside DeepOBS's](optimizer-study/deepobs.svg)"]
    parts += ["Lines and bands, points and bars: mean and standard deviation of the seeds. What is below 88 % is left out."]
    orders = [
        [NAMES[optimizer], str(epoch), *(spread(accuracies[optimizer, order][epoch]) for order in ORDERS), spread(values)]
        for (optimizer, epoch), values in logs().items()
        if epoch >= 10 and epoch in accuracies.get((optimizer, "same"), {})
    ]
    if orders:
        parts += [table(["", "epoch", *(f"here, {label}" for _, label in ORDERS.values()), "DeepOBS's logs"], orders)]
    return "\n\n".join(parts)


def draw(path: Path) -> None:
    """Draws mean and standard deviation of the accuracies by epoch, with what is known of DeepOBS's."""
    accuracies, _ = measured()
    theirs, points = ends(), logs()

    def drawn(figure: Figure) -> None:
        axes: Any = figure.subplots(1, len(NAMES), sharey=True)
        for axis, (optimizer, name) in zip(axes, NAMES.items(), strict=True):
            for order, (line, label) in ORDERS.items():
                by_epoch = accuracies.get((optimizer, order), {})
                seeds = len(by_epoch.get(1, []))
                whole = {epoch: values for epoch, values in sorted(by_epoch.items()) if len(values) == seeds}
                if not whole:
                    continue
                means = [statistics.fmean(values) for values in whole.values()]
                axis.plot(list(whole), means, line, color=COLOURS[optimizer], label=f"{label} (n={seeds})")
                if seeds > 2:
                    halves = [statistics.stdev(values) for values in whole.values()]
                    low, high = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
                    axis.fill_between(list(whole), low, high, color=COLOURS[optimizer], alpha=0.25, linewidth=0)
            known = [(epoch, value) for (other, epoch), values in points.items() if other == optimizer for value in values]
            axis.plot(*zip(*known, strict=True), "x", color="black", markersize=4, label="logs of DeepOBS")
            end = theirs[optimizer]
            style: Any = {"fmt": "o", "color": "black", "markersize": 3, "capsize": 2}
            axis.errorbar([end.epoch + 4], [end.mean], [end.deviation], **style, label=f"DeepOBS at the end (n={end.seeds})")
            axis.set(title=name, xlabel="epoch", ylim=(88, 93.2))
            axis.legend(frameon=False, loc="lower right", fontsize=7)
        axes[0].set_ylabel("test accuracy, %")

    save_figure(drawn, path)
