"""Convolutional networks: blocks of convolutions and max pooling, a fully connected layer, then logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.layers import classifier, hidden_layer, kernel_initializer, preprocess
from zoo.registry import register_model
from zoo.specs import Choice, Domain, Float, Int, WeightsSpec

if TYPE_CHECKING:
    import keras

DIGITS = {"filters": 32, "units": 64, "pixel_mean": 78.0, "pixel_std": 96.0}
MNIST = {"convolutions": 2, "filters": 16, "units": 128, "pixel_mean": 33.0, "pixel_std": 78.0}
DOMAINS: dict[str, Domain] = {
    "filters": Int(8, 64, "log"),
    "blocks": Int(1, 3),
    "convolutions": Int(1, 2),
    "kernel_size": Choice((3, 5)),
    "units": Int(32, 256, "log"),
    "dropout": Float(0.0, 0.5),
    "initializer": Choice(("he_normal", "glorot_uniform", "lecun_normal")),
}


def _weights(dropout: float) -> tuple[WeightsSpec, ...]:
    return (
        WeightsSpec("mnist", "mnist", (28, 28, 1), 10, {**MNIST, "dropout": dropout}),
        WeightsSpec("digits", "digits", (8, 8, 1), 10, {**DIGITS, "dropout": dropout}),
    )


@register_model(
    domains=DOMAINS,
    pretrained=_weights(dropout=0.25),
    references=(
        "LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, https://doi.org/10.1109/5.726791",
        "Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014, https://arxiv.org/abs/1409.1556",
    ),
)
def cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int = 32,
    blocks: int = 2,
    convolutions: int = 1,
    kernel_size: int = 3,
    units: int = 128,
    dropout: float = 0.0,
    initializer: str = "he_normal",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Convolutions with ReLU and max pooling, one fully connected layer, logits; no normalization layer.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        filters: Feature maps of the first block; each further block has twice as many.
        blocks: Number of blocks; each ends in a 2x2 max pooling that halves height and width (rounded up).
        convolutions: Convolutions per block.
        kernel_size: Height and width of every filter.
        units: Width of the fully connected layer before the logits; 0 for none.
        dropout: Share of the outputs of each pooling and of the fully connected layer zeroed in training, 0..1.
        initializer: Of the kernels: any Keras initializer by name.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    return _cnn(False, input_shape, num_classes, filters, blocks, convolutions, kernel_size, units, dropout, initializer, pixel_mean, pixel_std)


@register_model(
    domains=DOMAINS,
    variants={"tiny": {"filters": 8, "units": 0}},
    pretrained=_weights(dropout=0.1),
    references=(
        "Ioffe, Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift, 2015, https://arxiv.org/abs/1502.03167",
        "Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014, https://arxiv.org/abs/1409.1556",
    ),
)
def cnn_bn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int = 32,
    blocks: int = 2,
    convolutions: int = 1,
    kernel_size: int = 3,
    units: int = 128,
    dropout: float = 0.0,
    initializer: str = "he_normal",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Convolutions with batch normalization, ReLU and max pooling, one fully connected layer, logits.

    Batch normalization stands between each convolution and its ReLU. It brings its own shift, so that the convolutions
    have no bias.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        filters: Feature maps of the first block; each further block has twice as many.
        blocks: Number of blocks; each ends in a 2x2 max pooling that halves height and width (rounded up).
        convolutions: Convolutions per block.
        kernel_size: Height and width of every filter.
        units: Width of the fully connected layer before the logits; 0 for none.
        dropout: Share of the outputs of each pooling and of the fully connected layer zeroed in training, 0..1.
        initializer: Of the kernels: any Keras initializer by name.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    return _cnn(True, input_shape, num_classes, filters, blocks, convolutions, kernel_size, units, dropout, initializer, pixel_mean, pixel_std)


def _cnn(
    batch_normalization: bool,
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: int,
    blocks: int,
    convolutions: int,
    kernel_size: int,
    units: int,
    dropout: float,
    initializer: str,
    pixel_mean: float,
    pixel_std: float,
) -> keras.Model:
    import keras
    from keras import layers

    image = keras.Input(input_shape, name="image")
    features = preprocess(image, pixel_mean, pixel_std)
    for block in range(1, blocks + 1):
        for index in range(1, convolutions + 1):
            features = layers.Conv2D(
                filters * 2 ** (block - 1),
                kernel_size,
                padding="same",
                use_bias=not batch_normalization,
                kernel_initializer=kernel_initializer(initializer),
                name=f"block{block}_conv{index}",
            )(features)
            if batch_normalization:
                features = layers.BatchNormalization(momentum=0.9, name=f"block{block}_batchnorm{index}")(features)
            features = layers.ReLU(name=f"block{block}_relu{index}")(features)
        features = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(features)
        if dropout:
            features = layers.Dropout(dropout, name=f"block{block}_dropout")(features)
    features = layers.Flatten(name=f"block{blocks}_flatten")(features)
    if units:
        features = hidden_layer(features, "hidden1", units, "relu", initializer, dropout)
    return keras.Model(image, classifier(features, num_classes))
