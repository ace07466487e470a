"""DeepOBS's network 2c2d on Fashion-MNIST with the optimizers that DeepOBS tuned, beside DeepOBS's own logs.

    python benchmarks/deepobs.py [--optimizers sgd,momentum,adam] [--seeds 3] [--epochs 100] [--order fresh|same]
        [--runs DIR] [--data-dir DIR]

The network, its initialization, the batch size of 128, the constant learning rates and the 60,000 unaugmented training images
are DeepOBS's; as there, the figure is the accuracy on the test images after the last epoch, and no epoch is chosen. With a
constant learning rate the first epochs of a long run are a short run, so that `--epochs 5` can be held against the logs, too.
Runs go on where they were: `--epochs 100` after `--epochs 5` trains 95 more. It trains on any Keras backend.

What differs from DeepOBS, whose figures are in `deepobs_records.py`:

- It shows the same batches in the same order in every epoch: each epoch begins by initializing a tf.data iterator anew, in a graph with
  a seed, so that it shuffles as before; and the 96 images that fill no batch are never seen. Here each epoch has an order of its own.
  With `--order same` one is repeated as there, shuffled within a window of as many images.
- It measures on 78 whole batches, 9,984 of the 10,000 test images.
- Which images stand near each other within that window, and all random numbers.

Every epoch of every run is in `results/deepobs.csv`. On a GPU, JAX rounds the factors of products to TF32 unless
JAX_DEFAULT_MATMUL_PRECISION=float32 is set, as it was for these.

Schneider, Balles, Hennig, DeepOBS: A Deep Learning Optimizer Benchmark Suite, 2019, https://arxiv.org/abs/1903.05499
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from deepobs_records import ends, logs, spread
from table import Table

import zoo
from zoo.console import load_backend
from zoo.layers import preprocess
from zoo.training import TrainingRun

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "deepobs.csv"
COLUMNS = ("optimizer", "learning_rate", "order", "seed", "epoch", "test_loss", "train_loss", "seconds")
VERSIONS = ("python", "keras", "backend", "commit")
WINDOW = 20_000
# Optimizer -> learning rate and other arguments.
TUNED: dict[str, tuple[float, dict[str, float]]] = {
    "sgd": (0.15848931925, {}),
    "momentum": (0.0025118864315, {"momentum": 0.99}),
    "adam": (0.00025118864315, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}),
}


@zoo.register_model()
def deepobs_2c2d(input_shape: tuple[int, int, int] = (28, 28, 1), num_classes: int = 10) -> Any:
    """Two convolutions with pooling, then two fully connected layers, as DeepOBS has them.

    Args:
        input_shape: `(height, width, channels)` of the images, values 0..255.
        num_classes: Length of the logits.

    Returns:
        A model from `image` to float32 `logits` `(batch, num_classes)`.
    """
    import keras
    from keras import layers

    def start() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.05), "bias_initializer": keras.initializers.Constant(0.05)}

    image = keras.Input(input_shape, name="image")
    features = preprocess(image, 0.0, 255.0)
    for level, filters in enumerate((32, 64), 1):
        features = layers.Conv2D(filters, 5, padding="same", name=f"level{level}_conv", **start())(features)
        features = layers.ReLU(name=f"level{level}_relu")(features)
        features = layers.MaxPooling2D(2, padding="same", name=f"level{level}_pool")(features)
    features = layers.Flatten(name="head_flatten")(features)
    features = layers.Dense(1024, name="head_dense", **start())(features)
    features = layers.ReLU(name="head_relu")(features)
    return keras.Model(image, layers.Dense(num_classes, dtype="float32", name="logits", **start())(features))


def windowed_order(seed: int, images: int, window: int = WINDOW) -> numpy.ndarray:
    """Returns the indices of images as `tf.data.Dataset.shuffle(window)` mixes them: each is drawn from the next `window` that are left."""
    random = numpy.random.default_rng(seed)
    held, rows = list(range(min(window, images))), []
    for following in range(len(held), images):
        slot = random.integers(len(held))
        rows.append(held[slot])
        held[slot] = following
    return numpy.concatenate([numpy.array(rows, "int64"), random.permutation(held)])


class SameOrder(TrainingRun):
    """A training run that shows the same batches in the same order in every epoch."""

    def order(self) -> numpy.ndarray:
        return windowed_order(self.recipe.seed, len(self.training.labels))


ORDERS = {"fresh": TrainingRun, "same": SameOrder}


def train(optimizer: str, seed: int, arguments: argparse.Namespace) -> Sequence[Mapping[str, float]]:
    """Trains one run to its last epoch, from where an earlier call left it; returns a row per epoch."""
    rate, numbers = TUNED[optimizer]
    recipe = zoo.Recipe(
        "deepobs_2c2d",
        "fashion_mnist",
        optimizer=optimizer,
        optimizer_arguments=numbers,
        learning_rate=rate,
        schedule="constant",
        batch_size=128,
        epochs=arguments.epochs,
        seed=seed,
    )
    splits = [zoo.load_dataset("fashion_mnist", split, data_dir=arguments.data_dir) for split in ("train", "test")]
    run = ORDERS[arguments.order](recipe, *splits, arguments.runs / f"{optimizer}-{seed}-{arguments.order}")
    run.restore()
    run.fit()
    return run.history[: arguments.epochs]


def table_at(path: Path) -> Table:
    """The table of all epochs of all runs."""
    return Table(path, COLUMNS, VERSIONS, lambda row: f"{row['optimizer']:<9} seed {row['seed']} epoch {row['epoch']:>3}")


def add(table: Table, optimizer: str, order: str, seed: int, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes some epochs of a run down."""
    for row in rows:
        about = {"optimizer": optimizer, "learning_rate": f"{TUNED[optimizer][0]:.4g}", "order": order, "seed": seed, "epoch": int(row["epoch"])}
        measured = {"test_loss": row["val_loss"], "train_loss": row["loss"], "seconds": row["seconds"]}
        table.add(**about, **measured, value=100 * row["val_accuracy"], unit="% of the test images")


def written(path: Path) -> dict[tuple[str, str, int], int]:
    """Returns up to which epoch each run, by optimizer, order and seed, is in a CSV file already."""
    if not path.is_file():
        return {}
    found: dict[tuple[str, str, int], int] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            run = row["optimizer"], row["order"], int(row["seed"])
            found[run] = max(found.get(run, 0), int(row["epoch"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", type=lambda text: text.split(","), default=list(TUNED), help=f"of {', '.join(TUNED)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="of the first run (default: 0); so processes with an --out each can share the work")
    parser.add_argument("--order", choices=ORDERS, default="fresh", help="of the images in each epoch: a fresh one, or the same as DeepOBS has it")
    parser.add_argument("--epochs", type=int, default=100, help="of each run (default: 100, as DeepOBS has it)")
    parser.add_argument("--runs", type=Path, default=Path("runs/deepobs"), help="where runs keep their state (default: runs/deepobs)")
    parser.add_argument("--data-dir", type=Path, help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    load_backend()
    table = table_at(arguments.out)
    known = written(arguments.out)
    reached: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for optimizer in arguments.optimizers:
            rows = train(optimizer, seed, arguments)
            add(table, optimizer, arguments.order, seed, rows[known.get((optimizer, arguments.order, seed), 0) :])
            reached[optimizer].append(100 * rows[-1]["val_accuracy"])
    theirs, known_logs = ends(), logs()
    for optimizer, values in reached.items():
        here, there = spread(values), spread(known_logs.get((optimizer, arguments.epochs), [])) or "none of this epoch"
        end = theirs[optimizer]
        print(f"{optimizer:<9} after {arguments.epochs} epochs: here {here}; DeepOBS's logs {there}; DeepOBS after {end.epoch} epochs {end}")


if __name__ == "__main__":
    main()
