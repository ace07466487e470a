"""A ReLU neuron gives 0 or 1, and its gradient is never zero."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.evaluation import predict
from zoo.figures import BLUE, GREEN, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct
from zoo.layers import feature_extractor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

TOLERATED = 0.01
LAYERS = ("hidden1", "hidden2", "hidden3")


def measure(lab: Laboratory) -> Tables:
    import keras
    import numpy
    import tensorflow as tf

    layers, histogram = [], []
    edges = numpy.linspace(0, 6, 25)
    for seed in lab.seeds:
        model = lab.learn(lab.recipe("relu_mlp", hyperparameters={"depth": 3}), seed).model
        extract = feature_extractor(model, [f"{layer}_dense" for layer in LAYERS])
        known = predict(extract, lab.training.images)
        seen = predict(extract, lab.validation.images)
        for layer in LAYERS:
            before = tf.constant(seen[f"{layer}_dense"])
            with tf.GradientTape() as tape:
                tape.watch(before)
                after = keras.ops.relu(before)
            slope = tape.gradient(after, before).numpy()
            values = after.numpy()
            layers.append(
                {
                    "seed": seed,
                    "layer": layer,
                    "zero": float((values == 0).mean()),
                    "one": float((values == 1).mean()),
                    "another_value": float(((values != 0) & (values != 1)).mean()),
                    "most": float(values.max()),
                    "slope_zero": float((slope == 0).mean()),
                    "slope_one": float((slope == 1).mean()),
                    "dead_units": float((known[f"{layer}_dense"] <= 0).all(axis=0).mean()),
                }
            )
            counts = numpy.histogram(values[values > 0], edges)[0] / values.size
            histogram += [
                {"seed": seed, "layer": layer, "from": float(low), "share": float(share)} for low, share in zip(edges[:-1], counts, strict=True)
            ]
    return {"layers": layers, "histogram": histogram}


def judge(tables: Tables) -> Finding:
    rows = tables["layers"]
    per_seed = {name: [fmean(column(rows, name, seed=seed)) for seed in distinct(rows, "seed")] for name in ("another_value", "slope_zero")}
    other, flat = Interval.of(per_seed["another_value"]), Interval.of(per_seed["slope_zero"])
    if other.low > TOLERATED or flat.low > TOLERATED:
        verdict = Verdict.WRONG
    elif other.high < TOLERATED and flat.high < TOLERATED:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.WITH_CONDITIONS
    slopes = min(zero + one for zero, one in zip(column(rows, "slope_zero"), column(rows, "slope_one"), strict=True))
    return Finding(
        verdict,
        (
            f"{other.show(100, 1, ' %')} of the outputs were neither 0 nor 1; the largest was {max(column(rows, 'most')):.1f}.",
            (
                f"The slope was zero for {flat.show(100, 1, ' %')} of the outputs, and {100 * fmean(column(rows, 'dead_units')):.1f} % of the units "
                "were zero for every training image."
            ),
            f"What holds: the slope is 1 wherever the input is positive, however large it is (0 or 1 in {100 * slopes:.0f} % of the cases).",
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    colours = dict(zip(LAYERS, (BLUE, ORANGE, GREEN), strict=True))
    for layer, colour in colours.items():
        rows = [row for row in tables["histogram"] if row["layer"] == layer]
        starts = distinct(rows, "from")
        left.step(starts, [100 * fmean(column(rows, "share", **{"from": start})) for start in starts], where="post", color=colour, label=layer)
    left.axvline(1, color="grey", linestyle="--", linewidth=1)
    left.set(title="outputs above 0 take any value, not 1", xlabel="output", ylabel="% of all outputs, per 0.25")
    left.legend(frameon=False)
    places = range(len(LAYERS))
    for offset, name, label, colour in ((-0.2, "slope_zero", "slope 0 for an image", BLUE), (0.2, "dead_units", "0 for every image (dead)", ORANGE)):
        heights = [100 * fmean(column(tables["layers"], name, layer=layer)) for layer in LAYERS]
        bars: Any = right.bar([place + offset for place in places], heights, 0.38, color=colour, label=label)
        right.bar_label(bars, fmt="%.0f")
    right.set_xticks(list(places), LAYERS)
    right.set(title="the slope is often zero", ylabel="% of outputs, % of units", ylim=(0, 115))
    right.legend(frameon=False, loc="upper left")
    figure.suptitle("What a rectified linear unit gives, and its slope")


CLAIM = Claim(
    name="relu",
    says="A ReLU neuron gives 0 or 1, by whether its activation passes zero, and its backward gradient is never zero.",
    theory=(
        "max(0, x) is unbounded above; only its slope is 0 or 1. The slope is 0 for every negative input, and a unit with negative inputs "
        "only is dead. What holds is that it does not saturate for positive inputs (Nair and Hinton, 2010; Glorot et al., 2011)."
    ),
    rule=(
        "Wrong if more than 1 % of the outputs are neither 0 nor 1, or more than 1 % of the slopes are zero, with the whole interval. "
        "Holds if both shares lie below 1 % with their whole intervals. Holds with conditions otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
