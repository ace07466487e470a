"""Two layers of 512 sigmoid units on distorted MNIST.

    zoo reproduce sigmoid_mlp.mnist --seeds 5

Test accuracy 99.14 ± 0.02 % over 5 seeds, 3 min each on AMD EPYC, 2 cores, Keras 3.15.1 on tensorflow.
"""

from __future__ import annotations

from zoo.specs import Affine, Elastic, Recipe

RECIPE = Recipe(
    model="sigmoid_mlp.mnist",
    dataset="mnist",
    optimizer="adam",
    learning_rate=2e-3,
    schedule="cosine",
    warmup=0.02,
    batch_size=256,
    epochs=40,
    augmentation=(Affine(), Elastic()),
    ema=0.999,
)
