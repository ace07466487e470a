"""Adaptive methods scale learning rates by past squared gradients, and are the most efficient over varying problems."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, GREEN, ORANGE, PINK
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct
from zoo.optimizers import optimizer_class, optimizer_info

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

PROBLEMS = {
    "sigmoid MLP": ("sigmoid_mlp", {"units": 64, "depth": 2}),
    "CNN": ("cnn", {"blocks": 2, "filters": 8, "units": 32}),
}
ADAPTIVE, OTHERS = ("rmsprop", "adam"), ("sgd", "momentum")
FACTORS = (1.0, 10.0, 100.0)
EPOCHS = 6


def measure(lab: Laboratory) -> Tables:
    rows = []
    for problem, (model, hyperparameters) in PROBLEMS.items():
        for optimizer in (*OTHERS, *ADAPTIVE):
            default = keras_default(optimizer)
            for factor in FACTORS:
                recipe = lab.recipe(model, hyperparameters=hyperparameters, optimizer=optimizer, learning_rate=default * factor, epochs=EPOCHS)
                settings = {"problem": problem, "optimizer": optimizer, "learning_rate": default * factor, "factor": factor}
                rows += [{**settings, "seed": seed, "accuracy": lab.learn(recipe, seed).accuracy} for seed in lab.seeds]
    return {"runs": rows}


def keras_default(optimizer: str) -> float:
    """The learning rate that Keras gives an optimizer of the zoo when nobody names one.

    Example:
        >>> keras_default("momentum"), keras_default("adam")
        (0.01, 0.001)
    """
    return float(inspect.signature(optimizer_class(optimizer_info(optimizer))).parameters["learning_rate"].default)


def best_of(tables: Tables, problem: str, optimizers: tuple[str, ...], tuned: bool) -> tuple[str, list[float]]:
    """The optimizer with the best mean accuracy, and its accuracies by seed: at the default learning rate, or at its best one."""
    rows = tables["runs"]
    candidates = {
        (optimizer, factor): column(rows, "accuracy", problem=problem, optimizer=optimizer, factor=factor)
        for optimizer in optimizers
        for factor in (distinct(rows, "factor") if tuned else [1.0])
    }
    name, factor = max(candidates, key=lambda key: sum(candidates[key]))
    return name, candidates[name, factor]


def judge(tables: Tables) -> Finding:
    problems = distinct(tables["runs"], "problem")
    lead = {}
    for tuned in (False, True):
        for problem in problems:
            lead[tuned, problem] = Interval.of_differences(best_of(tables, problem, ADAPTIVE, tuned)[1], best_of(tables, problem, OTHERS, tuned)[1])
    at_default = all(lead[False, problem].low > 0 for problem in problems)
    when_tuned = all(lead[True, problem].low > 0 for problem in problems)
    verdict = Verdict.HOLDS if when_tuned else Verdict.WITH_CONDITIONS if at_default else Verdict.WRONG

    def leads(tuned: bool) -> str:
        return "; ".join(f"{lead[tuned, problem].show(100, 1)} points on the {problem}" for problem in problems)

    return Finding(
        verdict,
        (
            f"At Keras's default learning rates the best adaptive method led SGD and momentum by {leads(False)}.",
            f"With every method at its best learning rate of {len(distinct(tables['runs'], 'factor'))} the lead was {leads(True)}.",
            "So what adaptive methods save is mostly the tuning."
            if at_default and not when_tuned
            else "A lead that ends where its interval holds zero is none.",
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    axes: Any = figure.subplots(1, len(PROBLEMS), sharey=True)
    for axis, problem in zip(axes, PROBLEMS, strict=True):
        for optimizer, colour in zip((*OTHERS, *ADAPTIVE), (ORANGE, PINK, GREEN, BLUE), strict=True):
            rows = [row for row in tables["runs"] if row["problem"] == problem and row["optimizer"] == optimizer]
            intervals = [Interval.of(column(rows, "accuracy", factor=factor)) for factor in FACTORS]
            means = [100 * interval.mean for interval in intervals]
            spread = [100 * (interval.high - interval.mean) / 2 if math.isfinite(interval.high) else 0.0 for interval in intervals]
            axis.errorbar(distinct(rows, "learning_rate"), means, spread, color=colour, marker="o", capsize=2, label=optimizer)
            axis.scatter(rows[0]["learning_rate"], means[0], s=120, facecolors="none", edgecolors=colour)
        axis.set(title=problem, xlabel="learning rate (circled: Keras's default)", xscale="log", ylim=(0, 102))
    axes[0].set_ylabel(f"% of held-out images right\nafter {EPOCHS} epochs")
    axes[0].legend(frameon=False, loc="lower left")
    figure.suptitle("Adaptive methods, momentum and plain SGD, at default and tuned learning rates")


CLAIM = Claim(
    name="adaptive",
    says="Adaptive methods scale learning rates by past squared gradients and are the most efficient over varying problems.",
    theory=(
        "The mechanism is right; that they are best holds at default settings more than after tuning "
        "(Wilson et al., 2017, arXiv:1705.08292; Choi et al., 2019, arXiv:1910.05446; Schmidt et al., 2021, arXiv:2007.01547)."
    ),
    rule=(
        "The better of RMSprop and Adam against the better of SGD and momentum, on every problem. Holds if the adaptive one leads on all with each "
        "at its best learning rate, with the whole interval of the difference by seed. Holds with conditions if it leads on all at Keras's "
        "default learning rates only. Wrong otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
