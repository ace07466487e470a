"""The workers that are this process itself or its threads, and what a job's failure is called."""

from __future__ import annotations

import dataclasses
import math
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_search import RECIPE, ScriptedEngine

from tuning.executors import InProcess, Job, Outcome, Pool, Threads, Worker, reason, run_job
from tuning.segments import Segment, Snapshot
from zoo.errors import StudyError, UsageError

TRIAL = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.01)


def job(**changes: Any) -> Job:
    return Job(**{"number": 7, "trial": TRIAL, "until": 3, "snapshot": None, "seconds": math.inf, **changes})


def test_a_job_is_trained_where_it_is_waited_for() -> None:
    executor = InProcess(ScriptedEngine())
    assert (list(executor.free()), executor.wanted(), executor.local) == ([0], 1, True)
    executor.submit(0, job())
    assert (list(executor.free()), executor.wanted()) == ([], 0)
    rows: list[tuple[int, float]] = []
    outcome = executor.next_finished(lambda number, row: rows.append((number, row["epoch"])) is not None)
    assert rows == [(7, 1), (7, 2), (7, 3)]
    assert outcome is not None
    assert isinstance(outcome.segment, Segment)
    assert (outcome.number, outcome.segment.state, outcome.failure, outcome.death) == (7, "completed", "", "")
    assert list(executor.free()) == [0]
    assert executor.next_finished(lambda number, row: False) is None


def test_a_job_goes_on_from_its_snapshot_and_ends_with_its_time() -> None:
    engine = ScriptedEngine()
    first = run_job(engine, job(until=1), 0, lambda row: False)
    assert first.segment is not None
    second = run_job(engine, job(snapshot=first.segment.snapshot), 0, lambda row: False)
    assert second.segment is not None
    assert [row["epoch"] for row in second.segment.history] == [2, 3]
    late = run_job(engine, job(seconds=0.0), 0, lambda row: False)
    assert late.segment is not None
    assert late.segment.state == "stopped"


class Meeting(ScriptedEngine):
    """An engine that trains only while another one does."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__()
        self.meeting = meeting

    def run(self, *arguments: Any) -> Segment:
        self.meeting.wait(timeout=30)
        return super().run(*arguments)


def test_threads_train_side_by_side() -> None:
    meeting = threading.Barrier(2)
    executor = Threads([Meeting(meeting), Meeting(meeting)])
    assert (list(executor.free()), executor.wanted(), executor.local) == ([0, 1], 2, False)
    executor.submit(0, job(number=4))
    executor.submit(1, job(number=5, asks=True))
    assert list(executor.free()) == []
    rows: dict[int, list[float]] = {4: [], 5: []}

    def on_row(number: int, row: Any) -> bool:
        assert threading.current_thread() is threading.main_thread()
        rows[number].append(row["epoch"])
        return row["epoch"] == 2  # heeded by the one that asks

    outcomes = {outcome.number: outcome for outcome in (executor.next_finished(on_row, 30.0), executor.next_finished(on_row, 30.0)) if outcome}
    assert {number: outcome.segment.state for number, outcome in outcomes.items() if outcome.segment} == {4: "completed", 5: "stopped"}
    assert {number: outcome.worker for number, outcome in outcomes.items()} == {4: 0, 5: 1}
    assert rows == {4: [1, 2, 3], 5: [1, 2]}
    assert list(executor.free()) == [0, 1]
    assert executor.next_finished(on_row, 0.01) is None
    executor.close()


def test_closed_threads_stop_what_they_train() -> None:
    engines = [ScriptedEngine(seconds=0.01), ScriptedEngine(seconds=0.01)]
    executor = Threads(engines)
    executor.submit(0, job(until=10**9))
    executor.submit(1, job(until=10**9, asks=True))  # waits for an answer that does not come
    executor.close()
    assert not any(thread is not None and thread.is_alive() for thread in executor.threads)


class Broken:
    """An engine that cannot."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, trial: Any, until: int, snapshot: Snapshot | None, on_epoch: Any, deadline: float) -> Segment:
        raise self.error


def test_a_failure_is_an_outcome_of_one_line() -> None:
    outcome = run_job(Broken(ValueError("no such layer\nat line 7")), job(), 3, lambda row: False)
    assert outcome == Outcome(7, 3, failure="ValueError: no such layer", seconds=outcome.seconds)
    assert reason(UsageError("three layers are too many")) == "three layers are too many"
    assert reason(MemoryError("the script says so")) == "out of memory: the script says so"
    assert reason(KeyError()) == "KeyError: KeyError"


class Idlers(Pool[Worker]):
    """Workers that do nothing."""

    def _start(self, index: int) -> Worker:
        return Worker()

    def submit(self, worker: int, job: Job) -> None: ...

    def next_finished(self, on_row: Any, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("scattered", [False, True])
def test_workers_that_die_as_they_start_end_the_search_unless_others_work_elsewhere(scattered: bool) -> None:
    pool = Idlers(SimpleNamespace(validation=0), 4)
    pool.scattered = scattered
    for index in (0, 1, 2):  # with their machine, and each for the first time
        pool._replace(index, "died")
    pool._greet(3, 144)
    for _ in range(1 if not scattered else 9):
        pool._replace(0, "died")
    if scattered:
        pool.workers[3].ready = False
        for _ in range(2):
            pool._replace(0, "died")
    with pytest.raises(StudyError, match="cannot start: 3 in a row died"):
        pool._replace(0, "died")
