"""Where the paused trials of a search are kept until they go on.

Memory keeps `MEMORY` bytes of them, those of the most accurate trials. A trial whose snapshot went is trained again up to its pause
if it goes on after all; with a directory it is read from there. What trials that are under way went on from is kept whatever it takes,
so that one whose worker dies goes on from there: a snapshot for each worker, and a few.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tuning.segments import Snapshot
from tuning.storage import Record

MEMORY = 256 * 2**20


class Snapshots:
    """The paused trials' states: in memory, the most promising ones within a limit; on disk too where that was asked for.

    Args:
        directory: Where they are written; None keeps them in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.kept: dict[int, tuple[float, int, Snapshot]] = {}

    def put(self, record: Record, snapshot: Snapshot, under_way: Collection[int] = ()) -> None:
        """Keeps a trial's snapshot, in place of others that promise less where memory is short.

        Args:
            record: The trial's.
            snapshot: Its state.
            under_way: Numbers of the snapshots from which trials go on now; these stay, and take nothing from the others' limit.
        """
        size = sum(array.nbytes for array in snapshot.arrays.values())
        self.kept[record.number] = (record.curve[record.epochs], size, snapshot)
        waiting = [number for number in self.kept if number not in under_way]
        while len(waiting) > 1 and sum(self.kept[number][1] for number in waiting) > MEMORY:
            waiting.remove(least := min(waiting, key=lambda number: self.kept[number][0]))
            del self.kept[least]
        if self.directory is not None:
            snapshot.write(self._path(self.directory, record.number))

    def peek(self, number: int) -> Snapshot | None:
        """Returns a trial's snapshot; None where it is gone."""
        if number in self.kept:
            return self.kept[number][2]
        if self.directory is None or not (path := self._path(self.directory, number)).is_file():
            return None
        return Snapshot.read(path)

    def take(self, number: int) -> Snapshot | None:
        """Returns a trial's snapshot, and keeps it in memory no longer."""
        snapshot = self.peek(number)
        self.kept.pop(number, None)
        return snapshot

    def drop(self, number: int) -> None:
        """Forgets a trial's snapshot, on disk too."""
        self.kept.pop(number, None)
        if self.directory is not None:
            self._path(self.directory, number).unlink(missing_ok=True)

    @staticmethod
    def _path(directory: Path, number: int) -> Path:
        return directory / f"trial-{number:04d}.npz"
