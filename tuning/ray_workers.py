"""Workers on the machines of a Ray cluster.

Each worker is an actor with its own compiled programs, on a processor of its own. The weights and slots of a paused trial come
and go through Ray's object store, and a copy of each stays with the search, so that a node that dies takes no trial's state with
it: what it was at goes on elsewhere from its last rung. Another worker is asked for in its place, and joins where there is room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pickle
import re
import socket
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tuning.executors import Job, OnRow, Outcome, Pool, Worker, run_job
from tuning.segments import PRUNED, Segment
from zoo.errors import MissingExtraError, StudyError, UsageError

CONNECT_SECONDS, CONNECT_TRIES = 10, 2
LOOK_SECONDS = 5.0  # between two looks at the cluster, and at those that have nothing to do
HANDED_ON = ("TFDS_DATA_DIR", "ZOO_OFFLINE", "KERAS_BACKEND", "PYTHONPATH")  # variables of the environment, for workers on this machine
HERE = (None, "auto", "local")  # addresses of a cluster that runs on this machine, or is started on it


@dataclass(kw_only=True)
class _Remote(Worker):
    """A worker that is an actor."""

    actor: Any
    waits: Any  # for being ready, for its job, or for whether it still lives; None where that was answered
    receipt: Any = None  # of its job: answered as it begins with it
    parts: list[Segment] = field(default_factory=list)  # of a job whose epochs are told one by one


class RayWorkers(Pool[_Remote]):
    """An executor of actors on a Ray cluster.

    Args:
        subject: What is searched; see `tuning.subjects.Subject`. Its data are loaded on every node, from where the nodes keep them.
        kind: Of engine: `compiled` or `plain`.
        count: Of workers; where None, as many as the cluster has processors, and more when it gets more.
        address: Of the cluster, such as `ray://head:10001` or `auto`; where None, the one that `RAY_ADDRESS` names or that runs on this
            machine, else a new one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: The subject cannot be sent to another machine.
        StudyError: There is no such cluster, or it has no processors.
    """

    scattered = True

    def __init__(self, subject: Any, kind: str, count: int | None = None, address: str | None = None) -> None:
        self.ray = _ray()
        try:
            order = self.ray.cloudpickle.dumps((subject, kind))  # what a script itself defines goes along
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(f"The hypermodel cannot be sent to other machines ({error}).") from None
        self.own = not self.ray.is_initialized()
        self.grows = count is None
        with contextlib.ExitStack() as undoing:
            if self.own:
                address = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS") or address
                self._connect(address)
                undoing.callback(self.ray.shutdown)
            with self._reached():
                hosts = {node["NodeManagerHostname"] for node in self.ray.nodes() if node["Alive"]}
                self.environment = handed_on(address, hosts) if self.own else {}
                self.order = self.ray.put(order)
                count = count or self._processors()
            super().__init__(subject, count)
            undoing.pop_all()
        self.looked = time.monotonic()

    def _connect(self, address: str | None) -> None:
        """Connects this process to a cluster; what Ray itself takes minutes for, and then ends the process, is asked before."""
        if address is not None and (place := re.fullmatch(r"(?:ray://)?([^:/]+|\[.+\]):(\d+)/?", address)):
            self._knock(address, place[1].strip("[]"), int(place[2]))
        elif address is not None and re.fullmatch(r"ray://[^:/]+/?", address):
            raise StudyError(f"No Ray cluster could be reached at {address} (it names no port, as ray://head:10001 does).")
        for text in ("Ray Client connection timed out", "More than 10MB of messages"):  # an error says so; a search is many small messages
            warnings.filterwarnings("ignore", text, UserWarning)
        for left in reversed(range(CONNECT_TRIES)):
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="error")
                break
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                self.ray.shutdown()  # or else it goes on looking for a client's connection
                if left and isinstance(error, ConnectionAbortedError):  # the process that a head starts for a client may die as it starts
                    continue
                raise StudyError(f"No Ray cluster could be reached at {address or 'this machine'} ({_line(error)}).") from None

    @staticmethod
    def _knock(address: str, host: str, port: int) -> None:
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise StudyError(f"No Ray cluster could be reached at {address} ({error.strerror or error}).") from None

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns a lost connection of a client, after which Ray by itself would start a cluster, into an error.

        Raises:
            StudyError: The connection was lost.
        """
        import grpc

        try:
            if not self.ray.is_initialized():
                raise ConnectionError("it was closed")
            yield
        except self.ray.exceptions.RayError:  # of one worker; what a trial raised may be of both kinds
            raise
        except (ConnectionError, grpc.RpcError) as error:
            line = _line(error.details() if isinstance(error, grpc.RpcError) else error)
            raise StudyError(f"The connection to the Ray cluster was lost ({line}). What was finished is kept; the same search goes on.") from None

    def _processors(self) -> int:
        found = self._present()
        if not found:
            raise StudyError("The Ray cluster has no processors that a worker could have. Start nodes, or give --workers to wait for them.")
        return found

    def _present(self) -> int:
        return int(self.ray.cluster_resources().get("CPU", 0))

    def _start(self, index: int) -> _Remote:
        options = {"runtime_env": {"env_vars": self.environment}} if self.environment else {}
        with self._reached():
            actor = self.ray.remote(num_cpus=1, max_restarts=0, **options)(_Actor).remote(index, self.order)
            return _Remote(actor=actor, waits=actor.ready.remote())

    def submit(self, worker: int, job: Job) -> None:
        chosen = self.workers[worker]
        chosen.job, chosen.began, chosen.parts = job, time.monotonic(), []
        with self._reached():
            chosen.receipt = chosen.actor.ready.remote()  # an actor does one thing after the other
        self._train(chosen, job)

    def _train(self, worker: _Remote, job: Job) -> None:
        """Sends a job on its way; one whose epochs are asked about goes epoch by epoch."""
        if job.asks:
            job = dataclasses.replace(job, until=min(job.until, 1 + (job.snapshot.epoch if job.snapshot else 0)))
        with self._reached():
            state = None if job.snapshot is None else self.ray.put(job.snapshot)
            worker.waits = worker.actor.train.remote(dataclasses.replace(job, snapshot=None), state)

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._look():
                return None
            left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
            with self._reached():
                waiting = {worker.waits: index for index, worker in enumerate(self.workers) if worker.waits is not None}
                heard, _ = self.ray.wait(list(waiting), num_returns=1, timeout=min(left, LOOK_SECONDS))
            if not heard:
                if left <= LOOK_SECONDS or not waiting:
                    return None
                continue
            index = waiting[heard[0]]
            worker = self.workers[index]
            try:
                with self._reached():
                    content = self.ray.get(heard[0])
            except self.ray.exceptions.RayError as error:
                return self._replace(index, self._bury(index, error))
            worker.waits = None
            if worker.job is not None:
                outcome = self._tell(worker, content, on_row)
                if outcome is not None:
                    return outcome
            elif not worker.ready:
                if isinstance(content, Exception):
                    raise content
                self._greet(index, content)
                return None

    def _look(self) -> bool:
        """Asks the idle whether they still live, and starts workers on what has joined the cluster, now and then; returns whether there were any."""
        import grpc

        if time.monotonic() - self.looked < LOOK_SECONDS:
            return False
        self.looked = time.monotonic()
        with self._reached():
            for worker in self.workers:
                if worker.waits is None:
                    worker.waits = worker.actor.ready.remote()
        if not self.grows:
            return False
        before = self.size
        with contextlib.suppress(self.ray.exceptions.RayError, grpc.RpcError):  # a cluster that does not answer now will do so at the next look
            self.size = max(before, self._present())
        self.workers += [self._start(index) for index in range(before, self.size)]
        return self.size > before

    def _tell(self, worker: _Remote, outcome: Outcome, on_row: OnRow) -> Outcome | None:
        """Tells the search the epochs of an outcome; returns the job's, unless it goes on."""
        job, part = worker.job, outcome.segment
        assert job is not None
        ends = False
        for row in part.history if part is not None else ():
            ends = on_row(job.number, row)
        if part is not None and job.asks:
            worker.parts.append(dataclasses.replace(part, state="stopped", message=PRUNED) if ends else part)
            if not ends and part.state == "completed" and part.snapshot is not None and part.snapshot.epoch < job.until:
                left = job.seconds if math.isinf(job.seconds) else worker.began + job.seconds - time.monotonic()
                self._train(worker, dataclasses.replace(job, snapshot=part.snapshot, seconds=left))
                return None
            outcome = dataclasses.replace(outcome, segment=joined(worker.parts), seconds=time.monotonic() - worker.began)
        worker.job = None
        return outcome

    def _bury(self, index: int, error: Exception) -> str:
        """Puts away what is left of a worker that has died, and returns how it ended."""
        worker = self.workers[index]
        if worker.job is not None:
            worker.reached = self._answered(worker.receipt)
        self._kill(worker)
        return f"ended ({next(iter(str(error).strip().splitlines()), type(error).__name__)})"

    def _kill(self, worker: _Remote) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError, StudyError), self._reached():
            self.ray.kill(worker.actor)

    def _answered(self, call: Any) -> bool:
        try:
            with self._reached():
                self.ray.get(call, timeout=1.0)
        except self.ray.exceptions.RayError:
            return False
        return True

    def close(self) -> None:
        for worker in self.workers:
            self._kill(worker)
        if self.own:
            self.ray.shutdown()


def handed_on(address: str | None, hosts: Set[str]) -> dict[str, str]:
    """Returns the variables of this process's environment that workers get: none on other machines, which have their own.

    Args:
        address: Of the cluster.
        hosts: The names of its nodes' machines.

    Example:
        >>> handed_on("ray://head:10001", {"head"})
        {}
    """
    if address not in HERE or hosts != {socket.gethostname()}:
        return {}
    return {name: os.environ[name] for name in HANDED_ON if name in os.environ}


def joined(parts: Sequence[Segment]) -> Segment:
    """Returns what successive parts of one stretch gave together: the last one's end, and the sums of the rest."""
    names = ("build_seconds", "step_seconds", "validation_seconds", "compile_seconds")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return dataclasses.replace(parts[-1], history=tuple(row for part in parts for row in part.history), **sums)


def _line(error: Exception | str | None) -> str:
    """Returns what an error says as one line: of a traceback that it holds, the last."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return textwrap.shorten(lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines), 200).rstrip(".")


def _ray() -> Any:
    """Imports Ray.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("The engine ray needs Ray: pip install 'neuron-zoo[ray]'. On one machine, --workers needs nothing more.") from None
    return ray


class _Actor:
    """What runs on a node: an engine, and what it has compiled."""

    def __init__(self, index: int, order: bytes) -> None:
        from tuning.workers import limit_threads
        from zoo.console import load_backend

        self.index, self.problem = index, None  # type: int, Exception | None
        load_backend()
        limit_threads(1)  # the actor has asked the cluster for one processor
        try:
            self.subject, kind = pickle.loads(order)
            self.engine = self.subject.engine(kind)
        except Exception as error:
            from tuning.workers import sendable

            self.problem = sendable(error)

    def ready(self) -> Any:
        """Returns how many samples it validates on, or why it cannot."""
        return self.problem or self.subject.validation

    def train(self, job: Job, snapshot: Any) -> Outcome:
        """Trains a job from a snapshot, which Ray has fetched."""
        return run_job(self.engine, dataclasses.replace(job, snapshot=snapshot), self.index, lambda row: False)
