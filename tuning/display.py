"""What a running search shows: a live table on a terminal, a line per stretch of training elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.console import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tuning.storage import Record
    from tuning.study import Status

ROWS = 10
COLUMNS = ("trial", "validation", "epochs", "state", "seconds", "configuration")
FIXED = 50  # characters of all columns but the last


class Display:
    """Shows a search's statuses while it is open; `watch` takes them.

    Args:
        title: What is searched.
        epochs: Of a whole trial.
    """

    def __init__(self, title: str, epochs: int) -> None:
        from rich.live import Live

        self.title, self.epochs = title, epochs
        self.screen = console(stderr=True)
        self.live = Live(console=self.screen, auto_refresh=False, transient=True) if self.screen.is_terminal else None

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
            self.live.update(f"{self.title}: preparing", refresh=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.live:
            self.live.stop()

    def watch(self, status: Status) -> None:
        """Shows how the search stands."""
        if self.live:
            self.live.update(self.table(status), refresh=True)
        elif status.ended is not None:
            self.screen.print(line(status, status.ended, self.epochs), markup=False, soft_wrap=True)

    def table(self, status: Status) -> RenderableType:
        """Returns the live table: a line of figures, and the best trials with the one under way."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in ("state", "configuration") else "right", no_wrap=True)
        ranking = sorted((record for record in status.records if _figure(record) is not None), key=lambda record: -(_figure(record) or 0))
        shown = ranking[:ROWS]
        under_way = running(status)
        shown += [record for record in under_way[:ROWS] if record not in shown]
        for record in shown:
            trains = record in under_way
            figure = _figure(record)
            table.add_row(
                str(record.number),
                "" if figure is None else f"{100 * figure:.2f} %",
                f"{record.epochs}/{self.epochs}",
                "running" if trains else state(record),
                f"{record.seconds:.1f}",
                shortened(configuration(record.config), self.screen.width - FIXED),
                style="bold cyan" if trains else "",
            )
        return Group(Text(self.title, style="bold"), Text(headline(status)), Text(counts(status), style="dim"), table)


def headline(status: Status) -> str:
    """`0:45 of 3:00, eta 2:15  best 88.90 % (trial 12)  34 trials, 45.3 a minute  overhead 6 %`."""
    parts = [f"{clock(status.seconds)}{'' if math.isinf(status.budget) else f' of {clock(status.budget)}'}, eta {clock(remaining(status))}"]
    measured = [record for record in status.records if _figure(record) is not None]
    if measured:
        best = max(measured, key=lambda record: _figure(record) or 0)
        parts.append(f"best {100 * (_figure(best) or 0):.2f} % (trial {best.number})")
    total = "" if status.total is None else f" of {status.total}"
    parts.append(f"{len(status.records)}{total} trials, {60 * len(status.records) / max(status.seconds, 1e-9):.1f} a minute")
    parts.append(f"overhead {100 * overhead(status):.0f} %")
    return "  ".join(parts)


def counts(status: Status) -> str:
    """`1 running, 20 paused, 3 completed, 1 diverged`."""
    under_way = {record.number for record in running(status)}
    found = Counter("running" if record.number in under_way else state(record) for record in status.records)
    return ", ".join(f"{found[name]} {name}" for name in ("running", "paused", "completed", "pruned", "diverged", "failed", "stopped") if found[name])


def running(status: Status) -> list[Record]:
    """Returns the trials that are being trained."""
    return list(status.running) or ([] if status.current is None else [status.current])


def line(status: Status, record: Record, epochs: int) -> str:
    """Returns a trial's stretch, and the search's best so far, on one line."""
    figure = _figure(record)
    shown = f"{100 * figure:6.2f} %" if figure is not None else "        "
    best = max((_figure(entry) or 0 for entry in status.records), default=0.0)
    message = f" ({record.message})" if record.state in ("diverged", "failed") else ""
    trial = f"trial {record.number:>3}  epoch {record.epochs:>2}/{epochs}  {shown}  {state(record):<9}"
    return f"{clock(status.seconds):>6}  {trial}  best {100 * best:.2f} %  eta {clock(remaining(status))}  {configuration(record.config)}{message}"


def overhead(status: Status) -> float:
    """The share of the time so far that was not spent in training steps."""
    return max(0.0, 1 - status.step_seconds / max(status.seconds, 1e-9))


def remaining(status: Status) -> float:
    """Seconds until the search ends: by its budget, or by its number of trials at the rate so far; NaN before the first one."""
    left = status.budget - status.seconds
    if status.total is not None:
        begun = len(status.records)
        left = min(left, (status.total - begun) * status.seconds / begun) if begun else left
    return max(0.0, left) if math.isfinite(left) else math.nan


def state(record: Record) -> str:
    """A trial's state in one word."""
    if record.state != "running":
        return record.state
    return "paused" if record.paused else "stopped"


def configuration(config: Mapping[str, Any]) -> str:
    """`adam learning_rate=0.0012 epsilon=1e-07 units=256`."""
    values = [
        f"{name.rpartition('.')[2]}={value:.3g}" if isinstance(value, float) else f"{name.rpartition('.')[2]}={value}"
        for name, value in config.items()
        if name != "optimizer"
    ]
    return " ".join([*([str(config["optimizer"])] if "optimizer" in config else []), *values])


def shortened(text: str, width: int) -> str:
    """Cuts a text to a width, with a mark where something is missing."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def clock(seconds: float) -> str:
    """`1:05` for 65 seconds; `?` for a time that is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _figure(record: Record) -> float | None:
    return record.curve.get(record.epochs) if record.state not in ("diverged", "failed") else None
