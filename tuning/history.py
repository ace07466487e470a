"""`history.csv`: one row per trial and epoch, as they end."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.files import write_text

if TYPE_CHECKING:
    from tuning.storage import Record

HISTORY = "history.csv"
COLUMNS = ("wall_seconds", "trial", "epoch", "val_accuracy", "val_loss", "loss", "accuracy", "seconds")


def read_history(directory: str | Path) -> list[dict[str, float]]:
    """Reads the rows of a search's directory; a row that was being written when the process was killed is left out."""
    try:
        text = (Path(directory) / HISTORY).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [{name: int(value) if name in ("trial", "epoch") else float(value) for name, value in row.items() if value} for row in rows]


class History:
    """The file of one search, open for more rows.

    Args:
        directory: The search's.
        records: What the study knows; rows of other epochs are dropped, because those will be trained again.
    """

    def __init__(self, directory: Path, records: Sequence[Record]) -> None:
        known = {(record.number, epoch) for record in records for epoch in record.curve}
        rows = [row for row in read_history(directory) if (row["trial"], row["epoch"]) in known]
        self.elapsed = max((row["wall_seconds"] for row in rows), default=0.0)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(directory / HISTORY, text.getvalue())
        self.file = (directory / HISTORY).open("a", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore", lineterminator="\n")

    def append(self, wall_seconds: float, trial: int, row: Mapping[str, Any]) -> None:
        """Writes one epoch's row."""
        self.writer.writerow({**row, "wall_seconds": round(wall_seconds, 3), "trial": trial})
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
