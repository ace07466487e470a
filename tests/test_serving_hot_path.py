"""The short way of predict requests: what it takes, what runs together, and that nothing of the protocol gets lost on it."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
from serving_models import Running, repository, serving

from zoo.serving import hot_path
from zoo.serving.hot_path import HotPath
from zoo.serving.inference import Options, run_directly
from zoo.serving.manager import Manager, ManagerOptions
from zoo.serving.metrics import Metrics
from zoo.serving.repository import ModelSource
from zoo.serving.rest import Address, Limits, RestApplication, predict_address
from zoo.serving.servable import Signature
from zoo.serving.service import Service

MODEL = "relu_mlp.digits"
EXPORT = Path(__file__).parent.parent / "saved_models" / MODEL
PREDICT = f"/v1/models/{MODEL}:predict"
IMAGES = numpy.random.default_rng(0).uniform(0, 16, (40, 8, 8, 1)).astype("float32")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that signatures were run on."""
    sizes: list[int] = []
    run = Signature.run

    def counted(self: Signature, arrays: Any, outputs: Any = ()) -> Any:
        sizes.append(len(next(iter(arrays.values()))))
        return run(self, arrays, outputs)

    monkeypatch.setattr(Signature, "run", counted)
    return sizes


@pytest.fixture
def server() -> Iterator[Running]:
    with serving([ModelSource(MODEL, EXPORT)]) as running:
        yield running


@pytest.fixture
def long_way() -> Iterator[Running]:
    """The same models in a server whose requests all go the long way."""
    options = Options(run=lambda signature, arrays, outputs: run_directly(signature, arrays, outputs))
    with serving([ModelSource(MODEL, EXPORT)], options=options) as running:
        yield running


def request(images: numpy.ndarray, path: str = PREDICT, headers: str = "") -> bytes:
    body = json.dumps({"instances": images.tolist()}).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def receive(connection: socket.socket, count: int = 1) -> list[tuple[int, Any]]:
    """Reads so many answers, with nothing left behind them."""
    answers, data = [], b""
    while len(answers) < count:
        while b"\r\n\r\n" not in data:
            data += received(connection)
        head, _, data = data.partition(b"\r\n\r\n")
        size = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
        while len(data) < size:
            data += received(connection)
        answers.append((int(head.split()[1]), json.loads(data[:size])))
        data = data[size:]
    assert not data
    return answers


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


def test_a_path_is_read_once() -> None:
    assert predict_address(b"/v1/models/m:predict") == Address("m", None, None)
    assert predict_address(b"/V1/models/a%20b/versions/003:predict") == Address("a b", 3, None)
    assert predict_address(b"/v1/models/m/labels/stable:predict") == Address("m", None, "stable")
    for path in (b"/v1/models/m:classify", b"/v1/models/m:Predict", b"/v1/models/m", b"/", b"/v1/models/m/versions/99999999999999999999:predict"):
        assert predict_address(path) is None


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_the_answers_are_those_of_the_long_way(server: Running, long_way: Running, count: int, form: str) -> None:
    answers = [requests.post(f"{running.url}{PREDICT}", json={form: IMAGES[:count].tolist()}, timeout=30) for running in (server, long_way)]
    assert answers[0].status_code == answers[1].status_code == 200
    assert answers[0].content == answers[1].content
    assert {name.lower() for name in answers[0].headers} == {name.lower() for name in answers[1].headers}
    assert answers[0].headers["content-type"] == "application/json"


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    sources = [ModelSource(MODEL, EXPORT), ModelSource("several", repository() / "several"), ModelSource("half", repository() / "half_plus_two")]
    found = Manager(sources, ManagerOptions(poll_seconds=0))
    yield found
    found.close()


class Asked:
    """What became of a request: `(status, answer)`, or `refused`."""

    def __init__(self) -> None:
        self.outcome: Any = None
        self.count = 0

    def answer(self, status: int, body: bytes) -> None:
        self.outcome, self.count = (status, json.loads(body)), self.count + 1

    def refuse(self) -> None:
        self.outcome, self.count = "refused", self.count + 1


def ask(manager: Manager, bodies: Sequence[Any], model: str = MODEL, limits: Limits | None = None, metrics: Metrics | None = None) -> list[Any]:
    """Hands requests over in one turn of the loop, and waits until something has become of each."""
    application = RestApplication(Service(manager, metrics=metrics), limits, metrics=metrics)

    async def main() -> list[Asked]:
        path, asked = HotPath(application), [Asked() for _ in bodies]
        for one, body in zip(asked, bodies, strict=True):
            path.take(Address(model, None, None), json.dumps(body).encode(), one.answer, one.refuse)
        deadline = time.monotonic() + 60
        while any(one.outcome is None for one in asked) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        while application.under_way and time.monotonic() < deadline:  # what was given up on still runs
            await asyncio.sleep(0.01)
        return asked

    asked = asyncio.run(main())
    application.close()
    assert [one.count for one in asked] == [1] * len(asked), "every request is answered once"
    assert application.under_way == 0
    return [one.outcome for one in asked]


def test_requests_that_come_together_run_together(manager: Manager, runs: list[int]) -> None:
    alone = [ask(manager, [{"instances": image[None].tolist()}])[0] for image in IMAGES]
    assert runs == [1] * len(IMAGES)
    runs.clear()
    together = ask(manager, [{"instances": image[None].tolist()} for image in IMAGES])
    assert runs == [len(IMAGES)]
    for (status, answer), (_, expected) in zip(together, alone, strict=True):
        assert status == 200
        ours, theirs = answer["predictions"][0], expected["predictions"][0]
        assert (ours["class_id"], ours["label"]) == (theirs["class_id"], theirs["label"])
        numpy.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-6)


def test_batches_are_of_a_size_that_helps(manager: Manager, runs: list[int]) -> None:
    bodies: list[Any] = [{"instances": IMAGES[:30].tolist()}, {"inputs": IMAGES[:30].tolist()}, {"inputs": IMAGES[:30].tolist()}]
    answers = ask(manager, bodies)
    assert sorted(runs) == [30, 60]
    assert [list(answer) for _, answer in answers] == [["predictions"], ["outputs"], ["outputs"]]
    assert [len(answer["predictions"]) for _, answer in answers[:1]] == [30]
    runs.clear()
    assert [len(answer["predictions"]) for _, answer in ask(manager, [{"instances": IMAGES.repeat(3, axis=0).tolist()}])] == [120]
    assert runs == [120], "a request is never taken apart"


def test_other_models_run_each_request_alone(manager: Manager, runs: list[int]) -> None:
    """Whether rows depend on each other is not known of a model without golden requests."""
    answers = ask(manager, [{"instances": [1.0]}, {"instances": [2.0, 3.0]}, {"instances": [[4.0], [5.0]]}], model="half")
    assert sorted(runs) == [1, 2, 2]
    assert [answer for _, answer in answers] == [{"predictions": [3.5]}, {"predictions": [4.0, 4.5]}, {"predictions": [[5.0], [5.5]]}]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (MODEL, {"instances": []}),
        (MODEL, {"instances": IMAGES[:1].tolist(), "signature_name": "unknown"}),
        (MODEL, {"instances": [[1, 2], [3]]}),
        (MODEL, {"instances": [[1, 2, 3]]}),  # the session has the words for this
        (MODEL, {"examples": [{}]}),
        ("unknown", {"instances": [1]}),
        ("several", {"instances": [1]}),
    ],
)
def test_what_is_refused(manager: Manager, model: str, body: Any) -> None:
    before = [servable._users for servable in manager.loaded(MODEL).values()]
    assert ask(manager, [body], model=model) == ["refused"]
    assert [servable._users for servable in manager.loaded(MODEL).values()] == before == [0], "versions are let go of"


def test_one_bad_request_does_not_spoil_the_others(manager: Manager) -> None:
    bodies = [{"instances": IMAGES[:1].tolist()}, {"instances": [[1, 2, 3]]}, {"instances": IMAGES[1:2].tolist()}]
    assert [outcome if outcome == "refused" else outcome[0] for outcome in ask(manager, bodies)] == [200, "refused", 200]


def test_a_batch_that_fails_is_left_to_the_long_way(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signature, "run", lambda self, arrays, outputs=(): (_ for _ in ()).throw(MemoryError()))
    assert ask(manager, [{"instances": IMAGES[:1].tolist()}] * 3) == ["refused"] * 3


def slow(steps: int) -> Any:
    return {"signature_name": "slow", "instances": [steps]}


def test_too_many_and_too_late(manager: Manager) -> None:
    """One runs, and takes too long; two wait, and wait too long; the next find the queue full."""
    metrics = Metrics()
    answers = ask(manager, [slow(300)] * 5, model="several", limits=Limits(timeout_seconds=0.5, threads=1, waiting=2), metrics=metrics)
    timed_out = (504, {"error": "Timed out waiting for notification"})
    waited = (429, {"error": "The request waited longer than 500 ms for its turn."})
    full = (503, {"error": "The request queue is full: 2 requests are waiting."})
    assert answers == [timed_out, waited, waited, full, full]
    page = metrics.page()
    assert ':tensorflow:serving:request_count{model_name="several",status="DEADLINE_EXCEEDED"} 1' in page
    assert ':tensorflow:serving:request_count{model_name="several",status="RESOURCE_EXHAUSTED"} 2' in page


def test_what_is_counted(manager: Manager) -> None:
    metrics = Metrics()
    ask(manager, [{"instances": image[None].tolist()} for image in IMAGES[:5]], metrics=metrics)
    lines = metrics.page().splitlines()
    assert f':tensorflow:serving:request_count{{model_name="{MODEL}",status="OK"}} 5' in lines
    assert f':tensorflow:serving:request_latency_count{{model_name="{MODEL}",API="Predict",entrypoint="REST"}} 5' in lines
    assert f':tensorflow:serving:runtime_latency_count{{model_name="{MODEL}",API="Predict",runtime="TF1"}} 1' in lines, "one batch"


def test_how_long_a_batch_takes_is_learned() -> None:
    queue = hot_path._Queue()
    assert queue.expected(1) == hot_path.LONG_SECONDS, "what is not known may take long"
    queue.measured(1, 0.001)
    queue.measured(1, 0.1)  # something else had the processor
    assert queue.expected(1) == pytest.approx(0.0011)
    queue.measured(1, 0.0002)
    assert queue.expected(1) == 0.0002
    assert queue.expected(2) == hot_path.LONG_SECONDS
    queue.measured(5, 0.003)
    assert [queue.expected(rows) for rows in (4, 5, 6, 7)] == [0.003] * 4


def test_requests_in_a_row_on_one_connection(server: Running) -> None:
    with connect(server) as connection:
        for index in range(3):
            connection.sendall(request(IMAGES[index : index + 1]))
            (answer,) = receive(connection)
            assert answer == expected(server, index)


def test_requests_before_the_answers(server: Running) -> None:
    """Pipelining: answers come in the order of the requests, whichever way each of them goes."""
    bad = request(IMAGES[:0])
    with connect(server) as connection:
        connection.sendall(request(IMAGES[:1]) + bad + request(IMAGES[1:2]) + request(IMAGES[2:3]))
        first, second, *others = receive(connection, 4)
    assert [first, *others] == [expected(server, index) for index in range(3)]
    assert second[0] == 400


def expected(server: Running, index: int) -> tuple[int, Any]:
    response = requests.post(f"{server.url}{PREDICT}", json={"instances": IMAGES[index : index + 1].tolist()}, timeout=30)
    return response.status_code, response.json()


def test_a_request_in_pieces(server: Running) -> None:
    whole = request(IMAGES[:1])
    with connect(server) as connection:
        for start in range(0, len(whole), 400):
            connection.sendall(whole[start : start + 400])
            time.sleep(0.005)
        assert receive(connection) == [expected(server, 0)]


@pytest.mark.parametrize("headers", ["Connection: close\r\n", "Expect: 100-continue\r\n"])
def test_headers_that_change_the_conversation(server: Running, headers: str) -> None:
    with connect(server) as connection:
        connection.sendall(request(IMAGES[:1], headers=headers))
        data = b""
        if "close" in headers:
            while chunk := connection.recv(65536):
                data += chunk
            assert b"connection: close" in data.lower()
            assert b" 200 " in data.splitlines()[0]
        else:
            while not data.endswith(b"}"):
                data += received(connection)
            assert data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


def test_bodies_without_a_length_and_packed_ones_go_the_long_way(server: Running, runs: list[int]) -> None:
    body = json.dumps({"instances": IMAGES[:1].tolist()}).encode()
    chunked = requests.post(f"{server.url}{PREDICT}", data=iter([body[:100], body[100:]]), timeout=30)
    packed = requests.post(f"{server.url}{PREDICT}", data=gzip.compress(body), headers={"Content-Encoding": "gzip"}, timeout=30)
    plain = requests.post(f"{server.url}{PREDICT}", data=body, timeout=30)
    assert chunked.json() == packed.json() == plain.json()
    assert runs == [1, 1, 1]


def test_clients_that_go_away(server: Running) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(request(IMAGES))
        with connect(server) as connection:
            connection.sendall(request(IMAGES)[:200])
    assert expected(server, 0)[0] == 200
    deadline = time.monotonic() + 30
    while any(servable._users for servable in server.manager.loaded(MODEL).values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [servable._users for servable in server.manager.loaded(MODEL).values()] == [0]


def test_many_clients_at_a_time(server: Running) -> None:
    answers = [expected(server, index) for index in range(8)]

    def call(index: int) -> bool:
        with connect(server) as connection:
            found = []
            for _ in range(30):
                connection.sendall(request(IMAGES[index : index + 1]))
                found += receive(connection)
        (prediction,) = answers[index][1]["predictions"]
        return all(status == 200 and numpy.allclose(answer["predictions"][0]["logits"], prediction["logits"], atol=1e-4) for status, answer in found)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_requests_under_way_are_answered_before_the_end(tmp_path: Path) -> None:
    with serving([ModelSource("several", repository() / "several")]) as server:
        connection = connect(server)
        body = json.dumps(slow(60)).encode()
        connection.sendall(b"POST /v1/models/several:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        time.sleep(0.1)
    assert receive(connection)[0][0] == 200
    connection.close()
