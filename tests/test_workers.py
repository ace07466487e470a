"""Searches on several processes: the same results, and what happens when a worker, or the search itself, is killed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy
import pytest
from scripted_search import RECIPE, FatalSubject, await_true, check_going_on, completed, fatal, follow, read_log, read_trials, same_figures

import zoo
from tuning.engine import CompiledEngine
from tuning.executors import Job
from tuning.report import compiling
from tuning.segments import Segment, Snapshot
from tuning.settings import Settings
from tuning.study import search
from tuning.subjects import ZooSubject
from tuning.workers import THREADS, Workers, ending, shares
from zoo.errors import StudyError, UsageError
from zoo.specs import Recipe

pytestmark = pytest.mark.skipif(not hasattr(os, "kill") or sys.platform == "win32", reason="processes are killed by signals")
TINY = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, schedule="constant", epochs=3)


def test_results_are_those_of_each_configuration_trained_alone(tmp_path: Path) -> None:
    found = search(TINY, optimizers=["sgd", "adam"], study="optimizers", trials=4, workers=2, directory=tmp_path)
    assert len(found.trials) == 4
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    assert found.validation == 144
    assert found.compilation is not None
    assert found.compilation.programs == 2
    assert 2 <= found.compilation.times <= 4
    told = compiling(found.compilation)
    assert "Compiling: 2 programs" in told
    assert ("The 2 workers were given trials whose programs they had" in told) == (round(found.compilation.grouped, 1) > 0)
    engine = CompiledEngine(*(zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")))
    rows = {(row["trial"], row["epoch"]): (row["loss"], row["val_loss"], row["val_accuracy"]) for row in found.history()}
    for trial in found.trials:
        assert trial.recipe is not None
        alone = engine.run(dataclasses.replace(trial.recipe, epochs=3), until=trial.epochs)
        assert [(row["loss"], row["val_loss"], row["val_accuracy"]) for row in alone.history] == [
            rows[trial.number, epoch] for epoch in range(1, trial.epochs + 1)
        ]


@pytest.mark.parametrize("scheduler", ["median", "hyperband", *(pytest.param(name, marks=pytest.mark.slow) for name in ("asha", "none"))])
def test_every_scheduler_ends_with_the_total(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    found = fatal(tmp_path / "search", log, monkeypatch.setattr, trials=20, scheduler=scheduler, seconds=0.02)
    assert [trial.number for trial in found.trials] == list(range(20))
    assert len({json.dumps(trial.config) for trial in found.trials}) == 20
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    epochs = Counter(trial.epochs for trial in found.trials)
    assert set(epochs) == {9} if scheduler == "none" else len(epochs) > 1
    assert len({line[1] for line in read_log(log, "trains")}) == 2  # both processes had work


@pytest.mark.parametrize(
    "sampler", ["kerastuner_hyperband", *(pytest.param(name, marks=pytest.mark.slow) for name in ("kerastuner_bayesian", "cmaes"))]
)
def test_samplers_that_are_told_in_order_know_of_running_trials(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fatal(tmp_path / "search", tmp_path / "log", monkeypatch.setattr, trials=12, scheduler="none", sampler=sampler)
    assert len(found.trials) == 12
    assert {trial.state for trial in found.trials} == {"completed"}


def test_a_killed_worker_is_replaced_and_its_trial_goes_on_from_its_last_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    found = fatal(tmp_path / "search", log, monkeypatch.setattr, trials=9, epoch=2, times=1)
    ((_, dead, rate, _),) = read_log(log, "dies")
    stretches = [line for line in read_log(log, "trains") if line[2] == rate]
    assert [line[3:5] for line in stretches[:3]] == [[0, 1], [1, 3], [1, 3]]  # from the rung at 1, twice
    assert stretches[1][1] == dead != stretches[2][1]
    undisturbed = fatal(tmp_path / "undisturbed", tmp_path / "log2", monkeypatch.setattr, trials=9)
    assert len(found.trials) == len(undisturbed.trials) == 9
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    same_figures(found, undisturbed)


def test_a_trial_that_kills_three_workers_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fatal(tmp_path / "search", tmp_path / "log", monkeypatch.setattr, trials=6, epoch=1, times=3)
    (failed,) = [trial for trial in found.trials if trial.state == "failed"]
    assert failed.message == "its worker died 3 times; the last one was killed by SIGKILL, as the system does where memory runs out"
    assert len(found.trials) == 6


def test_a_trial_that_was_given_to_dead_workers_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, dead = Workers.submit, list[int]()

    def submit_to_the_dead(workers: Workers, worker: int, job: Job) -> None:
        if len(dead) < 3:
            dead.append(job.number)
            os.kill(workers.pids[worker], signal.SIGKILL)
            workers.workers[worker].process.join()
        submit(workers, worker, job)

    monkeypatch.setattr(Workers, "submit", submit_to_the_dead)
    found = fatal(tmp_path / "search", tmp_path / "log", monkeypatch.setattr, trials=1, scheduler="none")
    assert dead == [0, 0, 0]
    assert [(trial.state, trial.epochs) for trial in found.trials] == [("completed", 9)]


def test_each_worker_has_its_share_of_the_processors() -> None:
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    for count in (1, 2, 3, 2 * len(processors)):
        found = shares(count)
        assert [len(share) for share in found] == [max(1, len(processors) // count)] * count
        assert {processor for share in found for processor in share} <= set(processors)
    assert len({tuple(share) for share in shares(len(processors))}) == len(processors)


def test_workers_keep_to_their_share_and_use_no_more_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tuning.workers.METHOD", "spawn")  # with this environment, not that of the processes before
    log = tmp_path / "log"
    workers = Workers(FatalSubject(Settings(RECIPE, optimizers=("sgd",)), None, log=log), "compiled", 2)
    try:
        while len(workers.free()) < 2:
            workers.next_finished(lambda number, row: False, 120)
    finally:
        workers.close()
    found = [line[2:4] for line in read_log(log, "started")]
    assert [threads for _, threads in found] == [len(share) for share in shares(2)]
    if hasattr(os, "sched_getaffinity"):
        assert sorted(processors for processors, _ in found) == sorted(shares(2))


def test_a_worker_s_end_is_told_by_its_status() -> None:
    assert ending(-15) == "was killed by SIGTERM"


# --- the end of the search --------------------------------------------------------------------------------------------


def test_a_budget_ends_workers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = fatal(tmp_path / "search", tmp_path / "log", monkeypatch.setattr, budget=5.0, seconds=0.05)
    assert part.ended == "the budget ended"
    assert part.trials
    assert not multiprocessing.active_children()
    whole = fatal(tmp_path / "search", tmp_path / "log", monkeypatch.setattr, trials=len(part.trials))
    assert [trial.config for trial in whole.trials] == [trial.config for trial in part.trials]
    assert {trial.state for trial in whole.trials} <= {"completed", "pruned"}


@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_worker_outlives_the_search_and_the_search_goes_on(end: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "pidfd_open"):
        pytest.skip("the end of another's process can be awaited on Linux only")
    directory, log = tmp_path / "search", tmp_path / "search.log"
    script = Path(__file__).with_name("scripted_search.py")
    arguments = json.dumps({"trials": 999, "seconds": 0.05})
    driver = subprocess.Popen([sys.executable, str(script), str(directory), arguments], stderr=subprocess.DEVNULL, start_new_session=True)
    workers = [os.pidfd_open(line[1]) for line in follow(log, "started", 2, driver)]
    follow(log, "trains", 6, driver)
    await_true(lambda: bool(completed(read_trials(directory))), driver)
    if end == signal.SIGINT:
        os.killpg(driver.pid, end)  # as a terminal does
    else:
        driver.kill()
    assert driver.wait() != 0
    for worker in workers:
        readable, _, _ = select.select([worker], [], [], 60)
        assert readable, "a worker outlives its search"
        os.close(worker)
    before = read_trials(directory)
    total = len(before) + 6
    found = fatal(directory, log, monkeypatch.setattr, trials=total)
    assert [trial.number for trial in found.trials] == list(range(total))
    assert len({json.dumps(trial.config) for trial in found.trials}) == total
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    check_going_on(before, found, log)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_hypermodel_that_cannot_be_sent_says_so(tmp_path: Path) -> None:
    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
        return model

    data = ((numpy.ones((8, 4)), numpy.ones((8, 2))),) * 2
    with pytest.raises(UsageError, match=r"cannot be sent to other processes .* top level of a module, or search with workers=1"):
        search(hypermodel=build, data=data, trials=1, workers=2, directory=tmp_path)
    with pytest.raises(UsageError, match="one worker or more"):
        search(RECIPE, trials=1, workers=0, directory=tmp_path / "none")


class Stillborn(ZooSubject):
    """Its workers cannot start."""

    def engine(self, kind: str) -> Any:
        if kind == "missing":
            raise StudyError("the data are missing")
        os._exit(3)


def await_worker(workers: Workers) -> None:
    while not workers.free():
        workers.next_finished(lambda number, row: False, 120)


@pytest.mark.parametrize(("kind", "message"), [("missing", "the data are missing"), ("dies", "cannot start: 3 in a row ended with status 3")])
def test_workers_that_cannot_start_end_the_search(kind: str, message: str) -> None:
    workers = Workers(Stillborn(Settings(RECIPE, optimizers=("sgd",)), None), kind, 1)
    try:
        with pytest.raises(StudyError, match=message):
            await_worker(workers)
    finally:
        workers.close()


def test_a_job_given_to_a_dead_worker_comes_back(tmp_path: Path) -> None:
    workers = Workers(FatalSubject(Settings(RECIPE, optimizers=("sgd",)), None, log=tmp_path / "log"), "compiled", 1)
    try:
        await_worker(workers)
        os.kill(workers.pids[0], signal.SIGKILL)
        workers.workers[0].process.join()
        workers.submit(0, Job(5, RECIPE, 1, None, 60.0))
        outcome = workers.next_finished(lambda number, row: False, 120)
        assert outcome is not None
        assert (outcome.number, outcome.begun) == (5, False)
        assert "killed by SIGKILL" in outcome.death
    finally:
        workers.close()


class HeavyEngine:
    """Its trials leave behind more than a pipe holds."""

    def run(self, *arguments: object) -> Segment:
        return Segment("completed", snapshot=Snapshot(1, {"weights": numpy.ones(1 << 20)}))


class HeavySubject(ZooSubject):
    """Gives each worker a `HeavyEngine`."""

    def engine(self, kind: str) -> Any:
        return HeavyEngine()


def test_a_worker_killed_while_it_sends_is_replaced() -> None:
    workers = Workers(HeavySubject(Settings(RECIPE, optimizers=("sgd",)), None), "compiled", 1)
    job = Job(5, RECIPE, 1, None, 60.0)
    try:
        await_worker(workers)
        workers.submit(0, job)
        with socket.socket(fileno=os.dup(workers.workers[0].pipe.fileno())) as pipe:
            while len(pipe.recv(8, socket.MSG_PEEK)) < 8:  # the message's length, and where it begins
                pass
        os.kill(workers.pids[0], signal.SIGKILL)
        outcome = workers.next_finished(lambda number, row: False, 120)
        assert outcome is not None
        assert (outcome.number, outcome.begun, outcome.segment) == (5, True, None)
        assert "killed by SIGKILL" in outcome.death
        await_worker(workers)
        workers.submit(0, job)
        outcome = workers.next_finished(lambda number, row: False, 120)
        assert outcome is not None
        assert outcome.segment is not None
    finally:
        workers.close()
