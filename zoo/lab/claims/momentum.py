"""Momentum counteracts flat error surfaces and avoids poor solutions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

CONDITION = 100.0
STEPS = 400
NEAR = 1e-6
# Momentum 0.9 lets each gradient act ten times over, so its rates are smaller.
LEARNING_RATES = {"sgd": (0.3, 1.0, 3.0), "momentum": (0.1, 0.3, 1.0)}
TARGET = 0.8
EPOCHS = 10


def measure(lab: Laboratory) -> Tables:
    runs = []
    for optimizer, rates in LEARNING_RATES.items():
        for rate in rates:
            recipe = lab.recipe(
                "sigmoid_mlp",
                hyperparameters={"units": 64, "depth": 2, "initializer": "glorot_uniform"},
                optimizer=optimizer,
                learning_rate=rate,
                epochs=EPOCHS,
            )
            for seed in lab.seeds:
                learned = lab.learn(recipe, seed)
                steps = EPOCHS * learned.steps_per_epoch
                runs.append(
                    {
                        "optimizer": optimizer,
                        "learning_rate": rate,
                        "seed": seed,
                        "steps_to_target": min(learned.steps_to(TARGET), 2 * steps),
                        "accuracy": learned.accuracy,
                        "loss": learned.loss,
                    }
                )
    return {"runs": runs, "valley": _valley()}


def _valley() -> list[dict[str, Any]]:
    """Both optimizers in the valley (x^2 + 100 y^2) / 2, each with the settings that theory gives as the best (Polyak, 1964)."""
    import keras
    import tensorflow as tf

    from zoo.optimizers import create_optimizer

    slow, fast = 1.0, math.sqrt(CONDITION)
    settings: dict[str, tuple[float, dict[str, float]]] = {
        "sgd": (2 / (1 + CONDITION), {}),
        "momentum": (4 / (slow + fast) ** 2, {"momentum": ((fast - slow) / (fast + slow)) ** 2}),
    }
    rows = []
    for name, (rate, arguments) in settings.items():
        place = keras.Variable([-1.0, 0.3])
        optimizer = create_optimizer(name, rate, **arguments)
        optimizer.build([place])
        slopes = tf.constant([1.0, CONDITION])
        for step in range(STEPS + 1):
            x, y = (float(value) for value in place.numpy())
            rows.append({"optimizer": name, "step": step, "x": x, "y": y, "height": (x * x + CONDITION * y * y) / 2})
            optimizer.apply([slopes * place.value], [place])
    return rows


def _best(tables: Tables, optimizer: str, name: str, sign: int) -> list[float]:
    """A column by seed at the learning rate where its mean is the least (`sign` 1) or the greatest (-1)."""
    rows = [row for row in tables["runs"] if row["optimizer"] == optimizer]
    return min((column(rows, name, learning_rate=rate) for rate in distinct(rows, "learning_rate")), key=lambda values: sign * sum(values))


def _steps_in_valley(tables: Tables, optimizer: str) -> float:
    return next((row["step"] for row in tables["valley"] if row["optimizer"] == optimizer and row["height"] < NEAR), math.inf)


def judge(tables: Tables) -> Finding:
    plain, heavy = (_steps_in_valley(tables, name) for name in ("sgd", "momentum"))
    saved = Interval.of_differences(*([math.log(value) for value in _best(tables, name, "steps_to_target", 1)] for name in ("sgd", "momentum")))
    better = Interval.of_differences(*(_best(tables, name, "accuracy", -1) for name in ("momentum", "sgd")))
    faster = heavy < plain and saved.low > 0
    if faster:
        verdict = Verdict.HOLDS if better.low > 0 else Verdict.WITH_CONDITIONS
    else:
        verdict = Verdict.WITH_CONDITIONS if heavy < plain else Verdict.WRONG
    return Finding(
        verdict,
        (
            (
                f"In a valley {CONDITION:.0f} times as steep across as along, momentum needed {heavy:g} steps to the bottom, "
                f"plain gradient descent {plain:g}."
            ),
            (
                f"On a sigmoid network's plateau, each at its best learning rate, SGD took {math.exp(saved.mean):.1f} times the steps "
                f"({math.exp(saved.low):.1f} to {math.exp(min(20.0, saved.high)):.1f}) to {100 * TARGET:.0f} %."
            ),
            f"After {EPOCHS} epochs momentum was {better.show(100, 1)} points more accurate"
            + (": a better solution within the budget." if better.low > 0 else ": a better solution is not shown."),
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    import numpy

    left, middle, right = figure.subplots(1, 3)
    x, y = numpy.meshgrid(numpy.linspace(-1.1, 0.5, 60), numpy.linspace(-0.35, 0.35, 60))
    left.contour(x, y, numpy.sqrt((x**2 + CONDITION * y**2) / 2), levels=10, colors="lightgrey", linewidths=0.7)
    for name, colour in (("sgd", ORANGE), ("momentum", BLUE)):
        rows = [row for row in tables["valley"] if row["optimizer"] == name]
        left.plot(column(rows[:40], "x"), column(rows[:40], "y"), color=colour, marker=".", markersize=3, linewidth=0.8, label=name)
        middle.plot(column(rows, "step"), [max(1e-12, value) for value in column(rows, "height")], color=colour, label=name)
        steps = [Interval.of(column(tables["runs"], "steps_to_target", optimizer=name, learning_rate=rate)).mean for rate in LEARNING_RATES[name]]
        right.plot(LEARNING_RATES[name], steps, color=colour, marker="o", label=name)
    left.set(title="40 steps down a narrow valley", xticks=[], yticks=[])
    middle.set(title="height above the bottom", xlabel="steps", yscale="log")
    right.set(title=f"sigmoid network: steps to {100 * TARGET:.0f} %", xlabel="learning rate", xscale="log", yscale="log")
    rates = sorted({rate for rates in LEARNING_RATES.values() for rate in rates})
    right.set_xticks(rates, [f"{rate:g}" for rate in rates])
    right.set_xticks([], minor=True)
    left.legend(frameon=False)
    figure.suptitle("Plain gradient descent and momentum")


CLAIM = Claim(
    name="momentum",
    says="Momentum counteracts flat error surfaces and avoids poor solutions by keeping past updates.",
    theory="Right on flat and ill-conditioned surfaces (Polyak, 1964; Sutskever et al., 2013); that it avoids poor solutions is not implied.",
    rule=(
        "Holds if momentum reaches the bottom of the exact valley in fewer steps, the network's target in fewer steps with the whole interval of the "
        "ratio by seed, each at its best learning rate, and ends with a higher accuracy with the whole interval. Wrong if it is not even faster in "
        "the valley. Holds with conditions otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
