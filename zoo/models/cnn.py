"""Convolutional networks: blocks of convolutions and max pooling, a fully connected layer, then logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, unknown
from zoo.layers import classifier, global_pool, hidden_layer, kernel_initializer, preprocess
from zoo.registry import register_model
from zoo.specs import Choice, Domain, Float, Int, WeightsSpec

if TYPE_CHECKING:
    import keras

DIGITS = {"filters": 32, "units": 64, "pixel_mean": 78.0, "pixel_std": 96.0}
MNIST = {"pixel_mean": 33.0, "pixel_std": 78.0}
FASHION_MNIST = {"pixel_mean": 73.0, "pixel_std": 90.0}
CIFAR10 = {"pixel_mean": 120.7, "pixel_std": 64.2}
# Three blocks of two convolutions that pool early, after a whitening layer; what is left is pooled globally, by the maximum.
EARLY_POOLING = {
    "blocks": 3,
    "convolutions": 2,
    "pooling": "first",
    "global_pooling": "max",
    "units": 0,
    "activation": "gelu",
    "whitening": 2,
}
TINY = {"filters": (8, 16, 16), "blocks": 3, "convolutions": (2, 2, 1), "global_pooling": "average", "units": 0}
NANO = {**TINY, "filters": (4, 8, 12)}
DOMAINS: dict[str, Domain] = {
    "filters": Int(4, 64, "log"),
    "blocks": Int(1, 3),
    "convolutions": Int(1, 2),
    "kernel_size": Choice((3, 5)),
    "units": Int(32, 256, "log"),
    "dropout": Float(0.0, 0.5),
    "initializer": Choice(("he_normal", "glorot_uniform", "lecun_normal")),
}


def _weights(*tags: tuple[str, tuple[int, int, int], dict[str, Any]]) -> tuple[WeightsSpec, ...]:
    return tuple(WeightsSpec(tag, tag, input_shape, 10, hyperparameters) for tag, input_shape, hyperparameters in tags)


@register_model(
    domains=DOMAINS,
    pretrained=_weights(
        ("mnist", (28, 28, 1), {**MNIST, "convolutions": 2, "filters": 16, "dropout": 0.25}),
        ("fashion_mnist", (28, 28, 1), {**FASHION_MNIST, "convolutions": 2, "filters": 32, "units": 256, "dropout": 0.3}),
        (
            "cifar10",
            (32, 32, 3),
            {**CIFAR10, "blocks": 3, "convolutions": 2, "pooling": "first", "filters": (48, 96, 192), "units": 256, "dropout": 0.2},
        ),
        ("digits", (8, 8, 1), {**DIGITS, "dropout": 0.25}),
    ),
    references=(
        "LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, https://doi.org/10.1109/5.726791",
        "Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014, https://arxiv.org/abs/1409.1556",
    ),
)
def cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int | tuple[int, ...] = 32,
    blocks: int = 2,
    convolutions: int | tuple[int, ...] = 1,
    kernel_size: int = 3,
    pooling: str = "last",
    global_pooling: str = "none",
    units: int = 128,
    activation: str = "relu",
    whitening: int = 0,
    dropout: float = 0.0,
    initializer: str = "he_normal",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Convolutions with ReLU and max pooling, fully connected layers, logits; no normalization layer.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        filters: Feature maps of the first block, twice as many in each further block; or one number per block.
        blocks: Number of blocks; each holds a 2x2 max pooling that halves height and width (rounded up).
        convolutions: Convolutions per block; or one number per block.
        kernel_size: Height and width of every filter.
        pooling: Where a block pools: `last`, after its convolutions, or `first`, right after its first one, which makes the
            others cheaper.
        global_pooling: What becomes of the last feature maps: `none` keeps every position, `max` and `average` leave one
            number per map.
        units: Width of the fully connected layer before the logits; 0 for none.
        activation: `relu`, or another Keras activation by name, such as `gelu`.
        whitening: Above 0, a first convolution of filters of this size that is not trained, for the initialization
            `whitening` to fill: 2 * size * size * channels maps, without padding.
        dropout: Share of the outputs of each block and of the fully connected layer zeroed in training, 0..1.
        initializer: Of the kernels: any Keras initializer by name.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.

    Raises:
        UsageError: A number of filters or convolutions per block that is not one per block, or an unknown place to pool.
    """
    return _cnn(batch_normalization=False, **locals())


@register_model(
    domains=DOMAINS,
    variants={"tiny": TINY, "nano": NANO},
    pretrained={
        "cnn_bn": _weights(
            ("mnist", (28, 28, 1), {**MNIST, "convolutions": 2, "filters": 16, "dropout": 0.1}),
            ("fashion_mnist", (28, 28, 1), {**FASHION_MNIST, **EARLY_POOLING, "filters": (32, 96, 128)}),
            ("cifar10", (32, 32, 3), {**CIFAR10, **EARLY_POOLING, "filters": (64, 256, 256)}),
            ("digits", (8, 8, 1), {**DIGITS, "dropout": 0.1}),
        ),
        "cnn_bn_tiny": _weights(("mnist", (28, 28, 1), {**MNIST, **TINY})),
        "cnn_bn_nano": _weights(("mnist", (28, 28, 1), {**MNIST, **NANO})),
    },
    references=(
        "Ioffe, Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift, 2015, https://arxiv.org/abs/1502.03167",
        "Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014, https://arxiv.org/abs/1409.1556",
    ),
)
def cnn_bn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int | tuple[int, ...] = 32,
    blocks: int = 2,
    convolutions: int | tuple[int, ...] = 1,
    kernel_size: int = 3,
    pooling: str = "last",
    global_pooling: str = "none",
    units: int = 128,
    activation: str = "relu",
    whitening: int = 0,
    dropout: float = 0.0,
    initializer: str = "he_normal",
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Convolutions with batch normalization, ReLU and max pooling, fully connected layers, logits.

    Batch normalization stands right before each ReLU. It brings its own shift, so that the convolutions have no bias.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        filters: Feature maps of the first block, twice as many in each further block; or one number per block.
        blocks: Number of blocks; each holds a 2x2 max pooling that halves height and width (rounded up).
        convolutions: Convolutions per block; or one number per block.
        kernel_size: Height and width of every filter.
        pooling: Where a block pools: `last`, after its convolutions, or `first`, right after its first one, which makes the
            others cheaper.
        global_pooling: What becomes of the last feature maps: `none` keeps every position, `max` and `average` leave one
            number per map.
        units: Width of the fully connected layer before the logits; 0 for none.
        activation: `relu`, or another Keras activation by name, such as `gelu`.
        whitening: Above 0, a first convolution of filters of this size that is not trained, for the initialization
            `whitening` to fill: 2 * size * size * channels maps, without padding.
        dropout: Share of the outputs of each block and of the fully connected layer zeroed in training, 0..1.
        initializer: Of the kernels: any Keras initializer by name.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.

    Raises:
        UsageError: A number of filters or convolutions per block that is not one per block, or an unknown place to pool.
    """
    return _cnn(batch_normalization=True, **locals())


def _cnn(
    batch_normalization: bool,
    input_shape: tuple[int, int, int],
    num_classes: int,
    filters: int | tuple[int, ...],
    blocks: int,
    convolutions: int | tuple[int, ...],
    kernel_size: int,
    pooling: str,
    global_pooling: str,
    units: int,
    activation: str,
    whitening: int,
    dropout: float,
    initializer: str,
    pixel_mean: float,
    pixel_std: float,
) -> keras.Model:
    import keras
    from keras import layers

    if pooling not in ("first", "last"):
        raise unknown("pooling", pooling, ["first", "last"])
    widths = _per_block("filters", [filters * 2**block for block in range(blocks)] if isinstance(filters, int) else filters, blocks)
    depths = _per_block("convolutions", [convolutions] * blocks if isinstance(convolutions, int) else convolutions, blocks)
    image = keras.Input(input_shape, name="image")
    features = preprocess(image, pixel_mean, pixel_std)
    if whitening:
        maps = 2 * whitening**2 * input_shape[2]
        features = layers.Conv2D(maps, whitening, use_bias=False, trainable=False, name="whitening_conv")(features)
        features = layers.Activation(activation, name=f"whitening_{activation}")(features)
    for block, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for index in range(1, depth + 1):
            features = layers.Conv2D(
                width,
                kernel_size,
                padding="same",
                use_bias=not batch_normalization,
                kernel_initializer=kernel_initializer(initializer),
                name=f"block{block}_conv{index}",
            )(features)
            if pooling == "first" and index == 1:
                features = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(features)
            if batch_normalization:
                features = layers.BatchNormalization(momentum=0.9, name=f"block{block}_batchnorm{index}")(features)
            features = layers.Activation(activation, name=f"block{block}_{activation}{index}")(features)
        if pooling == "last":
            features = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(features)
        if dropout:
            features = layers.Dropout(dropout, name=f"block{block}_dropout")(features)
    features = global_pool(features, f"block{blocks}", global_pooling)
    if units:
        features = hidden_layer(features, "hidden1", units, activation, initializer, dropout)
    return keras.Model(image, classifier(features, num_classes))


def _per_block(name: str, values: Sequence[int], blocks: int) -> Sequence[int]:
    if len(values) != blocks or min(values) < 1:
        raise UsageError(f"{name} must be a number above 0, or one for each of the {blocks} blocks. Received: {tuple(values)}.")
    return values
