"""How long it takes to learn MNIST to 99 % of the test images on this machine's processor.

    python benchmarks/time_to_99.py [--seeds 10] [--keras]

The clock runs while a network learns, from fresh weights to final ones: not while data is read, the step is compiled or the
test images are evaluated, which happens once per seed after the clock has stopped. `--keras` also runs the convnet of
keras.io's example through `fit`, epoch by epoch, and prints the ratio. `--validate` learns without the 5,000 validation
images and evaluates on them: that is how the configuration was chosen.

Batch normalization earns its time: without it the same network needs half as many epochs more. bfloat16 does not where the
processor has no matrix units for it: `--set precision=mixed_bfloat16` shows.

The whole run is one graph: batches are gathered from a tensor, the step is unrolled by a loop in the graph, and nothing
returns to Python before the last step.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

import zoo
from zoo.batch_normalization import fuse_batch_normalization
from zoo.console import load_backend
from zoo.environment import environment

RESULTS = Path(__file__).parent / "results" / "time_to_99.csv"
CONFIGURATION: dict[str, Any] = {
    "filters": (16, 32),
    "kernels": (5, 3),
    "units": 128,
    "batch_size": 256,
    "epochs": 2.0,
    "optimizer": "adam",
    "learning_rate": 2e-2,
    "precision": "float32",
    "optimizer_arguments": {},
    "label_smoothing": 0.0,
}


def network(input_shape: tuple[int, ...], filters: Sequence[int], kernels: Sequence[int], units: int) -> Any:
    """Two convolutions, each followed by max pooling, batch normalization and a rectifier, then a fully connected layer and logits.

    The outermost pixels, in which hardly a digit has ink, are cut off; pooling first leaves a quarter of the values to normalize.
    """
    import keras
    from keras import layers

    image = keras.Input(input_shape, name="image")
    border, padding = (2, "valid") if input_shape[0] > 20 else (0, "same")
    features = layers.Rescaling(1 / 78.0, -33.0 / 78.0, name="preprocess_rescale")(layers.Cropping2D(border)(image))
    for index, (width, kernel) in enumerate(zip(filters, kernels, strict=True), start=1):
        convolution = layers.Conv2D(width, kernel, padding=padding, use_bias=False, kernel_initializer="he_normal", name=f"block{index}_conv1")
        features = layers.MaxPooling2D(2, name=f"block{index}_pool")(convolution(features))
        features = layers.BatchNormalization(momentum=0.85, scale=False, name=f"block{index}_batchnorm1")(features)
        features = layers.ReLU(name=f"block{index}_relu1")(features)
    features = layers.Dense(units, activation="relu", kernel_initializer="he_normal", name="hidden1_dense")(layers.Flatten()(features))
    model = keras.Model(image, layers.Dense(10, dtype="float32", name="logits")(features))
    fuse_batch_normalization(model)
    return model


class Learner:
    """A network with its whole training run as one compiled graph, to be started from many seeds."""

    def __init__(self, train: zoo.Dataset, configuration: dict[str, Any]) -> None:
        import keras
        import tensorflow as tf

        settings = configuration
        keras.config.set_dtype_policy(settings["precision"])
        self.model = network(train.images.shape[1:], settings["filters"], settings["kernels"], settings["units"])
        self.images, self.labels = tf.constant(train.images), tf.constant(train.labels.astype("int32"))
        self.batch_size = settings["batch_size"]
        self.steps = round(settings["epochs"] * len(train.labels) / self.batch_size)
        rise = max(1, round(0.2 * self.steps))
        rate = tf.constant(settings["learning_rate"], tf.float32)
        optimizer = zoo.create_optimizer(settings["optimizer"], settings["learning_rate"], **settings["optimizer_arguments"])
        optimizer.build(self.model.trainable_variables)
        self.optimizer, smoothing, model, steps = optimizer, settings["label_smoothing"], self.model, self.steps

        @tf.function(jit_compile=False, autograph=True)
        def run(order: Any, count: Any) -> Any:
            for step in tf.range(count):
                rows = order[step]
                position = tf.cast(step, tf.float32)
                optimizer.learning_rate.assign(rate * tf.minimum((position + 1) / rise, (steps - position) / (steps - rise)))
                with tf.GradientTape() as tape:
                    logits = model(tf.gather(self.images, rows), training=True)
                    targets = tf.one_hot(tf.gather(self.labels, rows), 10) * (1 - smoothing) + smoothing / 10
                    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
                optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return order[0, 0]

        self.run = run
        self.learn(0, 3)  # compiles

    def learn(self, seed: int, steps: int | None = None) -> float:
        """Starts from fresh weights and returns the seconds that learning took."""
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(seed)
        fresh = network_weights(self.model, seed)
        generator = numpy.random.default_rng(seed)
        rows = numpy.concatenate([generator.permutation(len(self.labels)) for _ in range(1 + self.steps * self.batch_size // len(self.labels))])
        order = tf.constant(rows[: self.steps * self.batch_size].reshape(self.steps, self.batch_size))
        started = time.perf_counter()
        for variable, value in zip(self.model.weights, fresh, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            if variable is not self.optimizer.learning_rate:
                variable.assign(keras.ops.zeros_like(variable))
        self.run(order, tf.constant(steps or self.steps)).numpy()
        return time.perf_counter() - started


def network_weights(model: Any, seed: int) -> list[numpy.ndarray]:
    """Fresh weights: He's normal distribution for kernels, one for variances, zero for all else."""
    generator, weights = numpy.random.default_rng([seed, 1]), []
    for variable in model.weights:
        shape = tuple(variable.shape)
        scale = numpy.sqrt(2 / numpy.prod(shape[:-1])) if len(shape) > 1 else 0.0
        weights.append((scale * generator.normal(size=shape) + (variable.name == "moving_variance")).astype("float32"))
    return weights


def keras_example(train: zoo.Dataset, test: zoo.Dataset, epochs: int = 15) -> tuple[float, float, int]:
    """The convnet of keras.io's example through `fit`: seconds of training, accuracy and epochs until 99 % first holds."""
    import keras
    from keras import layers

    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    seconds = accuracy = 0.0
    for epoch in range(1, epochs + 1):  # noqa: B007
        started = time.perf_counter()
        model.fit(train.images, train.labels, batch_size=128, epochs=1, verbose=0)
        seconds += time.perf_counter() - started
        accuracy = model.evaluate(test.images, test.labels, batch_size=500, verbose=0)[1]
        if accuracy >= 0.99:
            break
    return seconds, accuracy, epoch


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per seed and the mean, and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--keras", action="store_true")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="another configuration, not written to the CSV")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    load_backend()
    configuration = {**CONFIGURATION, **{name: _value(value) for name, _, value in (item.partition("=") for item in arguments.set)}}
    train = zoo.load_dataset(arguments.dataset, "train_minus_validation" if arguments.validate else "train")
    test = zoo.load_dataset(arguments.dataset, "validation" if arguments.validate else "test")
    learner, rows = Learner(train, configuration), []
    for seed in range(arguments.seeds):
        processor = time.process_time()
        seconds = learner.learn(seed)
        processor = time.process_time() - processor
        logits = learner.model.predict(test.images, batch_size=1000, verbose=0)
        accuracy = float((logits.argmax(axis=1) == test.labels).mean())
        rows.append({"seed": seed, "seconds": round(seconds, 3), "processor_seconds": round(processor, 3), "accuracy": accuracy})
        print(f"seed {seed}: {100 * accuracy:.2f} % after {seconds:.3f} s ({processor:.2f} s of processor time)", flush=True)
    accuracies, times = [row["accuracy"] for row in rows], [row["seconds"] for row in rows]
    print(
        f"mean {100 * statistics.fmean(accuracies):.3f} %, least {100 * min(accuracies):.2f} %, "
        f"{statistics.fmean(times):.3f} s in the mean, {statistics.median(times):.3f} s in the median"
    )
    if arguments.keras:
        seconds, accuracy, epochs = keras_example(train, test)
        print(f"keras.io's convnet: {100 * accuracy:.2f} % after {seconds:.1f} s, {epochs} epochs: {seconds / statistics.fmean(times):.1f} times")
        rows.append({"seed": "keras.io", "seconds": round(seconds, 3), "processor_seconds": "", "accuracy": accuracy})
    if not (arguments.set or arguments.validate):
        facts = environment()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0], "hardware", "commit"], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "hardware": f"{facts['processor']}, {facts['cores']} cores", "commit": facts["commit"]} for row in rows)
    return 0


def _value(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


if __name__ == "__main__":
    sys.exit(main())
