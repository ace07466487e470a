"""One stretch of one trial on a compiled program: epoch after epoch until something ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy
import tensorflow as tf

from tuning.programs import Program, Progress
from tuning.segments import OUT_OF_TIME, PRUNED, Improved, OnEpoch, Row, Segment, Snapshot, State, divergence
from zoo.errors import TrainingError


@dataclass
class Stretch:
    """A trial's training from one epoch to another.

    Attributes:
        program: What it runs on; the stretch has it to itself until it ends.
        numbers: The free numbers of its layers and loss, by name.
        free: Those of its optimizer.
        rates: The learning rate of each step from `first` on.
        rows: Gives the order of an epoch's rows.
        first: Whole epochs trained before.
        until: The epoch to pause at.
        snapshot: Where it goes on; None for a new trial.
        deadline: On the clock of `time.monotonic`.
        prepare: Called with the number of each epoch, from 0, before it begins.
        improved: Called with each epoch's row; where it returns True, the snapshot keeps the model as it is then.
        halted: Asked now and then whether to stop as at the deadline.
        build_seconds: What was spent before.
        compile_seconds: Of that, compiling the program.
    """

    program: Program
    numbers: Mapping[str, float]
    free: Mapping[str, float]
    rates: numpy.ndarray
    rows: Callable[[int], numpy.ndarray]
    first: int
    until: int
    snapshot: Snapshot | None
    deadline: float
    prepare: Callable[[int], None] = lambda epoch: None
    improved: Improved | None = None
    halted: Callable[[], bool] = lambda: False
    build_seconds: float = 0.0
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        pairs = (self.program.evaluation.slots, self.numbers), (self.program.free, self.free)
        self.vectors = tuple(tf.constant(slots.vector(values), tf.float64) for slots, values in pairs)
        self.history: list[Row] = []
        self.start = math.nan if self.snapshot is None else self.snapshot.start
        self.step_seconds = self.validation_seconds = 0.0
        self.best = {} if self.snapshot is None else {name: array for name, array in self.snapshot.arrays.items() if name.startswith("best_")}

    def load(self, start: Callable[[], list[numpy.ndarray]]) -> None:
        """Assigns all variables: a snapshot's values, or those of a new model."""
        if self.snapshot is None:
            self.program.load(start())
            return
        try:
            self.program.load([self.snapshot.arrays[f"variable_{index}"] for index in range(len(self.program.variables))])
        except (KeyError, ValueError) as error:
            raise TrainingError(f"The snapshot is one of another recipe or engine ({error}).") from None

    def run(self, on_epoch: OnEpoch | None) -> Segment:
        """Trains until the stretch, the trial or the time ends."""
        for epoch in range(self.first, self.until):
            began = time.perf_counter()
            progress = self._train(epoch)
            self.start = progress.start
            self.step_seconds += time.perf_counter() - began
            if progress.diverged:
                return self._segment("diverged", divergence(progress.loss, progress.start, epoch + 1))
            if progress.step < self.program.steps:
                if not progress.step and self.history:
                    self._save()
                return self._segment("stopped", OUT_OF_TIME)
            row = self._evaluate(epoch, progress, began)
            if self.improved is not None and self.improved(row):
                self.best = {f"best_{index}": value for index, value in enumerate(self.program.save_model())}
            if on_epoch is not None and on_epoch(row):
                self._save()
                return self._segment("stopped", PRUNED)
        self._save()
        return self._segment("completed")

    def _train(self, epoch: int) -> Progress:
        """Trains one epoch, looking at the clock now and then."""
        program, position = self.program, (epoch - self.first) * self.program.steps
        self.prepare(epoch)
        rows = tf.constant(self.rows(epoch)[: program.rows], tf.int32)
        rates = tf.constant(self.rates[position : position + program.steps])
        progress = Progress(start=self.start)
        while progress.step < program.steps and not progress.diverged and time.monotonic() < self.deadline and not self.halted():
            progress = program.train(rows, rates, self.vectors, progress)
        return progress

    def _evaluate(self, epoch: int, progress: Progress, began: float) -> Row:
        """Evaluates after an epoch and writes down its row, as a training run would."""
        start = time.perf_counter()
        metrics = {**(progress.metrics or {}), **{f"val_{name}": value for name, value in self.program.evaluation.run(self.vectors[0]).items()}}
        now = time.perf_counter()
        self.validation_seconds += now - start
        rounded = {name: round(value, 6) for name, value in sorted(metrics.items())}
        self.history.append({"epoch": epoch + 1, **rounded, "seconds": round(now - began, 3)})
        if self.program.steps_at_once < self.program.steps and self.deadline < math.inf:  # the next epoch may be cut short
            self._save()
        return self.history[-1]

    def _save(self) -> None:
        arrays = {f"variable_{index}": value for index, value in enumerate(self.program.save())}
        earlier = () if self.snapshot is None else self.snapshot.history[: self.first]
        self.snapshot = Snapshot(self.first + len(self.history), arrays | self.best, (*earlier, *self.history), self.start)

    def _segment(self, state: State, message: str = "") -> Segment:
        snapshot = None if state == "diverged" else self.snapshot
        seconds = (self.build_seconds, self.step_seconds, self.validation_seconds)
        return Segment(state, tuple(self.history), snapshot, message, *seconds, compile_seconds=self.compile_seconds)
