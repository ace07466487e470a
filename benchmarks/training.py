"""Microseconds per training image: the zoo's recipes beside a tutorial's Keras pipeline and PyTorch, in one run.

    python benchmarks/training.py [--families sigmoid_mlp,relu_mlp,cnn,cnn_bn] [--torch-python PATH]

For the configuration and the recipe behind each shipped MNIST weight it measures

- `zoo`: `zoo.training.TrainingRun`, augmentation inside the graph;
- `unfused`: the same with batch normalization as Keras composes it, where the network has any;
- `tutorial`: `model.fit` on the same network with Keras's augmentation layers mapped over single images by `tf.data`;
- `torch`: the same network and a batched affine augmentation in PyTorch, run by `--torch-python`, an interpreter that has it,

after a first epoch that nobody counts, and the share of this machine's matrix multiplication rate, measured in the same run,
that the zoo's arithmetic reaches. Ratios, not times, are what carries over to other machines.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import zoo
from zoo import training
from zoo.console import load_backend
from zoo.evaluation import multiply_accumulates
from zoo.recipes import load_recipe
from zoo.training import TrainingRun

RESULTS = Path(__file__).parent / "results" / "training.csv"
FAMILIES = ("sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn")
TORCH = """
import json, os, sys, time, torch
from torch import nn
job = json.load(sys.stdin)
torch.set_num_threads(len(os.sched_getaffinity(0)))
make = {"conv": lambda i, o, k, padding, bias, trained: nn.Conv2d(i, o, k, padding=padding, bias=bias).requires_grad_(trained),
        "batchnorm": nn.BatchNorm2d, "relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid,
        "pool": lambda: nn.MaxPool2d(2, ceil_mode=True), "flatten": nn.Flatten, "dropout": nn.Dropout,
        "max": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), "dense": nn.Linear,
        "average": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}
net = nn.Sequential(*[make[kind](*arguments) for kind, *arguments in job["layers"]])
optimizer, loss = torch.optim.AdamW(net.parameters(), 1e-3), nn.CrossEntropyLoss()
size, batch, steps = job["size"], job["batch"], job["steps"]
images, labels = torch.rand(batch * steps, 1, size, size), torch.randint(10, (batch * steps,))
def epoch():
    for rows in torch.randperm(batch * steps).split(batch):
        angle, scale = (torch.rand(batch) - .5) * .4, 1 + (torch.rand(batch) - .5) * .2
        zero = torch.zeros(batch)
        matrix = torch.stack([torch.stack([scale * angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), scale * angle.cos(), zero], 1)], 1)
        grid = nn.functional.affine_grid(matrix, (batch, 1, size, size), align_corners=False)
        shown = nn.functional.grid_sample(images[rows], grid, align_corners=False)
        optimizer.zero_grad(); loss(net(shown), labels[rows]).backward(); optimizer.step()
epoch()
started = time.perf_counter(); epoch()
print((time.perf_counter() - started) / (batch * steps) * 1e6)
"""


def zoo_time(recipe: zoo.Recipe, data: zoo.Dataset, fused: bool = True) -> float:
    """Microseconds per image of the recipe in its second and third epoch; where not `fused`, with batch normalization as Keras has it."""
    with contextlib.nullcontext() if fused else patch.object(training, "fuse_batch_normalization", lambda model: 0):
        run = TrainingRun(dataclasses.replace(recipe, epochs=3), data, None)
    run.fit()
    return 1e6 * sum(row["seconds"] for row in run.history[1:]) / (2 * run.steps * run.batch_size)


def tutorial_time(recipe: zoo.Recipe, data: zoo.Dataset) -> float:
    """Microseconds per image of the same network through `fit`, with augmentation layers mapped over single images."""
    import keras
    import tensorflow as tf
    from keras import layers

    augment = keras.Sequential([layers.RandomRotation(0.033), layers.RandomTranslation(0.07, 0.07), layers.RandomZoom(0.1)])
    pipeline = tf.data.Dataset.from_tensor_slices((data.images.astype("float32"), data.labels)).shuffle(10_000)
    pipeline = pipeline.map(lambda image, label: (augment(image, training=True), label), num_parallel_calls=tf.data.AUTOTUNE)
    pipeline = pipeline.batch(recipe.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    model = zoo.create_model(recipe.model, **recipe.hyperparameters)
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(pipeline, verbose=0)
    started = time.perf_counter()
    model.fit(pipeline, verbose=0)
    return 1e6 * (time.perf_counter() - started) / len(data.labels)


def torch_time(recipe: zoo.Recipe, data: zoo.Dataset, interpreter: str) -> float:
    """Microseconds per image of the same network in PyTorch."""
    model = zoo.create_model(recipe.model, **recipe.hyperparameters)
    job = {
        "layers": [entry for layer in model.layers if (entry := torch_layer(layer))],
        "size": model.input_shape[1],
        "batch": recipe.batch_size,
        "steps": max(1, len(data.labels) // recipe.batch_size),
    }
    done = subprocess.run([interpreter, "-c", TORCH], input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"PyTorch failed under {interpreter}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def torch_layer(layer: Any) -> list[Any] | None:
    """A Keras layer as PyTorch's name for it and its arguments; None where there is nothing to do."""
    kind = type(layer).__name__
    if kind == "Conv2D":
        size, _, inputs, outputs = layer.kernel.shape
        return ["conv", inputs, outputs, size, layer.padding, layer.use_bias, layer.trainable]
    if kind == "Dense":
        return ["dense", *layer.kernel.shape]
    if kind == "BatchNormalization":
        return ["batchnorm", layer.gamma.shape[0]]
    if kind == "Activation":
        return [layer.activation.__name__]
    return {
        "MaxPooling2D": ["pool"],
        "GlobalMaxPooling2D": ["max"],
        "GlobalAveragePooling2D": ["average"],
        "Flatten": ["flatten"],
        "Dropout": ["dropout", getattr(layer, "rate", 0.0)],
    }.get(kind)


def matrix_rate(dtype: str, size: int = 2048) -> float:
    """Multiply-accumulates per second of a square matrix product: the best of five."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((size, size)), dtype)
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    product()
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        product().numpy()
        best = max(best, size**3 / (time.perf_counter() - started))
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per family and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("mnist", "digits"), default="mnist")
    parser.add_argument("--families", type=lambda text: text.split(","), default=FAMILIES, help=f"default: {','.join(FAMILIES)}")
    parser.add_argument("--images", type=int, default=10_000, help="training images per epoch (default: 10,000)")
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch; without it there is no comparison with PyTorch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    load_backend()
    data = zoo.load_dataset(arguments.dataset, "train")
    data = data._replace(images=data.images[: arguments.images], labels=data.labels[: arguments.images])
    rates = {"float32": matrix_rate("float32"), "mixed_bfloat16": matrix_rate("bfloat16")}
    print(f"matrix products: {2 * rates['float32'] / 1e9:.0f} GFLOP/s in float32, {2 * rates['mixed_bfloat16'] / 1e9:.0f} in bfloat16")
    if not arguments.torch_python:
        print("no comparison with PyTorch: --torch-python names no interpreter")
    rows = []
    for family in arguments.families:
        recipe = load_recipe(f"{family}.{arguments.dataset}")
        ours, tutorial = zoo_time(recipe, data), tutorial_time(recipe, data)
        macs = 3 * multiply_accumulates(zoo.create_model(recipe.model))  # forward, and twice as much backward
        row: dict[str, Any] = {
            "name": recipe.model,
            "zoo": round(ours, 1),
            "tutorial": round(tutorial, 1),
            "tutorial_ratio": round(tutorial / ours, 2),
        }
        unfused = zoo_time(recipe, data, fused=False) if "_bn" in family else None
        row["unfused_ratio"] = round(unfused / ours, 2) if unfused else ""
        torch = torch_time(recipe, data, arguments.torch_python) if arguments.torch_python else None
        row |= {"torch": round(torch, 1) if torch else "", "torch_ratio": round(torch / ours, 2) if torch else ""}
        row["matrix_rate_share"] = round(macs / (ours / 1e6) / rates[recipe.precision], 3)
        rows.append(row)
        beside = f", {row['unfused_ratio']} times with Keras's batch normalization" if unfused else ""
        beside += f", {row['torch_ratio']} times in PyTorch" if torch else ""
        share = 100 * row["matrix_rate_share"]
        print(f"{recipe.model}: {ours:.0f} us per image, {row['tutorial_ratio']} times as a tutorial{beside}; {share:.0f} % of the matrix rate")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
