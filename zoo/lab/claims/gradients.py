"""Gradients can vanish or explode during training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from zoo.figures import BLUE, GREEN, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct
from zoo.layers import classifier, feature_extractor, hidden_layer, level_names, preprocess

if TYPE_CHECKING:
    import keras
    import numpy
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

DEPTHS = (1, 2, 4, 8)
ACTIVATIONS = ("sigmoid", "tanh", "relu")
INITIALIZERS = ("glorot_uniform", "he_normal", "too_large")
UNITS = 64
VANISHED, EXPLODED = 1e-2, 1e2


def network(lab: Laboratory, activation: str, initializer: str, depth: int, normalized: bool) -> keras.Model:
    """A multilayer perceptron of 64 units per layer, with or without batch normalization before each activation."""
    import keras
    from keras import layers

    image = keras.Input(lab.input_shape, name="image")
    mean, deviation = float(lab.training.images.mean()), float(lab.training.images.std())
    features = layers.Flatten()(preprocess(image, mean, deviation))
    for level in range(1, depth + 1):
        kernel: Any = keras.initializers.VarianceScaling(16.0, "fan_in", "normal") if initializer == "too_large" else initializer
        if normalized:
            features = layers.Dense(UNITS, kernel_initializer=kernel, use_bias=False, name=f"hidden{level}_dense")(features)
            features = layers.BatchNormalization(name=f"hidden{level}_batchnorm")(features)
            features = layers.Activation(activation, name=f"hidden{level}_{activation}")(features)
        else:
            features = hidden_layer(features, f"hidden{level}", UNITS, activation, kernel, 0.0)
    return keras.Model(image, classifier(features, lab.num_classes))


def measure(lab: Laboratory) -> Tables:
    import keras

    images, labels = lab.training.images[:256], lab.training.labels[:256]
    rows = []
    for activation in ACTIVATIONS:
        for initializer in INITIALIZERS:
            for normalized in (False, True):
                for depth in DEPTHS:
                    for seed in lab.seeds:
                        keras.utils.set_random_seed(seed)
                        norms = signal_norms(network(lab, activation, initializer, depth, normalized), images, labels)
                        settings = {"activation": activation, "initializer": initializer, "batch_normalization": normalized, "depth": depth}
                        rows += [{**settings, "seed": seed, "level": level, "norm": norm} for level, norm in enumerate(norms, start=1)]
    return {"norms": rows}


def signal_norms(model: keras.Model, images: numpy.ndarray, labels: numpy.ndarray) -> list[float]:
    """What backpropagation brings to each hidden level: the norm of the loss's gradient with respect to its outputs, first level first."""
    import keras
    import tensorflow as tf

    names = [name for name in level_names(model) if name.startswith("hidden")]
    extract, loss = feature_extractor(model, [*names, "logits"]), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        outputs = extract(images, training=True)
        value = loss(labels, outputs["logits"])
    return [float(tf.norm(gradient)) for gradient in tape.gradient(value, [outputs[name] for name in names])]


def ratios(tables: Tables, activation: str, initializer: str, normalized: bool) -> Interval:
    """The gradient's norm at the first hidden level over that at the last one in the deepest network, as a decimal logarithm."""
    rows, deepest = tables["norms"], max(column(tables["norms"], "depth"))
    where = {"activation": activation, "initializer": initializer, "batch_normalization": normalized, "depth": deepest}
    first, last = (column(rows, "norm", level=level, **where) for level in (1, deepest))
    return Interval.of([math.log10(max(a, 1e-30) / max(b, 1e-30)) for a, b in zip(first, last, strict=True)])


def judge(tables: Tables) -> Finding:
    rows = tables["norms"]
    kinds = [(activation, initializer) for activation in distinct(rows, "activation") for initializer in distinct(rows, "initializer")]
    plain = {kind: ratios(tables, *kind, False) for kind in kinds}
    vanished = [kind for kind in kinds if plain[kind].high < math.log10(VANISHED)]
    exploded = [kind for kind in kinds if plain[kind].low > math.log10(EXPLODED)]
    healthy = [kind for kind in kinds if plain[kind].low > math.log10(VANISHED) and plain[kind].high < math.log10(EXPLODED)]
    verdict = Verdict.WRONG if not vanished and not exploded else Verdict.WITH_CONDITIONS if healthy else Verdict.HOLDS
    depth = max(column(rows, "depth"))
    worst = min(kinds, key=lambda kind: plain[kind].mean)
    mended = ratios(tables, *worst, True)
    return Finding(
        verdict,
        (
            (
                f"Through {depth} layers the gradient shrank below 1/100 of its size with {_names(vanished)}, "
                f"and grew above 100 times with {_names(exploded)}."
            ),
            f"It did neither with {_names(healthy)}.",
            (
                f"Worst was {_names([worst])}: 10 to the power of {plain[worst].show(1, 1)} from last to first layer; "
                f"batch normalization made that {mended.show(1, 1)}."
            ),
        ),
    )


def _names(kinds: list[tuple[str, str]]) -> str:
    return ", ".join(f"{activation} under {initializer}" for activation, initializer in kinds) or "none"


def draw(tables: Tables, figure: Figure) -> None:
    rows = tables["norms"]
    deepest = max(column(rows, "depth"))
    axes: Any = figure.subplots(1, len(INITIALIZERS), sharey=True)
    for axis, initializer in zip(axes, INITIALIZERS, strict=True):
        for activation, colour in zip(ACTIVATIONS, (BLUE, ORANGE, GREEN), strict=True):
            for normalized, style in ((False, "-"), (True, ":")):
                where = {"activation": activation, "initializer": initializer, "batch_normalization": normalized, "depth": deepest}
                levels = list(range(1, deepest + 1))
                logs = [Interval.of([math.log10(max(value, 1e-30)) for value in column(rows, "norm", level=level, **where)]).mean for level in levels]
                label = activation + (", batch norm" if normalized else "")
                axis.plot(levels, [10**value for value in logs], style, color=colour, marker="." if not normalized else None, label=label)
        axis.set(title=initializer, xlabel="layer, 1 = next to the image", yscale="log")
    axes[0].set_ylabel("norm of the gradient at the start")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(f"How gradients cross {deepest} layers")


CLAIM = Claim(
    name="gradients",
    says="Gradients can vanish or explode during training.",
    theory=(
        "Right: each layer multiplies the gradient by its weights and slopes, so it depends on depth, activation and initialization "
        "(Glorot and Bengio, 2010; He et al., 2015); batch normalization changes it."
    ),
    rule=(
        "In the deepest network, the norm of the gradient with respect to the first hidden level over that at the last: vanished below 1/100, "
        "exploded above 100, with the whole interval. Wrong if no combination vanishes or explodes. Holds with conditions if some do and some do "
        "neither. Holds if none does neither."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
