"""The short way of a predict request: from the connection to the model and back without a task or a thread of its own.

Nearly every request that a server gets is a well-made predict request for a version that is loaded. Such a request is parsed
straight into an array as soon as its last byte is there; requests that came together run through the model together, where the
version's golden requests show that rows do not depend on each other; and each answer goes out in one write. Whatever else a
request is, and whatever goes wrong with it, is the business of `rest.RestApplication`, which gets it as if nothing had been tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy

from zoo.serving.array_json import Parser, Request, encode
from zoo.serving.engines import RUNTIME_NAMES
from zoo.serving.json_codec import encode_error
from zoo.serving.metrics import Facts
from zoo.serving.observation import Run
from zoo.serving.rest import TIMED_OUT, WAITED_TOO_LONG, Address
from zoo.serving.status import Code, StatusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.serving.metrics import Metrics
    from zoo.serving.rest import RestApplication
    from zoo.serving.servable import Servable, Signature

MOST_ROWS = 64
"""Rows that run together at most: more would not be faster."""
BRIEF_SECONDS = 5e-4
"""A batch that takes longer runs in a thread, and the connections are looked after meanwhile."""
LONG_SECONDS = 5e-3
"""Where a batch takes longer, as many run at a time as there are threads: the model's time is what counts, and not ours."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request under way."""

    address: Address
    version: int
    request: Request
    servable: Servable
    answer: Callable[[int, bytes], None]
    refuse: Callable[[], None]
    began: float
    joins: bool
    ended: bool = False


@dataclass(eq=False, slots=True)
class _Queue:
    """What waits for one signature, and how long its batches take: the base-2 logarithm of their size -> seconds."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    running: int = 0
    scheduled: bool = False
    watched: bool = False
    seconds: dict[int, float] = field(default_factory=dict)

    def expected(self, rows: int) -> float:
        return self.seconds.get(rows.bit_length(), LONG_SECONDS)

    def measured(self, rows: int, seconds: float) -> None:
        """Takes a time into account; what disturbed it is forgotten sooner than it was quick."""
        known = self.seconds.get(rows.bit_length(), seconds)
        self.seconds[rows.bit_length()] = min(known * 1.1, seconds)


class HotPath:
    """Answers predict requests. All of it happens in the event loop's thread, but for batches that take long.

    Args:
        application: What answers all other requests; its models, limits, metrics and threads are used.
    """

    def __init__(self, application: RestApplication) -> None:
        self.application, self._limits, self._metrics = application, application.limits, application.metrics
        self._observers = application.service.observers
        self._threads = min(os.cpu_count() or 1, application.limits.threads)
        self._parser = Parser()
        self._queues: WeakKeyDictionary[Signature, _Queue] = WeakKeyDictionary()

    def take(self, address: Address, body: bytes, answer: Callable[[int, bytes], None], refuse: Callable[[], None]) -> None:
        """Answers a request, now or later.

        Args:
            address: What it is for.
            body: Its body.
            answer: Called with the answer's HTTP status and body.
            refuse: Called, in place of `answer`, where the request is not one for the short way.
        """
        if self.application.full:  # before any work for it: what is refused must not take from what is answered
            error = self.application.too_many()
            asyncio.get_running_loop().call_soon(answer, error.http, encode_error(error.message))
            return
        began = time.perf_counter()
        try:
            number, servable = self.application.service.manager.acquire(*address)
        except StatusError:
            refuse()
            return
        request = self._parser.parse(body, servable)
        if request is None or not request.signature.is_ready({request.name: request.array}):
            servable.release()
            refuse()
            return
        queue = self._queues.get(request.signature)
        if queue is None:
            queue = self._queues[request.signature] = _Queue()
        self.application.under_way += 1
        queue.waiting.append(_Waiting(address, number, request, servable, answer, refuse, began, request.signature.joins(request.array)))
        self._schedule(queue)

    def _schedule(self, queue: _Queue) -> None:
        """Sees to it that what waits runs as soon as the requests that are there by now are parsed."""
        if not queue.scheduled:
            queue.scheduled = True
            asyncio.get_running_loop().call_soon(self._run, queue)

    def _run(self, queue: _Queue) -> None:
        queue.scheduled = False
        while queue.waiting:
            batch = _batch(queue.waiting)
            rows = sum(len(waiting.request.array) for waiting in batch)
            expected = queue.expected(rows) if batch[0].joins else LONG_SECONDS  # of other models nothing is known
            if expected > BRIEF_SECONDS and queue.running >= (self._threads if expected >= LONG_SECONDS else 1):
                queue.waiting.extendleft(reversed(batch))
                break
            if expected <= BRIEF_SECONDS and not queue.running:
                self._finish(queue, batch, rows, *_outcome(batch))
            else:
                self._start(queue, batch, rows)
        self._watch(queue)

    def _watch(self, queue: _Queue) -> None:
        """Sees to it that what waits is answered in time."""
        if queue.waiting and self._limits.timeout_seconds and not queue.watched:
            queue.watched = True
            asyncio.get_running_loop().call_later(self._left(queue.waiting[0]), self._expire, queue)

    def _left(self, waiting: _Waiting) -> float:
        """The seconds that a request still has."""
        return max(waiting.began + self._limits.timeout_seconds - time.perf_counter(), 0)

    def _start(self, queue: _Queue, batch: list[_Waiting], rows: int) -> None:
        """Runs a batch in a thread."""
        queue.running += 1
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._left(batch[0]), self._give_up, batch) if self._limits.timeout_seconds else None

        def run() -> None:
            outcome = _outcome(batch)
            try:
                loop.call_soon_threadsafe(ended, *outcome)
            except RuntimeError:  # the loop has ended: nobody waits any more
                for waiting in batch:
                    waiting.servable.release()

        def ended(outputs: dict[str, numpy.ndarray] | None, seconds: float) -> None:
            if timer is not None:
                timer.cancel()
            queue.running -= 1
            self._finish(queue, batch, rows, outputs, seconds)
            self._schedule(queue)

        self.application.pool.submit(run)

    def _finish(self, queue: _Queue, batch: list[_Waiting], rows: int, outputs: dict[str, numpy.ndarray] | None, seconds: float) -> None:
        """Answers a batch's requests."""
        answers = None
        if outputs is not None:
            queue.measured(rows, seconds)
            with contextlib.suppress(Exception):  # the long way has the words for it
                answers = encode(outputs, [len(waiting.request.array) for waiting in batch], [waiting.request.rows for waiting in batch])
        for index, waiting in enumerate(batch):
            waiting.servable.release()
            if waiting.ended:
                continue
            self.application.under_way -= 1
            waiting.ended = True
            if answers is None:
                waiting.refuse()
            else:
                waiting.answer(200, answers[index])
        if answers is not None and self._metrics is not None:
            self._record(self._metrics, batch, seconds)
        if answers is not None and self._observers:
            self._show(batch, outputs, seconds)

    def _record(self, metrics: Metrics, batch: list[_Waiting], seconds: float) -> None:
        first, now = batch[0], time.perf_counter()
        engine = first.request.signature.engine({first.request.name: first.request.array})
        metrics.runtime(first.address.model, "Predict", RUNTIME_NAMES[engine], seconds, sum(len(waiting.request.array) for waiting in batch))
        facts = Facts(first.address.model, first.version, first.request.signature.name, engine)
        for waiting in batch:
            metrics.request(facts, "Predict", "REST", Code.OK.name, now - waiting.began)

    def _show(self, batch: list[_Waiting], outputs: dict[str, numpy.ndarray] | None, seconds: float) -> None:
        first = batch[0]
        run = Run(
            *(first.address.model, first.version, "Predict", first.request.signature),
            *({first.request.name: _joined(batch)}, outputs, seconds, [len(waiting.request.array) for waiting in batch]),
        )
        for observer in self._observers:
            observer.observe(run)

    def _expire(self, queue: _Queue) -> None:
        """Answers what has waited too long for its turn."""
        queue.watched = False
        while queue.waiting and not self._left(queue.waiting[0]):
            waiting = queue.waiting.popleft()
            waiting.servable.release()
            self._fail(waiting, StatusError(Code.RESOURCE_EXHAUSTED, WAITED_TOO_LONG.format(self._limits.timeout_seconds * 1000)))
        self._watch(queue)

    def _give_up(self, batch: list[_Waiting]) -> None:
        """Answers what the model has not answered in time."""
        for waiting in batch:
            if not waiting.ended:
                self._fail(waiting, StatusError(Code.DEADLINE_EXCEEDED, TIMED_OUT))

    def _fail(self, waiting: _Waiting, error: StatusError) -> None:
        self.application.under_way -= 1
        waiting.ended = True
        if self._metrics is not None:
            self._metrics.request(Facts(waiting.address.model), "Predict", "REST", error.code.name, time.perf_counter() - waiting.began)
        waiting.answer(error.http, encode_error(error.message))


def _batch(waiting: deque[_Waiting]) -> list[_Waiting]:
    """Takes the requests that run next: the first, and those behind it that may run with it."""
    batch = [waiting.popleft()]
    rows = len(batch[0].request.array)
    while waiting and batch[0].joins and waiting[0].joins and rows + len(waiting[0].request.array) <= MOST_ROWS:
        rows += len(waiting[0].request.array)
        batch.append(waiting.popleft())
    return batch


def _joined(batch: Sequence[_Waiting]) -> numpy.ndarray:
    arrays = [waiting.request.array for waiting in batch]
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)


def _outcome(batch: Sequence[_Waiting]) -> tuple[dict[str, numpy.ndarray] | None, float]:
    """Runs a batch, and returns its outputs, or None where it failed, and the seconds that it took."""
    request = batch[0].request
    began = time.perf_counter()
    try:
        outputs = request.signature.run({request.name: _joined(batch)})
    except Exception:  # each request has its own, when it is answered the long way
        return None, 0.0
    return outputs, time.perf_counter() - began
