"""Five small convolutions on distorted MNIST: fewer than 7,000 parameters.

    zoo reproduce cnn_bn_tiny.mnist --seeds 3

Test accuracy 99.40 ± 0.07 % over 3 seeds, 11 min each on AMD EPYC, 2 cores, Keras 3.15.1 on tensorflow.
"""

from __future__ import annotations

from zoo.specs import Affine, Elastic, Recipe

RECIPE = Recipe(
    model="cnn_bn_tiny.mnist",
    dataset="mnist",
    optimizer="adamw",
    learning_rate=1e-2,
    optimizer_arguments={"weight_decay": 0.01},
    schedule="one_cycle",
    batch_size=128,
    epochs=30,
    augmentation=(Affine(), Elastic(0.7)),
    augmentation_tail=0.3,
    ema=0.999,
    views=("shift",),
)
