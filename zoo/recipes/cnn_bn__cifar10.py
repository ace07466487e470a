"""The early-pooling network on CIFAR-10: whitening, dirac filters, Muon, alternating flips.

    zoo reproduce cnn_bn.cifar10 --seeds 1

Test accuracy 93.25 % over one seed, 59 min each on AMD EPYC, 2 cores, Keras 3.15.1 on tensorflow.
"""

from __future__ import annotations

from zoo.specs import Flip, Recipe, Shift

RECIPE = Recipe(
    model="cnn_bn.cifar10",
    dataset="cifar10",
    optimizer="muon",
    learning_rate=0.1,
    optimizer_arguments={"momentum": 0.6, "normalize": True, "sgd_learning_rate_ratio": 0.2, "bias_learning_rate_ratio": 4.0},
    schedule="linear",
    warmup=0.1,
    batch_size=500,
    epochs=10,
    label_smoothing=0.2,
    augmentation=(Shift(2, reflect=True), Flip(alternating=True)),
    initialization=("whitening", "dirac"),
    views=("flip", "shift"),
    precision="mixed_bfloat16",
)
