"""Stochastic gradient descent takes small random steps instead of full-batch gradients, and so streamlines training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, GREEN, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

LEARNING_RATES = (0.03, 0.1, 0.3, 1.0)
TARGET = 0.4


def measure(lab: Laboratory) -> Tables:
    everything = len(lab.training.labels)
    plans = {"one image": (1, 2), "mini-batch": (lab.batch_size, 8), "all images": (everything, 100)}
    rows = []
    for batch, (batch_size, epochs) in plans.items():
        recipe = lab.recipe("relu_mlp", hyperparameters={"units": 64}, optimizer="sgd", batch_size=batch_size, epochs=epochs)
        rates = [rate / 10 for rate in LEARNING_RATES[:2]] if batch_size == 1 else LEARNING_RATES
        rate = min(rates, key=lambda rate: lab.learn(_at(recipe, rate), lab.seeds[0]).loss)
        for seed in lab.seeds:
            history = lab.learn(_at(recipe, rate), seed).history
            seconds = [max(1e-9, row["seconds"]) for row in history]
            usual = sorted(seconds)[len(seconds) // 2]  # the first epoch also compiles
            settings = {"batch": batch, "batch_size": batch_size, "learning_rate": rate, "seed": seed}
            rows += [{**settings, "passes": row["epoch"], "seconds": usual * row["epoch"], "loss": row["val_loss"]} for row in history]
    return {"curves": rows}


def _at(recipe: Any, rate: float) -> Any:
    import dataclasses

    return dataclasses.replace(recipe, learning_rate=rate)


def to_target(tables: Tables, batch: str, name: str) -> list[float]:
    """By seed, what it took (`passes` or `seconds`) until the held-out loss was at most the target; else twice all there was."""
    found = []
    for seed in distinct(tables["curves"], "seed"):
        rows = [row for row in tables["curves"] if row["batch"] == batch and row["seed"] == seed]
        found.append(next((row[name] for row in rows if row["loss"] <= TARGET), 2 * rows[-1][name]))
    return found


def judge(tables: Tables) -> Finding:
    def advantage(batch: str, other: str, name: str) -> Interval:
        return Interval.of_differences(*([math.log(value) for value in to_target(tables, kind, name)] for kind in (other, batch)))

    passes, seconds = (advantage("mini-batch", "all images", name) for name in ("passes", "seconds"))
    single = advantage("mini-batch", "one image", "seconds")
    if passes.low > 0 and seconds.low > 0:
        verdict = Verdict.WITH_CONDITIONS if single.low > 0 else Verdict.HOLDS
    else:
        verdict = Verdict.WRONG if seconds.high < 0 else Verdict.WITH_CONDITIONS
    batch_size = column(tables["curves"], "batch_size", batch="mini-batch")[0]
    return Finding(
        verdict,
        (
            f"Mini-batches of {batch_size} reached a loss of {TARGET} with {_times(passes)} fewer passes over the images than the full batch.",
            f"In seconds they were {_times(seconds)} faster.",
            f"Steps of a single image are the least work each, and took {_times(single)} as long as mini-batches in all.",
        ),
    )


def _times(interval: Interval) -> str:
    return f"{math.exp(interval.mean):.1f} times ({math.exp(interval.low):.1f} to {math.exp(min(20.0, interval.high)):.1f})"


def draw(tables: Tables, figure: Figure) -> None:
    axes: Any = figure.subplots(1, 2, sharey=True)
    for batch, colour in (("one image", GREEN), ("mini-batch", BLUE), ("all images", ORANGE)):
        for seed in distinct(tables["curves"], "seed"):
            rows = [row for row in tables["curves"] if row["batch"] == batch and row["seed"] == seed]
            label = f"{batch} per step, learning rate {rows[0]['learning_rate']:g}" if seed == distinct(tables["curves"], "seed")[0] else None
            for axis, name in zip(axes, ("passes", "seconds"), strict=True):
                axis.plot(column(rows, name), column(rows, "loss"), color=colour, alpha=0.8, label=label, marker="." if len(rows) < 20 else None)
    for axis, title, label in zip(axes, ("per image seen", "per second"), ("passes over the training images", "seconds"), strict=True):
        axis.axhline(TARGET, color="grey", linestyle="--", linewidth=1)
        axis.set(title=title, xlabel=label, xscale="log")
    axes[0].set_ylabel("loss on held-out images, nats")
    axes[0].legend(frameon=False)
    figure.suptitle("One image, a mini-batch, or all images per step of plain SGD")


CLAIM = Claim(
    name="sgd",
    says="Stochastic gradient descent takes small random steps instead of full-batch gradients, and so streamlines training.",
    theory="Right per unit of work (Bottou and Bousquet, 2008); the steps are noisy estimates of the gradient, not random.",
    rule=(
        "Each batch size has its best learning rate. Holds if mini-batches reach the target loss with fewer passes and in fewer seconds than the "
        "full batch, both with the whole interval of the ratio by seed; with conditions if, moreover, single images are slower than mini-batches "
        "with the whole interval, since then the smallest steps are not the best. Wrong if mini-batches are slower in seconds with the whole "
        "interval."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
