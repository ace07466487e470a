"""Each trial for TensorBoard: its validation accuracy by epoch, and its configuration on the HParams page."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.storage import Record

LOGS, METRIC = "tensorboard", "val_accuracy"


def write_trial(directory: Path, record: Record) -> None:
    """Writes a trial that has ended to `tensorboard/trial-<number>` in a search's directory.

    Args:
        directory: The search's.
        record: The trial.
    """
    from tensorboard.plugins.hparams import api_pb2, summary, summary_v2
    from tensorboard.plugins.scalar import summary_v2 as scalar

    started = time.time() - record.seconds
    status = api_pb2.STATUS_SUCCESS if record.state in ("completed", "pruned") else api_pb2.STATUS_FAILURE
    begin = summary_v2.hparams_pb({name: _plain(value) for name, value in record.config.items()}, f"trial-{record.number:04d}", started)
    events = [(0, begin), *((epoch, scalar.scalar_pb(METRIC, value)) for epoch, value in record.curve.items())]
    events.append((0, summary.session_end_pb(status)))
    folder = directory / LOGS / f"trial-{record.number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"events.out.tfevents.{int(started)}.trial").write_bytes(_file(events))


def _file(events: list[tuple[int, Any]]) -> bytes:
    """Returns the bytes of an event file."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    writer.write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    for step, entry in events:
        event = event_pb2.Event(wall_time=time.time(), step=step)
        event.summary.ParseFromString(entry.SerializeToString())  # TensorBoard has a class of its own for the same message
        writer.write(event.SerializeToString())
    return content.getvalue()


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
