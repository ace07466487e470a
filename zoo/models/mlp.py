"""Multilayer perceptrons: fully connected layers of sigmoid or rectified linear units, then logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.layers import classifier, hidden_layer, preprocess
from zoo.registry import register_model
from zoo.specs import Choice, Domain, Float, Int, WeightsSpec

if TYPE_CHECKING:
    import keras

DIGITS = {"units": 256, "pixel_mean": 78.0, "pixel_std": 96.0}
MNIST = {"units": 512, "pixel_mean": 33.0, "pixel_std": 78.0}
FASHION_MNIST = {"units": 1024, "dropout": 0.1, "pixel_mean": 73.0, "pixel_std": 90.0}
CIFAR10 = {"units": 768, "depth": 3, "pixel_mean": 120.7, "pixel_std": 64.2}
DOMAINS: dict[str, Domain] = {
    "units": Int(32, 1024, "log"),
    "depth": Int(1, 4),
    "dropout": Float(0.0, 0.5),
    "initializer": Choice(("glorot_uniform", "he_normal", "lecun_normal")),
}


def _weights() -> tuple[WeightsSpec, ...]:
    return (
        WeightsSpec("mnist", "mnist", (28, 28, 1), 10, MNIST),
        WeightsSpec("fashion_mnist", "fashion_mnist", (28, 28, 1), 10, FASHION_MNIST),
        WeightsSpec("cifar10", "cifar10", (32, 32, 3), 10, CIFAR10),
        WeightsSpec("digits", "digits", (8, 8, 1), 10, DIGITS),
    )


@register_model(
    domains={**DOMAINS, "initializer": Choice(("glorot_uniform_x4", "glorot_uniform", "lecun_normal"))},
    pretrained=_weights(),
    references=(
        "Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, 1986, https://doi.org/10.1038/323533a0",
        "Glorot, Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, https://proceedings.mlr.press/v9/glorot10a",
    ),
)
def sigmoid_mlp(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    units: int = 256,
    depth: int = 2,
    dropout: float = 0.0,
    initializer: str = "glorot_uniform_x4",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Fully connected layers of sigmoid units, 1 / (1 + exp(-x)).

    The slope of a sigmoid is at most 1/4, so each layer shrinks the gradient; the default initialization is Glorot's
    uniform with four times the usual width, which undoes that factor at the start of training.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        units: Width of every hidden layer.
        depth: Number of hidden layers.
        dropout: Share of each hidden layer's outputs that is zeroed in training, 0..1.
        initializer: Of the hidden kernels: `glorot_uniform_x4` or any Keras initializer by name.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    return _mlp("sigmoid", input_shape, num_classes, units, depth, dropout, initializer, pixel_mean, pixel_std)


@register_model(
    domains=DOMAINS,
    pretrained=_weights(),
    references=(
        "Nair, Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010, https://icml.cc/Conferences/2010/papers/432.pdf",
        "He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852",
    ),
)
def relu_mlp(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    units: int = 256,
    depth: int = 2,
    dropout: float = 0.0,
    initializer: str = "he_normal",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Fully connected layers of rectified linear units, max(0, x).

    A unit's output is unbounded above; its slope is 1 where its input is positive and 0 where it is negative. He's
    initialization makes up for the half that is cut off.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        units: Width of every hidden layer.
        depth: Number of hidden layers.
        dropout: Share of each hidden layer's outputs that is zeroed in training, 0..1.
        initializer: Of the hidden kernels: any Keras initializer by name, or `glorot_uniform_x4`.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    return _mlp("relu", input_shape, num_classes, units, depth, dropout, initializer, pixel_mean, pixel_std)


def _mlp(
    activation: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    units: int,
    depth: int,
    dropout: float,
    initializer: str,
    pixel_mean: float,
    pixel_std: float,
) -> keras.Model:
    import keras

    image = keras.Input(input_shape, name="image")
    features = preprocess(image, pixel_mean, pixel_std)
    features = keras.layers.Flatten(name="preprocess_flatten")(features)
    for index in range(1, depth + 1):
        features = hidden_layer(features, f"hidden{index}", units, activation, initializer, dropout)
    return keras.Model(image, classifier(features, num_classes))
