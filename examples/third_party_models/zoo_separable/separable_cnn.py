"""A convolutional network whose filters act on space and on channels one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    import keras


@zoo.register_model(
    domains={"filters": zoo.Int(8, 64, "log"), "blocks": zoo.Int(1, 3), "dropout": zoo.Float(0.0, 0.5)},
    pretrained=[zoo.WeightsSpec("digits", "digits", (8, 8, 1), 10, {"pixel_mean": 78.0, "pixel_std": 96.0}, package="zoo_separable")],
    references=("Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2016, https://arxiv.org/abs/1610.02357",),
)
def separable_cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int = 32,
    blocks: int = 2,
    dropout: float = 0.0,
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
) -> keras.Model:
    """Depthwise separable convolutions with batch normalization, ReLU and max pooling, then logits.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.
        filters: Feature maps of the first block, twice as many in each further block.
        blocks: Number of blocks; each holds a 2x2 max pooling that halves height and width (rounded up).
        dropout: Share of the averaged features zeroed in training, 0..1.
        pixel_mean: Subtracted from the pixels first, 0..255.
        pixel_std: The pixels are divided by it then.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    import keras  # here, and not above: `zoo list` loads this file and need not load Keras
    from keras import layers

    image = keras.Input(input_shape, name="image")
    features = layers.Rescaling(1 / pixel_std, -pixel_mean / pixel_std, dtype="float32", name="preprocess_rescale")(image)
    features = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="stem_conv")(features)
    for block in range(1, blocks + 1):
        width = filters * 2 ** (block - 1)
        features = layers.SeparableConv2D(width, 3, padding="same", use_bias=False, name=f"block{block}_separable")(features)
        features = layers.BatchNormalization(momentum=0.9, name=f"block{block}_batchnorm")(features)
        features = layers.ReLU(name=f"block{block}_relu")(features)
        features = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(features)
    features = layers.GlobalAveragePooling2D(name=f"block{blocks}_average")(features)
    if dropout:
        features = layers.Dropout(dropout, name=f"block{blocks}_dropout")(features)
    return keras.Model(image, layers.Dense(num_classes, dtype="float32", name="logits")(features))
