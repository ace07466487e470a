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
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy

import tuning.leases
import tuning.study
from tuning.result import SearchResult
from tuning.segments import OUT_OF_TIME, OnEpoch, Row, Segment, Snapshot
from tuning.settings import Settings, read_claim
from tuning.storage import Record, read_records
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
        self.note("started", processors, tf.config.threading.get_intra_op_parallelism_threads(), os.environ.get("TFDS_DATA_DIR"))

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


def follow(log: Path, what: str, count: int, process: subprocess.Popen[bytes]) -> list[list[Any]]:
    """Waits until a log has so many lines of a kind."""
    await_true(lambda: len(read_log(log, what)) >= count, process)
    return read_log(log, what)


def await_true(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits until a condition holds, which it must before a search's process ends."""
    while not condition():
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the search ended with status {process.returncode}")


def read_trials(directory: Path) -> list[Record]:
    """Reads what a search's record says of its trials."""
    found = read_claim(directory)
    return read_records(found["url"], found["name"])


def completed(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.state == "completed"]


def check_going_on(before: Sequence[Record], found: SearchResult, log: Path) -> None:
    """Checks that a search went on from the record of one that was killed, and trained nothing again of what had finished there."""
    finished = completed(before)
    assert finished
    for record in before:
        trial = found.trials[record.number]
        assert trial.config == record.config
        assert record.curve.items() <= trial.curve.items()
    for record in finished:
        assert (found.trials[record.number].state, found.trials[record.number].curve) == (record.state, record.curve)
    rates = {trial.recipe.learning_rate for trial in (found.trials[record.number] for record in finished) if trial.recipe}
    stretches = Counter(tuple(line[2:5]) for line in read_log(log, "trains") if line[2] in rates)
    assert stretches == Counter((rate, *ends) for rate in rates for ends in ((0, 1), (1, 3), (3, 9)))


def same_figures(found: SearchResult, others: SearchResult) -> None:
    """Checks that two searches tried the same, and that a configuration has the same figures in both, as far as it was trained."""
    curves = {json.dumps(trial.config): trial.curve for trial in others.trials}
    assert {json.dumps(trial.config) for trial in found.trials} == set(curves)
    for trial in found.trials:
        common = trial.curve.keys() & curves[json.dumps(trial.config)].keys()
        assert common
        assert {epoch: trial.curve[epoch] for epoch in common} == {epoch: curves[json.dumps(trial.config)][epoch] for epoch in common}


if __name__ == "__main__":
    fatal(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".log"), **json.loads(sys.argv[2]))
