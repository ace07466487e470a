"""Which paused trials' states are kept, and for how long."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

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
