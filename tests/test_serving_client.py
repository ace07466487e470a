"""The client: arrays in, arrays out, over both protocols, and without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy
import pytest
from serving_models import TYPES, Running, contract_server

from zoo.errors import ServingError, UsageError
from zoo.serving import Client
from zoo.serving.messages import message
from zoo.serving.status import Code

HALF, V1 = "half_plus_two", "half_plus_two_v1"


@pytest.fixture(scope="module")
def server() -> Running:
    return contract_server()


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Running) -> Iterator[Client]:
    with Client(server.url if request.param == "http" else f"grpc://{server.address}", backoff=0.01) as made:
        yield made


def test_predict(client: Client) -> None:
    answer = client.predict(HALF, {"x": numpy.array([1.0, 2.0], "float32")})
    assert list(answer) == ["y"]
    assert (answer["y"].dtype, answer["y"].tolist()) == (numpy.float32, [3.5, 4.0])
    assert client.predict(HALF, x=numpy.float32([1.0]), version=1)["y"].tolist() == [2.5]
    assert client.predict(HALF, x=numpy.float32([1.0]), label="stable")["y"].tolist() == [2.5]
    assert client.predict(HALF, x=numpy.float32([1.0]), signature="again")["y"].tolist() == [3.5]
    assert client.predict(HALF, x=numpy.zeros((0,), "float32"))["y"].shape == (0,)
    assert client.predict(HALF, x=numpy.float32(1.0))["y"].tolist() == 3.5
    infinite = client.predict(HALF, x=numpy.array([numpy.nan, numpy.inf, -numpy.inf], "float32"))["y"]
    assert numpy.array_equal(infinite, numpy.array([numpy.nan, numpy.inf, -numpy.inf], "float32"), equal_nan=True)


def test_several_inputs_and_outputs(client: Client) -> None:
    answer = client.predict("several", text=["a", "ü"], number=[1, 2], flag=[True, False])
    assert {name: (array.dtype.name, array.tolist()) for name, array in answer.items()} == {
        "flag": ("bool", [True, False]),
        "number": ("int64", [2, 3]),
        "ratio": ("float32", [1.0, 0.5]),
        "raw_bytes": ("object", [b"a", "ü".encode()]),
        "text": ("object", [b"a", "ü".encode()]),
    }
    some = client.predict("several", text=[b"\xff\x00"], number=[1], flag=[True], outputs=["raw_bytes", "number"])
    assert {name: array.tolist() for name, array in some.items()} == {"raw_bytes": [b"\xff\x00"], "number": [2]}
    total = client.predict("several", signature="total", x=numpy.array([[1, 255]], "uint8"))
    assert (total["y"].dtype, total["total"].tolist()) == (numpy.uint8, 256.0)


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("float16", "bfloat16", "uint16")])
def test_every_type_that_json_has(client: Client, name: str) -> None:
    value = numpy.array([[b"a"], [b"\xfe"]], object) if name == "string" else numpy.array([[0], [1]], name)
    answer = client.predict("types", signature=name, x=value)["y"]
    assert (answer.dtype, answer.shape, answer.tolist()) == (value.dtype, value.shape, value.tolist())


def test_half_precision_over_grpc(server: Running) -> None:
    with Client(f"grpc://{server.address}") as client:
        answer = client.predict("types", signature="float16", x=numpy.array([0.5], "float16"))["y"]
    assert (answer.dtype, answer.tolist()) == (numpy.float16, [0.5])


def test_classify_and_regress(client: Client) -> None:
    assert client.classify(HALF, [{"x": 1.0}, {"x": 2.0}], signature="classify") == [[("less", 3.5), ("more", 4.5)], [("less", 4.0), ("more", 5.0)]]
    values = client.regress(V1, [{}, {"x": [2.0], "other": [1, 2], "text": "a", "bytes": b"\xff"}], context={"x": 4.0}, signature="regress_x_to_y")
    assert (values.dtype, values.tolist()) == (numpy.float32, [4.0, 3.0])
    assert client.regress(V1, [{"x": numpy.float32(1.0)}], signature="regress_x_to_y", version=123).tolist() == [2.5]
    with pytest.raises(ServingError, match="Data type: int64 but expected type: float"):
        client.regress(V1, [{"x": 1}], signature="regress_x_to_y")


def test_status_and_signatures(client: Client) -> None:
    assert client.status(HALF) == {2: {"state": "AVAILABLE", "error": ""}, 1: {"state": "AVAILABLE", "error": ""}}
    assert list(client.status(HALF)) == [2, 1]
    assert client.status(HALF, version=1) == {1: {"state": "AVAILABLE", "error": ""}}
    assert client.status("broken")[1]["state"] == "END"
    assert "cannot be loaded" in client.status("broken")[1]["error"]
    signatures = client.signatures("several")
    assert signatures["serving_default"]["inputs"] == {
        "text": {"dtype": "object", "shape": (-1,)},
        "number": {"dtype": "int64", "shape": (-1,)},
        "flag": {"dtype": "bool", "shape": (-1,)},
    }
    assert signatures["total"]["outputs"]["total"] == {"dtype": "float32", "shape": ()}
    assert client.signatures("types")["float16"]["inputs"] == {"x": {"dtype": "float16", "shape": None}}


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (lambda client: client.predict("nobody", x=[1.0]), Code.NOT_FOUND, r"Servable not found for request: Latest\(nobody\)"),
        (lambda client: client.predict(HALF, x=numpy.float32([1]), version=9), Code.NOT_FOUND, r"Specific\(half_plus_two, 9\)"),
        (lambda client: client.predict(HALF, x=numpy.float32([1]), label="a/b"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: a/b"),
        (lambda client: client.predict("several", signature="numbers", text=["one"]), Code.INVALID_ARGUMENT, "StringToNumberOp could not correctly"),
        (lambda client: client.predict(HALF, x=numpy.float32([1]), outputs=["z"]), Code.INVALID_ARGUMENT, "output"),
        (lambda client: client.status("a b"), Code.NOT_FOUND, "Could not find any versions of model a b"),
        (lambda client: client.signatures("nobody"), Code.NOT_FOUND, "Servable not found"),
        (lambda client: client.classify("nobody", [{}]), Code.NOT_FOUND, "Servable not found"),
    ],
)
def test_errors(client: Client, call: Any, code: Code, text: str) -> None:
    with pytest.raises(ServingError, match=text) as failure:
        call(client)
    assert failure.value.code == code


def test_wrong_usage(client: Client) -> None:
    with pytest.raises(UsageError, match=r"A server's URL is http://host:port or .* Received: 'localhost:8501'"):
        Client("localhost:8501")
    with pytest.raises(UsageError, match="Name a version or a label"):
        client.predict(HALF, x=[1.0], version=1, label="stable")
    with pytest.raises(UsageError, match="Input x: arrays of datetime64"):
        client.predict(HALF, x=numpy.array(["2020-01-01"], "datetime64[D]"))


def test_several_threads_share_a_client(client: Client) -> None:
    def ask(number: int) -> Any:
        return client.predict(HALF, x=numpy.float32([number]))["y"].tolist()

    with futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [[number / 2 + 3.0] for number in range(40)]


class Reluctant:
    """An HTTP server that turns the first requests away."""

    def __init__(self, *statuses: int) -> None:
        self.asked, left = 0, list(statuses)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                status = left.pop(0) if left else 200
                entry = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
                body = json.dumps({"model_version_status": [entry]} if status == 200 else {"error": f"status {status}"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(("statuses", "asked"), [((503, 429, 503), 4), ((429,), 2), ((), 1)])
def test_what_is_turned_away_is_sent_again(statuses: tuple[int, ...], asked: int) -> None:
    reluctant = Reluctant(*statuses)
    with Client(reluctant.url, backoff=0.01) as client:
        assert client.status("m")[1]["state"] == "AVAILABLE"
    reluctant.close()
    assert reluctant.asked == asked


@pytest.mark.parametrize(("status", "asked", "code"), [(503, 3, 14), (429, 3, 8), (400, 1, 3), (404, 1, 5), (413, 1, 3), (500, 1, 2), (504, 1, 4)])
def test_it_gives_up(status: int, asked: int, code: int) -> None:
    reluctant = Reluctant(*[status] * 10)
    with Client(reluctant.url, retries=2, backoff=0.01) as client, pytest.raises(ServingError, match=f"status {status}") as failure:
        client.status("m")
    reluctant.close()
    assert (reluctant.asked, failure.value.code) == (asked, code)


def test_grpc_sends_again_too() -> None:
    asked = []

    def status(request: Any, context: grpc.ServicerContext) -> Any:
        asked.append(request.model_spec.name)
        if len(asked) < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED if len(asked) == 1 else grpc.StatusCode.UNAVAILABLE, "not now")
        response = message("GetModelStatusResponse")()
        response.model_version_status.add(version=1, state=30)
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        status, message("GetModelStatusRequest").FromString, message("GetModelStatusResponse").SerializeToString
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", {"GetModelStatus": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"grpc://127.0.0.1:{port}", backoff=0.01) as client:
        assert client.status("m") == {1: {"state": "AVAILABLE", "error": ""}}
    server.stop(0).wait()
    assert asked == ["m", "m", "m"]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there(scheme: str) -> None:
    with Client(f"{scheme}://127.0.0.1:9", retries=1, backoff=0.01, timeout=5) as client, pytest.raises(ServingError) as failure:
        client.predict("m", x=[1.0])
    assert failure.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_call_that_takes_too_long(server: Running, scheme: str) -> None:
    address = server.url if scheme == "http" else f"grpc://{server.address}"
    with Client(address, timeout=0.2) as client:
        with pytest.raises(ServingError) as failure:
            client.predict("several", signature="slow", steps=numpy.array([100], "int32"))
        assert failure.value.code == Code.DEADLINE_EXCEEDED


def test_the_client_needs_no_tensorflow(server: Running) -> None:
    code = f"""
import sys
from zoo.serving import Client
assert not {{"numpy", "grpc", "requests"}} & set(sys.modules)
for url in ("{server.url}", "grpc://{server.address}"):
    with Client(url) as client:
        print(client.predict("half_plus_two", x=__import__("numpy").float32([1.0]))["y"].tolist())
        print(client.signatures("half_plus_two")["again"]["inputs"], client.regress("half_plus_two", [{{"x": 1.0}}], signature="regress"))
assert not {{"tensorflow", "keras", "tensorflow_serving", "h5py"}} & set(sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["[3.5]", "{'x': {'dtype': 'float32', 'shape': (-1,)}} [3.5]"] * 2
