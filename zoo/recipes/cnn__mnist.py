"""Four convolutions without any normalization on distorted MNIST, with dropout."""

from __future__ import annotations

from zoo.specs import Affine, Elastic, Recipe

RECIPE = Recipe(
    model="cnn.mnist",
    dataset="mnist",
    optimizer="adamw",
    learning_rate=2e-3,
    optimizer_arguments={"weight_decay": 0.01},
    schedule="cosine",
    warmup=0.05,
    batch_size=128,
    epochs=20,
    augmentation=(Affine(), Elastic()),
    ema=0.999,
)
