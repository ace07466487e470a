"""The layers that all families share, and the way to look into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, closest, unknown

if TYPE_CHECKING:
    import keras


def preprocess(image: keras.KerasTensor, mean: float, std: float) -> keras.KerasTensor:
    """Turns pixels 0..255, uint8 or float32, into `(image - mean) / std`, float32."""
    import keras

    if not std > 0:
        raise UsageError(f"pixel_std must be above 0. Received: {std!r}.")
    return keras.layers.Rescaling(1.0 / std, -mean / std, dtype="float32", name="preprocess_rescale")(image)


def hidden_layer(features: keras.KerasTensor, level: str, units: int, activation: str, initializer: str, dropout: float) -> keras.KerasTensor:
    """A fully connected layer with its activation and, where `dropout` is above 0, dropout."""
    from keras import layers

    features = layers.Dense(units, kernel_initializer=kernel_initializer(initializer), name=f"{level}_dense")(features)
    features = layers.Activation(activation, name=f"{level}_{activation}")(features)
    return layers.Dropout(dropout, name=f"{level}_dropout")(features) if dropout else features


def global_pool(features: keras.KerasTensor, level: str, kind: str) -> keras.KerasTensor:
    """Feature maps as one vector per image: all positions (`none`), or each map's `max` or `average`."""
    from keras import layers

    kinds = {"none": layers.Flatten, "max": layers.GlobalMaxPooling2D, "average": layers.GlobalAveragePooling2D}
    if kind not in kinds:
        raise unknown("global_pooling", kind, kinds)
    return kinds[kind](name=f"{level}_{'flatten' if kind == 'none' else 'global_pool'}")(features)


def classifier(features: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """The last fully connected layer: float32 logits, one per class, before any softmax."""
    from keras import layers

    return layers.Dense(num_classes, dtype="float32", name="logits")(features)


def kernel_initializer(name: str) -> keras.Initializer:
    """Returns an initializer by name: Keras's, or `glorot_uniform_x4`.

    `glorot_uniform_x4` is Glorot's uniform distribution with four times the width (sixteen times the variance): what
    Glorot and Bengio (2010) derive for the logistic sigmoid, whose slope at zero is 1/4.
    """
    import keras

    if name == "glorot_uniform_x4":
        return keras.initializers.VarianceScaling(16.0, "fan_avg", "uniform")
    try:
        return keras.initializers.get(name)
    except ValueError:
        names = ["glorot_uniform_x4", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "orthogonal"]
        raise unknown("initializer", name, names) from None


def level_names(model: keras.Model) -> list[str]:
    """Returns the names of the model's levels in order.

    Example:
        >>> import zoo
        >>> level_names(zoo.create_model("cnn.digits"))
        ['preprocess', 'block1', 'block2', 'hidden1', 'logits']
    """
    return list(_levels(model))


def feature_extractor(model: keras.Model, levels: Sequence[str] | str | None = None) -> keras.Model:
    """Returns a model with the same input that gives the activations of every level at once.

    Args:
        model: A model of the zoo, or any functional model whose layers are named `level_operation`.
        levels: Names of levels, or of single layers such as `"block1_conv1"`; one name; all levels where None.

    Returns:
        A `keras.Model` from `image` to a dict: level -> activations, float32, batch first. The layers are shared with
        `model`, not copied.

    Raises:
        UnknownNameError: The model has no such level or layer.
        UsageError: `levels` is empty.

    Example:
        >>> import numpy, zoo
        >>> extract = zoo.feature_extractor(zoo.create_model("cnn", filters=4, units=16))
        >>> features = extract(numpy.zeros((2, 28, 28, 1), "uint8"))
        >>> [(name, tuple(value.shape)) for name, value in features.items()][1:]
        [('block1', (2, 14, 14, 4)), ('block2', (2, 7, 7, 8)), ('hidden1', (2, 16)), ('logits', (2, 10))]
    """
    import keras

    available = _levels(model)
    layers = {layer.name: layer.output for layer in model.layers}
    outputs: dict[str, Any] = {}
    names = list(available) if levels is None else [levels] if isinstance(levels, str) else list(levels)
    if not names:
        raise UsageError(f"levels must name at least one level. Received: none. Levels of {model.name}: {', '.join(available)}.")
    for name in names:
        if name not in available and name not in layers:
            raise unknown("level", name, [*available, *(layer for layer in closest(name, layers) if layer not in available)])
        outputs[name] = available[name] if name in available else layers[name]
    return keras.Model(model.input, outputs, name=f"{model.name}_features")


def _levels(model: keras.Model) -> dict[str, Any]:
    """Level -> the output of its last layer that keeps the features' shape and acts at inference."""
    from keras import layers

    passive = (layers.InputLayer, layers.Dropout, layers.Flatten, layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D)
    return {layer.name.partition("_")[0]: layer.output for layer in model.layers if not isinstance(layer, passive)}
