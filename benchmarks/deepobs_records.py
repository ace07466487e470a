"""What DeepOBS measured of its network 2c2d on Fashion-MNIST, taken from its logs, in %.

`deepobs_ends.csv` has the mean and the standard deviation of ten seeds after the last epoch, `deepobs_logs.csv` six of the logs at
some of their epochs.

Schneider, Balles, Hennig, DeepOBS: A Deep Learning Optimizer Benchmark Suite, 2019, https://arxiv.org/abs/1903.05499
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class End:
    """Mean, standard deviation and number of DeepOBS's test accuracies after the last epoch."""

    epoch: int
    mean: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f} (n={self.seeds})"


def ends() -> dict[str, End]:
    """Returns where DeepOBS's runs ended, by optimizer."""
    with (HERE / "deepobs_ends.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["optimizer"]: End(int(row["epoch"]), float(row["test_accuracy"]), float(row["deviation"]), int(row["seeds"])) for row in rows}


def logs() -> dict[tuple[str, int], list[float]]:
    """Returns DeepOBS's test accuracies by optimizer and epoch, one for each log that is here."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with (HERE / "deepobs_logs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["optimizer"], int(row["epoch"])].append(float(row["test_accuracy"]))
    return dict(found)


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation and number of some accuracies; fewer than three one by one."""
    if len(values) < 3:
        return ", ".join(f"{value:.2f}" for value in values)
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (n={len(values)})"
