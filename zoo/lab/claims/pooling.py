"""Max pooling down-samples; high-level features come with growing receptive fields."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, ORANGE
from zoo.inspection import receptive_fields
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    import keras
    import numpy
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

SIDE = 48
NOISE_IMAGES = 64
LEVELS = ("block1_pool", "block2_pool", "block3_pool")
INFLUENCE = 0.5


def measure(lab: Laboratory) -> Tables:
    import keras

    from zoo.factory import create_model

    fields, maps = [], []
    for seed in lab.seeds:
        keras.utils.set_random_seed(seed)
        model = create_model("cnn", input_shape=(SIDE, SIDE, 1), num_classes=2, blocks=3, convolutions=2, filters=8, units=0)
        computed = receptive_fields(model)
        for level in LEVELS:
            influence = _influence(model, level, seed)
            field = computed[level]
            assert field is not None, "a pooling layer sees a square"
            fields.append(
                {
                    "seed": seed,
                    "level": level,
                    "side": int(model.get_layer(level).output.shape[1]),
                    "computed": field,
                    "measured": _side(influence > 0),
                    "effective": _effective_area(influence) / field**2,
                }
            )
            if seed == lab.seeds[0]:
                profile = influence.sum(axis=0) / influence.sum()
                maps += [{"level": level, "pixel": pixel - SIDE // 2, "influence": float(value)} for pixel, value in enumerate(profile)]
    return {"fields": fields, "profiles": maps}


def _influence(model: keras.Model, level: str, seed: int) -> numpy.ndarray:
    """How much each pixel moves the unit in the middle of a level's maps: mean absolute gradient over noise images."""
    import keras
    import numpy
    import tensorflow as tf

    extract = keras.Model(model.input, model.get_layer(level).output)
    images = tf.Variable(numpy.random.default_rng(seed).uniform(0, 255, (NOISE_IMAGES, SIDE, SIDE, 1)).astype("float32"))
    with tf.GradientTape() as tape:
        maps = extract(images, training=False)
        middle = tf.reduce_sum(maps[:, maps.shape[1] // 2, maps.shape[2] // 2])
    return abs(tape.gradient(middle, images).numpy()[..., 0]).mean(axis=0)


def _side(touched: numpy.ndarray) -> int:
    """Of the smallest square that holds all touched pixels."""
    import numpy

    rows, columns = numpy.nonzero(touched)
    return int(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1)


def _effective_area(influence: numpy.ndarray) -> int:
    """How many pixels, the strongest first, hold half of the influence."""
    import numpy

    ordered = numpy.sort(influence.ravel())[::-1]
    return int(numpy.searchsorted(ordered.cumsum(), INFLUENCE * ordered.sum())) + 1


def judge(tables: Tables) -> Finding:
    rows = tables["fields"]
    levels = distinct(rows, "level")
    sides = [column(rows, "side", level=level)[0] for level in levels]
    computed = [column(rows, "computed", level=level)[0] for level in levels]
    agree = all(row["computed"] == row["measured"] for row in rows)
    halves = all(later == (earlier + 1) // 2 for earlier, later in itertools.pairwise(sides))
    grows = all(earlier < later for earlier, later in itertools.pairwise(computed))
    share = Interval.of(column(rows, "effective", level=levels[-1]))
    verdict = Verdict.WRONG if not (halves and grows and agree) else Verdict.WITH_CONDITIONS if share.high < INFLUENCE else Verdict.HOLDS
    return Finding(
        verdict,
        (
            f"Each max pooling halves the maps: their sides are {', '.join(map(str, sides))} for an image of {SIDE} x {SIDE} pixels.",
            f"A unit depends on a square of {', '.join(map(str, computed))} pixels, computed from the layers"
            + (" and measured by gradients alike." if agree else "; gradients measured others."),
            f"Not all of it counts alike: at {levels[-1]} half of the influence comes from {share.show(100, 0, ' %')} of that square.",
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    rows, profiles = tables["fields"], tables["profiles"]
    levels = distinct(rows, "level")
    sides = [column(rows, "measured", level=level)[0] for level in levels]
    halves = [side * Interval.of(column(rows, "effective", level=level)).mean ** 0.5 for side, level in zip(sides, levels, strict=True)]
    for offset, heights, label, colour in ((-0.2, sides, "whole field", BLUE), (0.2, halves, "pixels with half of the influence", ORANGE)):
        bars: Any = left.bar([place + offset for place in range(len(levels))], heights, 0.38, color=colour, label=label)
        left.bar_label(bars, fmt="%.0f")
    left.set_xticks(
        range(len(levels)), [f"{level}\n{column(rows, 'side', level=level)[0]} x {column(rows, 'side', level=level)[0]}" for level in levels]
    )
    left.set(ylabel="side of the square, pixels", title="maps halve, receptive fields grow")
    left.legend(frameon=False, loc="upper left")
    for level, width in zip(levels, (1.0, 1.6, 2.4), strict=True):
        at = [row for row in profiles if row["level"] == level]
        right.plot(column(at, "pixel"), [100 * value for value in column(at, "influence")], color=BLUE, linewidth=width, label=level)
    right.set(xlabel="pixels from the middle", ylabel="% of the influence on one unit", title="the middle of the field counts most")
    right.legend(frameon=False)
    figure.suptitle("Max pooling and what a unit sees")


CLAIM = Claim(
    name="pooling",
    says="Max pooling down-samples the stages, and high-level features come with growing receptive fields.",
    theory="Right; the effective receptive field is smaller than the theoretical one (Luo et al., 2016, arXiv:1701.04128).",
    rule=(
        "Wrong unless each pooling halves the maps, the receptive field grows from level to level, and gradients measure the same field as is "
        "computed. Then it holds with conditions if half of the influence comes from less than half of the deepest field, with the whole interval; "
        "else it holds."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
