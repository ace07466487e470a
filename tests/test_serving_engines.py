"""Engines: what answers in place of a session, what does not, and that nobody can tell by the answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import requests
from serving_models import QUICK, Running, half_plus, serving

import zoo
from zoo.commands import serve as command
from zoo.errors import MissingExtraError, UsageError
from zoo.serving import Client, engines
from zoo.serving.batching import Batcher, BatchingParameters
from zoo.serving.manager import Manager, ManagerOptions
from zoo.serving.messages import message
from zoo.serving.metrics import PATH, Metrics
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable
from zoo.serving.status import StatusError
from zoo.serving.tensors import fill_proto

NAME = "cnn_bn.digits"
SHAPE = (8, 8, 1)
ANSWERS = ["class_id", "label", "logits", "probabilities"]
FILES = ["litert", "onnx"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version in all formats."""
    return zoo.export_model(NAME, tmp_path_factory.mktemp("exports"), formats=["saved_model", *FILES])


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(exported, tmp_path / NAME / "1"))


@pytest.fixture(scope="module")
def session(exported: Path) -> Iterator[Servable]:
    servable = Servable(exported)
    yield servable
    servable.close()


@pytest.fixture(scope="module", params=FILES)
def servable(request: pytest.FixtureRequest, exported: Path) -> Iterator[Servable]:
    made = Servable(exported, engine=request.param)
    assert made.engine == request.param
    yield made
    made.close()


def images(count: int, dtype: str = "float32", seed: int = 3) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 17, (count, *SHAPE)).astype(dtype)


def assert_equal(found: dict[str, numpy.ndarray], expected: dict[str, numpy.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        if array.dtype.kind == "f":
            numpy.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
        else:
            assert found[name].tolist() == array.tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 33, 130])
def test_the_answers_are_the_sessions(servable: Servable, session: Servable, count: int) -> None:
    loaded = servable.has_session
    for signature, dtype in (("", "float32"), ("serving_default", "float32"), ("predict_uint8", "uint8")):
        request = {"image": images(count, dtype)}
        assert servable.signature(signature).engine(request) == servable.engine  # type: ignore[union-attr]
        found = servable.run(signature, request)
        assert list(found) == ANSWERS
        assert_equal(found, session.run(signature, request))
    assert servable.has_session == loaded, "nothing was asked of it"


@pytest.mark.parametrize("names", [["label"], ["probabilities"], ["logits", "class_id"], ["label", "class_id", "probabilities", "logits"]])
def test_outputs_that_are_asked_for(servable: Servable, session: Servable, names: list[str]) -> None:
    request = {"image": images(3)}
    assert_equal(*(version.signature().run(request, names) for version in (servable, session)))  # type: ignore[union-attr]


def test_images_that_lie_in_memory_in_another_way(servable: Servable, session: Servable) -> None:
    wide = images(12)
    for array in (wide[::3], numpy.frombuffer(wide.tobytes(), "float32").reshape(wide.shape), numpy.asfortranarray(wide)):
        assert_equal(servable.run("", {"image": array}), session.run("", {"image": array}))


UNUSUAL = {
    "no image": images(0),
    "another size": numpy.zeros((1, 9, 8, 1), "float32"),
    "no batch": numpy.zeros(SHAPE, "float32"),
    "a scalar": numpy.float32(1).reshape(()),
    "a type of its own": images(1, "float64"),
    "bytes": images(1, "uint8"),
    "text": numpy.array([b"a"], object),
    "not a number": numpy.full((2, *SHAPE), numpy.nan, "float32"),
    "infinite": numpy.full((1, *SHAPE), numpy.inf, "float32"),
}


@pytest.mark.parametrize(
    ("signature", "case"),
    [(signature, case) for signature in ("serving_default", "predict_uint8") for case in UNUSUAL if (signature, case) != ("predict_uint8", "bytes")],
)
def test_what_is_unusual_is_the_sessions(servable: Servable, session: Servable, signature: str, case: str) -> None:
    def outcome(version: Servable) -> Any:
        try:
            return {name: (array.dtype, array.shape, array.tobytes()) for name, array in version.run(signature, {"image": UNUSUAL[case]}).items()}
        except StatusError as error:
            return str(error)

    assert outcome(servable) == outcome(session)


def test_other_signatures_are_the_sessions_and_load_it(exported: Path, session: Servable) -> None:
    servable = Servable(exported, engine="onnx")
    assert not servable.has_session
    assert servable.signature("features").engine({"image": images(1)}) == "tf"  # type: ignore[union-attr]
    request = {"image": images(2)}
    assert_equal(servable.run("features", request), session.run("features", request))
    assert servable.has_session
    assert servable.signature("features").is_ready(request)  # type: ignore[union-attr]
    with pytest.raises(StatusError, match="not found"):
        servable.run("nothing", request)
    servable.close()


def test_callers_at_the_same_time_get_their_own_answers(servable: Servable, session: Servable) -> None:
    requests = [{"image": images(1 + seed % 5, seed=seed)} for seed in range(60)]
    expected = [session.run("", request) for request in requests]
    with ThreadPoolExecutor(12) as pool:
        for found, answer in zip(pool.map(lambda request: servable.run("", request), requests), expected, strict=True):
            assert_equal(found, answer)


def test_rows_of_several_requests_run_together(servable: Servable, session: Servable) -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=8, batch_timeout_micros=20_000))
    signature = servable.signature()
    assert signature is not None
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: batcher.run(signature, {"image": images(2, seed=seed)}, ()), range(4)))
    batcher.close()
    for seed, answer in enumerate(found):
        assert_equal(answer, session.run("", {"image": images(2, seed=seed)}))


def test_a_runtime_that_fails_leaves_the_request_to_the_session(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        name = "onnx"

        def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
            raise MemoryError("no more of it")

    servable = Servable(exported, engine="onnx")
    assert servable.answers is not None
    expected = servable.run("", {"image": images(2)})
    servable.answers = engines.Answers(servable.answers.form, Failing(), Failing())
    assert_equal(servable.run("", {"image": images(2)}), expected)
    assert "onnx failed; the session answers" in caplog.text
    servable.close()


# The gate.


def change_golden(path: Path, signature: str, change: Callable[[dict[str, Any]], None], kind: str = "response") -> None:
    file = path / "assets.extra" / "golden" / f"{signature}.{kind}.json"
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))


def nudge(body: dict[str, Any]) -> None:
    body["outputs"]["probabilities"][3][0] += 3e-5


def relabel(body: dict[str, Any]) -> None:
    body["outputs"]["label"][0] = "another"


def not_a_number(body: dict[str, Any]) -> None:
    body["outputs"]["logits"][0][1] = float("nan")


def ragged(body: dict[str, Any]) -> None:
    body["inputs"]["image"][0] = [[1.0]]


def another_labels(path: Path) -> None:
    names = (path / "assets" / "labels.txt").read_text().split("\n")
    (path / "assets" / "labels.txt").write_text("\n".join([names[1], names[0], *names[2:]]))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a probability": (lambda path: change_golden(path, "serving_default", nudge), "golden request of serving_default is 3e-05 off; 1e-05 is allowed"),
    "a label": (lambda path: change_golden(path, "predict_uint8", relabel), "golden request of predict_uint8 is inf off; 1e-05 is allowed"),
    "no number": (lambda path: change_golden(path, "serving_default", not_a_number), "golden request of serving_default is inf off"),
    "a request": (lambda path: change_golden(path, "serving_default", ragged, "request"), "golden requests cannot be read: ValueError"),
    "no golden data": (lambda path: shutil.rmtree(path / "assets.extra" / "golden"), "golden requests cannot be read: KeyError: 'serving_default'"),
    "another order of labels": (another_labels, "assets/labels.txt does not hold the labels of its graph"),
    "no labels": (lambda path: (path / "assets" / "labels.txt").unlink(), "its labels cannot be read"),
    "half a file": (lambda path: (path / "assets.extra" / "model.tflite").write_bytes(b"TFL3"), "model.tflite cannot be loaded"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_an_engine_with_other_answers_is_refused(copy: Path, session: Servable, case: str, caplog: pytest.LogCaptureFixture) -> None:
    damage, reason = DAMAGE[case]
    damage(copy)
    servable = Servable(copy, engine="litert")
    assert (servable.engine, servable.has_session) == ("tf", True)
    assert f"{copy} is not served by litert: " in caplog.text
    assert reason in caplog.text
    assert_equal(servable.run("", {"image": images(2)}), session.run("", {"image": images(2)}))
    servable.close()


@pytest.mark.parametrize("engine", FILES)
def test_the_file_of_another_model_is_refused(copy: Path, engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = zoo.export_model("relu_mlp.digits", tmp_path / "other", formats=["saved_model", engine])
    file = engines.FORMATS[engine]
    shutil.copy(other / file, copy / file)
    servable = Servable(copy, engine=engine)
    assert servable.engine == "tf"
    assert "its answer to the golden request of serving_default" in caplog.text
    servable.close()


def test_a_version_without_the_file(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "assets.extra" / "model.onnx").unlink()
    servable = Servable(copy, engine="onnx")
    assert servable.engine == "tf"
    assert "there is no assets.extra/model.onnx; `zoo export --format saved_model,onnx` writes one" in caplog.text
    servable.close()
    caplog.clear()
    (copy / "assets.extra" / "model.tflite").unlink()
    servable = Servable(copy, engine="auto")
    assert (servable.engine, caplog.text) == ("tf", "")
    servable.close()


def test_a_model_that_is_no_export(copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = half_plus(tmp_path / "half", 2)
    shutil.copytree(copy / "assets.extra", path / "assets.extra")
    servable = Servable(path, engine="onnx")
    assert servable.engine == "tf"
    assert "its serving_default is not that of an export" in caplog.text
    assert servable.run("", {"x": numpy.float32([1])})["y"].tolist() == [2.5]
    servable.close()


def test_a_version_that_is_damaged_later(copy: Path) -> None:
    servable = Servable(copy, engine="litert")
    shutil.rmtree(copy)
    assert servable.run("", {"image": images(1)})["label"].shape == (1,)
    with pytest.raises(StatusError, match="cannot be loaded"):
        servable.run("features", {"image": images(1)})
    servable.close()


def test_a_version_whose_variables_are_missing_is_not_loaded(copy: Path) -> None:
    (copy / "variables" / "variables.index").unlink()
    manager = Manager([ModelSource(NAME, copy.parent)], dataclasses.replace(QUICK, poll_seconds=0, engine="litert"))
    assert "variables" in str(manager.failures())
    manager.close()


# The choice.


@pytest.mark.parametrize(
    ("small", "large", "expected", "measured"),
    [
        ({"litert": 10, "onnx": 20}, {"litert": 100, "onnx": 200}, "litert", False),
        ({"litert": 20, "onnx": 10}, {"litert": 200, "onnx": 100}, "onnx", False),
        ({"litert": 10.2, "onnx": 10}, {"litert": 102, "onnx": 100}, "litert", False),
        ({"litert": 10, "onnx": 20}, {"litert": 200, "onnx": 100}, "litert+onnx", False),
        ({"litert": 2000, "onnx": 3000, "tf": 1000}, {"litert": 2000, "onnx": 3000, "tf": 2100}, "tf+litert", True),
        ({"litert": 2000, "onnx": 3000, "tf": 2500}, {"litert": 20000, "onnx": 30000, "tf": 10000}, "litert+tf", True),
        ({"litert": 2000, "onnx": 3000, "tf": 1000}, {"litert": 20000, "onnx": 30000, "tf": 10000}, "tf", True),
    ],
)
def test_auto_takes_the_fastest(
    exported: Path, session: Servable, small: Any, large: Any, expected: str, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(functions: dict[str, Callable[[numpy.ndarray], Any]], batch: numpy.ndarray) -> dict[str, float]:
        assert [list(function(batch)) for function in functions.values()] == [ANSWERS] * len(functions)
        times = {1: small, 32: large}[len(batch)]
        return {name: times[name] * 1e-6 for name in functions}

    monkeypatch.setattr(engines, "seconds", seconds)
    servable = Servable(exported, engine="auto")
    assert servable.engine == expected
    assert servable.has_session == measured
    signature = servable.signature()
    assert signature is not None
    assert [signature.engine({"image": images(count)}) for count in (1, 7, 8, 32)] == [name for name in (expected.split("+") * 2)[:2] for _ in "ab"]
    for count in (1, 32):
        assert_equal(servable.run("", {"image": images(count)}), session.run("", {"image": images(count)}))
    servable.close()


def test_auto_measures(exported: Path) -> None:
    """Which one is the fastest is the machine's business."""
    servable = Servable(exported, engine="auto")
    assert set(servable.engine.split("+")) <= {"litert", "onnx", "tf"}
    servable.close()
    calls: dict[str, int] = {"a": 0, "b": 0}

    def count(name: str) -> Callable[[numpy.ndarray], None]:
        def function(batch: numpy.ndarray) -> None:
            calls[name] += 1

        return function

    times = engines.seconds({name: count(name) for name in calls}, images(1), budget=0)
    assert calls == {"a": 4, "b": 4}
    assert all(value >= 0 for value in times.values())


@pytest.mark.parametrize(("engine", "package"), [("litert", "ai-edge-litert"), ("onnx", "onnxruntime")])
def test_an_engine_that_is_not_installed(engine: str, package: str, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"{package}: pip install 'neuron-zoo\[formats\]'"):
        Manager([ModelSource(NAME, exported.parent)], dataclasses.replace(QUICK, engine=engine))
    manager = Manager([ModelSource(NAME, exported.parent)], dataclasses.replace(QUICK, poll_seconds=0, engine="auto"))
    assert manager.loaded(NAME)[1].engine == "tf"
    manager.close()


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"Unknown engine 'fast'. Engines: auto, tf, litert, onnx."):
        Manager([], ManagerOptions(engine="fast"))


def test_the_command_line_has_the_same_engines() -> None:
    assert command.ENGINES == engines.ENGINES


# The server.


@pytest.fixture(scope="module", params=FILES)
def servers(request: pytest.FixtureRequest, exported: Path) -> Iterator[tuple[Running, Running]]:
    """A server of an engine, and one of sessions."""
    source = [ModelSource(NAME, exported.parent)]
    with (
        serving(source, dataclasses.replace(QUICK, engine=request.param), metrics=Metrics(), metrics_path=PATH) as engine,
        serving(source, dataclasses.replace(QUICK, engine="tf")) as sessions,
    ):
        yield engine, sessions


ROW = images(1)[0].tolist()
SMALL = numpy.zeros((2, 9, 9, 1)).tolist()


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [ROW]},
        {"instances": [{"image": ROW}, {"image": ROW}]},
        {"inputs": [ROW] * 40},
        {"inputs": {"image": [ROW]}},
        {"signature_name": "predict_uint8", "instances": images(3, "uint8").tolist()},
        {"instances": []},
        {"inputs": []},
        {"inputs": SMALL},
        {"instances": [1.0, 2.0]},
        {"instances": [["a"]]},
        {"instances": [ROW, ROW[:3]]},
        {"signature_name": "predict_uint8", "instances": [ROW]},
        {"signature_name": "predict_bytes", "instances": [{"b64": "AAAA"}]},
        {"signature_name": "features", "instances": [ROW]},
        {"signature_name": "nothing", "instances": [ROW]},
        {"inputs": {"picture": [ROW]}},
        '{"inputs": [[[[NaN]]]]}',
    ],
)
def test_rest_answers_are_the_same(servers: tuple[Running, Running], body: Any) -> None:
    data = body if isinstance(body, str) else json.dumps(body)
    found, expected = (requests.post(f"{server.url}/v1/models/{NAME}:predict", data=data, timeout=60) for server in servers)
    assert (found.status_code, found.headers["content-type"]) == (expected.status_code, expected.headers["content-type"])
    if found.ok:
        assert_close(found.json(), expected.json())
    else:
        assert found.content == expected.content


def assert_close(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_close(left, right)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    else:
        assert found == expected


def test_the_rest_of_the_protocols_is_the_same(servers: tuple[Running, Running]) -> None:
    for path in ("", "/metadata", "/versions/1/metadata", "/versions/2"):
        found, expected = (requests.get(f"{server.url}/v1/models/{NAME}{path}", timeout=60) for server in servers)
        assert (found.status_code, found.json()) == (expected.status_code, expected.json())
    answers = []
    for server in servers:
        with Client(f"grpc://{server.address}") as client:
            answers.append(
                (client.status(NAME), client.signatures(NAME), client.classify(NAME, [{"image": images(1).reshape(-1)}], signature="classify"))
            )
    assert answers[0] == answers[1]


@pytest.mark.parametrize("outputs", [(), ("label",), ("nothing",), ("label", "label")])
@pytest.mark.parametrize("array", [images(2), images(0), images(1, "uint8"), numpy.zeros((2, 3), "float32")], ids=range(4))
def test_grpc_answers_are_the_same(servers: tuple[Running, Running], outputs: tuple[str, ...], array: numpy.ndarray) -> None:
    request = message("PredictRequest")(output_filter=outputs)
    request.model_spec.name = NAME
    fill_proto(request.inputs["image"], array)

    def ask(server: Running) -> Any:
        call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict", None, message("PredictResponse").FromString)
        try:
            response = call(request.SerializeToString(), timeout=60)
        except grpc.RpcError as error:
            return error.code(), error.details()
        spec = response.model_spec
        tensors = {name: (tensor.dtype, str(tensor.tensor_shape), list(tensor.string_val)) for name, tensor in sorted(response.outputs.items())}
        return spec.name, spec.version.value, spec.signature_name, tensors

    assert ask(servers[0]) == ask(servers[1])


def test_the_metrics_name_the_engine(exported: Path) -> None:
    for engine, label in (("litert", "LiteRT"), ("onnx", "ONNX"), ("tf", "TF1")):
        options = dataclasses.replace(QUICK, engine=engine)
        with serving([ModelSource(NAME, exported.parent)], options, metrics=Metrics(), metrics_path=PATH) as server:
            for body in ({"instances": [ROW]}, {"signature_name": "features", "instances": [ROW]}):
                assert requests.post(f"{server.url}/v1/models/{NAME}:predict", json=body, timeout=60).ok
            lines = requests.get(server.url + PATH, timeout=30).text.splitlines()
        count = f':tensorflow:serving:runtime_latency_count{{model_name="{NAME}",API="Predict",runtime='
        expected = [f'{count}"TF1"}} 2'] if engine == "tf" else sorted([f'{count}"{label}"}} 1', f'{count}"TF1"}} 1'])
        assert [line for line in lines if line.startswith(count)] == expected


def test_a_warm_up_does_not_load_the_session(copy: Path) -> None:
    warm = Manager([ModelSource(NAME, copy.parent)], dataclasses.replace(QUICK, poll_seconds=0, engine="litert"))
    assert not warm.failures()
    assert not warm.loaded(NAME)[1].has_session
    warm.close()
    from serving_models import write_warmup
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "nothing"
    write_warmup(copy, [log])
    wrong = Manager([ModelSource(NAME, copy.parent)], dataclasses.replace(QUICK, poll_seconds=0, engine="litert"))
    assert 'Serving signature key "nothing" not found.' in str(wrong.failures())
    wrong.close()


def test_what_is_announced() -> None:
    class Loaded:
        def __init__(self, engine: str) -> None:
            self.engine = engine

    assert command._versions({1: Loaded("tf"), 2: Loaded("tf")}) == "1, 2 on tf"
    assert command._versions({1: Loaded("tf"), 2: Loaded("litert+onnx")}) == "1 on tf, 2 on litert+onnx"


WITHOUT_TENSORFLOW = """
import os, signal, sys, threading
import numpy
from zoo.serving import Client, ServerOptions, serve
from zoo.serving.manager import ManagerOptions
from zoo.serving.repository import find_models

name = "cnn_bn.digits"

def ask(addresses):
    try:
        for url in (addresses.rest, addresses.grpc):
            with Client(url) as client:
                answer = client.predict(name, image=numpy.zeros((2, 8, 8, 1), "float32"))
                client.predict(name, signature="predict_uint8", image=numpy.zeros((1, 8, 8, 1), "uint8"))
                print(sorted(answer), client.status(name)[1]["state"], sorted(client.signatures(name)["serving_default"]["outputs"]))
        import urllib.request
        urllib.request.urlopen(addresses.rest + "/models").read()
        print("LOADED", *(name for name in ("tensorflow", "keras", "uvicorn") if name in sys.modules))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

def announce(manager, addresses):
    print("ENGINE", manager.loaded(name)[1].engine)
    threading.Thread(target=ask, args=(addresses,)).start()

options = ServerOptions(rest_port=0, grpc_port=0, metrics_path="/metrics", manager=ManagerOptions(engine=sys.argv[2]))
serve(find_models(sys.argv[1]), options, announce=announce)
"""


@pytest.mark.parametrize("engine", FILES)
def test_a_server_without_tensorflow(exported: Path, engine: str) -> None:
    command_line = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(exported.parents[1]), engine]
    process = subprocess.run(command_line, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    answer = f"{ANSWERS} AVAILABLE {ANSWERS}"
    assert process.stdout.splitlines() == [f"ENGINE {engine}", answer, answer, "LOADED uvicorn"], process.stderr
