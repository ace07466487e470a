"""Shared filters give local responses, exploit spatial relationships, and save parameters."""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from zoo.evaluation import predict
from zoo.figures import BLUE, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    import keras
    import numpy
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

SHIFTS = (0, 1, 2, 3)
CNN = {"blocks": 2, "filters": 16, "units": 32}


def measure(lab: Laboratory) -> Tables:
    layers, accuracy = [], []
    units = None
    for seed in lab.seeds:
        cnn = lab.learn(lab.recipe("cnn", hyperparameters=CNN), seed).model
        if units is None:
            layers = _costs(cnn)
            units = _units(cnn.count_params(), prod(lab.input_shape), lab.num_classes)
        mlp = lab.learn(lab.recipe("relu_mlp", hyperparameters={"units": units}), seed).model
        for name, model in (("cnn", cnn), ("relu_mlp", mlp)):
            for shift in SHIFTS:
                right = _accuracy(model, lab.validation.images, lab.validation.labels, shift)
                accuracy += [{"seed": seed, "model": name, "parameters": model.count_params(), "shift": shift, "accuracy": right}]
    return {"accuracy": accuracy, "layers": layers}


def _costs(model: keras.Model) -> list[dict[str, Any]]:
    """Per convolution: its parameters, and those of a fully connected layer between the same two sets of maps."""
    rows = []
    for layer in model.layers:
        if type(layer).__name__ == "Conv2D":
            inputs, outputs = prod(layer.input.shape[1:]), prod(layer.output.shape[1:])
            rows.append({"layer": layer.name, "convolution": layer.count_params(), "fully_connected": inputs * outputs + outputs})
    return rows


def _units(parameters: int, inputs: int, classes: int) -> int:
    """The width at which an MLP of two hidden layers has as many parameters: the root of a quadratic equation."""
    linear = inputs + 2 + classes
    return max(1, round((sqrt(linear**2 + 4 * (parameters - classes)) - linear) / 2))


def _accuracy(model: keras.Model, images: numpy.ndarray, labels: numpy.ndarray, shift: int) -> float:
    """On the images moved right by `shift` pixels, black coming in from the left."""
    import numpy

    moved = numpy.zeros_like(images)
    moved[:, :, shift:] = images[:, :, : images.shape[2] - shift]
    return float((predict(model, moved).argmax(axis=1) == labels).mean())


def judge(tables: Tables) -> Finding:
    layers, rows = tables["layers"], tables["accuracy"]
    saving = min(dense / convolution for dense, convolution in zip(column(layers, "fully_connected"), column(layers, "convolution"), strict=True))
    gain = {
        shift: Interval.of_differences(column(rows, "accuracy", model="cnn", shift=shift), column(rows, "accuracy", model="relu_mlp", shift=shift))
        for shift in (0, 1)
    }
    verdict = Verdict.WRONG if saving <= 1 or gain[0].high < 0 else Verdict.HOLDS if gain[0].low > 0 else Verdict.WITH_CONDITIONS
    parameters = {name: column(rows, "parameters", model=name)[0] for name in ("cnn", "relu_mlp")}
    return Finding(
        verdict,
        (
            f"A fully connected layer between the same maps would need at least {saving:,.0f} times the parameters of each convolution.",
            (
                f"At equal size ({parameters['cnn']:,} against {parameters['relu_mlp']:,} parameters) the CNN was right on "
                f"{gain[0].show(100, 1)} points more of the held-out images than the MLP."
            ),
            f"On images moved by one pixel, which neither had seen, it was {gain[1].show(100, 1)} points ahead.",
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    layers, rows = tables["layers"], tables["accuracy"]
    for offset, name, label, colour in ((-0.2, "convolution", "convolution", BLUE), (0.2, "fully_connected", "fully connected layer", ORANGE)):
        bars: Any = left.bar([place + offset for place in range(len(layers))], column(layers, name), 0.38, color=colour, label=label)
        left.bar_label(bars, [f"{value:,}" for value in column(layers, name)], fontsize=7)
    left.set_xticks(range(len(layers)), column(layers, "layer"))
    left.set(yscale="log", ylabel="parameters", title="parameters between the same maps")
    left.legend(frameon=False, loc="upper left")
    left.set_ylim(top=30 * max(column(layers, "fully_connected")))
    for name, colour, marker in (("cnn", BLUE, "o"), ("relu_mlp", ORANGE, "s")):
        intervals = [Interval.of(column(rows, "accuracy", model=name, shift=shift)) for shift in distinct(rows, "shift")]
        parameters = column(rows, "parameters", model=name)[0]
        right.plot(SHIFTS, [100 * interval.mean for interval in intervals], color=colour, marker=marker, label=f"{name}, {parameters:,} parameters")
    right.set_xticks(SHIFTS)
    right.set(xlabel="images moved right by, pixels", ylabel="% of held-out images right", title="equal parameters, other accuracy")
    right.legend(frameon=False)
    figure.suptitle("What sharing a filter over the image saves, and what it gains")


CLAIM = Claim(
    name="sharing",
    says="CNNs suit images: filters with shared parameters respond locally, use spatial relationships, and save parameters.",
    theory="A filter's parameters do not grow with the image, and what it learns at one place it knows at all (LeCun et al., 1998).",
    rule=(
        "Wrong if any convolution has no fewer parameters than the fully connected layer, or if an MLP of equal size wins with the whole interval "
        "of the difference by seed. Holds if the CNN wins with the whole interval. Holds with conditions otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
