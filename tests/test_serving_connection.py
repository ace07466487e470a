"""What a connection may take: its head, its time, and how many there are; and the access log that tells of all."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
from serving_models import Running, serving

from zoo.serving import Client, access_log
from zoo.serving.access_log import AccessLog, request_id
from zoo.serving.connection import MOST_HEAD_BYTES
from zoo.serving.repository import ModelSource
from zoo.serving.rest import Limits
from zoo.serving.server import start

MODEL = "relu_mlp.digits"
SOURCE = ModelSource(MODEL, Path(__file__).parent.parent / "saved_models" / MODEL)
PREDICT = f"/v1/models/{MODEL}:predict"
BODY = json.dumps({"instances": [[[[1.0]] * 8] * 8]}).encode()


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def everything(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


@pytest.mark.parametrize("part", ["path", "header", "headers"])
def test_a_head_that_is_too_large(part: str) -> None:
    with serving([SOURCE]) as server, connect(server) as connection:
        long = b"x" * (MOST_HEAD_BYTES + 1)
        head = {
            "path": b"GET /%b HTTP/1.1\r\n\r\n" % long,
            "header": b"GET / HTTP/1.1\r\na: %b\r\n\r\n" % long,
            "headers": b"GET / HTTP/1.1\r\n%b\r\n" % b"".join(b"a: %b\r\n" % (b"b" * 99) for _ in range(MOST_HEAD_BYTES // 100 + 1)),
        }[part]
        connection.sendall(head)
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert b"larger than 65536 bytes" in answer
        assert requests.get(f"{server.url}/v1/models/{MODEL}", timeout=30).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST ", b"POST %b HTTP/1.1\r\nHost: x\r\n" % PREDICT.encode(), b"body"])
def test_a_request_that_does_not_arrive(sent: bytes) -> None:
    """From a client that says nothing to one whose body trickles."""
    if sent == b"body":
        sent = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (PREDICT.encode(), len(BODY), BODY[:50])
    with serving([SOURCE], limits=Limits(read_seconds=0.5)) as server, connect(server) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "The request took longer than 0.5 s to arrive"}
        assert time.monotonic() - began >= 0.5
        assert requests.post(f"{server.url}{PREDICT}", data=BODY, timeout=30).status_code == 200


def test_a_request_that_takes_long_to_answer_is_no_slow_client() -> None:
    from serving_models import repository

    body = json.dumps({"signature_name": "slow", "instances": [150]})
    with serving([ModelSource("several", repository() / "several")], limits=Limits(read_seconds=0.3)) as server:
        assert requests.post(f"{server.url}/v1/models/several:predict", data=body, timeout=30).status_code == 200


def test_more_clients_than_are_taken() -> None:
    with serving([SOURCE], limits=Limits(connections=2)) as server:
        held = [connect(server), connect(server)]
        time.sleep(0.2)
        with connect(server) as third:
            answer = everything(third)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"as many as it takes" in answer
        held.pop().close()
        time.sleep(0.2)
        with requests.Session() as session:
            assert session.post(f"{server.url}{PREDICT}", data=BODY, timeout=30).status_code == 200
        held.pop().close()


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not path.exists() or len(path.read_text().splitlines()) < count):
        time.sleep(0.05)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_request_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with start(SOURCE.base_path, 0, f"--access_log={path}") as server:
        short = requests.post(f"{server.url}{PREDICT}", data=BODY, headers={"X-Request-Id": "mine-1"}, timeout=30)
        long = requests.post(f"{server.url}/v1/models/{MODEL}/versions/1:predict", data=b"{", timeout=30)
        health = requests.get(f"{server.url}/healthz", timeout=30)
        with Client(server.grpc) as client:
            client.predict(MODEL, image=numpy.ones((1, 8, 8, 1), "float32"))
        first, second, third, fourth = lines(path, 4)
        moved = path.rename(tmp_path / "old.log")
        os.kill(server.pid, signal.SIGHUP)
        time.sleep(0.5)
        requests.get(f"{server.url}/healthz", timeout=30)
        assert [line["path"] for line in lines(path, 1)] == ["/healthz"]
        assert len(lines(moved, 4)) == 4
    assert short.headers["x-request-id"] == first["request_id"] == "mine-1"
    assert re.fullmatch("[0-9a-f]{16}", second["request_id"])
    assert second["request_id"] == long.headers["x-request-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    common = {"protocol": "REST", "client": "127.0.0.1", "method": "POST", "model": MODEL}
    assert (
        first.items() >= {**common, "path": PREDICT, "version": None, "status": 200, "bytes_in": len(BODY), "bytes_out": len(short.content)}.items()
    )
    assert second.items() >= {**common, "version": "1", "status": 400, "bytes_in": 1, "bytes_out": len(long.content)}.items()
    assert third.items() >= {"path": "/healthz", "model": None, "status": health.status_code}.items()
    assert fourth.items() >= {"protocol": "GRPC", "method": "Predict", "model": MODEL, "version": "1", "status": "OK"}.items()
    assert all(line["milliseconds"] > 0 for line in (first, second, third, fourth))


def test_a_log_that_cannot_be_written_does_not_stop_the_server(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog("/dev/full")
    for _ in range(3):
        log.write(path="/")
    log.close()
    assert caplog.text.count("/dev/full cannot be written") == 1


@pytest.mark.parametrize(("given", "kept"), [("abc-123", True), ("", False), ("a b", False), ("x" * 129, False), ("ü", False), (None, False)])
def test_marks_that_fit_into_a_line_are_taken_over(given: str | None, kept: bool) -> None:
    found = request_id(given)
    assert (found == given) is kept
    assert access_log._FIT.fullmatch(found)
