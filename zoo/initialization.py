"""Ways to set a model's weights before training, some of which look at the training images.

A recipe names them in `initialization`, and they are applied in that order to the freshly built model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, unknown

if TYPE_CHECKING:
    import keras
    import numpy

WHITENING_EPSILON = 5e-4


def initialize(model: keras.Model, names: tuple[str, ...], images: numpy.ndarray) -> None:
    """Applies initializations to a model, in order.

    Args:
        model: A freshly built model.
        names: Keys of `INITIALIZATIONS`.
        images: Training images `(n, height, width, channels)`, values 0..255; the first thousands are enough.

    Raises:
        UnknownNameError: No such initialization.
        UsageError: The model has no layer that it applies to.
    """
    for name in names:
        if name not in INITIALIZATIONS:
            raise unknown("initialization", name, INITIALIZATIONS)
        INITIALIZATIONS[name](model, images)


def dirac(model: keras.Model, images: numpy.ndarray) -> None:
    """Lets the first filters of each convolution with at least as many outputs as inputs pass its inputs through.

    Filter `i` is zero but for a 1 at its centre for input `i`; the remaining filters stay as they are. So signals cross a
    deep network unchanged at the start (Zagoruyko and Komodakis, DiracNets, 2017, arXiv:1706.00388, with Jordan's partial form, 2024,
    arXiv:2404.00498).
    """
    import numpy

    convolutions = [layer for layer in _trainable(model, "Conv2D") if layer.kernel.shape[3] >= layer.kernel.shape[2]]
    if not convolutions:
        raise UsageError(f"dirac needs a trainable convolution with at least as many outputs as inputs; {model.name} has none.")
    for layer in convolutions:
        kernel = layer.kernel.numpy() if hasattr(layer.kernel, "numpy") else numpy.array(layer.kernel)
        height, width, inputs, _ = kernel.shape
        kernel[..., :inputs] = 0.0
        kernel[height // 2, width // 2, range(inputs), range(inputs)] = 1.0
        layer.kernel.assign(kernel)


def whitening(model: keras.Model, images: numpy.ndarray, count: int = 5000) -> None:
    """Sets the frozen first convolution to the eigenvectors of the training images' patches, each with both signs.

    Each response is divided by the root of its eigenvalue, so that the patches come out uncorrelated and of unit variance
    (Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498).
    """
    import keras
    import numpy

    layers = [layer for layer in model.layers if layer.name == "whitening_conv"]
    if not layers:
        raise UsageError(
            f"The initialization whitening needs a model with a whitening layer: set its hyperparameter whitening above 0 ({model.name})."
        )
    layer = layers[0]
    size, _, channels, filters = layer.kernel.shape
    before = keras.Model(model.input, layer.input).predict(images[:count], batch_size=1000, verbose=0)
    windows = numpy.lib.stride_tricks.sliding_window_view(before, (size, size), axis=(1, 2))  # (n, rows, columns, channels, size, size)
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels).astype("float64")
    values, vectors = numpy.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (vectors / numpy.sqrt(values + WHITENING_EPSILON))[:, ::-1][:, : filters // 2]
    layer.kernel.assign(numpy.concatenate([scaled, -scaled], axis=1).reshape(size, size, channels, filters).astype("float32"))


def lsuv(model: keras.Model, images: numpy.ndarray, count: int = 512) -> None:
    """Scales each hidden kernel, in order, until its layer's output has unit variance on training images.

    Kernels start orthogonal (Mishkin and Matas, All you need is a good init, 2015, arXiv:1511.06422).
    """
    import keras

    for index, layer in enumerate([*_trainable(model, "Conv2D"), *_trainable(model, "Dense")]):
        if layer.name == "logits":
            continue
        layer.kernel.assign(keras.initializers.Orthogonal(seed=index)(layer.kernel.shape))
        output = keras.Model(model.input, layer.output)
        for _ in range(5):
            deviation = float(output.predict(images[:count], batch_size=256, verbose=0).astype("float32").std())
            if abs(deviation - 1.0) < 0.01:
                break
            layer.kernel.assign(layer.kernel / max(deviation, 1e-6))


def _trainable(model: keras.Model, kind: str) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ == kind and layer.trainable]


INITIALIZATIONS: Mapping[str, Callable[[Any, numpy.ndarray], None]] = {"dirac": dirac, "lsuv": lsuv, "whitening": whitening}
