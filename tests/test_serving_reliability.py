"""What a server goes through in a long life, in short: swaps under load, a million requests, overload, a quarter of a million broken bodies.

The figures are printed; `pytest -s -m slow tests/test_serving_reliability.py` shows them. ZOO_RELIABILITY scales how much is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import requests
from serving_models import Running, repository, serving

import zoo
from zoo.errors import ServingError
from zoo.serving import Client
from zoo.serving.inference import Options, run_directly
from zoo.serving.repository import ModelSource
from zoo.serving.server import start

SCALE = float(os.environ.get("ZOO_RELIABILITY", "1"))
MODEL = "relu_mlp.digits"
EXPORT = Path(__file__).parent.parent / "saved_models" / MODEL
PREDICT = f"/v1/models/{MODEL}:predict"
IMAGES = numpy.ones((1, 8, 8, 1), "float32")
BODY = json.dumps({"instances": IMAGES.tolist()}).encode()
TOKENS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"16777217",
    b"1" * 400,
    b'"b64"',
    b"\\u",
]
TOKENS += [b"\\ud800", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b'"signature_name":"predict_bytes",', b'"inputs":', b'"instances":', b"[" * 300, b"//"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    zoo.export_model(MODEL, folder, formats=["saved_model", "litert"])
    return folder / MODEL


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answers(connection: socket.socket, count: int) -> Iterator[tuple[int, bytes]]:
    """Reads answers from a connection that is kept."""
    data = b""
    for _ in range(count):
        while b"\r\n\r\n" not in data:
            data += received(connection)
        head, _, data = data.partition(b"\r\n\r\n")
        size = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        while len(data) < size:
            data += received(connection)
        yield int(head.split()[1]), data[:size]
        data = data[size:]


def received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    assert data, "the server closed the connection"
    return data


def mutated(body: bytes, chance: random.Random) -> bytes:
    """A body with one to four faults."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            del data[at : at + chance.randint(1, 20)]
        elif kind == 2:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            data = data[:at] or bytearray(b"{")
        elif kind == 4:
            other = chance.randrange(len(data) + 1)
            data[at:at] = data[other : other + chance.randint(1, 40)]
        else:
            data[at : at + 1] = chance.choice(TOKENS)
    return bytes(data) or b"{"


SEEDS = (
    json.dumps({"instances": [[[[1.0]] * 2] * 2] * 2}),
    json.dumps({"instances": IMAGES.tolist()}),
    json.dumps({"signature_name": "predict_uint8", "instances": [[[[255]] * 8] * 8]}),
    json.dumps({"inputs": {"image": [[[[0.5]] * 8] * 8]}}),
    json.dumps({"signature_name": "predict_bytes", "instances": [{"b64": "aGVsbG8="}]}),
    json.dumps({"examples": [{"x": 1.0, "y": [1, 2], "z": "text", "b": {"b64": "YQ=="}}], "context": {"c": 1}}),
    '{"instances":[1,2,3],"instances":[4]}',
    '{"signature_name":7,"instances":[1]}',
)


def fuzz(server: Running, count: int, seed: int, reference: Running | None = None) -> Counter[int]:
    """Sends broken bodies over kept connections, several at a time, and returns how often each status came."""
    chance, statuses = random.Random(seed), Counter[int]()
    with connect(server) as connection, connect(reference or server) as other:
        for _ in range(0, count, 16):
            bodies = [mutated(chance.choice(SEEDS).encode(), chance) for _ in range(16)]
            methods = [chance.choice(("predict", "predict", "predict", "classify", "regress")) for _ in bodies]
            sent = b"".join(
                b"POST /v1/models/%b:%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (MODEL.encode(), method.encode(), len(body), body)
                for method, body in zip(methods, bodies, strict=True)
            )
            connection.sendall(sent)
            found = list(answers(connection, len(bodies)))
            for (status, answer), body in zip(found, bodies, strict=True):
                assert status in (200, 400, 413), (status, answer, body)
                assert status == 200 or json.loads(answer.decode("utf-8", "replace"))["error"], body
                statuses[status] += 1
            if reference is not None:
                other.sendall(sent)
                for mine, theirs, body in zip(found, answers(other, len(bodies)), bodies, strict=True):
                    assert mine == theirs, body
    return statuses


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Running, Running]]:
    """A server whose requests go the short way where they can, and one where all go the long way."""
    options = Options(run=lambda signature, arrays, outputs: run_directly(signature, arrays, outputs))
    with serving([ModelSource(MODEL, EXPORT)]) as short, serving([ModelSource(MODEL, EXPORT)], options=options) as long:
        yield short, long


def test_broken_bodies_are_answered_alike_both_ways(both: tuple[Running, Running]) -> None:
    statuses = fuzz(both[0], 2000, seed=1, reference=both[1])
    assert statuses[400] > 500


@pytest.mark.slow
def test_a_quarter_of_a_million_broken_requests(both: tuple[Running, Running]) -> None:
    """REST bodies and gRPC messages: no crash, no hang, no 500."""
    began, count = time.monotonic(), round(200_000 * SCALE)
    statuses = fuzz(both[0], count, seed=2)
    seconds = time.monotonic() - began
    codes = Counter[str]()
    chance = random.Random(3)
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest(model_spec={"name": MODEL})
    request.inputs["image"].dtype = 1
    request.inputs["image"].float_val.extend([1.0] * 64)
    for size in (1, 8, 8, 1):
        request.inputs["image"].tensor_shape.dim.add().size = size
    content = request.SerializeToString()
    with grpc.insecure_channel(both[0].address) as channel:
        methods = [
            channel.unary_unary(f"/tensorflow.serving.PredictionService/{name}") for name in ("Predict", "Classify", "Regress", "GetModelMetadata")
        ]
        for _ in range(round(20_000 * SCALE)):
            try:
                chance.choice(methods)(mutated(content, chance), timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                parsed = "deserializing" not in str(error.details())  # what is no message at all is gRPC's to refuse, as INTERNAL
                codes[error.code().name if parsed else "no message"] += 1
    assert not {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"} & set(codes), codes
    assert requests.post(f"{both[0].url}{PREDICT}", data=BODY, timeout=30).status_code == 200
    print(f"\n{count} broken bodies in {seconds:.0f} s: {dict(statuses)}; broken messages: {dict(codes)}")


@pytest.mark.slow
def test_fifty_swaps_under_load(tmp_path: Path) -> None:
    """Clients of both protocols and both ways ask on while versions come and go: not one request fails."""
    folder = tmp_path / MODEL
    shutil.copytree(EXPORT / "1", folder / "1")
    failures, counts, done = list[str](), Counter[str](), threading.Event()
    with serving([ModelSource(MODEL, folder)]) as server:

        def ask(protocol: str, signature: str, images: Any) -> None:
            with Client(server.url if protocol == "REST" else f"grpc://{server.address}", retries=0) as client:
                while not done.is_set():
                    try:
                        assert client.predict(MODEL, signature=signature, image=images)
                        counts[protocol] += 1
                    except ServingError as error:
                        failures.append(str(error))

        small = numpy.zeros((1, 8, 8, 1), "uint8")
        asked = [
            ("REST", "serving_default", IMAGES),
            ("REST", "features", IMAGES),
            ("gRPC", "serving_default", IMAGES),
            ("gRPC", "predict_uint8", small),
        ]
        threads = [threading.Thread(target=ask, args=arguments) for arguments in asked]
        for thread in threads:
            thread.start()
        for number in range(2, round(50 * SCALE) + 2):
            shutil.copytree(EXPORT / "1", tmp_path / "next")
            (tmp_path / "next").rename(folder / str(number))
            deadline = time.monotonic() + 60
            while set(server.manager.loaded(MODEL)) != {number}:
                assert time.monotonic() < deadline, f"version {number} did not come"
                time.sleep(0.01)
            shutil.rmtree(folder / str(number - 1))
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    print(f"\n{round(50 * SCALE)} swaps, {dict(counts)} requests, none failed")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load comes from wrk, which is not on PATH")
def test_a_million_requests_leave_nothing_behind(exported: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = [==[{BODY.decode()}]==]\n')
    with start(exported, 0) as server:

        def load(seconds: int) -> int:
            command = ["wrk", "-t1", "-c32", f"-d{seconds}", "-s", str(script), f"{server.url}{PREDICT}"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert "Non-2xx" not in said, said
            assert "Socket errors" not in said, said
            found = re.search(r"(\d+) requests in", said)
            assert found is not None, said
            return int(found[1])

        def footprint() -> tuple[int, int]:
            time.sleep(1)
            pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{server.pid}/fd"))

        total, wanted = load(10), round(1_000_000 * SCALE)
        (memory, files), began = footprint(), time.monotonic()
        while total < wanted and time.monotonic() - began < 900:
            total += load(10)
        after, files_after = footprint()
    growth = f"{memory / 1e6:.1f} -> {after / 1e6:.1f} MB ({100 * (after / memory - 1):+.2f} %)"
    print(f"\n{total} requests: memory {growth}, descriptors {files} -> {files_after}")
    assert total >= wanted
    assert abs(after / memory - 1) <= 0.02
    assert files_after <= files


@pytest.mark.slow
def test_killed_and_started_again(exported: Path) -> None:
    labels = '{"instances": []}'
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start(exported, 0))
        before = requests.get(f"{first.url}/models", timeout=30).json()
        requests.post(f"{first.url}{PREDICT}", data=labels, timeout=30)
        os.kill(first.pid, signal.SIGKILL)
        began = time.monotonic()
        second = stack.enter_context(start(exported, int(first.url.rpartition(":")[2])))
        assert requests.post(f"{second.url}{PREDICT}", data=BODY, timeout=30).status_code == 200
        seconds = time.monotonic() - began
        assert requests.get(f"{second.url}/models", timeout=30).json() == before
    print(f"\nready again after {seconds:.1f} s")


@pytest.mark.slow
def test_ten_times_more_than_it_can_do() -> None:
    """Each request takes the model some 20 ms. Ten times as many clients as wait at its best get quick refusals, and the answers go on as before."""
    from zoo.serving.rest import Limits

    body = json.dumps({"signature_name": "slow", "instances": [4]})
    waiting = 4
    with serving([ModelSource("several", repository() / "several")], limits=Limits(threads=2, waiting=waiting)) as server:
        url = f"{server.url}/v1/models/several:predict"

        def load(clients: int, seconds: float) -> tuple[float, Counter[int], list[float]]:
            statuses, refused, end = Counter[int](), list[float](), time.monotonic() + seconds

            def ask() -> None:
                with requests.Session() as session:
                    while time.monotonic() < end:
                        began = time.monotonic()
                        status = session.post(url, data=body, timeout=60).status_code
                        statuses[status] += 1
                        if status != 200:
                            refused.append(time.monotonic() - began)
                            time.sleep(0.05)  # as a client does that was refused

            threads = [threading.Thread(target=ask) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return statuses[200] / seconds, statuses, sorted(refused)

        best, statuses, _ = load(2 + waiting, 5)
        assert set(statuses) == {200}
        goodput, statuses, refused = load(10 * (2 + waiting), 10)
        assert set(statuses) <= {200, 429, 503}
        assert statuses[503] > 0
        again, recovered, _ = load(2 + waiting, 5)
        assert set(recovered) == {200}
    p99 = refused[int(0.99 * (len(refused) - 1))]
    share, refusal = f"{goodput:.0f}/s ({goodput / best:.0%})", f"refusals within {p99 * 1000:.0f} ms (p99)"
    print(f"\nat its best {best:.0f}/s; under ten times that {share}, {refusal}; then {again:.0f}/s")
