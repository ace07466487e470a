"""The one worker that is the process itself, and what a job's failure is called."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from scripted_search import RECIPE, ScriptedEngine

from tuning.executors import InProcess, Job, Outcome, reason, run_job
from tuning.segments import Segment, Snapshot
from zoo.errors import UsageError

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
