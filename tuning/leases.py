"""Several searches on one study: which of them are alive, and a lock for what one alone may do at a time.

Each search counts a number up in the study, again and again. Another one that has not seen the number change for a while, on its
own clock, takes it for dead and its trials over; so the clocks of different machines need not agree. A search that was only slow
finds out when it next looks at the study, and lets go of what is no longer its own.

Which configuration comes next is decided under a lock, which the database lets go of by itself when its holder dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.errors import StudyError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import Engine

BEAT_SECONDS, GRACE_SECONDS = 5.0, 30.0  # between two signs of life, and without one until a search is taken for dead
LOCK_SECONDS = 120  # that one search may decide, before the others say that something is wrong
PREFIX, RELEASED = "neuron_zoo:search:", "ended"


class Lease:
    """One search's sign of life in a study, and what it sees of the others'.

    Args:
        storage: The study's.
        study: Its number there.
        worker: Whose sign of life.
    """

    def __init__(self, storage: BaseStorage, study: int, worker: str) -> None:
        self.storage, self.study, self.worker = storage, study, worker
        self.seen: dict[str, tuple[object, float, bool]] = {}  # its number, since when it stands there, whether it ever changed
        self.looked = 0.0
        self.count = int(time.time())  # so that a search which begins again does not begin with the same number
        self.stopped = threading.Event()
        self._beat()
        self.thread = threading.Thread(target=self._live, daemon=True, name="lease")
        self.thread.start()

    def _beat(self) -> None:
        self.count += 1
        self.storage.set_study_user_attr(self.study, PREFIX + self.worker, self.count)

    def _live(self) -> None:
        while not self.stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # a database that is away for long is the search's own to notice
                self._beat()
        self.storage.remove_session()

    def look(self) -> None:
        """Reads the others' signs of life."""
        now = self.looked = time.monotonic()
        found = self.storage.get_study_user_attrs(self.study)
        for name, value in found.items():
            if name.startswith(PREFIX):
                worker = name.removeprefix(PREFIX)
                before = self.seen.get(worker)
                if before is None or before[0] != value:
                    self.seen[worker] = (value, now, before is not None)

    def is_due(self) -> bool:
        """Tells whether it is time to look again."""
        return time.monotonic() - self.looked >= min(BEAT_SECONDS, 1.0)

    def dead(self, worker: str) -> bool:
        """Tells whether a search has ended, or has given no sign of life for long."""
        value, since, _ = self.seen.setdefault(worker, (None, time.monotonic(), False))
        return worker != self.worker and (value == RELEASED or time.monotonic() - since > GRACE_SECONDS)

    def lives(self, worker: str) -> bool:
        """Tells whether a search has given a sign of life while this one watched, and not long ago."""
        return worker in self.seen and self.seen[worker][2] and not self.dead(worker)

    def stop(self) -> None:
        """Gives no more signs of life."""
        self.stopped.set()
        self.thread.join()

    def release(self) -> None:
        """Tells the others that this search has ended, so that they need not wait to take over what it left."""
        self.stop()
        self.storage.set_study_user_attr(self.study, PREFIX + self.worker, RELEASED)


@contextlib.contextmanager
def exclusive(engine: Engine, name: str) -> Iterator[None]:
    """Lets one search of a study at a time into the block, on whatever machine.

    Args:
        engine: Of the study's database.
        name: Of the study.

    Raises:
        StudyError: Another one has been in there for too long.
    """
    kind = engine.dialect.name
    if kind == "postgresql":
        with _postgresql(engine, name):
            yield
    elif kind in ("mysql", "mariadb"):
        with _mysql(engine, name):
            yield
    else:
        with _file(engine.url.database):
            yield


@contextlib.contextmanager
def _postgresql(engine: Engine, name: str) -> Iterator[None]:
    import sqlalchemy

    with engine.begin() as connection:  # the lock ends with the transaction
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        try:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": int(_digest(name)[:15], 16)})
        except sqlalchemy.exc.OperationalError as error:
            if "lock timeout" in str(error):
                raise _stuck(name) from None
            raise
        yield


@contextlib.contextmanager
def _mysql(engine: Engine, name: str) -> Iterator[None]:
    import sqlalchemy

    with engine.connect() as connection:
        key = {"key": _digest(name)[:60], "seconds": LOCK_SECONDS}
        if connection.execute(sqlalchemy.text("SELECT GET_LOCK(:key, :seconds)"), key).scalar() != 1:
            raise _stuck(name)
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text("SELECT RELEASE_LOCK(:key)"), key)


@contextlib.contextmanager
def _file(database: str | None) -> Iterator[None]:
    """By a file beside the database's own."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        fcntl = None  # type: ignore[assignment]
    if not database or database == ":memory:" or fcntl is None:
        yield
        return
    with open(f"{database}.lock", "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _stuck(name: str) -> StudyError:
    return StudyError(f"Another search of the study {name!r} has kept its lock for more than {LOCK_SECONDS} s. End that process, then go on.")
