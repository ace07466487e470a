"""The compiled trial engine: trials that share a graph share one compiled program.

Building, tracing and compiling take most of a short trial's time. Here the first trial of a kind pays for it: its program is
kept under all that the graph depends on (model, optimizer, batch size, precision, augmentation ...), and later trials bring
what differs along as arguments: initial weights, order of the images, learning rates, momenta, dropout rate. What such a
trial gives is what plain Keras `fit` gives, to the tolerance of float32.
"""

from __future__ import annotations

import gc
import math
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import keras
import numpy
import tensorflow as tf

from tuning.programs import DeviceData, Program, Progress, learning_rates
from tuning.scalars import Slots, is_free, optimizer_structure
from tuning.segments import (
    OUT_OF_TIME,
    PRUNED,
    OnEpoch,
    PlainEngine,
    Row,
    Segment,
    Snapshot,
    State,
    check_until,
    divergence,
)
from zoo.errors import TrainingError
from zoo.registry import resolve
from zoo.specs import Flip, Recipe
from zoo.training import accuracy, compile_trainer, loss, make_optimizer, order, steps_per_epoch

if TYPE_CHECKING:
    from zoo.datasets import Dataset

T = TypeVar("T")
PROGRAMS, STARTS = 48, 16  # how many are kept


class CompiledEngine:
    """Trains trials by programs that they share.

    Args:
        training: The images to train on.
        validation: Evaluated after every epoch.
        programs: How many compiled programs are kept; the one unused for longest goes first.

    Example:
        >>> import zoo
        >>> digits = [zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")]
        >>> engine = CompiledEngine(*digits)
        >>> for rate in (0.001, 0.01):  # the second one compiles nothing
        ...     recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2, learning_rate=rate)
        ...     segment = engine.run(recipe, until=2)
        >>> segment.state, segment.plain, len(engine.programs)
        ('completed', '', 1)
    """

    def __init__(self, training: Dataset, validation: Dataset, programs: int = PROGRAMS) -> None:
        self.training, self.validation = training, validation
        self.programs: _Recent[Program] = _Recent(programs)
        self._starts: _Recent[list[numpy.ndarray]] = _Recent(STARTS)
        self._data: DeviceData | None = None

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        """Trains a recipe up to an epoch; see `tuning.segments.Engine.run`."""
        check_until(recipe, until)
        if reason := why_plain(recipe):
            return PlainEngine(self.training, self.validation, reason).run(recipe, until, snapshot, on_epoch, deadline)
        began = time.perf_counter()
        stretch = self._stretch(recipe, until, snapshot, deadline)
        stretch.build_seconds = time.perf_counter() - began
        return stretch.run(on_epoch)

    def _stretch(self, recipe: Recipe, until: int, snapshot: Snapshot | None, deadline: float) -> _Stretch:
        """Readies a program for a recipe, from its start or from a snapshot."""
        steps = steps_per_epoch(recipe, self.training)
        optimizer = make_optimizer(recipe, steps * recipe.epochs)
        structure, free = optimizer_structure(optimizer)
        fixed, numbers = recipe_structure(recipe)
        numbers |= {f"optimizer.{name}": value for name, value in free.items()}
        program = self.programs.get((fixed, structure)) or self.programs.put((fixed, structure), self._program(recipe, numbers))
        if snapshot is None:
            program.load(self._start(recipe))
        else:
            _restore(program, snapshot)
        first = 0 if snapshot is None else snapshot.epoch
        rates = learning_rates(optimizer._learning_rate, first * steps, max(0, until - first) * steps)
        return _Stretch(recipe, program, numbers, rates, until, snapshot, deadline, len(self.training.labels))

    def _program(self, recipe: Recipe, numbers: Mapping[str, float]) -> Program:
        """Builds and compiles what a recipe and its like need."""
        trainer, _, _ = compile_trainer(recipe, self.training)
        self._starts.put(_start_key(recipe), [variable.numpy().copy() for variable in trainer.variables])
        smoothing = SimpleNamespace(label_smoothing=recipe.label_smoothing, teacher=None)  # all that the loss reads of a recipe
        trainer.compile(trainer.optimizer, loss(cast(Recipe, smoothing)), metrics=[accuracy(recipe)])
        places: dict[str, Sequence[tuple[Any, str]]] = {}
        for name in numbers:
            room, _, attribute = name.partition(".")
            if room == "optimizer":
                places[name] = [(trainer.optimizer, attribute)]
            elif room == "loss":
                places[name] = [(smoothing, attribute)]
            else:
                places[name] = [(layer, "rate") for layer in trainer._flatten_layers() if type(layer) is keras.layers.Dropout]
        program = Program(trainer, Slots(places), self.data, recipe.batch_size)
        program.compile()
        return program

    def _start(self, recipe: Recipe) -> list[numpy.ndarray]:
        """The values of a new model's variables."""
        key = _start_key(recipe)
        found = self._starts.get(key)
        if found is None:
            trainer, _, _ = compile_trainer(recipe, self.training)
            found = self._starts.put(key, [variable.numpy().copy() for variable in trainer.variables])
        return found

    @property
    def data(self) -> DeviceData:
        """The images, on the device from the first use on."""
        if self._data is None:
            self._data = DeviceData.of(*self.training[:2], self.validation[:2])
        return self._data


def why_plain(recipe: Recipe) -> str:
    """Says why a recipe cannot run on a shared program; empty where it can."""
    if keras.backend.backend() != "tensorflow":
        return f"programs need the TensorFlow backend, not {keras.backend.backend()}"
    if recipe.teacher is not None:
        return "a teacher's answers are targets of the recipe's own"
    if recipe.lookahead:
        return "lookahead changes how its optimizer is built"
    if recipe.early_stopping is not None:
        return "early stopping keeps the best epoch's weights"
    if any(isinstance(entry, Flip) and entry.alternating for entry in recipe.augmentation):
        return "alternating flips need a second set of images"
    return ""


def recipe_structure(recipe: Recipe) -> tuple[Hashable, dict[str, float]]:
    """Splits a recipe, but for its optimizer, into what its graph depends on, and the free numbers of the rest by name."""
    hyperparameters = _hyperparameters(recipe)
    hyperparameters.pop("initializer", None)
    numbers = {}
    if recipe.initial_weights is None and is_free(hyperparameters.get("dropout")):  # every Dropout layer of a zoo model has this rate
        numbers["layers.dropout"] = float(hyperparameters["dropout"])
        hyperparameters["dropout"] = "free"
    if is_free(recipe.label_smoothing):
        numbers["loss.label_smoothing"] = recipe.label_smoothing
    fixed = (
        *(recipe.model, recipe.initial_weights, _frozen(hyperparameters)),
        *(recipe.precision, recipe.batch_size, recipe.augmentation, "loss.label_smoothing" in numbers),
    )
    return fixed, numbers


def _hyperparameters(recipe: Recipe) -> dict[str, Any]:
    spec, weights = resolve(recipe.model)
    return {**spec.defaults, **(weights.hyperparameters if weights else {}), **recipe.hyperparameters}


def _start_key(recipe: Recipe) -> Hashable:
    """What the values of a new model's variables depend on; not on the rate of dropout, only on whether there is any."""
    hyperparameters = _hyperparameters(recipe)
    if "dropout" in hyperparameters and recipe.initial_weights is None:
        hyperparameters["dropout"] = bool(hyperparameters["dropout"])
    return (
        *(recipe.model, recipe.initial_weights, recipe.initialization, _frozen(hyperparameters)),
        *(recipe.precision, bool(recipe.augmentation), recipe.seed),
    )


def _frozen(hyperparameters: Mapping[str, Any]) -> Hashable:
    return tuple(sorted(hyperparameters.items()))


@dataclass
class _Stretch:
    """One stretch of one trial on a program that holds its state."""

    recipe: Recipe
    program: Program
    numbers: Mapping[str, float]
    rates: numpy.ndarray
    until: int
    snapshot: Snapshot | None
    deadline: float
    images: int
    build_seconds: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0

    def run(self, on_epoch: OnEpoch | None) -> Segment:
        """Trains epoch after epoch until something ends the stretch."""
        self.vector = tf.constant(self.program.slots.vector(self.numbers), tf.float64)
        self.history: list[Row] = []
        self.first = 0 if self.snapshot is None else self.snapshot.epoch
        self.loss_at_start = math.nan if self.snapshot is None else self.snapshot.start
        for epoch in range(self.first, self.until):
            began = time.perf_counter()
            progress = self._train(epoch)
            self.loss_at_start = progress.start
            self.step_seconds += time.perf_counter() - began
            if progress.diverged:
                return self._segment("diverged", divergence(progress.loss, progress.start, epoch + 1))
            if progress.step < self.program.steps:
                if not progress.step and self.history:
                    self._save()
                return self._segment("stopped", OUT_OF_TIME)
            row = self._evaluate(epoch, progress, began)
            if on_epoch is not None and on_epoch(row):
                self._save()
                return self._segment("stopped", PRUNED)
        self._save()
        return self._segment("completed")

    def _train(self, epoch: int) -> Progress:
        """Trains one epoch, looking at the clock now and then."""
        program = self.program
        tail = self.recipe.augmentation_tail * self.recipe.epochs
        if tail:
            program.model.get_layer("augment").strength.assign(min(1.0, (self.recipe.epochs - epoch) / tail))
        rows = tf.constant(order(self.recipe.seed, epoch, self.images)[: program.steps * program.batch_size], tf.int32)
        position = (epoch - self.first) * program.steps
        rates = tf.constant(self.rates[position : position + program.steps])
        progress = Progress(start=self.loss_at_start)
        while progress.step < program.steps and not progress.diverged and time.monotonic() < self.deadline:
            progress = program.train(rows, rates, self.vector, progress)
        return progress

    def _evaluate(self, epoch: int, progress: Progress, began: float) -> Row:
        """Evaluates after an epoch and writes down its row, as a training run would."""
        start = time.perf_counter()
        metrics = {**(progress.metrics or {}), **{f"val_{name}": value for name, value in self.program.evaluate(self.vector).items()}}
        now = time.perf_counter()
        self.validation_seconds += now - start
        rounded = {name: round(value, 6) for name, value in sorted(metrics.items())}
        self.history.append({"epoch": epoch + 1, **rounded, "seconds": round(now - began, 3)})
        if self.program.steps_at_once < self.program.steps and self.deadline < math.inf:  # the next epoch might be cut short
            self._save()
        return self.history[-1]

    def _save(self) -> None:
        arrays = {f"variable_{index}": value for index, value in enumerate(self.program.save())}
        earlier = () if self.snapshot is None else self.snapshot.history[: self.first]
        self.snapshot = Snapshot(self.first + len(self.history), arrays, (*earlier, *self.history), self.loss_at_start)

    def _segment(self, state: State, message: str = "") -> Segment:
        snapshot = None if state == "diverged" else self.snapshot
        return Segment(state, tuple(self.history), snapshot, message, self.build_seconds, self.step_seconds, self.validation_seconds)


def _restore(program: Program, snapshot: Snapshot) -> None:
    try:
        program.load([snapshot.arrays[f"variable_{index}"] for index in range(len(program.variables))])
    except (KeyError, ValueError) as error:
        raise TrainingError(f"The snapshot is one of another recipe or engine ({error}).") from None


class _Recent(OrderedDict[Hashable, T]):
    """A dictionary that keeps what was used last."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def get(self, key: Hashable) -> T | None:  # type: ignore[override]
        if key in self:
            self.move_to_end(key)
        return super().get(key)

    def put(self, key: Hashable, value: T) -> T:
        self[key] = value
        if len(self) > self.limit:
            self.popitem(last=False)
            gc.collect()  # models and graphs are rings of references
        return value
