"""The bench that experiments share: images, seeds, and networks that are trained once and kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.datasets import Dataset, load_dataset
from zoo.errors import TrainingError, UsageError
from zoo.specs import Recipe
from zoo.training import TrainingRun

if TYPE_CHECKING:
    import keras

LIMIT = 12_000
HELD_OUT = 0.3
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Learned:
    """What came of one training run.

    Attributes:
        model: The network with its last weights.
        history: Per epoch: `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`, `seconds`.
        steps_per_epoch: Updates in one epoch.
        diverged: The loss became infinite or no number; the run ended there.
    """

    model: keras.Model
    history: Sequence[dict[str, float]]
    steps_per_epoch: int
    diverged: bool

    @property
    def accuracy(self) -> float:
        """On the held-out images after the last epoch, 0..1; 0 for a diverged run."""
        return 0.0 if self.diverged or not self.history else self.history[-1]["val_accuracy"]

    @property
    def loss(self) -> float:
        """On the training images during the last epoch, in nats; infinite for a diverged run."""
        return math.inf if self.diverged or not self.history else self.history[-1]["loss"]

    def steps_to(self, accuracy: float) -> float:
        """Updates until the held-out accuracy first reached a value, counted in whole epochs; infinite if it never did."""
        return next((row["epoch"] * self.steps_per_epoch for row in self.history if row["val_accuracy"] >= accuracy), math.inf)


class Laboratory:
    """Images for training and for measuring, and trainings with the zoo's own recipes on them.

    Of the training images a share is held out, and everything is measured on it; the test images are not touched.

    Args:
        dataset: Name of a data set.
        seeds: Every training is repeated from each.
        data_dir: Where TFDS keeps its data sets.
        on_training: Called with a recipe before it is trained.

    Raises:
        UsageError: No seeds, or Keras runs on another backend than TensorFlow.
    """

    def __init__(
        self,
        dataset: str = "digits",
        seeds: Sequence[int] = SEEDS,
        data_dir: str | Path | None = None,
        on_training: Callable[[Recipe], None] | None = None,
    ) -> None:
        import keras
        import numpy

        if not seeds:
            raise UsageError("The lab needs at least one seed. Received: none.")
        if keras.backend.backend() != "tensorflow":
            raise UsageError(f"The lab runs on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}.")
        self.dataset, self.seeds, self.on_training = dataset, tuple(seeds), on_training
        images, labels, spec = load_dataset(dataset, "train", data_dir=data_dir)
        order = numpy.random.default_rng(0).permutation(len(labels))
        usual = min(LIMIT, len(order))
        held_out = round(HELD_OUT * usual)
        self.validation = Dataset(images[order[:held_out]], labels[order[:held_out]], spec)
        self.training = Dataset(images[order[held_out:usual]], labels[order[held_out:usual]], spec)
        self._images, self._labels, self._not_held_out = images, labels, order[held_out:]
        self.batch_size = 32 if len(self.training.labels) < 2000 else 128
        self._kept: dict[str, Learned] = {}
        self._runs: dict[str, TrainingRun] = {}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.training.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """How many classes the images have."""
        return len(self.training.spec.class_names)

    def recipe(self, model: str, **settings: Any) -> Recipe:
        """Returns a recipe on the lab's images: Adam for ten epochs at a constant rate, unless the settings say otherwise."""
        usual = {"optimizer": "adam", "learning_rate": 3e-3, "schedule": "constant", "batch_size": self.batch_size, "epochs": 10}
        return Recipe(model, self.dataset, **{**usual, **settings})

    def more_training(self, count: int) -> Dataset:
        """Returns `training` with more images that are not held out, `count` in all, or as many as there are."""
        order = self._not_held_out[: max(count, len(self.training.labels))]
        return Dataset(self._images[order], self._labels[order], self.training.spec)

    def learn(self, recipe: Recipe, seed: int, images: int = 0) -> Learned:
        """Trains a recipe from a seed, or returns the run if it has been trained before; on `images` images, where there are more than the usual."""
        recipe = dataclasses.replace(recipe, seed=seed)
        key = f"{recipe.to_dict()} {images}"
        if key not in self._kept:
            if self.on_training:
                self.on_training(recipe)
            run = self._run(recipe, images)
            diverged = False
            try:
                run.fit()
            except TrainingError:
                diverged = True
            self._kept[key] = Learned(run.trained_model(), run.history, run.steps, diverged)
        return self._kept[key]

    def _run(self, recipe: Recipe, images: int) -> TrainingRun:
        """A run at its start: one that was compiled for another seed or learning rate, where there is one."""
        kind = f"{dataclasses.replace(recipe, seed=0, learning_rate=None).to_dict()} {images}"
        if kind in self._runs:
            self._runs[kind].restart(recipe)
        else:
            self._runs[kind] = TrainingRun(recipe, self.more_training(images), self.validation)
        return self._runs[kind]

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Updates in one epoch of a recipe."""
        return max(1, len(self.training.labels) // recipe.batch_size)
