"""A search whose trials follow a script instead of training: quick, exact, and able to be killed. Run as a program, it searches.

python scripted_search.py DIRECTORY JSON

where the JSON holds arguments of `scripted`.
"""

from __future__ import annotations

import copy
import fcntl
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy

import tuning.leases
import tuning.study
from tuning.result import SearchResult
from tuning.segments import OUT_OF_TIME, OnEpoch, Row, Segment, Snapshot
from tuning.settings import Settings
from tuning.study import search
from tuning.subjects import ZooSubject
from zoo.specs import Recipe

RECIPE = Recipe("relu_mlp", "digits", schedule="constant", epochs=9)
OPTIMIZERS = ["sgd", "momentum", "adam", "rmsprop"]


class ScriptedEngine:
    """Accuracies follow from the learning rate; adam above 0.0005 diverges, rmsprop cannot be built with an epsilon above 0.01."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls, self.halted = seconds, list[tuple[int, int]](), False

    def side_by_side(self, count: int) -> list[ScriptedEngine]:
        return [copy.copy(self) for _ in range(count)]

    def halt(self) -> None:
        self.halted = True

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        rate, epoch = recipe.learning_rate or 1.0, snapshot.epoch if snapshot else 0
        self.calls.append((epoch, until))
        if recipe.optimizer == "rmsprop" and recipe.optimizer_arguments["epsilon"] > 0.01:
            raise MemoryError("the script says so")
        if recipe.optimizer == "adam" and rate > 0.0005:
            return Segment("diverged", message="the loss became nan in epoch 1")
        rows = []
        while epoch < until:
            time.sleep(self.seconds)
            if time.monotonic() >= deadline or self.halted:
                return Segment("stopped", tuple(rows), snapshot, OUT_OF_TIME)
            epoch += 1
            accuracy = round((0.95 - 0.1 * abs(math.log10(rate) + 2)) * (1 - 0.5**epoch), 6)
            rows.append(
                {"epoch": epoch, "loss": 1 - accuracy, "accuracy": accuracy, "val_loss": 1 - accuracy, "val_accuracy": accuracy, "seconds": 0.0}
            )
            snapshot = Snapshot(epoch, {"weights": numpy.full(1000, accuracy)})
            if on_epoch and on_epoch(rows[-1]):
                return Segment("stopped", tuple(rows), snapshot, "pruned")
        return Segment("completed", tuple(rows), snapshot, step_seconds=self.seconds * len(rows))


def scripted(directory: Path, patch: Callable[[Any, str, Any], None] = setattr, seconds: float = 0.0, **arguments: Any) -> SearchResult:
    """Runs a search on the scripted engine."""
    patch(ZooSubject, "engine", lambda subject, kind: ScriptedEngine(seconds))
    return search(RECIPE, **{"optimizers": OPTIMIZERS, "study": "optimizers", "directory": directory, **arguments})


# --- on a shared study ------------------------------------------------------------------------------------------------


class HangingEngine(ScriptedEngine):
    """Hangs in the second epoch of its fourth trial, and says so."""

    def __init__(self, hangs: Any) -> None:
        super().__init__(0.01)
        self.hangs = hangs

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        def watch(row: Row) -> bool:
            ends = on_epoch is not None and on_epoch(row)
            if row["epoch"] == 2 and len(self.calls) == 4:
                self.hangs.set()
                threading.Event().wait()
            return ends

        return super().run(recipe, until, snapshot, watch, deadline)


def sharing(directory: Path, url: str, trials: int, hangs: Any = None) -> SearchResult:
    """Runs a search on a shared study, in which a dead search is noticed soon."""
    tuning.leases.BEAT_SECONDS, tuning.leases.GRACE_SECONDS, tuning.study.POLL_SECONDS = 0.2, 2.0, 0.1
    ZooSubject.engine = lambda subject, kind: ScriptedEngine(0.01) if hangs is None else HangingEngine(hangs)  # type: ignore[assignment]
    options = {"optimizers": ["sgd", "momentum"], "study": "optimizers", "scheduler": "none", "tensorboard": False}
    return search(RECIPE, **options, directory=directory, storage=url, trials=trials)  # type: ignore[arg-type]


# --- on several workers -----------------------------------------------------------------------------------------------


class FatalEngine(ScriptedEngine):
    """Writes down who trains what, and in an epoch of the first trial that comes to it, kills its own process, or hangs for ever.

    `times` are the deaths.
    """

    def __init__(self, log: Path, epoch: int = 0, times: int = 0, seconds: float = 0.0, hangs: bool = False) -> None:
        super().__init__(seconds)
        self.log, self.epoch, self.times, self.hangs = log, epoch, times, hangs
        import tensorflow as tf

        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.note("started", processors, tf.config.threading.get_intra_op_parallelism_threads())

    def note(self, what: str, *more: object) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps([what, os.getpid(), *more]) + "\n")

    def run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf
    ) -> Segment:
        self.note("trains", recipe.learning_rate, snapshot.epoch if snapshot else 0, until)

        def watch(row: Row) -> bool:
            ends = on_epoch is not None and on_epoch(row)
            if row["epoch"] == self.epoch and self._dies(recipe):
                if self.hangs:
                    threading.Event().wait()
                os.kill(os.getpid(), signal.SIGKILL)
            return ends

        return super().run(recipe, until, snapshot, watch, deadline)

    def _dies(self, recipe: Recipe) -> bool:
        """Writes down a death and returns True, if it is this trial's turn to die; one of two workers that come to it at once waits."""
        with self.log.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            died = read_log(self.log, "dies")
            if len(died) >= self.times or (died and died[0][2] != recipe.learning_rate):
                return False
            self.note("dies", recipe.learning_rate, os.getppid())
            return True


class FatalSubject(ZooSubject):
    """Gives each worker a `FatalEngine`."""

    def __init__(self, settings: Settings, data_dir: str | Path | None, **options: Any) -> None:
        super().__init__(settings, data_dir)
        self.options, self.validation = options, 144

    def engine(self, kind: str) -> FatalEngine:  # type: ignore[override]
        return FatalEngine(**self.options)


def fatal(
    directory: Path,
    log: Path,
    patch: Callable[[Any, str, Any], None] = setattr,
    *,
    epoch: int = 0,
    times: int = 0,
    seconds: float = 0.0,
    hangs: bool = False,
    **more: Any,
) -> SearchResult:
    """Runs a search on workers of which one kills itself, or hangs; see `FatalEngine`."""
    patch(tuning.study, "ZooSubject", partial(FatalSubject, log=log, epoch=epoch, times=times, seconds=seconds, hangs=hangs))
    return search(RECIPE, **{"optimizers": ["sgd"], "study": "optimizers", "directory": directory, "workers": 2, "tensorboard": False, **more})


def read_log(log: Path, what: str) -> list[list[Any]]:
    """Returns the lines of a log that begin with a word."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line for line in map(json.loads, lines) if line[0] == what]


if __name__ == "__main__":
    fatal(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".log"), **json.loads(sys.argv[2]))
