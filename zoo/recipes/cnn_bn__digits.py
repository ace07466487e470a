"""Two convolutions with batch normalization on the 1,437 training digits of 8x8 pixels, slightly distorted.

    zoo reproduce cnn_bn.digits --seeds 5

Test accuracy 99.56 ± 0.25 % over 5 seeds, 21 s each on AMD EPYC, 2 cores, Keras 3.15.1 on tensorflow.
"""

from __future__ import annotations

from zoo.specs import Affine, Elastic, Recipe

RECIPE = Recipe(
    model="cnn_bn.digits",
    dataset="digits",
    optimizer="adamw",
    learning_rate=2e-3,
    optimizer_arguments={"weight_decay": 0.01},
    schedule="cosine",
    warmup=0.05,
    batch_size=64,
    epochs=100,
    augmentation=(Affine(degrees=8.0, scale=0.08, shear=0.08, pixels=0.5), Elastic(pixels=0.2, grid=3)),
    ema=0.99,
)
