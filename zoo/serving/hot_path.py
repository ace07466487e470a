"""The short way of a predict request: from the connection to the model and back without a task or a thread of its own.

Nearly every request that a server gets is a well-made predict request for a version that is loaded. Such a request is parsed
straight into an array as soon as its last byte is there; requests that came together run through the model together, where the
version's golden requests show that rows do not depend on each other; and each answer goes out in one write. Whatever else a
request is, and whatever goes wrong with it, is the business of `rest.RestApplication`, which gets it as if nothing had been tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from zoo.serving.array_json import Parser, Request, encode
from zoo.serving.engines import RUNTIME_NAMES
from zoo.serving.json_codec import encode_error
from zoo.serving.rest import TIMED_OUT, WAITED_TOO_LONG, Address, predict_address
from zoo.serving.status import Code, StatusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.serving.metrics import Metrics
    from zoo.serving.rest import RestApplication
    from zoo.serving.servable import Servable, Signature

MOST_BYTES = 1024 * 1024
"""The largest body that is parsed between two looks at the connections."""
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
        began = time.perf_counter()
        try:
            _, servable = self.application.service.manager.acquire(*address)
        except StatusError:
            refuse()
            return
        request = self._parser.parse(body, servable)
        if request is None or self.application.full or not request.signature.is_ready({request.name: request.array}):
            servable.release()
            refuse()
            return
        queue = self._queues.get(request.signature)
        if queue is None:
            queue = self._queues[request.signature] = _Queue()
        self.application.under_way += 1
        queue.waiting.append(_Waiting(address, request, servable, answer, refuse, began, request.signature.joins(request.array)))
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

    def _record(self, metrics: Metrics, batch: list[_Waiting], seconds: float) -> None:
        first, now = batch[0], time.perf_counter()
        engine = first.request.signature.engine({first.request.name: first.request.array})
        metrics.runtime(first.address.model, "Predict", RUNTIME_NAMES[engine], seconds)
        for waiting in batch:
            metrics.request(waiting.address.model, "Predict", "REST", Code.OK.name, now - waiting.began)

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
            self._metrics.request(waiting.address.model, "Predict", "REST", error.code.name, time.perf_counter() - waiting.began)
        waiting.answer(error.http, encode_error(error.message))


def _batch(waiting: deque[_Waiting]) -> list[_Waiting]:
    """Takes the requests that run next: the first, and those behind it that may run with it."""
    batch = [waiting.popleft()]
    rows = len(batch[0].request.array)
    while waiting and batch[0].joins and waiting[0].joins and rows + len(waiting[0].request.array) <= MOST_ROWS:
        rows += len(waiting[0].request.array)
        batch.append(waiting.popleft())
    return batch


def _outcome(batch: Sequence[_Waiting]) -> tuple[dict[str, numpy.ndarray] | None, float]:
    """Runs a batch, and returns its outputs, or None where it failed, and the seconds that it took."""
    request = batch[0].request
    arrays = [waiting.request.array for waiting in batch]
    began = time.perf_counter()
    try:
        outputs = request.signature.run({request.name: arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)})
    except Exception:  # each request has its own, when it is answered the long way
        return None, 0.0
    return outputs, time.perf_counter() - began


class Connection(HttpToolsProtocol):
    """A connection whose predict requests go the short way.

    Args:
        hot_path: Answers them.
        arguments: uvicorn's.
        keywords: The same.
    """

    def __init__(self, hot_path: HotPath, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._hot_path = hot_path
        self._short: tuple[RequestResponseCycle, Address] | None = None

    def on_body(self, body: bytes) -> None:
        """Keeps a part of a body; that of a request on the short way is small, and nobody waits for its parts."""
        if self._short is not None and self._short[0] is self.cycle:
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answers a request whose last byte is there."""
        super().on_message_complete()
        if self._short is not None and self._short[0] is self.cycle:
            self._take()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        address = self._address(cycle) if app is self.app else None
        if address is None:
            super()._start_asgi_task(cycle, app)
            return
        self._short = (cycle, address)
        if not cycle.more_body:  # it waited behind another
            self._take()

    def _address(self, cycle: RequestResponseCycle) -> Address | None:
        """Returns what a request is for, or None where it has to go the long way."""
        scope = cycle.scope
        if scope["method"] != "POST" or cycle.waiting_for_100_continue or self.flow.write_paused or scope["query_string"]:
            return None
        size = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                size = int(value)
            elif name in (b"content-encoding", b"transfer-encoding"):
                return None
        return (
            predict_address(scope["raw_path"])
            if 0 < size <= min(MOST_BYTES, self._hot_path.application.limits.body_bytes) and len(cycle.body) <= size
            else None
        )

    def _take(self) -> None:
        assert self._short is not None
        (cycle, address), self._short = self._short, None
        answer = functools.partial(self._answer, cycle)
        self._hot_path.take(address, bytes(cycle.body), answer, functools.partial(super()._start_asgi_task, cycle, self.app))

    def _answer(self, cycle: RequestResponseCycle, status: int, body: bytes) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        headers = b"".join([b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *self._hot_path.application.headers)])
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b\r\n" % (status, _PHRASES[status], headers, len(body), close)
        self.transport.write(head + body)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()


_PHRASES = {200: b"OK", 429: b"Too Many Requests", 504: b"Gateway Timeout"}
