"""Worker processes of one machine, each with its own compiled programs and its own share of the processors.

A worker is told what is searched, and makes its engine of that; then it takes jobs through a pipe until the pipe closes. A
worker that dies is noticed by its pipe's end, and another one takes its place. When the search's own process dies, however
that happens, the workers end themselves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from tuning.executors import Job, OnRow, Outcome, Pool, Worker, run_job
from zoo.console import load_backend
from zoo.errors import StudyError, UsageError, ZooError

if TYPE_CHECKING:
    from tuning.segments import Row

METHOD = "forkserver" if sys.platform == "linux" else "spawn"  # a fork after loading macOS's frameworks may crash
PRELOADED = ["tuning.worker_imports"]
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(kw_only=True)
class _Process(Worker):
    """A worker that is a process."""

    process: Any
    pipe: Connection


class Workers(Pool[_Process]):
    """An executor of several processes.

    Args:
        subject: What is searched; see `tuning.subjects.Subject`. It is sent to every worker.
        kind: Of engine: `compiled` or `plain`.
        count: Of workers.

    Raises:
        UsageError: The subject cannot be sent to another process.
    """

    advice = "; search with fewer workers"

    def __init__(self, subject: Any, kind: str, count: int) -> None:
        try:
            self.order = bytes(ForkingPickler.dumps((subject, kind)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"The hypermodel cannot be sent to other processes ({error}). Define it at the top level of a module, or search with workers=1."
            ) from None
        self.context: Any = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":
            self.context.set_forkserver_preload(PRELOADED)
        self.shares = shares(count)
        super().__init__(subject, count)

    def _start(self, index: int) -> _Process:
        here, there = self.context.Pipe()
        process = self.context.Process(target=work, args=(there, index, self.order, self.shares[index]), daemon=True, name=f"worker {index}")
        process.start()
        there.close()  # so that the pipe ends with the worker
        return _Process(process=process, pipe=here)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self.workers]

    def submit(self, worker: int, job: Job) -> None:
        chosen = self.workers[worker]
        chosen.job, chosen.began = job, time.monotonic()
        try:
            chosen.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):  # a dead one is noticed below
            chosen.reached = False

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            pipes = [worker.pipe for worker in self.workers]
            heard = connections.wait(pipes, None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not heard:
                return None
            index = pipes.index(heard[0])  # type: ignore[arg-type]
            try:
                kind, content = self.workers[index].pipe.recv()
            except (EOFError, OSError):  # the latter where it died in the middle of a message
                return self._replace(index, self._bury(index))
            if kind == "row":
                self._tell(index, content, on_row)
            else:
                return self._hear(index, kind, content)

    def _tell(self, index: int, row: Row, on_row: OnRow) -> None:
        worker = self.workers[index]
        assert worker.job is not None
        ends = on_row(worker.job.number, row)
        if worker.job.asks:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.pipe.send(ends)

    def _hear(self, index: int, kind: str, content: Any) -> Outcome | None:
        if kind == "ready":
            self._greet(index, content)
            return None
        if kind == "error":
            raise content
        self.workers[index].job = None
        return content

    def _bury(self, index: int) -> str:
        """Puts away what is left of a worker that has died, and returns how it ended."""
        worker = self.workers[index]
        worker.process.join()
        worker.pipe.close()
        return ending(worker.process.exitcode)

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.process.close()
            worker.pipe.close()


def shares(count: int) -> list[list[int]]:
    """Returns each worker's processors: equal shares, one processor each where there are more workers than processors.

    Example:
        >>> all(len(share) >= 1 for share in shares(3))
        True
    """
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    size = max(1, len(processors) // count)
    return [[processors[(index * size + offset) % len(processors)] for offset in range(size)] for index in range(count)]


def ending(status: int | None) -> str:
    """Says how a process ended, as a part of a sentence.

    Example:
        >>> ending(-9)
        'was killed by SIGKILL, as the system does where memory runs out'
        >>> ending(1)
        'ended with status 1'
    """
    if status is None or status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was killed by {name}{', as the system does where memory runs out' if name == 'SIGKILL' else ''}"


# --- in the worker ----------------------------------------------------------------------------------------------------


def work(pipe: Connection, index: int, order: bytes, processors: Sequence[int]) -> None:
    """Takes jobs until the pipe ends; what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's own to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pin(processors)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            load_backend()
            limit_threads(len(processors))
            subject, kind = pickle.loads(order)
            engine = subject.engine(kind)
        except Exception as error:
            pipe.send(("error", sendable(error)))
            return
        pipe.send(("ready", subject.validation))
        while True:
            job = pipe.recv()
            pipe.send(("outcome", run_job(engine, job, index, lambda row, job=job: _report(pipe, job, row))))  # type: ignore[misc]


def _report(pipe: Connection, job: Job, row: Row) -> bool:
    """Tells the search an epoch; returns whether the trial ends there."""
    pipe.send(("row", row))
    return bool(pipe.recv()) if job.asks else False


def sendable(error: Exception) -> Exception:
    """The error itself where it is one of the package's, else its one line."""
    return error if type(error) in ZooError.__subclasses__() else StudyError(f"A worker cannot start: {type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connections.wait([parent.sentinel])
        os._exit(1)


def pin(processors: Sequence[int]) -> None:
    """Keeps this process to some processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors)


def limit_threads(count: int) -> None:
    """Has TensorFlow, which is loaded but has computed nothing yet, use so many threads; what the environment says of threads stays.

    More threads than processors wait for each other: on a busy machine a step then takes many times as long.
    """
    import tensorflow as tf

    threading = tf.config.threading
    limits = (threading.set_intra_op_parallelism_threads, threading.set_inter_op_parallelism_threads)
    for name, limit in zip(THREADS, limits, strict=True):
        if name not in os.environ:
            limit(count)
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # workers share the accelerators
