"""Connections over HTTP: uvicorn's, held to limits, with a short way for predict requests."""

from __future__ import annotations

import asyncio
import functools
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from zoo.serving.access_log import REQUEST_ID
from zoo.serving.json_codec import encode_error
from zoo.serving.rest import Limits, predict_address

if TYPE_CHECKING:
    from zoo.serving.hot_path import HotPath
    from zoo.serving.rest import Address, RestApplication

MOST_BYTES = 1024 * 1024
"""The largest body that is parsed between two looks at the connections."""
MOST_HEAD_BYTES = 64 * 1024
LOOK_SECONDS = 0.5
LINGER_SECONDS = 0.5
"""How long a server that ends waits for a request of a client that is connected: it may be on its way."""


class Guard:
    """Looks after the connections of a server.

    Args:
        limits: What a connection may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._reading: dict[Connection, float] = {}
        self._watched = False

    def reads(self, connection: Connection) -> None:
        """Begins to count the time that a connection takes to send a request."""
        self._reading[connection] = time.monotonic()
        if not self._watched and self.limits.read_seconds:
            self._watched = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def has_read(self, connection: Connection) -> None:
        """Ends to count."""
        self._reading.pop(connection, None)

    def _look(self) -> None:
        late = time.monotonic() - self.limits.read_seconds
        for connection in [connection for connection, began in self._reading.items() if began < late]:
            self.has_read(connection)
            connection.refuse(408, f"The request took longer than {self.limits.read_seconds:g} s to arrive")
        self._watched = bool(self._reading)
        if self._watched:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


class Connection(HttpToolsProtocol):
    """A connection within limits, whose predict requests go the short way.

    Args:
        application: What answers.
        guard: Looks after it.
        hot_path: Answers predict requests, or None.
        arguments: uvicorn's.
        keywords: The same.
    """

    def __init__(self, application: RestApplication, guard: Guard, hot_path: HotPath | None, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._application, self._guard, self._hot_path = application, guard, hot_path
        self._short: tuple[RequestResponseCycle, Address] | None = None
        self._head, self._in_head = 0, False
        self._beside = 0  # how much of a body comes past the parser
        self._last: bytes | None = None  # what is written when all requests are answered
        self._ending = False

    def connection_made(self, transport: Any) -> None:
        """Takes a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._guard.limits.connections:
            self.refuse(503, f"The server has {self._guard.limits.connections} connections, which is as many as it takes")
        else:
            self._guard.reads(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection."""
        self._guard.has_read(self)
        super().connection_lost(exc)

    def refuse(self, status: int, message: str) -> None:
        """Answers with an error, when the requests that came before are answered, and ends the connection."""
        if self.transport.is_closing() or self._last is not None:
            return
        body = encode_error(message)
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self._last = head % (status, _PHRASES[status], len(body)) + body
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        elif broken is not None and broken.response_started:  # as with 413: there is nothing to add
            self._last = b""
            self._end()
        elif broken is not None or not self._answering:
            self._end()

    def _end(self) -> None:
        """Ends the connection with its last words."""
        if not self.transport.is_closing():
            self.transport.write(self._last or b"")
            self.transport.close()

    @property
    def _answering(self) -> bool:
        """Whether a request has come, at least in part, that is not answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Goes on with the next request, if there is one."""
        was_last = not self.pipeline
        super().on_response_complete()
        if was_last and self._last is not None:
            self._end()

    def shutdown(self) -> None:
        """Ends the connection when the requests that have come are answered, and that which may be on its way."""
        self._ending = True
        if self._answering:
            self.cycle.keep_alive = False
            if not self.cycle.more_body:
                self.flow.pause_reading()
        elif not self._in_head:
            self.loop.call_later(LINGER_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if not self._answering and not self._in_head:
            self._end()

    def data_received(self, data: bytes) -> None:
        """Takes what a client sends."""
        self._unset_keepalive_if_required()
        while data and self._last is None:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Hands data to the parser, and returns what it left."""
        if self._beside:
            part, data = data[: self._beside], data[self._beside :]
            self._beside -= len(part)
            self.on_body(part)
            if not self._beside:
                self.on_message_complete()
            return data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # to a protocol that we do not speak: the request is answered as any other
            return data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request received.")
        return b""

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self._head, self._in_head = 0, True
        self._guard.reads(self)

    def on_url(self, url: bytes) -> None:
        """Takes a part of the path."""
        if self._fits(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        if self._fits(len(name) + len(value)):
            super().on_header(name, value)

    def _fits(self, size: int) -> bool:
        """Whether the head is still small enough; if not, the connection ends."""
        self._head += size
        if self._head > MOST_HEAD_BYTES:
            self.refuse(431, f"The request's path and headers are larger than {MOST_HEAD_BYTES} bytes")
        return self._head <= MOST_HEAD_BYTES

    def on_headers_complete(self) -> None:
        """Begins to answer, where the head was not too large."""
        self._in_head = False
        if self._head > MOST_HEAD_BYTES:
            return
        upgrading = self.parser.should_upgrade()
        if upgrading and any(name == b"transfer-encoding" for name, _ in self.headers):
            self.refuse(400, "A request with the header Upgrade cannot come in chunks")
            return
        if upgrading:  # the parser takes the body for the other protocol's first words
            self._beside = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        before = self.cycle
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False
            if before is not None and not before.response_started:
                before.keep_alive = True

    def on_body(self, body: bytes) -> None:
        """Keeps a part of a body; that of a request on the short way is small, and nobody waits for its parts."""
        if self._head > MOST_HEAD_BYTES:
            return
        if self._short is not None and self._short[0] is self.cycle:
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answers a request whose last byte is there."""
        if self._beside:
            return
        self._guard.has_read(self)
        if self._head > MOST_HEAD_BYTES or self._last is not None:
            return
        super().on_message_complete()
        if self._ending:
            self.flow.pause_reading()
        if self._short is not None and self._short[0] is self.cycle:
            self._take()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        address = self._address(cycle) if app is self.app and self._hot_path is not None else None
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
        if not self._application.permits(scope):
            return None
        for name, value in scope["headers"]:
            if name == b"content-length":
                size = int(value)
            elif name in (b"content-encoding", b"transfer-encoding"):
                return None
        return (
            predict_address(scope["raw_path"])
            if 0 < size <= min(MOST_BYTES, self._application.limits.body_bytes) and len(cycle.body) <= size
            else None
        )

    def _take(self) -> None:
        assert self._short is not None
        assert self._hot_path is not None
        (cycle, address), self._short = self._short, None
        answer = functools.partial(self._answer, cycle, time.perf_counter(), len(cycle.body))
        self._hot_path.take(address, bytes(cycle.body), answer, functools.partial(super()._start_asgi_task, cycle, self.app))

    def _answer(self, cycle: RequestResponseCycle, began: float, received: int, status: int, body: bytes) -> None:
        application, gone = self._application, cycle.disconnected or self.transport.is_closing()
        headers = b"".join([b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *application.headers)])
        if application.access_log is not None:
            path, seconds = cycle.scope["raw_path"].decode("latin-1"), time.perf_counter() - began
            mark = application.log(cycle.scope, path, 499 if gone else status, seconds, received, 0 if gone else len(body))
            headers += b"%b: %b\r\n" % (REQUEST_ID.encode(), mark)
        if gone:
            return
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b\r\n" % (status, _PHRASES[status], headers, len(body), close)
        self.transport.write(head + body)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()


_PHRASES = {status: HTTPStatus(status).phrase.encode() for status in (200, 400, 408, 429, 431, 503, 504)}
