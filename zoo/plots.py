"""Pictures of trainings and models: curves, confusion, reliability, and an image's way through a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.evaluation import CALIBRATION_BINS, softmax
from zoo.figures import BLUE, ORANGE, save_figure
from zoo.inspection import saliency
from zoo.layers import feature_extractor

if TYPE_CHECKING:
    import keras
    import numpy
    from matplotlib.figure import Figure

MAPS_SHOWN = 16


def draw_curves(history: Mapping[str, Sequence[float]], path: Path) -> list[Path]:
    """Draws loss and accuracy by epoch.

    Args:
        history: `loss` and `accuracy`, and `val_loss` and `val_accuracy` where there are validation images, a value per epoch.
        path: Of the pictures, without a suffix.

    Returns:
        The SVG and the PNG.

    Raises:
        UsageError: There is no epoch to draw.
    """
    if not history.get("loss"):
        raise UsageError("There are no curves to draw: the history holds no epoch.")

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(1, 2)
        for axis, name, scale, label in zip(axes, ("loss", "accuracy"), (1, 100), ("loss, nats", "accuracy, %"), strict=True):
            for prefix, colour, kind in (("", BLUE, "training"), ("val_", ORANGE, "validation")):
                values = history.get(prefix + name)
                if values:
                    axis.plot(range(1, len(values) + 1), [scale * value for value in values], color=colour, label=kind)
            axis.set(xlabel="epoch", ylabel=label)
        axes[0].legend(frameon=False)

    return save_figure(draw, path)


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path) -> list[Path]:
    """Draws how often each class (row) was taken for each class (column), as shares of the row.

    Returns:
        The SVG and the PNG.
    """
    import numpy

    counts = numpy.asarray(confusion)
    shares = counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in numpy.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=7)
        places = range(len(class_names))
        axis.set_xticks(places, class_names, rotation=45, ha="right")
        axis.set_yticks(places, class_names)
        axis.set(xlabel="predicted class", ylabel="true class")

    return save_figure(draw, path, size=(5.4, 5.0))


def draw_reliability(logits: numpy.ndarray, labels: numpy.ndarray, path: Path) -> list[Path]:
    """Draws accuracy against confidence over equal bins of confidence; on the diagonal a model is as sure as it is right.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`.
        path: Of the pictures, without a suffix.

    Returns:
        The SVG and the PNG.
    """
    import numpy

    probabilities = softmax(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = numpy.clip(numpy.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    count = numpy.bincount(bins, minlength=CALIBRATION_BINS)
    used = count > 0
    mean, share = (numpy.bincount(bins, weights=values, minlength=CALIBRATION_BINS)[used] / count[used] for values in (confidence, right))

    def draw(figure: Figure) -> None:
        left, middle = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        left.plot(mean, share, color=BLUE, marker="o")
        left.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02), title="reliability")
        middle.bar((numpy.arange(CALIBRATION_BINS)[used] + 0.5) / CALIBRATION_BINS, count[used], 0.9 / CALIBRATION_BINS, color=BLUE)
        middle.set(xlabel="confidence", ylabel="images", yscale="log", title="how sure the model is")

    return save_figure(draw, path)


def draw_image(model: keras.Model, image: numpy.ndarray, class_names: Sequence[str], directory: Path) -> list[Path]:
    """Draws an image's way through a model: what moves the answer, the answer, and each level's feature maps; and the first filters.

    Args:
        model: A model of the zoo, from images to logits.
        image: `(height, width, channels)`, values 0..255.
        class_names: One per logit.
        directory: Where the pictures go: `saliency`, `features` and, for a convolutional network, `filters`, as SVG and PNG.

    Returns:
        The files.
    """
    import numpy

    image = image.astype("float32")
    probabilities = softmax(model.predict(image[None], verbose=0))[0]
    features = {level: values[0] for level, values in feature_extractor(model)(image[None]).items()}
    features = {level: numpy.asarray(values, "float32") for level, values in features.items() if level != "logits"}
    files = save_figure(
        lambda figure: _answer(figure, image, saliency(model, image), probabilities, class_names), directory / "saliency", size=(9.0, 3.0)
    )
    files += save_figure(lambda figure: _levels(figure, features), directory / "features", size=(9.0, 0.85 * len(features)))
    filters = next((layer.kernel for layer in model.layers if type(layer).__name__ == "Conv2D"), None)
    if filters is not None:
        pictures = numpy.asarray(filters, "float32").mean(axis=2).transpose(2, 0, 1)
        size = (9.0, 0.6 + 0.6 * -(-len(pictures) // MAPS_SHOWN))
        files += save_figure(lambda figure: _grid(figure, pictures, "filters of the first convolution"), directory / "filters", size)
    return files


def _answer(figure: Figure, image: numpy.ndarray, influence: numpy.ndarray, probabilities: numpy.ndarray, class_names: Sequence[str]) -> None:
    left, middle, right = figure.subplots(1, 3)
    left.imshow(image.squeeze() / 255, cmap="gray", vmin=0, vmax=1)
    middle.imshow(influence, cmap="magma")
    best = probabilities.argsort()[::-1][:5]
    right.barh([class_names[index] for index in best][::-1], [100 * probabilities[index] for index in best][::-1], color=BLUE)
    right.set(xlabel="probability, %", xlim=(0, 100), title="answer")
    for axis, title in ((left, "what the model sees"), (middle, f"what moves {class_names[best[0]]!r}")):
        axis.set(title=title, xticks=[], yticks=[])


def _levels(figure: Figure, features: Mapping[str, numpy.ndarray]) -> None:
    """A row per level: up to 16 of its maps, or its units as one strip."""
    rows: Any = figure.subfigures(len(features), 1, squeeze=False)
    for row, (level, values) in zip(rows.ravel(), features.items(), strict=True):
        maps = values.shape[-1] if values.ndim == 3 else 0
        axes: Any = row.subplots(1, MAPS_SHOWN if maps else 1, squeeze=False)
        for axis in axes.ravel():
            axis.axis("off")
        for axis, index in zip(axes.ravel(), range(maps), strict=False):
            axis.imshow(values[..., index], cmap="viridis")
        if not maps:
            axes[0, 0].imshow(values[None], aspect="auto", cmap="viridis")
        size = f"{min(MAPS_SHOWN, maps)} of {maps} maps, {values.shape[0]} x {values.shape[1]}" if maps else f"{len(values)} units"
        row.suptitle(f"{level}: {size}", x=0.01, ha="left", fontsize=8)


def _grid(figure: Figure, pictures: numpy.ndarray, title: str) -> None:
    """Small pictures `(n, height, width)`, grey is zero, all on one scale."""
    axes: Any = figure.subplots(-(-len(pictures) // MAPS_SHOWN), MAPS_SHOWN, squeeze=False)
    largest = float(abs(pictures).max()) or 1.0
    for axis in axes.ravel():
        axis.axis("off")
    for axis, picture in zip(axes.ravel(), pictures, strict=False):
        axis.imshow(picture, cmap="gray", vmin=-largest, vmax=largest)
    figure.suptitle(title)
