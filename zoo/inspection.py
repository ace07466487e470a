"""What goes on inside a model: each layer's shape, cost, receptive field, activations and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.evaluation import predict

if TYPE_CHECKING:
    import keras
    import numpy

SATURATED = 0.05  # of a sigmoid's range, at either end


@dataclass(frozen=True)
class LayerReport:
    """One layer of a model.

    Attributes:
        name: Of the layer.
        kind: Its Keras class.
        shape: Of its output, without the batch.
        parameters: Number of weights, those that are not trained included.
        multiply_accumulates: Multiplications with a weight per image.
        receptive_field: Side in pixels of the square of the image that one output depends on; None from the first layer on that
            sees the whole image at once.
        mean: Of the activations over the images.
        standard_deviation: Of the activations over the images.
        zero: Share of activations that are 0, 0..1.
        saturated: Share of a sigmoid's activations within 0.05 of 0 or 1; None for other layers.
        dead: Share of a rectifier's units that are 0 for every image; None for other layers.
        gradient_norm: Of the loss with respect to the layer's weights; None without trained weights.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_accumulates: int
    receptive_field: int | None
    mean: float
    standard_deviation: float
    zero: float
    saturated: float | None
    dead: float | None
    gradient_norm: float | None


def inspect(model: keras.Model, images: numpy.ndarray, labels: numpy.ndarray) -> list[LayerReport]:
    """Looks into every layer of a model with a batch of images.

    Args:
        model: A functional model from images to logits, its layers in one chain.
        images: `(n, height, width, channels)`, values 0..255.
        labels: `(n,)`, for the gradients of the mean cross-entropy.

    Returns:
        A report per layer, in order, without the input and layers that act in training only.

    Raises:
        UsageError: No images, or another number of labels.

    Example:
        >>> import zoo
        >>> digits = zoo.load_dataset("digits", "test")
        >>> reports = inspect(zoo.create_model("cnn.digits", pretrained=True), digits.images, digits.labels)
        >>> [(report.name, report.receptive_field) for report in reports[1:4]]
        [('block1_conv1', 3), ('block1_relu1', 3), ('block1_pool', 4)]
    """
    import keras

    if not len(images) or len(images) != len(labels):
        raise UsageError(f"Inspection needs as many labels as images, and at least one. Received: {len(images)} images, {len(labels)} labels.")
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout)]
    activations = predict(keras.Model(model.input, [layer.output for layer in layers]), images)
    activations = activations if isinstance(activations, list) else [activations]
    fields, norms = receptive_fields(model), gradient_norms(model, images, labels)
    return [_report(layer, values, fields[layer.name], norms.get(layer.name)) for layer, values in zip(layers, activations, strict=True)]


def _report(layer: Any, values: numpy.ndarray, field: int | None, norm: float | None) -> LayerReport:
    values = values.astype("float64")
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    sigmoid, rectifier = activation == "sigmoid", activation == "relu" or type(layer).__name__ == "ReLU"
    units = values.reshape(-1, values.shape[-1])
    return LayerReport(
        name=layer.name,
        kind=type(layer).__name__,
        shape=tuple(values.shape[1:]),
        parameters=layer.count_params(),
        multiply_accumulates=_multiply_accumulates(layer),
        receptive_field=field,
        mean=float(values.mean()),
        standard_deviation=float(values.std()),
        zero=float((values == 0).mean()),
        saturated=float(((values < SATURATED) | (values > 1 - SATURATED)).mean()) if sigmoid else None,
        dead=float((units == 0).all(axis=0).mean()) if rectifier else None,
        gradient_norm=norm,
    )


def _multiply_accumulates(layer: Any) -> int:
    kernel = getattr(layer, "kernel", None)
    return 0 if kernel is None else prod(layer.output.shape[1:-1]) * prod(kernel.shape)


def receptive_fields(model: keras.Model) -> dict[str, int | None]:
    """Returns, per layer, the side in pixels of the square of the image that one of its outputs depends on.

    A convolution or pooling of size `k` adds `(k - 1)` times the distance, in pixels, between neighbouring inputs, and its stride
    multiplies that distance. From the first layer on that flattens or pools globally there is no such square: None.

    Args:
        model: A functional model whose layers form one chain.

    Example:
        >>> import zoo
        >>> fields = receptive_fields(zoo.create_model("cnn", blocks=2, convolutions=1))
        >>> fields["block1_pool"], fields["block2_pool"], fields["logits"]
        (4, 10, None)
    """
    from keras import layers

    whole = (layers.Flatten, layers.Dense, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    size: int | None = 1
    distance, fields = 1, {}
    for layer in model.layers:
        if isinstance(layer, whole):
            size = None
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
        if size is not None and window is not None:
            size += (window[0] - 1) * distance
            distance *= layer.strides[0]
        fields[layer.name] = size
    return fields


def gradient_norms(model: keras.Model, images: numpy.ndarray, labels: numpy.ndarray, training: bool = False) -> dict[str, float]:
    """Returns the Euclidean norm of the loss's gradient with respect to each layer's trained weights.

    Args:
        model: From images to logits.
        images: `(n, height, width, channels)`, values 0..255.
        labels: `(n,)`, for the mean cross-entropy.
        training: Whether layers behave as in training: batch normalization uses the batch's own statistics, dropout drops.
    """
    import keras
    import numpy

    layers = [layer for layer in model.layers if layer.trainable_weights]
    gradients = _gradients(model, [weight for layer in layers for weight in layer.trainable_weights], images, labels, training)
    norms, start = {}, 0
    for layer in layers:
        part = gradients[start : start + len(layer.trainable_weights)]
        start += len(part)
        norms[layer.name] = float(numpy.sqrt(sum(float((keras.ops.convert_to_numpy(gradient).astype("float64") ** 2).sum()) for gradient in part)))
    return norms


def _gradients(model: keras.Model, weights: list[Any], images: numpy.ndarray, labels: numpy.ndarray, training: bool) -> list[Any]:
    import keras
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(labels, model(images, training=training))
    return list(tape.gradient(value, [weight.value for weight in weights]))


def saliency(model: keras.Model, image: numpy.ndarray, class_id: int | None = None) -> numpy.ndarray:
    """Returns how much each pixel moves a class's logit: the absolute gradient, the largest over the channels.

    Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks, 2013, arXiv:1312.6034.

    Args:
        model: From images to logits.
        image: `(height, width, channels)`, values 0..255.
        class_id: The class; the predicted one where None.

    Returns:
        float32 `(height, width)`, per grey level.
    """
    import tensorflow as tf

    pixels = tf.Variable(image[None].astype("float32"))
    with tf.GradientTape() as tape:
        logits = model(pixels, training=False)
        score = tf.reduce_max(logits) if class_id is None else logits[0, class_id]
    return abs(tape.gradient(score, pixels).numpy()[0]).max(axis=-1)
