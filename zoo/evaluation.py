"""How good a model is on a set of images: accuracy with its interval, calibration, and a table per class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, unknown
from zoo.specs import VIEWS

if TYPE_CHECKING:
    import keras
    import numpy

CALIBRATION_BINS = 15


def evaluate(
    model: keras.Model,
    images: numpy.ndarray,
    labels: numpy.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    batch_size: int = 256,
    views: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a classifier.

    Args:
        model: From images to logits `(batch, classes)`.
        images: `(n, height, width, channels)`, values 0..255.
        labels: `(n,)`, whole numbers from 0 to below the number of classes.
        class_names: One per class; their numbers where None.
        batch_size: Images per step.
        views: Averages the logits over other views of each image too; see `view_logits`.

    Returns:
        JSON-ready data:

        - `images`: how many;
        - `accuracy`: share of right answers, 0..1;
        - `accuracy_interval`: its 95 % Wilson score interval `[low, high]` (Wilson, 1927, doi:10.1080/01621459.1927.10502953);
        - `negative_log_likelihood`: mean, in nats;
        - `expected_calibration_error`: 0..1, over 15 bins of confidence (Guo et al., 2017, arXiv:1706.04599);
        - `images_per_second`: throughput of this evaluation, after one warm-up batch;
        - `classes`: per class `name`, `images`, `precision`, `recall`, `f1`;
        - `confusion`: row = true class, column = predicted class.

    Raises:
        UsageError: No images, or another number of labels than images, or a label that the model has no logit for.

    Example:
        >>> import zoo
        >>> digits = zoo.load_dataset("digits", "test")
        >>> result = zoo.evaluate(zoo.create_model("cnn.digits", pretrained=True), digits.images, digits.labels)
        >>> result["images"], result["accuracy"] > 0.95
        (360, True)
    """
    classes = model.output_shape[-1]
    if len(images) != len(labels) or not len(labels):
        raise UsageError(f"Evaluation needs as many labels as images, and at least one. Received: {len(images)} images, {len(labels)} labels.")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(f"The model {model.name} has {classes} classes, but the labels run from {labels.min()} to {labels.max()}.")
    logits, seconds = _logits(model, images, batch_size)
    if views:
        logits = view_logits(model, images, views, batch_size)
    return {**evaluate_logits(logits, labels, class_names), "images_per_second": round(len(labels) / seconds, 1)}


def evaluate_logits(logits: numpy.ndarray, labels: numpy.ndarray, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns what `evaluate` returns, but for the throughput, from logits `(n, classes)` that are at hand.

    Example:
        >>> import numpy
        >>> evaluate_logits(numpy.eye(3), numpy.array([0, 1, 1]))["accuracy"]
        0.6666666666666666
    """
    from scipy.stats import binomtest
    from sklearn import metrics

    classes = logits.shape[1]
    names = [str(index) for index in range(classes)] if class_names is None else list(class_names)
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(method="wilson")
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0.0)
    return {
        "images": len(labels),
        "accuracy": right / len(labels),
        "accuracy_interval": [float(interval.low), float(interval.high)],
        "negative_log_likelihood": float(metrics.log_loss(labels, probabilities, labels=list(range(classes)))),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "classes": [
            {
                "name": names[index],
                "images": int(support[index]),
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
            }
            for index in range(classes)
        ],
        "confusion": metrics.confusion_matrix(labels, predicted, labels=range(classes)).tolist(),
    }


def predict(model: keras.Model, images: numpy.ndarray, batch_size: int = 256) -> Any:
    """Returns what `model.predict` returns, sooner: Keras sends even arrays through a `tf.data` pipeline, whose end waits for its tuning.

    Args:
        model: Any Keras model of one input.
        images: What it takes, as an array, batch first; at least one.
        batch_size: Images per step.

    Returns:
        NumPy arrays in the structure of the model's outputs.

    Raises:
        UsageError: No images.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("cnn.digits", pretrained=True)
        >>> predict(model, zoo.load_dataset("digits", "test").images).shape
        (360, 10)
    """
    import keras
    import numpy

    if not len(images):
        raise UsageError("A prediction needs at least one image. Received: none.")
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:  # each replica would predict the whole batch
        return model.predict(images, batch_size=batch_size, verbose=0)
    parts = [model.predict_on_batch(images[first : first + batch_size]) for first in range(0, len(images), batch_size)]
    return keras.tree.map_structure(lambda *values: numpy.concatenate(values), *parts)


def view_logits(model: keras.Model, images: numpy.ndarray, views: Sequence[str], batch_size: int = 256) -> numpy.ndarray:
    """Returns logits averaged over several views of each image.

    Args:
        model: From images to logits `(batch, classes)`.
        images: `(n, height, width, channels)`.
        views: `flip` adds the mirror image, with equal weight. `shift` adds the image moved by a pixel towards the upper left and
            the lower right, its border mirrored; the two have as much weight as the image where it is.
        batch_size: Images per step.

    Returns:
        Float32 `(n, classes)`.

    Raises:
        UnknownNameError: No such view.
    """
    import numpy

    for view in views:
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)

    def logits(moved: numpy.ndarray) -> numpy.ndarray:
        straight = predict(model, moved, batch_size)
        return (straight + predict(model, moved[:, :, ::-1], batch_size)) / 2 if "flip" in views else straight

    if "shift" not in views:
        return logits(images)
    padded = numpy.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return (2 * logits(images) + logits(padded[:, :-2, :-2]) + logits(padded[:, 2:, 2:])) / 4


def multiply_accumulates(model: keras.Model) -> int:
    """Returns how many multiplications with a weight one image costs in the convolutions and fully connected layers.

    Padding counts like pixels; biases, normalization and pooling are left out.

    Raises:
        UsageError: A layer has a kernel and is neither: nothing is counted rather than too little.

    Example:
        >>> import zoo
        >>> multiply_accumulates(zoo.create_model("relu_mlp", input_shape=(8, 8, 1), units=16, depth=1))
        1184
    """
    from math import prod

    from keras import Model, layers

    total = 0
    for layer in model.layers:
        if isinstance(layer, Model):
            total += multiply_accumulates(layer)
        elif isinstance(layer, layers.Dense | layers.Conv1D | layers.Conv2D | layers.Conv3D | layers.DepthwiseConv2D):
            total += prod(layer.output.shape[1:-1]) * prod(layer.kernel.shape)
        elif any("kernel" in weight.name for weight in layer.weights):
            raise UsageError(
                f"The multiply-accumulates of {layer.name}, a {type(layer).__name__}, are not known: it is no convolution or Dense layer."
            )
    return total


def latency(model: keras.Model, batch_size: int, repeats: int = 30) -> float:
    """Returns the median milliseconds that a compiled prediction of `batch_size` images takes, after a warm-up."""
    import statistics

    import numpy

    images = numpy.zeros((batch_size, *model.input_shape[1:]), "float32")
    model.predict_on_batch(images)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        model.predict_on_batch(images)
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 3)


def softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Turns logits `(n, classes)` into probabilities, in float64."""
    from scipy.special import softmax as scipy_softmax

    return scipy_softmax(logits.astype("float64"), axis=1)


def expected_calibration_error(probabilities: numpy.ndarray, labels: numpy.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Returns the mean distance between confidence and accuracy over equal bins of confidence, weighted by their size.

    Args:
        probabilities: `(n, classes)`, rows sum to 1.
        labels: `(n,)`.
        bins: How many bins divide (0, 1].

    Example:
        >>> import numpy
        >>> round(expected_calibration_error(numpy.array([[0.8, 0.2], [0.8, 0.2]]), numpy.array([0, 1])), 3)
        0.3
    """
    import numpy

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = numpy.clip(numpy.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = numpy.bincount(index, weights=right - confidence, minlength=bins)
    return float(numpy.abs(gaps).sum() / len(labels))


def _logits(model: keras.Model, images: numpy.ndarray, batch_size: int) -> tuple[numpy.ndarray, float]:
    """The logits of all images, and the seconds they took after a first batch has compiled the model."""
    predict(model, images[:batch_size], batch_size)
    if remainder := len(images) % batch_size:
        predict(model, images[:remainder], batch_size)
    started = time.perf_counter()
    logits = predict(model, images, batch_size)
    return logits, time.perf_counter() - started
