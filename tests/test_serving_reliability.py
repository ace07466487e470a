"""What a server goes through in a long life, in short: swaps under load, kills, ends, a million requests, overload, broken requests.

The figures are printed: `pytest -s -m slow tests/test_serving_reliability.py` shows them, and `benchmarks/reliability.py` keeps them.
ZOO_RELIABILITY scales how much is asked.
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
from serving_load import Clients, Connection, descriptors, held, is_json, load, memory, mutated, percentile, report, request, times, until
from serving_models import half_plus, repository

import zoo
from zoo.serving import Client, start
from zoo.serving.messages import message
from zoo.serving.server import ServerProcess
from zoo.serving.tensors import fill_proto

MODEL = "relu_mlp.digits"
PREDICT = f"/v1/models/{MODEL}:predict"
HALF = "/v1/models/half:predict"
IMAGES = numpy.ones((1, 8, 8, 1), "float32")
BODY = json.dumps({"instances": IMAGES.tolist()}).encode()
LABELS = "--allow_version_labels_for_unavailable_models"
SEEDS = [
    ("relu_mlp.digits", '{"instances": [[[[1.0],[2.0]],[[1.0],[2.0]]]]}'),
    ("relu_mlp.digits", BODY.decode()),
    ("relu_mlp.digits", json.dumps({"signature_name": "predict_uint8", "instances": [[[[255]] * 8] * 8]})),
    ("relu_mlp.digits", json.dumps({"inputs": {"image": [[[[0.5]] * 8] * 8]}})),
    ("relu_mlp.digits", json.dumps({"signature_name": "predict_bytes", "instances": [{"b64": "aGVsbG8="}]})),
    ("half_plus_two", '{"examples": [{"x": 1.0, "y": [1, 2], "z": "text", "b": {"b64": "YQ=="}}], "context": {"c": 1}}'),
    ("half_plus_two", '{"instances":[1,2,3],"instances":[4]}'),
    ("half_plus_two", '{"signature_name":7,"instances":[1]}'),
    ("half_plus_two", '{"inputs":{"x":[1.5,2e3,-0.0]}}'),
    ("several", '{"instances":[{"text":"a\\u00e9\\n","number":9007199254740993,"flag":true},{"text":{"b64":"/w=="},"number":-1,"flag":false}]}'),
    ("several", '{"signature_name":"total","inputs":[[0,255],[7,8]]}'),
    ("several", '{"signature_name":"product","inputs":{"x":[[1,2,3]],"y":[[1],[2],[3]]}}'),
    ("several", '{"signature_name":"numbers","instances":["1.5","2"]}'),
    ("types", '{"signature_name":"int64","instances":[9223372036854775807]}'),
    ("types", '{"signature_name":"uint8","instances":[[255,0],[1,2]]}'),
    ("types", '{"signature_name":"string","inputs":{"x":["a",{"b64":"AA=="}]}}'),
    ("types", '{"signature_name":"half","inputs":[1.0]}'),
    ("defaults", '{"inputs":{"x":[1,2]}}'),
]
METHODS = ("predict", "predict", "predict", "predict", "classify", "regress")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model, which is served without TensorFlow."""
    folder = tmp_path_factory.mktemp("exported")
    zoo.export_model(MODEL, folder, formats=["saved_model", "litert"])
    return folder


def predict_request(model: str = MODEL, signature: str = "", **arrays: Any) -> Any:
    sent = message("PredictRequest")()
    sent.model_spec.name, sent.model_spec.signature_name = model, signature
    for name, array in (arrays or {"image": IMAGES}).items():
        fill_proto(sent.inputs[name], array)
    return sent


def method(channel: grpc.Channel, name: str = "Predict") -> Any:
    """A method that is sent bytes, and answers with bytes."""
    return channel.unary_unary(f"/tensorflow.serving.PredictionService/{name}")


def own_channel(server: ServerProcess) -> grpc.Channel:
    return grpc.insecure_channel(server.grpc.removeprefix("grpc://"), options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture(scope="module")
def broken_requests(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that gets all that is broken, in a process of its own: if that ends, so do the tests."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / MODEL).symlink_to(exported / MODEL)
    for name in ("half_plus_two", "several", "types", "defaults"):
        (folder / name).symlink_to(repository() / name)
    with start(folder, 0, "--rest_api_timeout_in_ms=20000", "--max_body_bytes=300000") as server:
        yield server


def fuzz_bodies(server: ServerProcess, count: int, seed: int) -> Counter[int]:
    """Sends broken bodies over kept connections, several at a time, both ways: the short one and, in chunks, the long one."""
    chance, statuses = random.Random(seed), Counter[int]()
    with Connection(server.url) as short, Connection(server.url) as long:
        for _ in range(0, count, 16):
            asked = []
            for _ in range(16):
                model, body = chance.choice(SEEDS)
                asked.append((f"/v1/models/{model}:{chance.choice(METHODS)}", mutated(body.encode(), chance)))
            short.send(b"".join(request(path, body) for path, body in asked))
            long.send(b"".join(request(path, body, chunked=True) for path, body in asked))
            for path, body in asked:
                found, other = short.answer(), long.answer()
                assert found == other, (path, body)
                assert found.status in (200, 400, 413, 501), (found, path, body)
                assert found.status == 400 or is_json(body), (found, path, body)
                assert found.status == 200 or json.loads(found.body.decode("utf-8", "replace"))["error"], body
                statuses[found.status] += 1
    return statuses


def odd_message(chance: random.Random) -> bytes:
    """A message of gRPC that is one, but whose parts hardly fit together."""
    model, names = chance.choice(((MODEL, ["image"]), ("half_plus_two", ["x"]), ("several", ["text", "number", "flag"]), ("types", ["x"])))
    sent = message("PredictRequest")()
    sent.model_spec.name = chance.choice((model, model, model, "", "a" * 2000, "../.."))
    sent.model_spec.signature_name = chance.choice(("", "", "predict_uint8", "predict_bytes", "product", "total", "int64", "string", "none"))
    if chance.random() < 0.2:
        sent.model_spec.version.value = chance.choice((1, 2, 0, -1, 2**63 - 1))
    for name in chance.choice((names, names, ["x", "y"], [], [*names, "more"])):
        tensor = sent.inputs[name]
        tensor.dtype = chance.choice((1, 3, 4, 7, 9, 10, 14, 19, 23, 0, 20, 101, 999))
        for _ in range(chance.randrange(5)):
            tensor.tensor_shape.dim.add().size = chance.choice((0, 1, 1, 2, 8, 8, -1, 2**31, 2**62, -(2**63)))
        tensor.tensor_shape.unknown_rank = chance.random() < 0.1
        count = chance.choice((0, 1, 2, 8, 64))
        if chance.random() < 0.3:
            tensor.tensor_content = bytes(chance.choices(range(256), k=chance.choice((0, 1, 4, 8, 64, 256))))
        for field, value in (("float_val", float("nan")), ("int_val", -1), ("int64_val", 2**62), ("string_val", b"\xff"), ("bool_val", True)):
            if chance.random() < 0.4:
                getattr(tensor, field).extend([value] * count)
    sent.output_filter.extend(chance.choice(([], [], ["y"], ["none"], ["y", "y"])))
    return bytes(sent.SerializeToString())


def flipped(content: bytes, chance: random.Random) -> bytes:
    """A message with one other byte."""
    data = bytearray(content)
    data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def fuzz_messages(server: ServerProcess, count: int, seed: int) -> Counter[str]:
    """Sends broken messages of gRPC, and returns how often each code came."""
    chance, codes = random.Random(seed), Counter[str]()
    seeds = [
        predict_request(),
        predict_request("half_plus_two", x=numpy.float32([1, 2])),
        predict_request("several", text=numpy.array([b"a"], object), number=numpy.int64([1]), flag=numpy.array([True])),
        predict_request("several", "product", x=numpy.ones((2, 3), "float32"), y=numpy.ones((3, 1), "float32")),
        predict_request("types", "int64", x=numpy.int64([[1], [-1]])),
    ]
    contents = [sent.SerializeToString() for sent in seeds]
    with own_channel(server) as channel:
        methods = [method(channel, name) for name in ("Predict", "Predict", "Predict", "Classify", "Regress", "GetModelMetadata", "MultiInference")]
        for _ in range(0, count, 16):
            asked = [chance.choice((mutated, flipped))(chance.choice(contents), chance) for _ in range(8)] + [odd_message(chance) for _ in range(8)]
            for body, call in [(body, chance.choice(methods).future(body, timeout=30)) for body in asked]:
                parsed = "deserializing" not in str(call.details())  # what is no message at all is gRPC's to refuse, as INTERNAL
                code = call.code().name if parsed else "no message"
                assert code not in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"), (call.details(), body)
                codes[code] += 1
    return codes


def fuzz_requests(server: ServerProcess, count: int, seed: int) -> Counter[int]:
    """Sends requests that are broken anywhere, head or body, each on a connection of its own that then says no more."""
    chance, statuses = random.Random(seed), Counter[int]()
    whole = request(PREDICT, BODY), request(PREDICT, BODY, chunked=True), b"GET /v1/models/%b/metadata HTTP/1.0\r\n\r\n" % MODEL.encode()
    for _ in range(count):
        sent = chance.choice(whole)
        at = chance.choice((len(sent), sent.index(b"\r\n\r\n")))
        with Connection(server.url) as connection:
            connection.send(mutated(sent[:at], chance) + sent[at:])
            connection.socket.shutdown(socket.SHUT_WR)
            data = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.socket.recv(1 << 16):
                    data += chunk
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", data)]
        assert set(found) <= {100, 200, 400, 404, 413, 431}, (found, sent)
        statuses.update(found or [0])
    return statuses


def test_broken_requests(broken_requests: ServerProcess) -> None:
    """In short what is below at length."""
    assert fuzz_bodies(broken_requests, 3000, seed=1)[400] > 500
    assert fuzz_messages(broken_requests, 500, seed=1)["INVALID_ARGUMENT"] > 10
    assert fuzz_requests(broken_requests, 300, seed=1)[400] > 50


@pytest.mark.slow
def test_a_quarter_of_a_million_broken_requests(broken_requests: ServerProcess) -> None:
    """No crash, no hang, no 500; the same answer both ways; and memory that does not grow with them."""
    fuzz_bodies(broken_requests, times(10_000), seed=2)
    before, began = memory(broken_requests.pid), time.monotonic()
    statuses = fuzz_bodies(broken_requests, times(200_000), seed=3)
    bodies_seconds = time.monotonic() - began
    codes = fuzz_messages(broken_requests, times(50_000), seed=4)
    heads = fuzz_requests(broken_requests, times(20_000), seed=5)
    after, seconds = memory(broken_requests.pid), time.monotonic() - began
    assert requests.post(f"{broken_requests.url}{PREDICT}", data=BODY, timeout=30).status_code == 200
    report(
        "broken requests",
        bodies=(sum(statuses.values()), "x 2 ways"),
        **{f"bodies_answered_with_{status}": (count, "") for status, count in sorted(statuses.items())},
        messages=(sum(codes.values()), ""),
        **{f"messages_answered_with_{code}": (count, "") for code, count in sorted(codes.items())},
        heads=(sum(heads.values()), "answers"),
        seconds_for_bodies=(bodies_seconds, "s"),
        seconds=(seconds, "s"),
        memory_before=(before, "MB"),
        memory_after=(after, "MB"),
    )


def ask_half(connection: Connection) -> None:
    connection.send(request(HALF, b'{"instances":[2.0]}'))
    answer = connection.answer()
    assert answer.status == 200, answer
    (value,) = json.loads(answer.body)["predictions"]
    assert value in (3.0, 4.0), "that of one version or of another"


def ask_exported(connection: Connection, chunked: bool) -> None:
    connection.send(request(PREDICT, BODY, chunked=chunked))
    answer = connection.answer()
    assert answer.status == 200, answer


@pytest.mark.slow
def test_fifty_swaps_under_load(exported: Path, tmp_path: Path) -> None:
    """Clients of both protocols and both ways ask on while versions come and go: not one request fails.

    One model is served by LiteRT, its requests run together, and TensorFlow is loaded for the signature `features` of each
    version; the other is served by TensorFlow, and its versions answer differently.
    """
    places = {MODEL: exported / MODEL / "1", "half": tmp_path / "made" / "1"}
    half_plus(tmp_path / "made" / "1", 2)
    half_plus(tmp_path / "made" / "2", 3)
    for name in places:
        shutil.copytree(places[name], tmp_path / "served" / name / "1")
    clients, swaps = Clients(), times(50)
    flags = ["--file_system_poll_wait_seconds=0.1", "--engine=litert"]
    with start(tmp_path / "served", 0, *flags) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.url)) for _ in range(4)]
        clients.add("REST, the short way", lambda: ask_exported(connections[0], chunked=False))
        clients.add("REST, the long way", lambda: ask_exported(connections[1], chunked=True))
        clients.add("REST, TensorFlow", lambda: ask_half(connections[2]))
        rest = stack.enter_context(Client(server.url, retries=0))
        clients.add("REST, features", lambda: rest.predict(MODEL, signature="features", image=IMAGES))
        for name, sent in {
            "gRPC": predict_request(),
            "gRPC, uint8": predict_request(signature="predict_uint8", image=IMAGES.astype("uint8")),
            "gRPC, TensorFlow": predict_request("half", x=numpy.float32([2.0])),
        }.items():
            call, content = method(stack.enter_context(own_channel(server))), sent.SerializeToString()
            clients.add(name, lambda call=call, content=content: call(content, timeout=30))  # type: ignore[misc]
        began, first = time.monotonic(), 0.0
        try:
            for number in range(2, swaps + 2):
                for name in places:
                    shutil.copytree(places[name] if name == MODEL else tmp_path / "made" / str(1 + number % 2), tmp_path / "next")
                    (tmp_path / "next").rename(tmp_path / "served" / name / str(number))
                assert until(lambda number=number: all(served(server, name) == {number} for name in places))  # type: ignore[misc]
                for name in places:
                    shutil.rmtree(tmp_path / "served" / name / str(number - 1))
                if number == 2 + swaps // 10:
                    first = memory(server.pid)
        finally:
            clients.stop()
        seconds, last = time.monotonic() - began, memory(server.pid)
    assert clients.failures == []
    assert len(clients.counts) == 7
    figures = {name.replace(", ", "_").replace(" ", "_"): (float(count), "requests") for name, count in clients.counts.items()}
    kept = {"memory_after_a_tenth": (first, "MB"), "memory": (last, "MB")}
    report("swaps under load", swaps=(2 * swaps, ""), failures=(len(clients.failures), ""), seconds=(seconds, "s"), **figures, **kept)


def served(server: ServerProcess, name: str) -> set[int]:
    """The versions of a model that are loaded, or have not let go yet."""
    states = requests.get(f"{server.url}/v1/models/{name}", timeout=30).json()["model_version_status"]
    return {int(state["version"]) for state in states if state["state"] != "END"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load comes from wrk, which is not on PATH")
def test_a_million_requests_leave_nothing_behind(exported: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = [==[{BODY.decode()}]==]\n')
    with start(exported, 0) as server:

        def ask(seconds: int) -> int:
            command = ["wrk", "-t1", "-c32", f"-d{seconds}", "-s", str(script), f"{server.url}{PREDICT}"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert "Non-2xx" not in said, said
            assert "Socket errors" not in said, said
            found = re.search(r"(\d+) requests in", said)
            assert found is not None, said
            return int(found[1])

        def footprint() -> tuple[float, int]:
            time.sleep(1)
            return memory(server.pid), descriptors(server.pid)

        total, wanted, began = 0, times(1_000_000), time.monotonic()
        while total < wanted / 10:
            total += ask(5)
        held, files = footprint()
        while total < wanted and time.monotonic() - began < 1200:
            total += ask(10)
        seconds = time.monotonic() - began
        held_after, files_after = footprint()
    growth = 100 * (held_after / held - 1)
    figures = {"memory_after_a_tenth": (held, "MB"), "memory": (held_after, "MB"), "growth": (growth, "%")}
    report("a million requests", requests=(total, ""), seconds=(seconds, "s"), **figures, descriptors_more=(files_after - files, ""))
    assert total >= wanted
    assert abs(growth) <= 2
    assert files_after <= files


def labelled(folder: Path, exported: Path) -> Path:
    """A configuration of several versions with labels."""
    for number in (1, 2, 5):
        shutil.copytree(exported / MODEL / "1", folder / MODEL / str(number))
    (folder / "models.config").write_text(
        f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{folder / MODEL}" model_platform: "tensorflow" '
        "model_version_policy { specific { versions: 1 versions: 5 } } "
        'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 5 } } }'
    )
    return folder


def state(server: ServerProcess) -> Any:
    """All that a server says of its models, over both protocols."""
    said = [requests.get(f"{server.url}/v1/models/{MODEL}{part}", timeout=30).json() for part in ("", "/metadata", "/labels/stable/metadata")]
    with Client(server.grpc) as client:
        said += [client.status(MODEL), *(client.predict(MODEL, label=label, image=IMAGES)["label"].tolist() for label in ("stable", "canary"))]
    return said


@pytest.mark.slow
def test_killed_and_started_again(exported: Path, tmp_path: Path) -> None:
    """Three times, under load, on the same ports: versions and labels are what they were."""
    folder, seconds = labelled(tmp_path, exported), list[float]()
    flags = [LABELS, "--engine=litert"]
    server = start(folder, 0, *flags)
    before = state(server)
    assert [status["version"] for status in before[0]["model_version_status"]] == ["5", "1"]
    for _ in range(times(3)):
        clients = Clients()
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                connection = stack.enter_context(Connection(server.url))
                clients.add("REST", lambda connection=connection: ask_exported(connection, chunked=False))  # type: ignore[misc]
            time.sleep(0.5)
            os.kill(server.pid, signal.SIGKILL)
            began = time.monotonic()
            clients.stop()
        server.stop()
        server = start(folder, int(server.url.rpartition(":")[2]), *flags)
        with Connection(server.url) as connection:
            ask_exported(connection, chunked=False)
        seconds.append(time.monotonic() - began)
        assert state(server) == before
    assert server.stop() == 0
    report("killed and started again", kills=(len(seconds), ""), ready_again_after_at_most=(max(seconds), "s"), state_lost=(0, ""))


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return sorted(map(int, found.split()))


@pytest.mark.slow
def test_a_worker_is_killed_under_load(exported: Path) -> None:
    """Only the connections that it held break, each of them once; the others go on, and so do those that come back."""
    with start(exported, 0, "--workers=2", "--engine=litert") as server:
        port, pids, done = int(server.url.rpartition(":")[2]), children(server.pid), threading.Event()
        victim, counts, broken, refused = pids[0], Counter[str](), Counter[bool](), list[str]()
        connections = [Connection(server.url) for _ in range(16)]
        for connection in connections:
            ask_exported(connection, chunked=False)
        lost = [connection.port in held(victim, port) for connection in connections]
        assert 0 < sum(lost) < len(lost), "the kernel deals connections out"

        def ask(connection: Connection, of_victim: bool) -> None:
            again = False
            while not done.is_set():
                try:
                    ask_exported(connection, chunked=False)
                    counts["again" if again else "REST"] += 1
                except OSError as error:
                    if again:
                        refused.append(str(error))
                        return
                    broken[of_victim] += 1
                    time.sleep(0.05)  # until the kernel has closed all that the process had, its listening socket too
                    again, connection = True, Connection(server.url)
                    connections.append(connection)

        def ask_grpc(channel: grpc.Channel) -> None:
            call, failed, content = method(channel), 0, predict_request().SerializeToString()
            while not done.is_set():
                try:
                    call(content, timeout=30, wait_for_ready=True)
                    counts["gRPC"] += 1
                except grpc.RpcError as error:
                    failed += 1
                    time.sleep(0.05)  # as above
                    if failed > 1:
                        refused.append(str(error))
            broken_channels.append(failed)

        broken_channels: list[int] = []
        channels = [own_channel(server) for _ in range(6)]
        threads = [threading.Thread(target=ask, args=pair) for pair in zip(list(connections), lost, strict=True)]
        threads += [threading.Thread(target=ask_grpc, args=(channel,)) for channel in channels]
        for thread in threads:
            thread.start()
        time.sleep(1)
        channels_lost = len(held(victim, int(server.grpc.rpartition(":")[2])))
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert until(lambda: len(now := children(server.pid)) == 2 and victim not in now)
        new = next(pid for pid in children(server.pid) if pid not in pids)

        def takes_connections() -> bool:
            with Connection(server.url) as connection:
                ask_exported(connection, chunked=False)
                return connection.port in held(new, port)

        assert until(takes_connections)
        replaced = time.monotonic() - killed
        time.sleep(1)
        done.set()
        for thread in threads:
            thread.join()
        for channel in channels:
            channel.close()
        for connection in connections:
            connection.socket.close()
    assert refused == []
    assert sum(broken_channels) <= channels_lost
    assert broken == {True: sum(lost)}, "all connections of the one, and none of the other"
    assert counts["REST"] > 0 < counts["again"]
    figures = {"connections": (16, ""), "broken": (sum(broken.values()), ""), "of_them_of_the_other_worker": (broken[False], "")}
    figures |= {"gRPC_channels": (6, ""), "gRPC_calls_broken": (sum(broken_channels), "")}
    figures |= {"gRPC_channels_of_the_worker": (channels_lost, "")}
    report("a worker is killed", **figures, requests=(sum(counts.values()), ""), replaced_after=(replaced, "s"))


class Talk:
    """A client that keeps its connection, and knows which of its requests were read and not answered.

    After an answer that says so a server reads no more, which a client has to expect; any other end is one too soon.
    """

    def __init__(self, url: str, sent: bytes, count: int, pause: float) -> None:
        self.answered, self.dropped, self.asked = 0, 0, 0
        self._url, self._sent, self._count, self._pause = url, sent, count, pause

    def run(self) -> None:
        with Connection(self._url) as connection:
            while True:
                waiting = self._count
                try:
                    connection.send(self._sent * waiting)
                    self.asked += waiting
                    while waiting:
                        answer = connection.answer()
                        assert answer.status == 200, answer
                        self.answered += 1
                        waiting -= 1
                        if answer.last:
                            return
                except OSError:
                    self.dropped += waiting
                    return
                time.sleep(self._pause)


@pytest.mark.slow
def test_ends_under_load_drop_nothing(exported: Path, tmp_path: Path) -> None:
    """SIGTERM, while clients ask: one at a time, several at a time, in chunks, in between pauses, and over gRPC."""
    folder, log, rounds, seconds = tmp_path / "served", tmp_path / "access.log", times(10), list[float]()
    shutil.copytree(exported / MODEL / "1", folder / MODEL / "1")
    shutil.copytree(repository() / "several" / "1", folder / "several" / "1")
    slow = request("/v1/models/several:predict", b'{"signature_name":"slow","instances":[30]}')
    kinds = [(request(PREDICT, BODY), 1, 0.0)] * 6 + [(request(PREDICT, BODY), 8, 0.0)] * 4 + [(request(PREDICT, BODY, chunked=True), 3, 0.0)] * 3
    kinds += [(request(PREDICT, BODY), 1, 0.1)] * 4 + [(slow, 1, 0.0), (slow, 2, 0.0)]
    answered = dropped = grpc_answered = 0
    lost = Counter[str]()
    for _ in range(rounds):
        server = start(folder, 0, "--engine=litert", f"--access_log={log}")
        talks = [Talk(server.url, *kind) for kind in kinds]
        counts = Counter[str]()

        def ask(channel: grpc.Channel, content: bytes, counts: Counter[str] = counts) -> None:
            call = method(channel)
            while True:
                try:
                    call(content, timeout=30)
                    counts["answered"] += 1
                except grpc.RpcError as error:
                    counts[f"{error.code().name}: {error.details()}"[:60]] += 1
                    return

        channels = [own_channel(server) for _ in range(4)]
        contents = [predict_request()] * 3 + [predict_request("several", "slow", steps=numpy.int32([30]))]
        threads = [threading.Thread(target=talk.run) for talk in talks]
        threads += [threading.Thread(target=ask, args=(channel, sent.SerializeToString())) for channel, sent in zip(channels, contents, strict=True)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        began = time.monotonic()
        assert server.stop() == 0
        seconds.append(time.monotonic() - began)
        for thread in threads:
            thread.join()
        for channel in channels:
            channel.close()
        answered += sum(talk.answered for talk in talks)
        dropped += sum(talk.dropped for talk in talks)
        grpc_answered += counts.pop("answered")
        lost += counts
    handled = Counter((line["protocol"], line["status"]) for line in map(json.loads, log.read_text().splitlines()))
    refused = sum(count for said, count in lost.items() if "failed to connect" in said)
    cancelled = sum(count for said, count in lost.items() if said.startswith("CANCELLED"))
    figures = {"REST_requests": (answered, ""), "REST_dropped": (dropped, ""), "gRPC_requests": (grpc_answered, "")}
    figures |= {"gRPC_dropped": (handled["GRPC", "OK"] - grpc_answered, ""), "gRPC_refused_afterwards": (refused, "")}
    figures |= {"gRPC_cancelled_before_they_began": (cancelled, "")}
    report("ends under load", ends=(rounds, ""), **figures, ended_after_at_most=(max(seconds), "s"))
    assert dropped == 0
    assert handled == {("REST", 200): answered, ("GRPC", "OK"): grpc_answered}, "what was begun was answered, and arrived"
    assert sum(lost.values()) == refused + cancelled, lost


def expensive(path: Path) -> Path:
    """A model that takes a processor some 50 ms for a request."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        matrix = tf.fill([400, 400], x[0] * 1e-3)
        _, matrix = tf.while_loop(lambda index, _: index < 50, lambda index, found: (index + 1, tf.tanh(found @ found)), (0, matrix))
        return {"y": x + tf.reduce_sum(matrix)}

    tf.saved_model.save(tf.Module(), str(path), signatures=predict)
    return path


@pytest.mark.slow
def test_ten_times_more_than_it_can_do(tmp_path: Path) -> None:
    """What is too much is refused at once, and what is answered is as much as ever."""
    expensive(tmp_path / "expensive" / "1")
    sent = request("/v1/models/expensive:predict", b'{"instances":[1.0]}')
    seconds = max(20 * min(times(100) / 100, 1), 2)
    with start(tmp_path, 0, "--max_waiting_requests=16", "--engine=tf") as server:
        load(server.url, sent, 2, clients=4)
        best = load(server.url, sent, seconds, clients=8)
        assert set(best.statuses) == {200}
        much = load(server.url, sent, seconds, rate=10 * best.answered)
        began = time.monotonic()
        first = load(server.url, sent, 0.01, clients=1)
        recovered = time.monotonic() - began
        again = load(server.url, sent, seconds, clients=8)
        assert first.statuses == {200: 1}
        assert set(again.statuses) == {200}
    share = much.answered / best.answered
    report(
        "overload",
        at_its_best=(best.answered, "requests/s"),
        asked=(10 * best.answered, "requests/s"),
        answered=(much.answered, "requests/s"),
        share_of_the_best=(share, ""),
        refused=(sum(much.statuses.values()) - much.statuses[200], "requests"),
        refused_after_p50=(1000 * percentile(much.refusals, 0.5), "ms"),
        refused_after_p99=(1000 * percentile(much.refusals, 0.99), "ms"),
        first_answer_afterwards_after=(1000 * recovered, "ms"),
        answered_afterwards=(again.answered, "requests/s"),
    )
    assert set(much.statuses) <= {200, 429, 503}
    assert much.statuses[503] > 0
    assert share >= 0.9
