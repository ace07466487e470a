"""From a recipe to a run directory with trained weights, exactly resumable.

A run directory holds

    recipe.json        what is being trained
    environment.json   versions, processor, commit
    checkpoint.npz     everything the run needs to go on from its last whole epoch
    history.csv        one row per epoch
    tensorboard/       the same for TensorBoard, with the recipe as hyperparameters and histograms of the weights
    model.weights.h5   the final weights, and
    card.json          what they are: present once the run has ended

A run that is killed at any moment and started again with the same recipe goes on from its last whole epoch, and ends with
the same bits as one that was never killed: the order of the images follows from the seed and the epoch, and the state of
every random generator is part of the checkpoint.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.batch_normalization import fuse_batch_normalization
from zoo.cards import Card
from zoo.compilation import compile_model
from zoo.datasets import load_dataset
from zoo.devices import data_parallel
from zoo.environment import environment
from zoo.errors import TrainingError, UsageError
from zoo.evaluation import evaluate
from zoo.factory import RUN_CARD, RUN_WEIGHTS, create_model
from zoo.files import atomic_file, sha256, write_text
from zoo.initialization import initialize
from zoo.optimizers import optimizer_info
from zoo.pipeline import VALIDATION_BATCH, batches, order, validation_batches
from zoo.progress import progress_callback
from zoo.registry import resolve
from zoo.specs import Recipe

if TYPE_CHECKING:
    import keras
    import numpy

    from zoo.datasets import Dataset

RECIPE = "recipe.json"
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
HISTOGRAMS = 10
Progress = Callable[[Mapping[str, float]], None]


def train(
    recipe: Recipe,
    directory: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    progress: bool = True,
    restart: bool = False,
    devices: int = 1,
) -> Card:
    """Trains a model as a recipe says, or goes on with a run that was interrupted.

    Args:
        recipe: The whole configuration.
        directory: The run directory; `runs/<model>-<dataset>-<fingerprint>` where None. If it holds an unfinished run of
            the same recipe, the run goes on; if a finished one, its card is returned at once.
        data_dir: Where TFDS keeps its data sets; see `zoo.load_dataset`.
        progress: Shows a progress bar with the time that is left (lines, where the output is no terminal).
        restart: Discards what an earlier run left in the directory.
        devices: Over how many each batch is spread; see `zoo.devices.data_parallel`.

    Returns:
        The card of the trained model; `zoo.load_trained(directory)` loads both.

    Raises:
        TrainingError: The loss became NaN or infinite, or the directory holds a run of another recipe.
        UsageError: Model and data set do not fit together.
        DatasetError: The data set cannot be loaded.

    Example:
        >>> import tempfile, zoo
        >>> recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 64}, epochs=8, learning_rate=0.003)
        >>> card = zoo.train(recipe, tempfile.mkdtemp(), progress=False)
        >>> card.results["test"]["accuracy"] > 0.7
        True
    """
    directory = default_directory(recipe) if directory is None else Path(directory)
    claim(directory, recipe, restart)
    if (directory / RUN_CARD).is_file():
        return Card.read(directory / RUN_CARD)
    training, validation = load_training_data(recipe, data_dir)
    run = TrainingRun(recipe, training, validation, directory, devices)
    run.restore()
    try:
        run.fit(*([progress_callback(recipe, run.steps, run.history)] if progress else []))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted after epoch {run.epoch} of {recipe.epochs}. Go on with: zoo train {directory}") from None
    return run.finish(load_test_data(recipe, data_dir))


def default_directory(recipe: Recipe) -> Path:
    """Returns the run directory that belongs to a recipe: `runs/<model>-<dataset>-<fingerprint>`."""
    return Path("runs") / f"{recipe.model}-{Path(recipe.dataset).name}-{recipe.fingerprint()}"


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe from a JSON file, or from a run directory.

    Raises:
        UsageError: The file is missing or is no recipe.
    """
    path = Path(path)
    path = path / RECIPE if path.is_dir() else path
    try:
        return Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror or error}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not JSON: {error}.") from None


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes a recipe as JSON, atomically."""
    write_text(path, json.dumps(recipe.to_dict(), indent=2) + "\n")


def load_training_data(recipe: Recipe, data_dir: str | Path | None = None) -> tuple[Dataset, Dataset | None]:
    """Returns the images a recipe trains on, and its validation images (None where it holds none out)."""
    if not recipe.validate:
        return _load(recipe, "train", data_dir), None
    return _load(recipe, "train_minus_validation", data_dir), _load(recipe, "validation", data_dir)


def load_test_data(recipe: Recipe, data_dir: str | Path | None = None) -> Dataset:
    """Returns the images that a recipe's model is evaluated on at the end."""
    return _load(recipe, "test", data_dir)


def _load(recipe: Recipe, split: str, data_dir: str | Path | None) -> Dataset:
    return load_dataset(recipe.dataset, split, data_dir=data_dir, image_size=recipe.image_size)


def build(recipe: Recipe, dataset: Dataset) -> tuple[keras.Model, dict[str, Any]]:
    """Builds a recipe's model for a data set, before training.

    A name without a tag takes the data set's shape and classes, and standardizes by the training images' mean and
    standard deviation unless the recipe gives its own `pixel_mean` and `pixel_std`.

    Returns:
        The model, and all of its hyperparameters.

    Raises:
        UsageError: The recipe names a tag whose input or classes are not the data set's.
    """
    spec, weights = resolve(recipe.model)
    input_shape, num_classes = dataset.images.shape[1:], len(dataset.spec.class_names)
    if weights and (tuple(weights.input_shape) != input_shape or weights.num_classes != num_classes):
        raise UsageError(
            f"{recipe.model} takes images of shape {tuple(weights.input_shape)} and has {weights.num_classes} classes, "
            f"but {recipe.dataset} has images of shape {input_shape} and {num_classes} classes. "
            f"For another data set name the model without the tag: {spec.name!r}."
        )
    hyperparameters = {**(weights.hyperparameters if weights else _standardization(spec.defaults, dataset)), **recipe.hyperparameters}
    shape: dict[str, Any] = {"input_shape": input_shape, "num_classes": num_classes}
    if recipe.initial_weights:
        model = create_model(recipe.initial_weights, pretrained=True, **shape, **recipe.hyperparameters)
        origin, tag = resolve(recipe.initial_weights)
        if origin.name != spec.name:
            raise UsageError(f"The recipe trains {spec.name}, so initial_weights must be a tag of it. Received: {recipe.initial_weights!r}.")
        hyperparameters = {**(tag or origin.weights()).hyperparameters, **recipe.hyperparameters}
    else:
        model = create_model(spec.name, **shape, **hyperparameters)
    return model, {**spec.defaults, **hyperparameters}


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Builds the models of its block with a Keras dtype policy, and restores the previous one."""
    import keras

    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def _standardization(defaults: Mapping[str, Any], dataset: Dataset) -> dict[str, float]:
    if not {"pixel_mean", "pixel_std"} <= set(defaults):
        return {}
    import numpy

    if dataset.images.dtype != numpy.uint8:
        return {"pixel_mean": round(float(dataset.images.mean()), 2), "pixel_std": max(1.0, round(float(dataset.images.std()), 2))}
    # By the counts of the 256 values: a tenth of the time that NumPy's own std takes.
    parts = numpy.array_split(dataset.images, -(-dataset.images.size // 2**22))
    counts = numpy.sum([numpy.bincount(part.ravel(), minlength=256) for part in parts], axis=0)
    values = numpy.arange(256)
    mean = float(counts @ values / counts.sum())
    deviation = float(numpy.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    return {"pixel_mean": round(mean, 2), "pixel_std": max(1.0, round(deviation, 2))}


def claim(directory: Path, recipe: Recipe, restart: bool = False) -> None:
    """Makes the directory this recipe's, or raises if it is another's."""
    if restart:
        for name in (RUN_CARD, RUN_WEIGHTS, CHECKPOINT, HISTORY, RECIPE):
            (directory / name).unlink(missing_ok=True)
    if (directory / RECIPE).is_file():
        found = read_recipe(directory)
        if found != recipe:
            old, new = found.to_dict(), recipe.to_dict()
            changes = ", ".join(f"{key} {old[key]!r} -> {new[key]!r}" for key in new if old.get(key) != new[key])
            raise TrainingError(f"{directory} holds a run of another recipe ({changes}). Choose another directory, or restart it with --restart.")
        return
    if directory.is_dir() and any(directory.iterdir()) and not restart:
        raise TrainingError(f"{directory} is not empty and holds no training run. Choose another directory.")
    write_recipe(recipe, directory / RECIPE)
    write_text(directory / "environment.json", json.dumps(environment(), indent=2) + "\n")


def compile_trainer(recipe: Recipe, training: Dataset) -> tuple[keras.Model, keras.Model, dict[str, Any]]:
    """Seeds everything, builds a recipe's model, puts the augmentation before it and compiles the whole, with fused batch normalization.

    Returns:
        The model to call `fit` on; the model inside it, which shares its weights; and all of its hyperparameters.
    """
    import keras

    from zoo.augmentation import Augment

    keras.utils.set_random_seed(recipe.seed)
    with precision(recipe.precision):
        model, hyperparameters = build(recipe, training)
        initialize(model, recipe.initialization, training.images)
        fuse_batch_normalization(model)
        image = keras.Input(model.input_shape[1:], name="image")
        trainer = keras.Model(image, model(Augment(recipe.augmentation, recipe.seed, name="augment")(image)), name=model.name)
    compile_model(trainer, recipe, steps_per_epoch(recipe, training) * recipe.epochs)
    return trainer, model, hyperparameters


def steps_per_epoch(recipe: Recipe, training: Dataset) -> int:
    """Returns the number of whole batches in one pass; what is left over differs from epoch to epoch."""
    return max(1, len(training.labels) // recipe.batch_size)


class TrainingRun:
    """One training run: the model under training, its data, and its place in the recipe.

    Args:
        recipe: The whole configuration.
        training: The images to train on.
        validation: Evaluated after every epoch; None for none.
        directory: Where checkpoints and history go; None keeps the run in memory.
        devices: Over how many each batch is spread; see `zoo.devices.data_parallel`.

    Raises:
        UsageError: The batch cannot be spread evenly over the devices, or there are too few.
    """

    def __init__(self, recipe: Recipe, training: Dataset, validation: Dataset | None, directory: Path | None = None, devices: int = 1) -> None:
        self.recipe, self.training, self.validation, self.directory = recipe, training, validation, directory
        self.batch_size = min(recipe.batch_size, len(training.labels))
        self.steps = steps_per_epoch(recipe, training)
        self.scope = data_parallel(devices)
        with self.scope():
            if self.batch_size % devices:
                raise UsageError(f"A batch of {self.batch_size} images cannot be spread evenly over {devices} devices.")
            self.trainer, self.model, self.hyperparameters = compile_trainer(recipe, training)
            self.trainer.optimizer.build(self.trainer.trainable_variables)
        self.epoch = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best: list[numpy.ndarray] = []

    # -- state ---------------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Takes up the state of the last whole epoch, if there is one."""
        import numpy

        path = None if self.directory is None else self.directory / CHECKPOINT
        if path is None or not path.is_file():
            return
        try:
            with numpy.load(path) as arrays:
                progress = json.loads(str(arrays["progress"]))
                variables = self._variables()
                values = [arrays[f"variable_{index}"] for index in range(len(variables))]
                self.best = [arrays[f"best_{index}"] for index in range(progress["best"])]
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise TrainingError(f"The checkpoint {path} cannot be read ({error}). Start the run anew with --restart.") from None
        self.epoch, self.seconds, self.history = progress["epoch"], progress["seconds"], progress["history"]

    def save(self) -> None:
        """Writes the state after a whole epoch, atomically, then the history that follows from it."""
        import numpy
        from keras import ops

        if self.directory is None:
            return
        progress = {"epoch": self.epoch, "seconds": self.seconds, "history": self.history, "best": len(self.best)}
        arrays = {f"variable_{index}": ops.convert_to_numpy(variable) for index, variable in enumerate(self._variables())}
        arrays |= {f"best_{index}": value for index, value in enumerate(self.best)}
        with atomic_file(self.directory / CHECKPOINT) as temporary, temporary.open("wb") as file:
            numpy.savez(file, progress=json.dumps(progress), **arrays)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.directory / HISTORY, table.getvalue())

    def _variables(self) -> list[Any]:
        return [*self.trainer.variables, *self.trainer.optimizer.variables]

    def restart(self, recipe: Recipe) -> None:
        """Puts a run without a directory back to the start of a recipe that differs in its seed or its constant learning rate.

        What has been compiled is kept; the run then gives what a new run of that recipe would give.

        Raises:
            UsageError: The recipes differ in more than that, or the run has a directory.
        """
        constant = recipe.schedule == "constant" and not recipe.warmup
        alike = dataclasses.replace(recipe, seed=self.recipe.seed, learning_rate=self.recipe.learning_rate if constant else recipe.learning_rate)
        if self.directory is not None or alike != self.recipe:
            raise UsageError("A run can be restarted in memory, with another seed or another constant learning rate only.")
        with self.scope():
            fresh, _, _ = compile_trainer(recipe, self.training)
            fresh.optimizer.build(fresh.trainable_variables)
        for variable, start in zip(self._variables(), [*fresh.variables, *fresh.optimizer.variables], strict=True):
            variable.assign(start)
        self.recipe, self.epoch, self.seconds, self.history, self.best = recipe, 0, 0.0, [], []
        self.trainer.stop_training = False

    @property
    def stopped_early(self) -> bool:
        patience = self.recipe.early_stopping
        return patience is not None and self.epoch - self._best_epoch() >= patience

    def _best_epoch(self) -> int:
        """The first epoch, counted from 1, with the highest validation accuracy; 0 before any."""
        accuracies = [row["val_accuracy"] for row in self.history]
        return accuracies.index(max(accuracies)) + 1 if accuracies else 0

    # -- work ----------------------------------------------------------------------------------------------------------

    def order(self) -> numpy.ndarray:
        """Returns in which order the next epoch shows the training images: a permutation of their indices."""
        return order(self.recipe.seed, self.epoch, len(self.training.labels))

    def fit(self, *callbacks: keras.callbacks.Callback) -> None:
        """Trains the epochs that are left, with further callbacks.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        if self.epoch >= self.recipe.epochs or self.stopped_early:
            return
        with _deterministic(), self.scope():
            self.trainer.fit(
                batches(self),
                shuffle=False,
                epochs=self.recipe.epochs,
                initial_epoch=self.epoch,
                validation_data=validation_batches(self),
                validation_batch_size=VALIDATION_BATCH,
                callbacks=[self._callback(), *self._tensorboard(), *callbacks],
                verbose=0,
            )

    def trained_model(self) -> keras.Model:
        """Returns the model in float32 with the run's final weights: averaged, or the best epoch's, if the recipe says so."""
        if self.recipe.ema is not None:  # fit has done this already where it ran to its end; doing it twice changes nothing
            self.trainer.optimizer.finalize_variable_values(self.trainer.trainable_variables)
        model, _ = build(dataclasses.replace(self.recipe, initial_weights=None, hyperparameters=self.hyperparameters), self.training)
        values = self.best or [variable.numpy() for variable in self.model.weights]
        for variable, value in zip(model.weights, values, strict=True):
            variable.assign(value)
        return model

    def finish(self, test: Dataset) -> Card:
        """Evaluates once on the test images and writes weights and card; the card makes the run a finished one."""
        if self.directory is None:
            raise UsageError("A run without a directory has nowhere to write its weights to.")
        model = self.trained_model()
        results = {"validation": self.validation, "test": test}
        names = self.training.spec.class_names
        measured = {split: evaluate(model, data.images, data.labels, names) for split, data in results.items() if data}
        with atomic_file(self.directory / RUN_WEIGHTS) as temporary:
            model.save_weights(temporary)
        card = Card(
            name=self.directory.name,
            model=resolve(self.recipe.model)[0].name,
            hyperparameters=self.hyperparameters,
            input_shape=model.input_shape[1:],
            num_classes=len(names),
            class_names=tuple(names),
            dataset=self.recipe.dataset,
            light_on_dark=self.training.spec.light_on_dark,
            recipe=self.recipe.to_dict(),
            sha256=sha256(self.directory / RUN_WEIGHTS),
            parameters=model.count_params(),
            results=measured,
            seconds=round(self.seconds, 1),
            environment=environment(),
        )
        card.write(self.directory / RUN_CARD)
        return card

    def _callback(self) -> keras.callbacks.Callback:
        import keras

        run = self

        class Bookkeeping(keras.callbacks.Callback):
            """Stops a diverged run, and writes down every whole epoch."""

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.started = time.perf_counter()
                tail = run.recipe.augmentation_tail * run.recipe.epochs
                if tail:
                    self.model.get_layer("augment").strength.assign(min(1.0, (run.recipe.epochs - epoch) / tail))

            def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
                value = float((logs or {})["loss"])
                if not math.isfinite(value):
                    rate = run.recipe.learning_rate or optimizer_info(run.recipe.optimizer).learning_rate
                    raise TrainingError(
                        f"The loss became {value} in epoch {run.epoch + 1}, by step {batch + 1} of {run.steps}: the run diverged. "
                        f"Lower the learning rate (it is {rate:g}) or add warm-up, then start the run with --restart."
                    )

            def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
                measured = {name: round(float(value), 6) for name, value in (logs or {}).items()}
                seconds = time.perf_counter() - self.started
                run.epoch, run.seconds = epoch + 1, run.seconds + seconds
                run.history.append({"epoch": run.epoch, **measured, "seconds": round(seconds, 3)})
                if run.recipe.early_stopping is not None:
                    if run._best_epoch() == run.epoch:
                        run.best = [variable.numpy() for variable in run.model.weights]
                    self.model.stop_training = run.stopped_early
                run.save()

        return Bookkeeping()

    def _tensorboard(self) -> list[keras.callbacks.Callback]:
        import importlib.util

        import keras

        if self.directory is None or not all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
            return []
        logs = self.directory / "tensorboard"
        _log_hyperparameters(logs, self.recipe)
        return [keras.callbacks.TensorBoard(logs, histogram_freq=math.ceil(self.recipe.epochs / HISTOGRAMS), write_graph=False)]


def _log_hyperparameters(directory: Path, recipe: Recipe) -> None:
    """Writes a recipe for TensorBoard's HParams page, where runs below one folder stand side by side."""
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    values = {key: value for key, value in recipe.to_dict().items() if value not in (None, [], {})}
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    flat = {key: value for key, value in values.items() if key not in nested}
    flat |= {f"{key}.{name}": value for key, arguments in nested.items() for name, value in arguments.items()}
    plain = {key: value if isinstance(value, bool | int | float | str) else json.dumps(value) for key, value in flat.items()}
    with tf.summary.create_file_writer(str(directory)).as_default():
        api.hparams(plain, trial_id=recipe.fingerprint())


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Has TensorFlow choose operations whose results repeat bit by bit."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from tensorflow.python.framework import config

    before = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()
