"""Two layers of 512 sigmoid units on distorted MNIST.

Affine and elastic distortions (Simard et al., 2003) take the place of dropout; Adam along a cosine, with an average of the
weights at the end.
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
