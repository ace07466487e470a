"""TF Serving's REST interface: paths, methods, statuses and messages, as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from zoo.serving import inference, json_codec, json_parser
from zoo.serving.access_log import REQUEST_ID, request_id
from zoo.serving.engines import TF
from zoo.serving.inference import SIGNATURE_FIELD
from zoo.serving.messages import message
from zoo.serving.metrics import Facts
from zoo.serving.operations import OPEN
from zoo.serving.servable import DEFAULT_SIGNATURE
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument

if TYPE_CHECKING:
    from zoo.serving.access_log import AccessLog
    from zoo.serving.metrics import Metrics
    from zoo.serving.operations import Operations, Response
    from zoo.serving.playground import Playground
    from zoo.serving.security import Tokens
    from zoo.serving.service import Service
    from zoo.serving.workers import Worker

logger = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WAITED_TOO_LONG = "The request waited longer than {:g} ms for its turn."
TIMED_OUT = "Timed out waiting for notification"
GZIP_LIMIT = 100 * 1024 * 1024
JSON = "application/json"
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?:/(?P<part>metadata))?", re.IGNORECASE | re.ASCII)
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "POST, GET", "Access-Control-Allow-Headers": "Content-Type"}


@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server that others use too.

    Attributes:
        body_bytes: A larger body is answered with 413; so is one that unpacks to more than 100 MiB.
        timeout_seconds: A request that takes longer is answered with 504, and one that waited so long for a thread with 429;
            0 for no limit.
        threads: How many requests are answered at the same time.
        waiting: How many more may wait for a thread; the next is answered with 503.
        connections: How many clients may be connected; the next is answered with 503.
        read_seconds: A client that takes longer to send a request is answered with 408; 0 for no limit.
    """

    body_bytes: int = 256 * 1024 * 1024
    timeout_seconds: float = 30.0
    threads: int = 8
    waiting: int = 1000
    connections: int = 10_000
    read_seconds: float = 60.0


class Address(NamedTuple):
    """What a request's path names.

    Attributes:
        model: A model.
        version: One of its versions, or None for the latest or the labelled one.
        label: A version's label, or None.
    """

    model: str
    version: int | None
    label: str | None

    @classmethod
    def of(cls, match: re.Match[str]) -> Address:
        """Reads the groups of a path.

        Raises:
            StatusError: The version has too many digits.
        """
        label = match["label"]
        return cls(_decoded(match["model"] or ""), _version(match["version"]), None if label is None else _decoded(label))


@functools.lru_cache(maxsize=1024)
def predict_address(path: bytes) -> Address | None:
    """Returns what a path asks for a prediction, or None for any other path.

    Example:
        >>> predict_address(b"/v1/models/m/versions/3:predict")
        Address(model='m', version=3, label=None)
    """
    match = _INFERENCE.fullmatch(path.decode("latin-1"))
    try:
        return None if match is None or match["method"] != "predict" else Address.of(match)
    except StatusError:
        return None


class RestApplication:
    """The ASGI application.

    Args:
        service: The models and how requests are answered.
        limits: What one client may ask.
        cors: Whether pages of other origins may call.
        metrics: Where requests are recorded, or None.
        metrics_path: Where what TF Serving has names for is shown, or None.
        operations: What answers those who run the server, or None.
        tokens: Who may ask, or None where everyone may.
        access_log: Where requests are written down, or None.
        playground: What answers outside `/v1/`, or None: then nothing does, as in TF Serving.
        worker: Which of several processes this one is, or None.

    Attributes:
        service: The same.
        limits: The same.
        metrics: The same.
        headers: The headers of an answer to a request of the protocol.
        pool: The threads that answer requests.
        under_way: How many requests are answered or wait.
    """

    def __init__(
        self,
        service: Service,
        limits: Limits | None = None,
        *,
        cors: bool = False,
        metrics: Metrics | None = None,
        metrics_path: str | None = None,
        operations: Operations | None = None,
        tokens: Tokens | None = None,
        access_log: AccessLog | None = None,
        playground: Playground | None = None,
        worker: Worker | None = None,
    ) -> None:
        self.service, self.limits, self._playground = service, limits or Limits(), playground
        self.metrics, self._metrics_path, self._worker = metrics, metrics_path, worker
        self.operations, self.tokens, self.access_log = operations, tokens, access_log
        self.headers = [(b"content-type", JSON.encode())]
        self._cors = cors
        if cors:
            self.headers += [(name.lower().encode(), value.encode()) for name, value in _CORS.items()]
        self.pool = ThreadPoolExecutor(self.limits.threads, thread_name_prefix="rest")
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        path, began = _raw_path(scope), time.perf_counter()
        count = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal count
            event = await receive()
            count += len(event.get("body", b""))
            return event

        try:
            status, headers, body = await self._reply(scope, path, receive if self.access_log is None else counted)
        except _Disconnected:
            status, headers, body = 499, [], b""
        if self.access_log is not None:
            headers = [*headers, (REQUEST_ID.encode(), self.log(scope, path, status, time.perf_counter() - began, count, len(body)))]
        if status != 499:
            await _respond(send, status, headers, body)

    def log(self, scope: Mapping[str, Any], path: str, status: int, seconds: float, received: int, sent: int) -> bytes:
        """Writes a request into the access log, and returns its mark."""
        assert self.access_log is not None
        mark = request_id(_header(scope, REQUEST_ID.encode()))
        client, match = scope.get("client"), _INFERENCE.fullmatch(path) or _STATUS.fullmatch(path)
        self.access_log.write(
            protocol="REST",
            client=client[0] if client else None,
            method=scope["method"],
            path=path,
            model=None if match is None or match["model"] is None else _decoded(match["model"]),
            version=None if match is None else match["version"] or match["label"],
            status=status,
            milliseconds=round(seconds * 1000, 3),
            bytes_in=received,
            bytes_out=sent,
            request_id=mark,
        )
        return mark.encode()

    def permits(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request holds what it needs to be answered."""
        return self.tokens is None or self.tokens.permits(_header(scope, b"authorization"))

    async def _reply(self, scope: Scope, path: str, receive: Receive) -> Response:
        try:
            if not self.permits(scope) and path not in OPEN:
                body = json_codec.encode_error("This server needs a token: send the header Authorization: Bearer TOKEN")
                return 401, [*self.headers, (b"www-authenticate", b"Bearer")], body
            if self.metrics is not None and path == self._metrics_path:
                page = self.metrics.page() if self._worker is None else await self._worker.page("tf", self.metrics.page())
                return 200, [(b"content-type", b"text/plain")], page.encode()
            if path[:4].lower() == "/v1/":
                return 200, self.headers, await self._answer(scope, path, receive)
            return await self._elsewhere(scope, path, receive)
        except StatusError as error:
            return error.http, self.headers, json_codec.encode_error(error.message)
        except _Disconnected:
            raise
        except Exception as error:  # ours, and no request should cause one
            logger.exception("%s %s failed", scope["method"], path)
            return 500, self.headers, json_codec.encode_error(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Lets go of the threads; those that still run end with what they do."""
        self.pool.shutdown(wait=False)

    async def _answer(self, scope: Scope, path: str, receive: Receive) -> bytes:
        method: str = scope["method"]
        if self._cors and method == "OPTIONS":
            if any(name == b"origin" for name, _ in scope["headers"]):
                return b""
            raise failed_precondition("Origin header is missing in CORS preflight")
        match = {"POST": _INFERENCE, "GET": _STATUS}[method].fullmatch(path) if method in ("POST", "GET") else None
        if match is None:
            raise invalid_argument(f"Malformed request: {method} {path}")
        target = Address.of(match)
        if method == "GET":
            return await self._in_thread(self._about, *target, match["part"])
        body = await self._body(scope, receive)
        # The path ignores case, but the name of the method does not.
        answer = {"predict": self._predict, "classify": self._classify, "regress": self._regress}.get(match["method"])
        if answer is None:
            raise invalid_argument(f"Malformed request: {method} {path}")
        return await self._in_thread(self._recorded, answer, match["method"].title(), *target, body)

    async def _elsewhere(self, scope: Scope, path: str, receive: Receive) -> Response:
        """Answers what lies outside `/v1/`."""
        answer, place = None, path.partition("?")[0]
        if self.operations is not None:
            answer = await self.operations.answer(scope, place, self._in_thread)
        if answer is None and self._playground is not None:
            answer = await self._playground.answer(scope, place, lambda: self._body(scope, receive), self._in_thread)
        if answer is None:
            raise StatusError(Code.NOT_FOUND, "Not Found")
        return answer

    async def _in_thread(self, function: Callable[..., bytes], *arguments: Any) -> bytes:
        """Runs a function in a thread, within the limits."""
        limits, started = self.limits, False

        def run() -> bytes:
            nonlocal started
            started = True
            return function(*arguments)

        if self.full:
            raise self.too_many()
        future = self.pool.submit(run)
        self.under_way += 1
        loop = asyncio.get_running_loop()

        def done(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody counts any more
                loop.call_soon_threadsafe(self._done)

        future.add_done_callback(done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), limits.timeout_seconds or None)
        except TimeoutError:
            if not started:
                raise StatusError(Code.RESOURCE_EXHAUSTED, WAITED_TOO_LONG.format(limits.timeout_seconds * 1000)) from None
            raise StatusError(Code.DEADLINE_EXCEEDED, TIMED_OUT) from None

    @property
    def full(self) -> bool:
        """Whether no more requests may wait."""
        return self.under_way >= self.limits.threads + self.limits.waiting

    def too_many(self) -> StatusError:
        """Returns the error of a request that may not wait."""
        return StatusError(Code.UNAVAILABLE, f"The request queue is full: {self.limits.waiting} requests are waiting.")

    def _done(self) -> None:
        self.under_way -= 1

    def _recorded(self, answer: Callable[..., tuple[bytes, Facts]], api: str, name: str, *arguments: Any) -> bytes:
        if self.metrics is None:
            return answer(name, *arguments)[0]
        began, status, facts = time.perf_counter(), Code.INTERNAL, Facts(name)
        try:
            body, facts = answer(name, *arguments)
            status = Code.OK
            return body
        except StatusError as error:
            status = error.code
            raise
        finally:
            self.metrics.request(facts, api, "REST", status.name, time.perf_counter() - began)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Reads the request's body, unpacked, and never more of it than the limit."""
        limit, chunks, size, more = self.limits.body_bytes, list[bytes](), 0, True
        if int(_header(scope, b"content-length") or 0) > limit:
            raise _too_large(limit)
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise _Disconnected
            chunk, more = event.get("body", b""), event.get("more_body", False)
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        body = b"".join(chunks)
        packed = any(name == b"content-encoding" and b"gzip" in value for name, value in scope["headers"])
        return _unpack(body, min(limit, GZIP_LIMIT)) if packed else body

    def _predict(self, name: str, version: int | None, label: str | None, body: bytes) -> tuple[bytes, Facts]:
        document = json_parser.parse(body)
        wanted = json_codec.signature_name(document)
        with self.service.manager.lease(name, version, label) as (number, servable):
            signature = servable.signature(wanted)
            if signature is None:
                raise invalid_argument(f'Serving signature name: "{wanted or DEFAULT_SIGNATURE}" not found in signature def')
            if not signature.inputs:
                raise invalid_argument(f"Failed to get input map for signature: {wanted or 'DEFAULT'}")
            arrays, rows = json_codec.decode(document, signature.inputs, body)
            outputs = inference.predict_arrays(servable, wanted, arrays, options=self.service.options(name, number, "Predict"))
            facts = Facts(name, number, signature.name, signature.engine(arrays))
        return json_codec.encode(outputs, rows), facts

    def _classify(self, name: str, version: int | None, label: str | None, body: bytes) -> tuple[bytes, Facts]:
        document = json_parser.parse(body)
        wanted, examples = json_codec.signature_name(document), json_codec.decode_examples(document)
        with self.service.manager.lease(name, version, label) as (number, servable):
            options = self.service.options(name, number, "Classify")
            signature = inference.classification_signature(servable, wanted, options)
            rows = inference.rows_of_classes(*inference.classify_examples(signature, examples, options))
        results = [[[json_codec.text(label), json_codec.shortest(score)] for label, score in row] for row in rows]
        return json_codec.encode_results(results), Facts(name, number, signature.name, TF)

    def _regress(self, name: str, version: int | None, label: str | None, body: bytes) -> tuple[bytes, Facts]:
        document = json_parser.parse(body)
        wanted, examples = json_codec.signature_name(document), json_codec.decode_examples(document)
        with self.service.manager.lease(name, version, label) as (number, servable):
            options = self.service.options(name, number, "Regress")
            signature = inference.regression_signature(servable, wanted, options)
            values = inference.regress_examples(signature, examples, options)
        return json_codec.encode_results([json_codec.shortest(value) for value in values]), Facts(name, number, signature.name, TF)

    def _about(self, name: str, version: int | None, label: str | None, part: str | None) -> bytes:
        if not name:
            raise invalid_argument("Missing model name in request.")
        if part != "metadata":
            return _json(_message(self.service.status(_addressed(message("GetModelStatusRequest")(), name, version, label))))
        request = _addressed(message("GetModelMetadataRequest")(metadata_field=[SIGNATURE_FIELD]), name, version, label)
        response, signatures = self.service.metadata(request), message("SignatureDefMap")()
        response.metadata[SIGNATURE_FIELD].Unpack(signatures)
        return _json({"model_spec": _message(response.model_spec), "metadata": {SIGNATURE_FIELD: _message(signatures)}})


class _Disconnected(Exception):
    """The client went away."""


def _too_large(limit: int) -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, f"The request's body is larger than {limit} bytes", http=413)


def _header(scope: Mapping[str, Any], wanted: bytes) -> str | None:
    """Returns a header's value, or None."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)


def _raw_path(scope: Scope) -> str:
    """The path and the query as they came."""
    path: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query: str = scope["query_string"].decode("latin-1")
    return f"{path.partition('?')[0]}?{query}" if query or path.endswith("?") else path


def _decoded(text: str) -> str:
    return unquote(text.encode("latin-1").decode("utf-8", "replace"), errors="replace")


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise invalid_argument(f"Failed to convert version: {text} to numeric.")
    return int(digits)


def _unpack(body: bytes, limit: int) -> bytes:
    """Unpacks gzip; a body that is none is an empty one, as in TF Serving."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        return b""
    if len(unpacked) > limit:
        raise StatusError(Code.RESOURCE_EXHAUSTED, f"The request's body is larger than {limit} bytes when unpacked", http=413)
    return unpacked if unpacker.eof else b""


def _addressed(request: Any, name: str, version: int | None, label: str | None) -> Any:
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request


def _message(found: Any) -> dict[str, Any]:
    from google.protobuf import json_format

    return json_format.MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace")


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = [] if status == 304 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + length})
    await send({"type": "http.response.body", "body": body})
