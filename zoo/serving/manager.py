"""Loading and unloading versions while requests are served.

A new version is loaded, and warmed up, before the one that it replaces is unloaded; where it fails, the old one goes on
serving, and the failure is reported with the version's state. A version that is unloaded first answers the requests it has.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import ServingError
from zoo.serving.batching import read_own_parameters
from zoo.serving.engines import AUTO, require
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable, SessionOptions
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument, not_found
from zoo.serving.warmup import warm_up, warm_up_by_learned

logger = logging.getLogger(__name__)


class State(enum.IntEnum):
    """TF Serving's states of a version."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are looked for and loaded.

    Attributes:
        poll_seconds: Time between two looks into the folders; 0 looks once.
        config_poll_seconds: Time between two calls of `refresh`; 0 never calls it.
        retries: How often a failed load is tried again.
        retry_seconds: Time between two tries.
        warmup: Whether a version's warm-up requests are replayed.
        warmup_iterations: How often each is.
        labels_for_unavailable: Whether a new label may name a version that is not loaded.
        session: How sessions run.
        engine: What answers: `tf`, `litert`, `onnx` or, by measurement, `auto`; see `zoo.serving.engines`.
        shadows: Model -> a version that is loaded beside those that its policy serves. As long as no label names it, it answers those
            requests alone that ask for it by its number.
        per_model_batching: Whether each version's own `batching_params.pbtxt` says how its requests are joined.
    """

    poll_seconds: float = 1.0
    config_poll_seconds: float = 0.0
    retries: int = 5
    retry_seconds: float = 60.0
    warmup: bool = True
    warmup_iterations: int = 1
    labels_for_unavailable: bool = False
    session: SessionOptions = field(default_factory=SessionOptions)
    engine: str = AUTO
    shadows: Mapping[str, int] = field(default_factory=dict)
    per_model_batching: bool = False


@dataclass
class Version:
    """One version of a model.

    Attributes:
        state: Its state.
        error: Why it could not be loaded, or None.
        servable: What was loaded, or None.
        attempts: How often loading it was tried.
        tried: When it was last tried, by the monotonic clock.
        files: What its folder held then.
    """

    state: State = State.START
    error: StatusError | None = None
    servable: Servable | None = None
    attempts: int = 0
    tried: float = 0.0
    files: tuple[object, ...] = ()


class Manager:
    """The models that a server has loaded.

    Args:
        sources: The models at the start.
        options: How versions are looked for and loaded.
        refresh: Returns the models anew, as by reading models.config again.

    Raises:
        MissingExtraError: The package of the engine that is asked for is not installed.
        UsageError: There is no such engine.
    """

    def __init__(
        self, sources: Sequence[ModelSource], options: ManagerOptions | None = None, refresh: Callable[[], Sequence[ModelSource]] | None = None
    ) -> None:
        self.options = options or ManagerOptions()
        require(self.options.engine)
        self._refresh, self._found = refresh, list(sources)
        self._sources: dict[str, ModelSource] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._hidden: dict[str, int] = {}  # the shadows that no label names
        self._serving: dict[str, dict[int, Servable]] = {}  # never changed, only replaced: requests read it without a lock
        self._lock = threading.RLock()  # held while versions are loaded and unloaded
        self._publishing = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._said: dict[str, str] = {}
        self._garbage = False  # whether sessions were closed that are not swept up
        self._start(sources)

    def _start(self, sources: Sequence[ModelSource]) -> None:
        try:
            self.reload(sources, first=True)
        except BaseException:
            self.close()
            raise
        for period, look in ((self.options.poll_seconds, self.poll), (self.options.config_poll_seconds, self._reread)):
            if period > 0:
                thread = threading.Thread(target=self._repeat, args=(period, look), daemon=True)
                thread.start()
                self._threads.append(thread)

    @property
    def sources(self) -> list[ModelSource]:
        """The models that should be served."""
        return list(self._sources.values())

    def loaded(self, name: str) -> dict[int, Servable]:
        """Returns a model's loaded versions, ascending."""
        return dict(sorted(self._serving.get(name, {}).items()))

    def failures(self) -> dict[str, str]:
        """Returns why versions could not be loaded, by `name/version`."""
        return {f"{name}/{number}": version.error.message for name, number, version in self._every() if version.error is not None}

    def missing(self) -> list[str]:
        """Returns what to say of the models that have no version."""
        return [source.missing() for name, source in self._sources.items() if not self._versions.get(name)]

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[tuple[int, Servable]]:
        """Yields the version that a request asks for, with its number, and keeps it loaded meanwhile.

        Raises:
            StatusError: There is no such version, or the name is empty.
        """
        number, servable = self.acquire(name, version, label)
        try:
            yield number, servable
        finally:
            servable.release()

    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> tuple[int, Servable]:
        """Returns the version that a request asks for, and keeps it loaded until its `release` is called; see `lease`."""
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
        while True:
            loaded = self._serving.get(name)
            number = version if version is not None else self._latest(name, loaded) if loaded else None
            if not loaded or number not in loaded:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {wanted}")
            assert number is not None
            if loaded[number].acquire():  # else it was unloaded between the two lines, and another is there
                return number, loaded[number]

    def _latest(self, name: str, loaded: Mapping[int, Servable]) -> int | None:
        """The version that answers where a request names none."""
        hidden = self._hidden.get(name) if self._hidden else None
        return max(loaded, default=None) if hidden is None else max((number for number in loaded if number != hidden), default=None)

    def statuses(self, name: str, version: int | None = None) -> dict[int, Version]:
        """Returns the states of a model's versions, or of one of them, the newest first.

        Raises:
            StatusError: There is no such model or version.
        """
        found = dict(sorted(self._versions.get(name, {}).items(), reverse=True))
        if version is not None:
            if version not in found:
                raise not_found(f"Could not find version {version} of model {name}")
            return {version: found[version]}
        if not found:
            raise not_found(f"Could not find any versions of model {name}")
        return found

    def reload(self, sources: Sequence[ModelSource], first: bool = False) -> None:
        """Makes the served models the given ones: loads what is new, then unloads what is not listed.

        Raises:
            StatusError: A label names a version that is not loaded, or a new model could not be loaded.
        """
        with self._lock:
            labels = {source.name: dict(source.labels) if first else self._checked_labels(source) for source in sources}
            new = [source for source in sources if source.name not in self._sources]
            self._labels, self._sources = labels, {source.name: source for source in sources}
            self._hidden = {name: version for name, version in self.options.shadows.items() if version not in labels.get(name, {}).values()}
            if first:
                with ThreadPoolExecutor(os.cpu_count()) as pool:  # nothing is served yet, so all processors may load
                    list(pool.map(self._reconcile, sources))
                for source in sources:
                    self._checked_labels(source)
                return
            self.poll()
            for source in new:
                if source.aspired() is None:
                    raise invalid_argument(f"Could not find base path {source.base_path} for servable {source.name}")
            missing = [
                f"{{{{name: {source.name} version: {number}}} due to error: {version.error}}}, "
                for source in new
                if not self._serving.get(source.name)
                for number, version in self._versions.get(source.name, {}).items()
            ]
            if missing:
                raise StatusError(Code.UNKNOWN, f"{len(missing)} model(s) did not become available: {{{''.join(missing)}}}")

    def _checked_labels(self, source: ModelSource) -> dict[str, int]:
        for label, version in source.labels.items():
            known = self._labels.get(source.name, {}).get(label, version)
            if self.options.labels_for_unavailable and known == version:
                continue
            if version not in self._serving.get(source.name, {}):
                raise failed_precondition(
                    f"Request to assign label to version {version} of model {source.name}, which is not currently available for inference"
                )
        return dict(source.labels)

    def poll(self) -> None:
        """Looks into the folders once, and loads and unloads what that asks for."""
        with self._lock:
            for source in list(self._sources.values()):
                self._reconcile(source)
            for name in [name for name in self._versions if name not in self._sources]:
                for number in list(self._serving.get(name, {})):
                    self._unload(name, number)
            if self._garbage:
                self._garbage = False
                _return_memory()

    def close(self) -> None:
        """Stops looking, and frees every session when its requests are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            for name, loaded in list(self._serving.items()):
                for number in list(loaded):
                    self._unload(name, number)

    def _repeat(self, period: float, look: Callable[[], None]) -> None:
        while not self._stop.wait(period):
            try:
                look()
            except Exception:  # the server goes on with what it has
                logger.exception("Looking for new versions failed")

    def _reread(self) -> None:
        """Reads the models' configuration again. Only a change of it takes the place of what a client asked for meanwhile."""
        if self._refresh is None:
            return
        try:
            sources = list(self._refresh())
            if sources != self._found:
                try:
                    self.reload(sources)
                except StatusError as error:
                    if error.code is Code.FAILED_PRECONDITION:  # a label is ahead of its version, which may be there at the next look
                        self.reload([self._in_between(source) for source in sources])
                    raise
                self._found = sources
            self._said.pop("config", None)
        except (ServingError, StatusError) as error:
            self._say("config", f"Reading the models' configuration again failed: {error}")

    def _in_between(self, source: ModelSource) -> ModelSource:
        """A model as it should be, but with the labels that it has, and with the versions that it has beside those that it should have."""
        if self._labels.get(source.name, {}) == source.labels:
            return source
        versions = {*(source.aspired() or ()), *self._serving.get(source.name, ())}
        return dataclasses.replace(source, policy="specific", chosen=tuple(sorted(versions)), labels=self._labels.get(source.name, {}))

    def _say(self, about: str, message: str) -> None:
        """Reports something that may be found again at the next look, once."""
        if self._said.get(about) != message:
            self._said[about] = message
            logger.warning("%s", message)

    def _reconcile(self, source: ModelSource) -> None:
        aspired = source.aspired(self._hidden.get(source.name))
        if aspired is None:
            self._say(source.name, f"Could not find base path {source.base_path} for servable {source.name}")
            return
        if aspired:
            self._said.pop(source.name, None)
        else:
            self._say(source.name, source.missing())
        records = self._versions.setdefault(source.name, {})
        for number in sorted(aspired, reverse=True):
            version = records.setdefault(number, Version())
            if self._should_load(version, aspired[number]):
                self._load(source.name, number, version, aspired[number])
        loaded = self._serving.get(source.name, {})
        if not aspired or any(number in loaded for number in aspired):
            for number in [number for number in loaded if number not in aspired]:
                self._unload(source.name, number)
        for number in [number for number, version in records.items() if version.error is not None and number not in aspired]:
            del records[number]  # it failed and is gone

    def _should_load(self, version: Version, path: Path) -> bool:
        if version.servable is not None:
            return False
        if version.error is None:
            return True
        due = version.attempts <= self.options.retries and time.monotonic() - version.tried >= self.options.retry_seconds
        return due or _files(path) != version.files

    def _load(self, name: str, number: int, version: Version, path: Path) -> None:
        version.state, version.tried, version.files = State.LOADING, time.monotonic(), _files(path)
        version.attempts += 1
        servable = None
        try:
            own = read_own_parameters(path) if self.options.per_model_batching else None
            servable = Servable(path, self.options.session, self.options.engine, own)
            if self.options.warmup:
                warm_up(servable, self.options.warmup_iterations)
                warm_up_by_learned(servable)
        except (ServingError, StatusError) as error:
            if servable is not None:
                servable.close()
            version.error = error if isinstance(error, StatusError) else StatusError(error.code, str(error))
            version.state = State.LOADING if version.attempts <= self.options.retries else State.END
            self._say(f"{name}/{number}", f"Loading servable: {name} version {number} failed: {version.error}")
            return
        version.servable, version.error, version.attempts = servable, None, 0
        with self._publishing:
            self._serving = {**self._serving, name: {**self._serving.get(name, {}), number: servable}}
        version.state = State.AVAILABLE
        logger.info("Successfully loaded servable version %s/%d, served by %s", name, number, servable.engine)

    def _unload(self, name: str, number: int) -> None:
        version = self._versions[name][number]
        version.state = State.UNLOADING
        with self._publishing:
            self._serving = {**self._serving, name: {key: value for key, value in self._serving[name].items() if key != number}}
        assert version.servable is not None
        version.servable.close()
        self._garbage = self._garbage or version.servable.has_session
        self._versions[name][number] = Version(State.END)
        logger.info("Successfully unloaded servable version %s/%d", name, number)

    def _every(self) -> Iterator[tuple[str, int, Version]]:
        for name, versions in list(self._versions.items()):
            for number, version in sorted(versions.items()):
                yield name, number, version


def _return_memory() -> None:
    """Gives back what a session held: its graph is a knot of references, and the C library keeps what was freed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # a system whose C library has another way
        ctypes.CDLL(None).malloc_trim(0)


def _files(path: Path) -> tuple[object, ...]:
    """What a version's folder holds, so that one that was still being copied is tried again when it changes."""
    try:
        return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(path.rglob("*")))
    except OSError:
        return ()
