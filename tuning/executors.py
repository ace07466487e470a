"""Where the stretches of a search's trials are trained: in this process, in others of the machine, or on a cluster.

A search gives each free worker of its executor a `Job`, and takes an `Outcome` as each comes to its end. It alone knows of
samplers, schedulers and storage; a worker knows nothing but its engine. Whatever a job needs is in the job, and whatever a
worker leaves behind is in the outcome, so that a worker can be lost at any moment: its trial goes on elsewhere from the
snapshot that the job held.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from zoo.errors import StudyError, UsageError

if TYPE_CHECKING:
    from tuning.segments import OnEpoch, Row, Segment, Snapshot

OnRow = Callable[[int, "Row"], bool]  # takes a trial's number and an epoch's row; returns whether the trial ends there
AT_ONCE = 8  # trials that one process trains side by side, at most: between their stretches it is the interpreter's turn
STARTS = 3  # workers in one place that die in a row before they have come up, and so end the search


@dataclass(frozen=True)
class Job:
    """One stretch of one trial.

    Attributes:
        number: Of the trial.
        trial: What the engine takes: a recipe, or a point of another hypermodel's space.
        until: The epoch to pause at.
        snapshot: Where it goes on; None starts anew.
        seconds: After so many it stops; infinite for no limit. Clocks of two machines cannot be compared, so it is no moment.
        asks: Whether the search may end the trial after any epoch, so that each has to be told, and answered, before the next.
    """

    number: int
    trial: Any
    until: int
    snapshot: Snapshot | None
    seconds: float
    asks: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a segment, a failure of the trial's, or the death of its worker.

    Attributes:
        number: Of the trial.
        worker: Who trained it.
        segment: What its training gave.
        failure: Why the trial could not be trained.
        death: How the worker ended; the trial can go on elsewhere.
        begun: Whether the worker had begun with it; otherwise its death says nothing of the trial.
        seconds: Wall time that it took.
    """

    number: int
    worker: int
    segment: Segment | None = None
    failure: str = ""
    death: str = ""
    begun: bool = True
    seconds: float = 0.0


class Executor(Protocol):
    """Trains jobs on workers, which have numbers from 0.

    Attributes:
        size: How many workers there are at most; it may grow.
        local: Whether a job is trained by whoever waits for it, so that one runs at a time and `on_row` is called in between its steps.
    """

    size: int
    local: bool

    def free(self) -> Sequence[int]:
        """Returns the workers that a job can be given to now."""
        ...

    def wanted(self) -> int:
        """Returns how many jobs could be given now or soon, to workers that still start."""
        ...

    def submit(self, worker: int, job: Job) -> None:
        """Gives a free worker a job."""
        ...

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome | None:
        """Waits until a job ends; calls `on_row` with each epoch of any job on the way.

        Returns:
            None where the time is over, or where something else has changed, such as which workers are free.
        """
        ...

    def close(self) -> None:
        """Ends all workers: processes at once, whatever they do, threads as soon as they look."""
        ...


class InProcess:
    """The one worker that is this process.

    Args:
        engine: Trains; see `tuning.segments.Engine`.
    """

    size, local = 1, True

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.job: Job | None = None

    def free(self) -> Sequence[int]:
        return () if self.job else (0,)

    def wanted(self) -> int:
        return len(self.free())

    def submit(self, worker: int, job: Job) -> None:
        self.job = job

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome | None:
        job, self.job = self.job, None
        return None if job is None else run_job(self.engine, job, 0, lambda row: on_row(job.number, row))

    def close(self) -> None:
        self.job = None


def trials_at_once() -> int:
    """Returns how many trials one process trains side by side: one on each processor, or one where there is an accelerator."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return 1
    return min(AT_ONCE, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Threads:
    """Threads of this process, each with an engine of its own.

    For engines whose steps let go of the interpreter's lock: small models do not train faster on several processors, so that as
    many trials as there are processors train side by side in little more than the time of one.

    Args:
        engines: One for each thread; each has a method `halt`.
    """

    local = False

    def __init__(self, engines: Sequence[Any]) -> None:
        self.engines, self.size = engines, len(engines)
        self.jobs: list[Job | None] = [None] * self.size
        self.threads: list[threading.Thread | None] = [None] * self.size
        self.heard: queue.SimpleQueue[tuple[int, Row | Outcome]] = queue.SimpleQueue()
        self.answers: list[queue.SimpleQueue[bool]] = [queue.SimpleQueue() for _ in engines]
        self.closed = False

    def free(self) -> Sequence[int]:
        return [index for index, job in enumerate(self.jobs) if job is None]

    def wanted(self) -> int:
        return len(self.free())

    def submit(self, worker: int, job: Job) -> None:
        self.jobs[worker] = job
        self.threads[worker] = threading.Thread(target=self._work, args=(worker, job), daemon=True, name=f"trial {job.number}")
        self.threads[worker].start()  # type: ignore[union-attr]

    def _work(self, worker: int, job: Job) -> None:
        def on_epoch(row: Row) -> bool:
            self.heard.put((worker, row))
            return self.answers[worker].get() if job.asks and not self.closed else self.closed

        self.heard.put((worker, run_job(self.engines[worker], job, worker, on_epoch)))

    def next_finished(self, on_row: OnRow, timeout: float | None = None) -> Outcome | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(queue.Empty):
            while True:
                worker, content = self.heard.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
                job = self.jobs[worker]
                assert job is not None
                if isinstance(content, Outcome):
                    self.jobs[worker] = None
                    return content
                ends = on_row(job.number, content)
                if job.asks:
                    self.answers[worker].put(ends)
        return None

    def close(self) -> None:
        self.closed = True
        for engine, answers in zip(self.engines, self.answers, strict=True):
            engine.halt()
            answers.put(True)
        for thread in self.threads:
            if thread is not None:
                thread.join()


@dataclass(kw_only=True)
class Worker:
    """A worker of a `Pool`, as the search sees it.

    Attributes:
        ready: Whether it has come up and can be given jobs.
        job: What it trains.
        began: When it was given that, by `time.monotonic`.
        reached: Whether that came to it; not where it had died before.
        stillborn: How many in its place have died before they had come up, in a row.
    """

    ready: bool = False
    job: Job | None = None
    began: float = 0.0
    reached: bool = True
    stillborn: int = 0


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class Pool(ABC, Generic[AnyWorker]):
    """What executors of several workers share: who is free, and that another one takes the place of one that has died.

    Args:
        subject: What is searched; see `tuning.subjects.Subject`.
        size: How many workers there are.
    """

    local = False
    advice = ""  # what to do where no worker can start, as the end of a sentence
    scattered = False  # on machines of which one may fail alone: as long as any worker is ready, others may die as they start

    def __init__(self, subject: Any, size: int) -> None:
        self.subject, self.size = subject, size
        self.workers = [self._start(index) for index in range(size)]

    @abstractmethod
    def _start(self, index: int) -> AnyWorker:
        """Starts a worker, without waiting for it."""

    def free(self) -> Sequence[int]:
        return [index for index, worker in enumerate(self.workers) if worker.ready and worker.job is None]

    def wanted(self) -> int:
        return sum(worker.job is None for worker in self.workers)

    def _greet(self, index: int, validation: int) -> None:
        """Takes in a worker that has come up; it says how many samples it validates on."""
        self.workers[index].ready, self.subject.validation = True, validation

    def _replace(self, index: int, how: str) -> Outcome | None:
        """Puts another worker in the place of one that has died.

        Returns:
            What that means for the trial it was at; None where it had none.

        Raises:
            StudyError: None comes up any more.
        """
        worker = self.workers[index]
        excused = worker.ready or (self.scattered and any(other.ready for other in self.workers))
        stillborn = 0 if excused else worker.stillborn + 1
        if stillborn >= STARTS:
            raise StudyError(f"The workers cannot start: {STARTS} in a row {how}. What was finished is kept{self.advice}.")
        self.workers[index] = self._start(index)
        self.workers[index].stillborn = stillborn
        if worker.job is None:
            return None
        return Outcome(worker.job.number, index, death=how, begun=worker.reached, seconds=time.monotonic() - worker.began)


def run_job(engine: Any, job: Job, worker: int, on_epoch: OnEpoch) -> Outcome:
    """Trains a job, whatever it raises."""
    began = time.monotonic()
    failure = ""
    try:
        segment = engine.run(job.trial, job.until, job.snapshot, on_epoch, began + job.seconds)
    except Exception as error:
        segment, failure = None, reason(error)
    if failure:
        gc.collect()  # a Keras model is a ring of references
    return Outcome(job.number, worker, segment, failure, seconds=time.monotonic() - began)


def reason(error: Exception) -> str:
    """The first line of what a trial raised."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, MemoryError) or "ResourceExhausted" in type(error).__name__:
        return f"out of memory: {line}"
    return line if isinstance(error, UsageError) else f"{type(error).__name__}: {line}"
