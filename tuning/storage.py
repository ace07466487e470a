"""The record of a search: every trial in an Optuna study, from before its first step to its end.

The study lies in SQLite in the search's directory, or where a URL says, and opens in optuna-dashboard. It holds a prefix of
what has happened: a process that is killed loses at most its last moments, which the next one repeats to the bit.

Several searches may share a study. A trial belongs to the search that began it, until that one ends or gives no sign of life
any more: then another one takes it over, and trains it again from where it has a snapshot, to the same bits.

In Optuna's terms a paused trial is RUNNING while its search runs, and WAITING after the search's budget has ended; a diverged
one is FAIL. Whatever Optuna has no place for stands in the trial's user attribute `neuron_zoo`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState

from tuning.leases import Lease, exclusive
from tuning.oracles import silence
from zoo.errors import MissingExtraError, StudyError
from zoo.files import atomic_file

State = Literal["running", "completed", "pruned", "diverged", "failed"]
KEY = "neuron_zoo"
DATABASE, LOCK = "study.db", ".lock"
LOCK_SECONDS = 15  # that a writer waits for another one's lock on SQLite
DRIVERS = {"psycopg": "'neuron-zoo[postgresql]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module -> what pip calls it
FINISHED = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL, "failed": TrialState.FAIL}


@dataclass
class Record:
    """One trial, as far as it has come.

    Attributes:
        number: In the order of the study, from 0.
        config: The active hyperparameters.
        pause: The epoch at which it is first looked at.
        until: The epoch it trains to now.
        worker: Whose it is.
        source: Where the configuration is from: `prior`, `default` or the sampler's name.
        state: `running` also when it is paused.
        curve: Epoch -> validation accuracy, 0..1.
        message: Why it diverged, failed or was pruned.
        seconds: Wall time spent on it.
        build_seconds: Of these, building, tracing and compiling.
        step_seconds: Inside training steps.
        validation_seconds: Evaluating.
        plain: Why it was trained by plain Keras; empty where it was not.
        signature: The same for trials that can share a compiled program.
        passed: How often another trial was preferred while it was ready.
        mine: Whether this process's search may go on with it.
        busy: Whether it is being trained, or about to be.
    """

    number: int
    config: dict[str, Any]
    pause: int
    until: int
    worker: str
    source: str
    state: State = "running"
    curve: dict[int, float] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    build_seconds: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    plain: str = ""
    signature: str = ""
    passed: int = 0
    mine: bool = True
    busy: bool = False

    @property
    def epochs(self) -> int:
        """Whole epochs trained."""
        return max(self.curve, default=0)

    @property
    def paused(self) -> bool:
        """Whether it has come to the epoch it was to train to, and is not at its end."""
        return self.mine and self.state == "running" and self.epochs >= self.until and not self.busy

    @property
    def active(self) -> bool:
        """Whether it is on its way to that epoch, or will be before anything is decided about it."""
        return self.mine and self.state == "running" and not self.paused


_PROGRESS = ("pause", "until", "worker", "source", "state", "message", "seconds", "build_seconds", "step_seconds", "validation_seconds", "plain")


class Ledger:
    """A study in its storage, and its trials in memory.

    Writes go through one thread, in their order, while the next trial trains already; `close` waits for them.

    Args:
        url: A database URL as SQLAlchemy takes it; see `directory_url`.
        name: Of the study.
        settings: What the search is of; written to a new study.
        distributions: Of every hyperparameter.
        worker: Who writes.
        shared: Others may write too; then new trials begin under a lock, and those of a search that died are taken over.

    Raises:
        StudyError: The storage cannot be opened, is locked, or holds something else.
        MissingExtraError: The database's driver is not installed.
    """

    def __init__(
        self, url: str, name: str, settings: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], worker: str, *, shared: bool = False
    ) -> None:
        self.url, self.name, self.worker, self.shared, self.distributions = url, name, worker, shared, distributions
        self.storage = open_storage(url)
        self.lease: Lease | None = None
        with translated(url), silence():
            self.reader = get_storage(self.storage) if shared else self.storage  # it reads what has ended only once
            self.study, self.settings = self._claim(settings)
            self.ids: dict[int, int] = {}
            self.choices: dict[str, CategoricalDistribution] = {}
            self.records: list[Record] = []
            with self.exclusive():
                if shared:
                    self.lease = Lease(self.storage, self.study, worker)
                self.refresh()
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="study")
        self.pending: list[Future[None]] = []
        self.broken: BaseException | None = None
        # A trial that was taken over may have been finished by another one: with the same figures.
        self.harmless = (optuna.exceptions.UpdateFinishedTrialError,) if shared else ()

    def _claim(self, settings: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            study = self.storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], self.name)
        except optuna.exceptions.DuplicatedStudyError:
            study = self.storage.get_study_id_from_name(self.name)
        found = self.storage.get_study_user_attrs(study).get(KEY)
        if found is None and not self.storage.get_all_trials(study, deepcopy=False):  # new, or of a process that was killed right here
            self.storage.set_study_system_attr(study, "study:metric_names", ["validation accuracy"])
            self.storage.set_study_user_attr(study, KEY, found := json.dumps(settings))
        if found is None:
            raise StudyError(f"The study {self.name!r} in {readable(self.url)} was not written by this package. Choose another storage or directory.")
        return study, json.loads(found)

    def refresh(self) -> None:
        """Reads the trials of all writers, and lets go of those that another one has taken over."""
        with translated(self.url):
            trials = self.reader.get_all_trials(self.study, deepcopy=False)
        mine = {record.number: record for record in self.records if record.mine}
        self.ids = {trial.number: trial._trial_id for trial in trials}
        found = []
        for trial in trials:
            self.choices |= {name: kind for name, kind in trial.distributions.items() if isinstance(kind, CategoricalDistribution)}
            kept = mine.get(trial.number)
            if kept is None or self.shared:
                read = _read(trial, self.worker)
                if kept is not None and not read.mine:
                    kept.mine = False  # whoever still holds it sees that
                found.append(kept if kept is not None and read.mine else read)
            else:
                found.append(kept)
        self.records = found

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps others that share the study from deciding meanwhile; what they have decided is read first."""
        if not self.shared:
            yield
            return
        with translated(self.url), exclusive(self.storage.engine, self.name):
            if self.lease is not None:
                self.refresh()
            yield

    def take_over(self) -> None:
        """Makes the unfinished trials of searches that have died this one's."""
        if self.lease is None or not self.lease.is_due():
            return
        with translated(self.url):
            self.lease.look()
        if not any(self._left(record) for record in self.records):
            return
        with self.exclusive():
            self.lease.look()  # the search may have begun again
            for record in filter(self._left, self.records):
                with contextlib.suppress(*self.harmless):  # the search was only slow, and has just finished the trial
                    self._adopt(record)

    def _adopt(self, record: Record) -> None:
        trial = self.ids[record.number]
        self.storage.set_trial_user_attr(trial, KEY, _progress(dataclasses.replace(record, worker=self.worker)))
        self.storage.set_trial_state_values(trial, TrialState.RUNNING, None)
        record.worker, record.mine = self.worker, True

    def _left(self, record: Record) -> bool:
        return self.lease is not None and record.state == "running" and not record.mine and self.lease.dead(record.worker)

    def waits(self) -> bool:
        """Tells whether others' trials may yet become this search's: those under way, and those of a search that may be dead."""
        if self.lease is None:
            return False
        others = [record for record in self.records if record.state == "running" and not record.mine]
        return any(record.epochs < record.until or not self.lease.lives(record.worker) for record in others)

    def begin(self, config: Mapping[str, Any], pause: int, source: str) -> Record:
        """Writes down a new trial before it begins; of a shared study, within `exclusive`."""
        record = Record(len(self.records), dict(config), pause, pause, self.worker, source)

        def create() -> None:
            self.ids[record.number] = self.storage.create_new_trial(self.study, template_trial=self._template(record))

        if self.shared:
            with translated(self.url):
                create()
        else:
            self._write(create)
        self.records.append(record)
        return record

    def report(self, record: Record, epoch: int, accuracy: float) -> None:
        """Writes down an epoch's validation accuracy."""
        if epoch in record.curve:  # a part that was trained again
            return
        record.curve[epoch] = accuracy
        self._write(lambda: self.storage.set_trial_intermediate_value(self.ids[record.number], epoch, accuracy))

    def update(self, record: Record) -> None:
        """Writes down how far a trial has come."""
        progress = _progress(record)
        self._write(lambda: self.storage.set_trial_user_attr(self.ids[record.number], KEY, progress))

    def finish(self, record: Record, state: State, message: str = "", then: Callable[[], None] | None = None) -> None:
        """Writes down a trial's end, and then does something else that may take its time."""
        record.state, record.message = state, message
        values = [record.curve[record.epochs]] if state == "completed" else None
        self.update(record)
        self._write(lambda: self._set_state(record, FINISHED[state], values))
        if then is not None:
            self._write(then)

    def suspend(self, waiting: bool) -> None:
        """Marks the trials that can go on, of this writer, as waiting; or as running again."""
        state = TrialState.WAITING if waiting else TrialState.RUNNING
        for record in self.records:
            if record.state == "running" and record.mine:
                self._write(lambda record=record: self._set_state(record, state, None))  # type: ignore[misc]

    def _set_state(self, record: Record, state: TrialState, values: Sequence[float] | None) -> None:
        self.storage.set_trial_state_values(self.ids[record.number], state, values)

    def _write(self, action: Callable[[], Any]) -> None:
        """Has the writer's thread do something after all it has been given; once something fails, nothing more is done."""

        def run() -> None:
            if self.broken is not None:
                raise self.broken
            try:
                with translated(self.url), contextlib.suppress(*self.harmless):
                    action()
            except BaseException as error:
                self.broken = error
                raise

        self.check()
        self.pending.append(self.writer.submit(run))

    def check(self) -> None:
        """Raises what an earlier write raised."""
        while self.pending and self.pending[0].done():
            self.pending.pop(0).result()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            StudyError: Something could not be.
        """
        try:
            while self.pending:
                self.pending.pop(0).result()
            if self.lease is not None:
                with translated(self.url):
                    self.lease.release()
        finally:
            if self.lease is not None:
                self.lease.stop()
            self.writer.shutdown(cancel_futures=True)
            self.storage.remove_session()
            self.storage.engine.dispose()

    def _domain(self, name: str, value: Any) -> BaseDistribution | None:
        """Returns what Optuna is told of a value's range; None for a value that the study's range of that name cannot hold.

        A study holds one set of choices per name, so after a change of the space the first one stays.
        """
        domain = self.distributions.get(name)
        if isinstance(domain, CategoricalDistribution):
            domain = self.choices.setdefault(name, domain)
            return domain if value in domain.choices else None
        return domain

    def _template(self, record: Record) -> FrozenTrial:
        distributions = {name: domain for name, value in record.config.items() if (domain := self._domain(name, value)) is not None}
        params = {name: record.config[name] for name in distributions}
        return FrozenTrial(
            number=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.datetime.now(),
            datetime_complete=None,
            params=params,
            distributions=distributions,
            user_attrs={KEY: _progress(record), "config": json.dumps(record.config)},
            system_attrs={},
            intermediate_values={},
            trial_id=-1,
        )


def _progress(record: Record) -> str:
    return json.dumps({name: getattr(record, name) for name in _PROGRESS})


def _read(trial: FrozenTrial, worker: str) -> Record:
    try:
        curve = {int(epoch): float(value) for epoch, value in sorted(trial.intermediate_values.items())}
        progress = json.loads(trial.user_attrs[KEY])
        if trial.state.is_finished() and progress["state"] == "running":  # another search took it over while its own one wrote its end
            progress["state"] = next(state for state, kind in FINISHED.items() if kind == trial.state)
        return Record(trial.number, json.loads(trial.user_attrs["config"]), curve=curve, mine=progress["worker"] == worker, **progress)
    except (KeyError, TypeError, ValueError):
        raise StudyError(f"Trial {trial.number} of the study was not written by this package. Choose another storage or directory.") from None


def read_records(url: str, name: str) -> list[Record]:
    """Reads the trials of a study without taking part in it.

    Raises:
        StudyError: It cannot be read, or there is none.
    """
    storage = open_storage(url)
    try:
        with translated(url), silence():
            trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
        return [_read(trial, "") for trial in trials]
    except KeyError:
        raise StudyError(f"{readable(url)} holds no study {name!r}.") from None
    finally:
        storage.remove_session()
        storage.engine.dispose()


# --- storages ---------------------------------------------------------------------------------------------------------


def directory_url(directory: Path) -> str:
    """Returns the URL of the database in a search's directory."""
    return f"sqlite:///{(directory / DATABASE).resolve()}"


def open_storage(url: str) -> RDBStorage:
    """Opens a database, or creates it.

    Raises:
        StudyError: It cannot be opened, is locked, or is no database of Optuna's.
        MissingExtraError: Its driver is not installed.
    """
    import sqlalchemy

    sqlite = url.startswith("sqlite")
    with translated(url), silence():
        if sqlite:
            _prepare_file(url)
        options: dict[str, Any] = {"connect_args": {"timeout": LOCK_SECONDS}} if sqlite else {"pool_pre_ping": True}
        storage = RDBStorage(url, engine_kwargs=options)
        if sqlite:  # a log that is appended to, instead of two synchronized files per write
            sqlalchemy.event.listen(storage.engine, "connect", _append_only)
            storage.engine.dispose()
    return storage


def _append_only(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _prepare_file(url: str) -> None:
    """Creates an SQLite file with Optuna's tables, whole or not at all; one that is there must have them.

    Raises:
        StudyError: The file has other tables.
    """
    import sqlalchemy

    path = sqlalchemy.engine.make_url(url).database
    if not path or path == ":memory:":
        return
    if not os.path.exists(path) or not os.path.getsize(path):
        # Another search may create the same file at the same time: the first one's stays, trials and all.
        with atomic_file(path, replace=os.path.exists(path)) as temporary:
            RDBStorage(f"sqlite:///{temporary.resolve()}").engine.dispose()
        return
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": LOCK_SECONDS})
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if "studies" not in tables:
        has = f"has {', '.join(sorted(tables)[:3])}" if tables else "has no tables"
        raise StudyError(f"{path} is a database of something else (it {has}). Choose another storage or directory.")


def readable(url: str) -> str:
    """Returns a URL without its password; of SQLite the file."""
    import sqlalchemy

    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return url
    return str(parsed.database) if parsed.drivername.startswith("sqlite") else parsed.render_as_string(hide_password=True)


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns what a database or its driver raises into one line."""
    import sqlalchemy

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StudyError(_reason(error, url)) from None
    except ImportError as error:
        module = str(getattr(error.__cause__ or error, "name", ""))
        raise MissingExtraError(f"{readable(url)} needs a driver that is not installed: pip install {DRIVERS.get(module, module)}") from None
    except RuntimeError as error:
        if "schema" not in str(error) and "upgrade" not in str(error):
            raise
        raise StudyError(f"The database {readable(url)} was written by another version of Optuna: {str(error).partition('. ')[0]}.") from None


def _reason(error: Exception, url: str) -> str:
    import sqlalchemy

    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
    text, where = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0], readable(url)
    if isinstance(cause, sqlalchemy.exc.NoSuchModuleError | sqlalchemy.exc.ArgumentError):
        return f"A storage is a database URL, such as sqlite:///study.db or postgresql://user@host/name. Received: {where!r}."
    if "locked" in text:
        return f"{where} has been locked by another process for more than {LOCK_SECONDS} s. End that process, or choose another storage."
    if "full" in text or "disk I/O" in text or "too large" in text or "readonly" in text:
        return f"{where} cannot be written: {text}. What was finished is kept; make room, then go on."
    if "not a database" in text or "malformed" in text:
        return f"{where} is no database, or a damaged one ({text}). Choose another storage or directory."
    return f"{where} cannot be used: {text}."


class DirectoryLock:
    """Holds a directory for this process, so that no second search writes into it.

    Raises:
        StudyError: Another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = open(directory / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            return
        except OSError:
            self.file.seek(0)
            owner = self.file.read().strip() or "unknown"
            self.file.close()
            raise StudyError(f"{directory} is being searched by another process ({owner}). Wait for it, or choose another directory.") from None
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()}\n")
        self.file.flush()

    def release(self) -> None:
        """Lets the directory go."""
        self.file.close()
