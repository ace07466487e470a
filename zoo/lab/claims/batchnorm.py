"""Batch normalization strengthens training and improves accuracy across architectures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

SIZE = {"filters": 16, "units": 64, "pooling": "first"}
ARCHITECTURES = {
    "2 convolutions": {"blocks": 2, "convolutions": 1, **SIZE},
    "4 convolutions": {"blocks": 2, "convolutions": 2, **SIZE},
    "6 convolutions": {"blocks": 3, "convolutions": 2, **SIZE},
}
LEARNING_RATES = (0.03, 0.1, 0.3)
TARGETS = {"mnist": 0.98, "fashion_mnist": 0.85}  # held-out accuracy that a good rate reaches within the epochs; 0.95 elsewhere
IMAGES, EPOCHS, EPOCHS_OF_FEW = 28_000, 4, 8


def measure(lab: Laboratory) -> Tables:
    rows, target = [], TARGETS.get(lab.dataset, 0.95)
    epochs = EPOCHS if len(lab.more_training(IMAGES).labels) == IMAGES else EPOCHS_OF_FEW
    for architecture, hyperparameters in ARCHITECTURES.items():
        for model in ("cnn", "cnn_bn"):
            for rate in LEARNING_RATES:
                recipe = lab.recipe(
                    model, hyperparameters=hyperparameters, optimizer="sgd", learning_rate=rate, epochs=epochs, batch_size=min(64, lab.batch_size)
                )
                for seed in lab.seeds:
                    learned = lab.learn(recipe, seed, IMAGES)
                    gap = math.nan if learned.diverged else learned.history[-1]["accuracy"] - learned.accuracy
                    rows.append(
                        {
                            "architecture": architecture,
                            "model": model,
                            "learning_rate": rate,
                            "seed": seed,
                            "target": target,
                            "steps_to_target": learned.steps_to(target),
                            "steps": epochs * learned.steps_per_epoch,
                            "accuracy": learned.accuracy,
                            "gap": gap,
                        }
                    )
    return {"runs": rows}


def best(tables: Tables, architecture: str, model: str, name: str) -> list[float]:
    """A column by seed at the learning rate with the best mean accuracy; steps that were never enough count as all there were, doubled."""
    rows = tables["runs"]

    def values(rate: float, column_name: str) -> list[float]:
        return column(rows, column_name, architecture=architecture, model=model, learning_rate=rate)

    rate = max(distinct(rows, "learning_rate"), key=lambda rate: sum(values(rate, "accuracy")))
    found = values(rate, name)
    return [min(value, 2 * steps) for value, steps in zip(found, values(rate, "steps"), strict=True)] if name == "steps_to_target" else found


def tolerated(tables: Tables, architecture: str, model: str) -> int:
    """At how many of the learning rates every seed reached the target."""
    rows = tables["runs"]
    steps = [column(rows, "steps_to_target", architecture=architecture, model=model, learning_rate=rate) for rate in distinct(rows, "learning_rate")]
    return sum(all(math.isfinite(value) for value in values) for values in steps)


def judge(tables: Tables) -> Finding:
    rows = tables["runs"]
    architectures = distinct(rows, "architecture")
    gains, speedups, gaps = {}, {}, {}
    for architecture in architectures:
        gains[architecture] = Interval.of_differences(*(best(tables, architecture, model, "accuracy") for model in ("cnn_bn", "cnn")))
        gaps[architecture] = Interval.of_differences(*(best(tables, architecture, model, "gap") for model in ("cnn_bn", "cnn")))
        speedups[architecture] = Interval.of_differences(
            *([math.log(value) for value in best(tables, architecture, model, "steps_to_target")] for model in ("cnn", "cnn_bn"))
        )
    tolerance = {architecture: tuple(tolerated(tables, architecture, model) for model in ("cnn_bn", "cnn")) for architecture in architectures}
    helped = [name for name in architectures if gains[name].low > 0]
    easier = [name for name in architectures if speedups[name].low > 0 or tolerance[name][0] > tolerance[name][1]]
    everywhere = len(helped) == len(architectures)
    verdict = Verdict.HOLDS if everywhere else Verdict.WITH_CONDITIONS if easier or helped else Verdict.WRONG
    return Finding(
        verdict,
        (
            "At each network's best learning rate, accuracy rose by "
            + "; ".join(f"{gains[name].show(100, 1)} points with {name}" for name in architectures)
            + ".",
            f"{100 * rows[0]['target']:.0f} % took "
            + "; ".join(f"{math.exp(-speedups[name].mean):.2f} times the steps with {name}" for name in architectures)
            + f"; of {len(distinct(rows, 'learning_rate'))} learning rates every seed got there, with and without it, at "
            + "; ".join(f"{tolerance[name][0]} and {tolerance[name][1]} ({name})" for name in architectures)
            + ".",
            "As a regularizer it changed the lead of the training images over the held-out ones by "
            + "; ".join(f"{gaps[name].show(100, 1)} points with {name}" for name in architectures)
            + ": below zero it regularizes.",
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    rows = tables["runs"]
    architectures, rates = distinct(rows, "architecture"), distinct(rows, "learning_rate")
    axes: Any = figure.subplots(1, len(architectures), sharey=True)
    for axis, architecture in zip(axes, architectures, strict=True):
        for model, label, colour, marker in (("cnn", "without", ORANGE, "s"), ("cnn_bn", "with batch normalization", BLUE, "o")):
            where = {"architecture": architecture, "model": model}
            means = [100 * Interval.of(column(rows, "accuracy", learning_rate=rate, **where)).mean for rate in rates]
            axis.plot(rates, means, color=colour, label=label)
            for rate in rates:
                values = column(rows, "accuracy", learning_rate=rate, **where)
                axis.scatter([rate] * len(values), [100 * value for value in values], color=colour, marker=marker, s=16, alpha=0.6)
        axis.set(title=architecture, xscale="log", xlabel="learning rate of plain SGD")
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.minorticks_off()
    axes[0].set_ylabel("% of held-out images right")
    axes[0].legend(frameon=False)
    figure.suptitle("Batch normalization: which learning rates work, and how well (a point per seed)")


CLAIM = Claim(
    name="batchnorm",
    says="Batch normalization regularizes intermediate activations, strengthens training and improves accuracy across architectures.",
    theory=(
        "It normalizes each map over the batch, which lets larger learning rates work; regularization is a side effect of the batch's noise "
        "(Ioffe and Szegedy, 2015, arXiv:1502.03167)."
    ),
    rule=(
        "Each network is taken at its best learning rate. Holds if the accuracy is higher with batch normalization in every architecture, with the "
        "whole interval of the difference by seed. Holds with conditions if that is so in some, or if in some the target takes fewer steps or more "
        "learning rates reach it. Wrong otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
