"""What the search asks of a trial engine: train a recipe from one epoch to another, and pause without losing a bit.

A search pauses a trial where it is to be compared with others, and may go on with it later. `Snapshot` holds all that is
needed to go on exactly; `Segment` says what one stretch of training gave. `PlainEngine` trains each stretch by plain Keras
`fit`: slow, able to run every recipe, and the reference that the compiled engine is held against.
"""

from __future__ import annotations

import gc
import json
import math
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import keras
import numpy

from zoo.errors import TrainingError, UsageError
from zoo.files import atomic_file
from zoo.specs import Recipe
from zoo.training import TrainingRun

if TYPE_CHECKING:
    import keras_tuner

    from zoo.datasets import Dataset

Row = Mapping[str, float]
OnEpoch = Callable[[Row], bool]
Improved = Callable[[Row], bool]
State = Literal["completed", "diverged", "stopped"]

# A trial has diverged when the mean loss of WINDOW steps is NaN, infinite, or above EXPLOSION times the first batch's.
# A loss that explodes anywhere in one window fills the next, and so is noticed within 2 * WINDOW steps.
WINDOW, EXPLOSION = 10, 10.0
OUT_OF_TIME, PRUNED = "the budget ended", "pruned"


@dataclass(frozen=True)
class Snapshot:
    """All that a trial needs to go on after a whole epoch, on the host.

    Attributes:
        epoch: Whole epochs trained.
        arrays: Weights, optimizer slots, counters of steps and states of random generators, as their engine names them.
        history: One row per epoch so far.
        start: The loss of the trial's first batch, against which divergence is judged.
    """

    epoch: int
    arrays: Mapping[str, numpy.ndarray]
    history: tuple[Row, ...] = ()
    start: float = math.nan

    def write(self, path: str | Path) -> None:
        """Writes the snapshot to an `.npz` file, atomically."""
        progress = json.dumps({"epoch": self.epoch, "history": [dict(row) for row in self.history], "start": self.start})
        arrays: dict[str, Any] = {f"array:{name}": value for name, value in self.arrays.items()}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            numpy.savez(file, progress=progress, **arrays)

    @classmethod
    def read(cls, path: str | Path) -> Snapshot:
        """Reads what `write` wrote.

        Raises:
            TrainingError: The file is missing or damaged.
        """
        try:
            with numpy.load(path) as arrays:
                progress = json.loads(str(arrays["progress"]))
                values = {name.removeprefix("array:"): arrays[name] for name in arrays.files if name != "progress"}
            return cls(progress["epoch"], values, tuple(progress["history"]), progress["start"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(f"The snapshot {path} cannot be read ({error}).") from None


@dataclass(frozen=True)
class Segment:
    """What one call of `Engine.run` gave.

    Attributes:
        state: `completed`; `diverged`; or `stopped`, by the deadline or by `on_epoch`.
        history: A row for each epoch of this call: epoch (from 1), loss, accuracy, val_loss, val_accuracy, seconds.
        snapshot: After the last whole epoch; None for a diverged trial, and where there is no whole epoch.
        message: Why the trial diverged or was stopped.
        build_seconds: Building, tracing, compiling, resetting.
        step_seconds: Inside training steps.
        validation_seconds: Evaluating after epochs.
        plain: Why plain Keras `fit` was used in place of a compiled step; empty where it was not.
        compile_seconds: Of the building, tracing and compiling a program that was not there; 0 where it was.
    """

    state: State
    history: tuple[Row, ...] = ()
    snapshot: Snapshot | None = None
    message: str = ""
    build_seconds: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    plain: str = ""
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Point:
    """A trial of a user's own hypermodel: what a recipe is for the zoo's.

    Attributes:
        space: All hyperparameters that it declares.
        values: Of those that are active.
        epochs: Of the whole trial.
        batch_size: Samples per step.
        seed: Seeds the initialization, the order of the samples and every random layer.
    """

    space: keras_tuner.HyperParameters
    values: Mapping[str, Any]
    epochs: int
    batch_size: int
    seed: int


class Engine(Protocol):
    """Trains recipes on one data set, stretch by stretch."""

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        """Trains a recipe up to an epoch.

        However a trial is cut into stretches, and whatever else the engine runs in between, it ends with the same bits.

        Args:
            recipe: The whole trial; `recipe.epochs` is the length of its schedule.
            until: The epoch to pause at, 1..`recipe.epochs`.
            snapshot: Where to go on; None starts anew.
            on_epoch: Called with each epoch's row; returns True to stop the trial there.
            deadline: On the clock of `time.monotonic`; the trial stops within about a second of it.

        Raises:
            UsageError: The recipe cannot be built, or `until` is out of range.
            Exception: Whatever else building or training raises, such as running out of memory.
        """
        ...


def check_until(trial: Recipe | Point, until: int) -> None:
    """Raises UsageError unless a trial can pause at that epoch."""
    if not 1 <= until <= trial.epochs:
        raise UsageError(f"until must be an epoch from 1 to the trial's {trial.epochs}. Received: {until!r}.")


def has_diverged(loss: float, start: float) -> bool:
    """Tells whether a window's mean loss is that of a trial which will not recover."""
    return not (math.isfinite(loss) and loss <= EXPLOSION * start)


def divergence(loss: float, start: float, epoch: int) -> str:
    """Says what `has_diverged` saw in an epoch, counted from 1."""
    if math.isfinite(loss):
        return f"the loss rose to {loss:.3g} in epoch {epoch}, above {EXPLOSION:g} times its start ({start:.3g})"
    return f"the loss became {loss} in epoch {epoch}"


class PlainEngine:
    """Trains trials by plain Keras `fit`.

    Args:
        training: The images to train on.
        validation: Evaluated after every epoch.
        reason: Why it is used, for `Segment.plain`.

    Example:
        >>> import zoo
        >>> digits = [zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")]
        >>> recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2)
        >>> engine = PlainEngine(*digits)
        >>> first = engine.run(recipe, until=1)
        >>> second = engine.run(recipe, until=2, snapshot=first.snapshot)
        >>> second.state, [row["epoch"] for row in second.history]
        ('completed', [2])
    """

    def __init__(self, training: Dataset, validation: Dataset, reason: str = "plain Keras was asked for") -> None:
        self.training, self.validation, self.reason = training, validation, reason

    def run(
        self,
        recipe: Recipe,
        until: int,
        snapshot: Snapshot | None = None,
        on_epoch: OnEpoch | None = None,
        deadline: float = math.inf,
        improved: Improved | None = None,
    ) -> Segment:
        """Trains a recipe up to an epoch; see `Engine.run`, and for `improved` `tuning.engine.HyperModelEngine.train`."""
        check_until(recipe, until)
        began = time.perf_counter()
        run = TrainingRun(recipe, self.training, self.validation)
        segment = train_plainly(run, until, snapshot, on_epoch, deadline, time.perf_counter() - began, self.reason, improved)
        del run
        gc.collect()  # a Keras model is a ring of references
        return segment


class Run(Protocol):
    """What `train_plainly` asks of a run in training."""

    trainer: keras.Model
    steps: int
    epoch: int
    history: list[dict[str, float]]
    best: list[numpy.ndarray]

    def fit(self, *callbacks: keras.callbacks.Callback) -> None:
        """Trains all epochs that are left, and keeps `epoch` and `history`."""


def train_plainly(
    run: Run,
    until: int,
    snapshot: Snapshot | None,
    on_epoch: OnEpoch | None,
    deadline: float,
    built: float,
    reason: str,
    improved: Improved | None = None,
) -> Segment:
    """Trains a new run, whose optimizer is built, by Keras's `fit` up to an epoch; see `Engine.run`."""
    began = time.perf_counter()
    run.trainer.steps_per_execution = 1  # each step's loss is looked at
    if snapshot is not None:
        _restore(run, snapshot)
    watch = _Watch(run, until, snapshot, on_epoch, deadline, improved)
    built += time.perf_counter() - began
    if run.epoch < until:
        try:
            run.fit(watch)
        except _Ended:
            pass
        except TrainingError:  # raised by a run that sees for itself
            watch.end("diverged", divergence(math.nan, watch.start, run.epoch + 1))
    return Segment(
        watch.state,
        tuple(watch.history),
        None if watch.state == "diverged" else watch.snapshot,
        watch.message,
        built + watch.clock["build"],
        watch.clock["step"],
        watch.clock["validation"],
        reason,
    )


def _variables(run: Run) -> list[Any]:
    return [*run.trainer.variables, *run.trainer.optimizer.variables]


def _restore(run: Run, snapshot: Snapshot) -> None:
    """Puts a new run where a snapshot was taken."""
    variables = _variables(run)
    try:
        values = [snapshot.arrays[f"variable_{index}"] for index in range(len(variables))]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    except (KeyError, ValueError) as error:
        raise TrainingError(f"The snapshot is one of another recipe or engine ({error}).") from None
    run.epoch, run.history = snapshot.epoch, [dict(row) for row in snapshot.history]
    run.best = [snapshot.arrays[f"best_{index}"] for index in range(sum(name.startswith("best_") for name in snapshot.arrays))]


def _take(run: Run, start: float) -> Snapshot:
    """Copies a run's state to the host."""
    arrays = {f"variable_{index}": keras.ops.convert_to_numpy(variable).copy() for index, variable in enumerate(_variables(run))}
    arrays |= {f"best_{index}": value for index, value in enumerate(run.best)}
    return Snapshot(run.epoch, arrays, tuple(dict(row) for row in run.history), start)


class _Ended(Exception):
    """Training ends here."""


@dataclass
class _Clock:
    """Adds up seconds by what they were spent on."""

    spent: dict[str, float] = field(default_factory=lambda: {"build": 0.0, "step": 0.0, "validation": 0.0})
    last: float = field(default_factory=time.perf_counter)

    def book(self, name: str) -> None:
        """Books the time since the last call under a name."""
        now = time.perf_counter()
        self.spent[name] += now - self.last
        self.last = now

    def __getitem__(self, name: str) -> float:
        return self.spent[name]


class _Watch(keras.callbacks.Callback):
    """Ends a stretch of training at its epoch, at the deadline, on divergence, or when `on_epoch` says so."""

    def __init__(self, run: Run, until: int, snapshot: Snapshot | None, on_epoch: OnEpoch | None, deadline: float, improved: Improved | None) -> None:
        super().__init__()
        self.improved = improved
        self.run, self.until, self.snapshot, self.on_epoch, self.deadline = run, until, snapshot, on_epoch, deadline
        self.start = math.nan if snapshot is None else snapshot.start
        self.state: State = "completed"
        self.message = ""
        self.history: list[Row] = []
        self.clock = _Clock()
        self.traced: set[str] = set()

    def end(self, state: State, message: str) -> None:
        self.state, self.message = state, message

    def on_train_begin(self, logs: Any = None) -> None:
        self.clock.book("build")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.total, self.seen = 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._book("step")
        total = float((logs or {})["loss"]) * (batch + 1)  # Keras reports the epoch's mean so far
        if math.isnan(self.start):
            self.start = total
        if (batch + 1) % WINDOW == 0 or batch + 1 == self.run.steps:
            mean = (total - self.total) / (batch + 1 - self.seen)
            self.total, self.seen = total, batch + 1
            if has_diverged(mean, self.start):
                self.end("diverged", divergence(mean, self.start, self.run.epoch + 1))
                raise _Ended
        self._check_time()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._book("validation")
        self._check_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = dict(self.run.history[-1])
        if self.improved is not None and self.improved(row):
            self.run.best = [variable.numpy().copy() for variable in self.run.trainer.variables]
        self.snapshot = _take(self.run, self.start)
        self.history.append(row)
        if self.on_epoch is not None and self.on_epoch(row):
            self.end("stopped", PRUNED)
            raise _Ended
        if self.run.epoch >= self.until:
            raise _Ended

    def _book(self, name: str) -> None:
        """Books a batch; the first of its kind goes to building, because it is traced in it."""
        self.clock.book(name if name in self.traced else "build")
        self.traced.add(name)

    def _check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            self.end("stopped", OUT_OF_TIME)
            raise _Ended
