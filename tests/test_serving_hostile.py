"""Clients that break HTTP, by accident or on purpose: each is answered with the status that it earns, and the others never notice."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import requests
from serving_models import QUICK, Running, half_plus, repository, serving

import zoo
from zoo.serving import Client
from zoo.serving.manager import ManagerOptions
from zoo.serving.repository import ModelSource
from zoo.serving.rest import Limits

MODEL = "relu_mlp.digits"
SOURCE = ModelSource(MODEL, Path(__file__).parent.parent / "saved_models" / MODEL)
PREDICT = f"/v1/models/{MODEL}:predict".encode()
BODY = json.dumps({"instances": [[[[1.0]] * 8] * 8]}).encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PACKED = b"Content-Encoding: gzip\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server that others use meanwhile: after each test it answers, and has let go of everything."""
    with serving([SOURCE, ModelSource("several", repository() / "several")], playground=True) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(server: Running) -> Iterator[None]:
    yield
    assert requests.post(f"{server.url}{PREDICT.decode()}", data=BODY, timeout=30).status_code == 200
    deadline = time.monotonic() + 30
    while any(users(server)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(users(server)), "versions are let go of"


def users(server: Running) -> list[int]:
    return [servable._users for name in (MODEL, "several") for servable in server.manager.loaded(name).values()]


def request(
    body: bytes = BODY,
    path: bytes = PREDICT,
    headers: bytes = b"",
    length: bytes | None = None,
    method: bytes = b"POST",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if length is None else length
    return b"%b %b %b\r\nHost: x\r\n%b%b\r\n%b" % (method, path, version, length, headers, body)


def get(path: bytes, method: bytes = b"GET", headers: bytes = b"") -> bytes:
    return request(b"", path, headers, length=b"", method=method)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """Reads until the server ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # the server left unread what it had no use for
        while chunk := connection.recv(1 << 16):
            data += chunk
    return data


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", data)]


def ask(server: Running, sent: bytes) -> list[int]:
    """Returns the statuses of the answers to what is sent, with a request behind it that asks for the end."""
    with connect(server) as connection:
        connection.sendall(sent)
        time.sleep(0.02)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(get(b"/healthz-of-another", headers=b"Connection: close\r\n"))
        return statuses(everything(connection))


GOOD = {
    "HTTP/1.0": request(version=b"HTTP/1.0"),
    "the whole address": request(path=b"http://other.example:99" + PREDICT),
    "a fragment": request(path=PREDICT + b"#part"),
    "empty lines before it": b"\r\n\r\n" + request(),
    "chunks": request(chunks(BODY[:50], BODY[50:]), length=CHUNKED),
    "chunks of one byte": request(chunks(*(BODY[index : index + 1] for index in range(len(BODY)))), length=CHUNKED),
    "an extension and a trailer": request(b"%x;a=b\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(BODY), BODY), length=CHUNKED),
    "chunks in capitals": request(chunks(BODY), length=CHUNKED.upper()),
    "an unknown expectation": request(headers=b"Expect: 200-ok\r\n"),
    "an offer of HTTP/2": request(headers=UPGRADE),
    "an offer of HTTP/2, in pieces": request(headers=UPGRADE),
    "an offer of WebSocket": get(f"/v1/models/{MODEL}".encode(), headers=WEBSOCKET),
    "a body of a WebSocket": request(headers=WEBSOCKET),
    "zeros before a version": get(f"/v1/models/{MODEL}/versions/{'0' * 6000}1".encode()),
    "zeros before a version, predicting": request(path=f"/v1/models/{MODEL}/versions/{'0' * 6000}1:predict".encode()),
    "packed, and something behind it": request(gzip.compress(BODY) + b"xx", headers=PACKED),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_requests_are_answered(server: Running, name: str) -> None:
    if "pieces" not in name:
        assert ask(server, GOOD[name])[0] == 200
        return
    with connect(server) as connection:
        for at in range(0, len(GOOD[name]), 40):
            connection.sendall(GOOD[name][at : at + 40])
            time.sleep(0.002)
        connection.sendall(request(headers=UPGRADE) + request(headers=b"Connection: close\r\n"))
        assert statuses(everything(connection)) == [200, 200, 200]


BROKEN = {
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/9.9": (400, request(version=b"HTTP/9.9")),
    "an unknown method": (400, request(method=b"BREW")),
    "a method in small letters": (400, request(method=b"post")),
    "CONNECT": (400, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "NUL in the path": (400, request(path=b"/v1/models/a\x00b:predict")),
    "NUL in a header": (400, request(headers=b"a: b\x00c\r\n")),
    "bytes in the path": (400, request(path=b"/v1/models/\xff\xfe:predict")),
    "a path without a slash": (400, request(path=b"v1/models/m:predict")),
    "no host in the address": (400, request(path=b"http:///v1/models/m:predict")),
    "half an IPv6 address": (400, request(path=b"http://[::1/v1/models/m:predict")),
    "a negative length": (400, request(length=b"Content-Length: -1\r\n")),
    "a length in letters": (400, request(length=b"Content-Length: abc\r\n")),
    "a signed length": (400, request(length=b"Content-Length: +%d\r\n" % len(BODY))),
    "an empty length": (400, request(length=b"Content-Length: \r\n")),
    "two lengths": (400, request(length=b"Content-Length: %d\r\nContent-Length: 5\r\n" % len(BODY))),
    "a length beyond 64 bits": (400, request(length=b"Content-Length: 18446744073709551617\r\n")),
    "a length and chunks": (400, request(headers=CHUNKED)),
    "chunks without a size": (400, request(b"zz\r\n" + BODY, length=CHUNKED)),
    "a chunk of a negative size": (400, request(b"-5\r\n" + BODY, length=CHUNKED)),
    "a chunk beyond 64 bits": (400, request(b"fffffffffffffffff\r\n" + BODY, length=CHUNKED)),
    "a chunk longer than its size": (400, request(b'5\r\n{"ins!!', length=CHUNKED)),
    "chunks that are not the last encoding": (400, request(length=b"Transfer-Encoding: chunked, identity\r\n")),
    "chunks of chunks": (400, request(chunks(BODY), length=b"Transfer-Encoding: chunked, chunked\r\n")),
    "a space before the colon": (400, request(chunks(BODY), length=b"Transfer-Encoding : chunked\r\n")),
    "a folded header": (400, request(headers=b"a: b\r\n c\r\n")),
    "lines without a carriage return": (400, request().replace(b"\r\n", b"\n")),
    "an offer of HTTP/2, and chunks": (400, request(chunks(BODY), length=CHUNKED, headers=UPGRADE)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_request_ends_the_connection(server: Running, name: str) -> None:
    status, sent = BROKEN[name]
    with connect(server) as connection:
        connection.sendall(sent)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert statuses(head) == [status]
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["error"]


EARNED = {
    "an empty body": (400, request(b"")),
    "chunks of nothing": (400, request(b"0\r\n\r\n", length=CHUNKED)),
    "NULs": (400, request(bytes(500))),
    "a body that is packed twice": (400, request(gzip.compress(gzip.compress(BODY)), headers=PACKED)),
    "a body that is not packed": (400, request(headers=PACKED)),
    "half a packed body": (400, request(gzip.compress(BODY)[:-9], headers=PACKED)),
    "packed chunks": (400, request(chunks(gzip.compress(BODY)), length=b"Transfer-Encoding: gzip, chunked\r\n")),
    "a bomb": (413, request(gzip.compress(bytes(150_000_000)), headers=PACKED)),
    "a bomb in chunks": (413, request(chunks(gzip.compress(bytes(150_000_000))), length=CHUNKED, headers=PACKED)),
    "a large body": (413, request(b" " * 400_000)),
    "large chunks": (413, request(chunks(*[b" " * 50_000] * 8), length=CHUNKED)),
    "deep lists": (400, request(b'{"instances":' + b"[" * 140_000 + b"]" * 140_000 + b"}")),
    "deep lists without an end": (400, request(b'{"instances":' + b"[" * 280_000)),
    "deep objects": (400, request(b'{"a":' * 50_000)),
    "a query": (400, request(path=PREDICT + b"?a=b")),
    "PUT": (400, request(method=b"PUT")),
    "DELETE": (400, request(method=b"DELETE")),
    "TRACE": (400, request(method=b"TRACE")),
    "OPTIONS *": (404, get(b"*", method=b"OPTIONS")),
    "a large version": (400, request(path=f"/v1/models/{MODEL}/versions/{2**63}:predict".encode())),
    "a version of many digits": (400, request(path=f"/v1/models/{MODEL}/versions/{'9' * 6000}:predict".encode())),
    "up and away": (400, request(path=b"/v1/models/../../etc/passwd:predict")),
    "up and away, quoted": (404, request(path=b"/v1/models/..%2f..%2f..%2fetc%2fpasswd:predict")),
    "a name with NUL": (404, request(path=b"/v1/models/a%00b:predict")),
    "a name that is no text": (404, request(path=b"/v1/models/%ff%fe:predict")),
    "a name of 60,000 letters": (404, request(path=b"/v1/models/%b:predict" % (b"m" * 60_000))),
    **{
        f"GET {path}": (404, get(path.encode()))
        for path in (
            "/static/../server.py",
            "/static/%2e%2e/server.py",
            "/static/..%2fserver.py",
            "/static//etc/passwd",
            "/static/%00",
            "/static/%ff",
            "//v1/models/m",
            "/v1/../v1/models",
        )
        if not path.startswith("/v1")
    },
}


@pytest.mark.parametrize("name", EARNED)
def test_what_is_wrong_gets_the_status_that_it_earns(server: Running, name: str) -> None:
    """The connection goes on: the request behind it is answered too."""
    status, sent = EARNED[name]
    assert ask(server, sent) == [status, 404]


def test_answers_come_before_the_end(server: Running) -> None:
    """What is behind good requests and is none does not take their answers away, nor come before them."""
    for broken in (b"nonsense\r\n\r\n", request(b"zz\r\n", length=CHUNKED), request(path=b"http:///")):
        with connect(server) as connection:
            connection.sendall(request() + request(b"{") + request() + broken + request())
            assert statuses(everything(connection)) == [200, 400, 200, 400]


def test_a_length_that_is_too_small_or_too_large(server: Running) -> None:
    assert ask(server, request(length=b"Content-Length: 5\r\n")) == [400, 400], "what is left is no request"
    assert ask(server, request(length=b"")) == [400, 400]
    with connect(server) as connection:
        connection.sendall(request(length=b"Content-Length: %d\r\n" % (len(BODY) + 10)))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_body_that_would_be_too_large_is_refused_before_it_comes(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(request(b"", length=b"Content-Length: 1000000000000\r\n"))
        assert statuses(connection.recv(1 << 16)) == [413]


def test_a_thousand_requests_at_once(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(request() * 500 + request(b"[") * 499 + request(headers=b"Connection: close\r\n"))
        assert statuses(everything(connection)) == [200] * 500 + [400] * 499 + [200]


def test_clients_that_never_read(server: Running) -> None:
    """Their answers fill the pipe, and then they are read from no more; it costs the server a bounded amount of memory."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(connect(server))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 200_000_000:
                    sent += connection.send(request() * 50)
            assert sent < 200_000_000
        assert requests.post(f"{server.url}{PREDICT.decode()}", data=BODY, timeout=30).status_code == 200


def test_clients_that_leave_in_the_middle(server: Running) -> None:
    whole = request() + request(chunks(BODY), length=CHUNKED) + request(headers=UPGRADE)
    for at in range(1, len(whole), 29):
        with connect(server) as connection:
            connection.sendall(whole[:at])
            if at % 2:
                connection.shutdown(socket.SHUT_WR)
            if at % 3 == 0:  # a reset in place of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_slow_clients_take_nothing_from_others() -> None:
    """Two hundred clients whose requests trickle, head or body, are ended; one that asks meanwhile is answered at once."""
    with serving([SOURCE], limits=Limits(read_seconds=1.0)) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(200)]
        deadline, sent, answered, ended = time.monotonic() + 30, 0, 0, set[int]()
        while len(ended) < len(slow) and time.monotonic() < deadline:
            for index, connection in enumerate(slow):
                start = 0 if index % 2 else request().index(b"\r\n\r\n")
                try:
                    connection.sendall(request()[start + sent if sent else 0 : start + sent + 1])
                except (BrokenPipeError, ConnectionResetError):
                    ended.add(index)
            sent += 1
            answered += requests.post(f"{server.url}{PREDICT.decode()}", data=BODY, timeout=30).status_code == 200
        assert len(ended) == len(slow)
        assert answered == sent


def test_a_repository_that_vanishes(server: Running, tmp_path: Path) -> None:
    """A version that is loaded goes on. What it would have to load only now it cannot, and says so."""
    zoo.export_model(MODEL, tmp_path, formats=["saved_model", "litert"])
    half_plus(tmp_path / "half" / "1", 2)
    options = ManagerOptions(poll_seconds=0.05, engine="litert", retries=0)
    image = numpy.ones((1, 8, 8, 1), "float32")
    with serving([ModelSource(MODEL, tmp_path / MODEL), ModelSource("half", tmp_path / "half")], options) as found, Client(found.url) as client:
        before = client.predict(MODEL, image=image)
        (tmp_path / "half").rename(tmp_path / "gone")  # at once: of an empty folder all versions are unloaded
        (tmp_path / MODEL).rename(tmp_path / "gone as well")
        time.sleep(0.3)
        assert client.predict("half", x=numpy.float32([2.0]))["y"].tolist() == [3.0]
        numpy.testing.assert_array_equal(client.predict(MODEL, image=image)["logits"], before["logits"])
        missing = requests.post(f"{found.url}{PREDICT.decode()}", json={"signature_name": "features", "instances": image.tolist()}, timeout=60)
        assert missing.status_code == 503, missing.text
        assert "cannot be loaded" in missing.json()["error"]


def test_a_version_that_loses_a_file(server: Running, tmp_path: Path) -> None:
    """A new version without its variables is not loaded, and the old one goes on."""
    half_plus(tmp_path / "half" / "1", 2)
    with serving([ModelSource("half", tmp_path / "half")], QUICK) as found, Client(found.url) as client:
        half_plus(tmp_path / "next", 3)
        shutil.rmtree(tmp_path / "next" / "variables")
        (tmp_path / "next").rename(tmp_path / "half" / "2")
        deadline = time.monotonic() + 30
        while not found.manager.failures() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(found.manager.failures()) == ["half/2"]
        assert client.predict("half", x=numpy.float32([2.0]))["y"].tolist() == [3.0]
