"""Where the paused trials of a search are kept until they go on."""

from __future__ import annotations

from pathlib import Path

from tuning.segments import Snapshot
from tuning.storage import Record

MEMORY = 256 * 2**20  # bytes of paused trials' snapshots that are kept; a trial whose snapshot is gone is trained again up to its pause


class Snapshots:
    """The paused trials' states: in memory, the most promising ones within a limit; on disk too where that was asked for.

    Args:
        directory: Where they are written; None keeps them in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.kept: dict[int, tuple[float, int, Snapshot]] = {}

    def put(self, record: Record, snapshot: Snapshot) -> None:
        """Keeps a trial's snapshot, in place of others that promise less where memory is short."""
        size = sum(array.nbytes for array in snapshot.arrays.values())
        self.kept[record.number] = (record.curve[record.epochs], size, snapshot)
        while sum(size for _, size, _ in self.kept.values()) > MEMORY and len(self.kept) > 1:
            del self.kept[min(self.kept, key=lambda number: self.kept[number][0])]
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
