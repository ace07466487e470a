"""Which paused trials' states are kept, and for how long."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from scripted_search import ScriptedEngine, scripted

from tuning.executors import Job, OnRow, Outcome, run_job
from tuning.segments import Snapshot
from tuning.snapshots import Snapshots
from tuning.storage import Record

SIZE = 8000  # bytes of one snapshot


def record(number: int, accuracy: float) -> Record:
    return Record(number, {}, pause=1, until=1, worker="", source="tpe", curve={1: accuracy})


def snapshot(value: float) -> Snapshot:
    return Snapshot(1, {"weights": numpy.full(SIZE // 8, value)})


def test_the_least_promising_go_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.snapshots.MEMORY", 2 * SIZE)
    kept = Snapshots(None)
    for number, accuracy in enumerate((0.5, 0.3, 0.9)):
        kept.put(record(number, accuracy), snapshot(number))
    assert [number for number in range(3) if kept.peek(number) is not None] == [0, 2]
    monkeypatch.setattr("tuning.snapshots.MEMORY", 1)
    kept.put(record(3, 0.7), snapshot(3.0))
    assert [number for number in range(4) if kept.peek(number) is not None] == [2], "one is kept however large it is"
    kept.put(record(4, 0.95), snapshot(4.0), under_way=[2])
    kept.put(record(5, 0.8), snapshot(5.0), under_way=[2])
    assert [number for number in range(6) if kept.peek(number) is not None] == [2, 4], "and what a trial under way went on from"


class Mortal:
    """Two workers, of which the first that goes on with a trial dies when the other one has trained others meanwhile."""

    size, local = 2, False

    def __init__(self) -> None:
        self.engine, self.jobs, self.given = ScriptedEngine(), dict[int, Job](), list[Job]()
        self.doomed: Job | None = None
        self.left = 9

    def free(self) -> list[int]:
        return [worker for worker in range(self.size) if worker not in self.jobs]

    def wanted(self) -> int:
        return len(self.free())

    def submit(self, worker: int, job: Job) -> None:
        self.jobs[worker] = job
        self.given.append(job)
        if job.snapshot is not None and self.doomed is None:
            self.doomed = job

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome:
        worker = min(self.jobs, key=lambda worker: (self.jobs[worker] is self.doomed) == (self.left > 0))  # that one last, and then first
        job = self.jobs.pop(worker)
        if job is self.doomed:
            return Outcome(job.number, worker, death="died")
        self.left -= self.doomed is not None
        return run_job(self.engine, job, worker, lambda row: on_row(job.number, row))

    def close(self) -> None:
        self.jobs.clear()


@pytest.mark.parametrize("more", [{"scheduler": "asha"}, {"scheduler": "none", "sampler": "kerastuner_hyperband"}], ids=["asha", "hyperband"])
def test_a_trial_whose_worker_dies_goes_on_however_little_memory_there_is(
    more: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.snapshots.MEMORY", 1)
    monkeypatch.setattr("tuning.study._executor", lambda *arguments: mortal)
    mortal = Mortal()
    scripted(tmp_path, monkeypatch.setattr, trials=20, optimizers=["sgd"], **more)
    assert mortal.doomed is not None
    before, after = [job.snapshot for job in mortal.given if job.number == mortal.doomed.number and job.until == mortal.doomed.until]
    assert before is not None
    assert after is before


def test_what_is_taken_is_gone_and_what_is_on_disk_comes_back(tmp_path: Path) -> None:
    for directory in (None, tmp_path):
        kept = Snapshots(directory)
        kept.put(record(4, 0.5), snapshot(4.0))
        taken = kept.take(4)
        assert taken is not None
        assert (taken.epoch, taken.arrays["weights"][0]) == (1, 4.0)
        assert (kept.peek(4) is None) == (directory is None)
    another = Snapshots(tmp_path).take(4)
    assert another is not None
    numpy.testing.assert_array_equal(another.arrays["weights"], snapshot(4.0).arrays["weights"])
    kept.drop(4)
    assert kept.take(4) is None
    assert list(tmp_path.iterdir()) == []
