"""The server: TF Serving's REST contract as a table of cases, over a real socket."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
import tensorflow as tf
import uvicorn

import zoo
from zoo.cards import Card
from zoo.errors import ServingError
from zoo.evaluation import softmax
from zoo.export import export_model
from zoo.serving import start
from zoo.serving.repository import ModelSource, find_models, read_models_config
from zoo.serving.rest import Models, application

JSON = Any


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Card]:
    model, card = zoo.load_trained("cnn.digits")
    return model, dataclasses.replace(card, name="digits.v1")


@pytest.fixture(scope="module")
def repository(classifier: tuple[Any, Card], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    export_model(classifier, folder)
    for version in (1, 2):
        half_plus(folder / "half_plus_two" / str(version), offset=version + 1)
    half_plus_two_v1(folder / "half_plus_two_v1" / "123")
    several(folder / "several" / "1")
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"half a file")
    entries = ["digits.v1", "half_plus_two_v1", "several", "broken"]
    configs = "".join(f'config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n' for name in entries)
    labelled = """config { name: 'half_plus_two' base_path: '/models/half_plus_two' model_platform: 'tensorflow'
      model_version_policy { all {} }  # both
      version_labels { key: 'stable' value: 1 } version_labels: { key: "canary", value: 2 } }"""
    (folder / "models.config").write_text(f"model_config_list: {{ {configs} {labelled} }}")
    return folder


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    models = Models(find_models(repository))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(models, maximum_body=200_000), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    models.close()


def half_plus(path: Path, offset: float) -> None:
    module = tf.Module()
    module.a, module.b = tf.Variable(0.5), tf.Variable(float(offset))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": module.a * x + module.b}

    tf.saved_model.save(module, str(path), signatures={"serving_default": predict, "again": predict})


def half_plus_two_v1(path: Path) -> None:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        a = v1.get_variable("a", initializer=0.5)
        y = tf.identity(a * x + 2.0, name="y")
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {"x": v1.saved_model.utils.build_tensor_info(x)}, {"y": v1.saved_model.utils.build_tensor_info(y)}, "tensorflow/serving/predict"
        )
        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def several(path: Path) -> None:
    module = tf.Module()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None], tf.int64, name="number"),
            tf.TensorSpec([None], tf.bool, name="flag"),
        ]
    )
    def predict(text: tf.Tensor, number: tf.Tensor, flag: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": text, "raw_bytes": text, "number": number + 1, "flag": flag, "ratio": 1.0 / tf.cast(number, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.uint8, name="x")])
    def small(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x, "total": tf.reduce_sum(tf.cast(x, tf.float32))}

    tf.saved_model.save(module, str(path), signatures={"serving_default": predict, "small": small})


def post(url: str, path: str, body: JSON, **kwargs: Any) -> requests.Response:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return requests.post(f"{url}/v1/models/{path}", data=data, timeout=30, **kwargs)


HALF = "half_plus_two:predict"


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (HALF, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [3.5, 4.0, 5.5]}),
        (HALF, {"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [3.5, 4.0]}),
        (HALF, {"inputs": [1.0, 2.0]}, {"outputs": [3.5, 4.0]}),
        (HALF, {"inputs": {"x": [1, 2], "extra": 3}}, {"outputs": [3.5, 4.0]}),
        (HALF, {"signature_name": "again", "instances": [1.0]}, {"predictions": [3.5]}),
        (HALF, {"signature_name": "", "instances": [1.0]}, {"predictions": [3.5]}),
        ("half_plus_two/versions/1:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half_plus_two/versions/2:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        ("half_plus_two/labels/stable:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half_plus_two/labels/canary:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        ("half%5Fplus%5Ftwo:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        (HALF, '{"instances": [1.0]} and more', {"predictions": [3.5]}),
        (HALF, '\ufeff{"instances": [1.0]}'.encode(), {"predictions": [3.5]}),
        ("half_plus_two_v1:predict", {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        (
            "several:predict",
            {"instances": [{"text": "one", "number": 1, "flag": True}, {"text": {"b64": "dHdv"}, "number": 4, "flag": False}]},
            {
                "predictions": [
                    {"flag": True, "number": 2, "ratio": 1.0, "raw_bytes": {"b64": "b25l"}, "text": "one"},
                    {"flag": False, "number": 5, "ratio": 0.25, "raw_bytes": {"b64": "dHdv"}, "text": "two"},
                ]
            },
        ),
        (
            "several:predict",
            {"inputs": {"text": ["ä"], "number": [2], "flag": [True]}},
            {"outputs": {"flag": [True], "number": [3], "ratio": [0.5], "raw_bytes": [{"b64": "w6Q="}], "text": ["ä"]}},
        ),
        ("several:predict", {"signature_name": "small", "inputs": [[1, 300]]}, {"outputs": {"total": 45.0, "y": [[1, 44]]}}),
    ],
)
def test_predict_answers(url: str, path: str, body: JSON, answer: JSON) -> None:
    response = post(url, path, body)
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("nobody:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
        ("nobody:predict", "not json", 400, "JSON Parse error"),
        ("half_plus_two/versions/9:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("half_plus_two/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("nobody/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("broken:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(broken)"),
        (HALF, "", 400, "The document is empty"),
        (HALF, "[1, 2]", 400, "not of expected type: object"),
        (HALF, "{", 400, "JSON Parse error"),
        (HALF, {}, 400, "Missing 'inputs' or 'instances' key"),
        (HALF, {"inputs": [1], "instances": [1]}, 400, "only one of"),
        (HALF, {"instances": []}, 400, "at least one element"),
        (HALF, {"instances": 1.0}, 400, "must be a list"),
        (HALF, {"instances": [{"z": 1.0}]}, 400, "Expected the keys ['x'], received ['z']"),
        (HALF, {"instances": [{"x": 1.0}, 2.0]}, 400, "Mixed named and unnamed"),
        (HALF, {"instances": ["one"]}, 400, "not of expected type: float32"),
        (HALF, {"instances": [[1.0], [2.0, 3.0]]}, 400, "differ in length"),
        (HALF, {"instances": [[[1.0]]]}, 400, "Cannot feed value of shape"),
        (HALF, {"instances": [None]}, 400, "not of expected type: float32"),
        (HALF, {"signature_name": "nothing", "instances": [1.0]}, 400, 'Serving signature name: "nothing" not found in signature def'),
        (HALF, {"signature_name": 3, "instances": [1.0]}, 400, "signature_name"),
        (HALF, "[" * 100_000, 400, "JSON Parse error"),
        (HALF, {"instances": [1.0] * 60_000}, 413, "larger than 200000 bytes"),
        ("several:predict", {"inputs": [1]}, 400, "multiple input tensors"),
        ("several:predict", {"instances": [1]}, 400, "multiple input tensors"),
        ("several:predict", {"inputs": {"text": ["a"], "number": [1]}}, 400, "Missing named input: flag"),
        ("several:predict", {"inputs": {"text": ["a"], "number": [1.0], "flag": [True]}}, 400, "not of expected type: int64"),
        ("several:predict", {"inputs": {"text": ["a"], "number": [1], "flag": [1]}}, 400, "not of expected type: bool"),
        ("several:predict", {"inputs": {"text": [1], "number": [1], "flag": [True]}}, 400, "not of expected type: string"),
        ("several:predict", {"inputs": {"text": [{"b64": "???"}], "number": [1], "flag": [True]}}, 400, "Unable to base64 decode"),
        ("several:predict", {"signature_name": "small", "instances": [[1]]}, 400, "same first dimension"),
        ("half_plus_two:predict?a=b", {"instances": [1.0]}, 400, "Malformed request: POST /v1/models/half_plus_two:predict?a=b"),
        ("half_plus_two", {"instances": [1.0]}, 400, "Malformed request: POST /v1/models/half_plus_two"),
        ("half_plus_two:explain", {"instances": [1.0]}, 400, "Malformed request: POST /v1/models/half_plus_two:explain"),
    ],
)
def test_predict_errors(url: str, path: str, body: JSON, status: int, message: str) -> None:
    response = post(url, path, body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/half_plus_two:predict", 400, "Malformed request: GET /v1/models/half_plus_two:predict"),
        ("/v1/models/nobody", 404, "Could not find any versions of model nobody"),
        ("/v1/models/half_plus_two?a=b", 404, "Could not find any versions of model half_plus_two?a=b"),
        ("/v1/models/half_plus_two/versions/9", 404, "Could not find version 9 of model half_plus_two"),
        ("/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
        ("/other", 404, "Not Found"),
    ],
)
def test_get_errors(url: str, path: str, status: int, message: str) -> None:
    response = requests.get(url + path, timeout=30)
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_status(url: str) -> None:
    ok = {"error_code": "OK", "error_message": ""}
    every = requests.get(f"{url}/v1/models/half_plus_two", timeout=30).json()
    assert every == {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": ok} for version in ("2", "1")]}
    one = requests.get(f"{url}/V1/MODELS/half_plus_two/versions/1", timeout=30).json()
    assert [entry["version"] for entry in one["model_version_status"]] == ["1"]
    assert requests.get(f"{url}/v1/models/half_plus_two/labels/whatever", timeout=30).json() == every
    broken = requests.get(f"{url}/v1/models/broken", timeout=30)
    assert broken.status_code == 200
    assert broken.json()["model_version_status"][0]["state"] == "END"


def test_metadata(url: str) -> None:
    metadata = requests.get(f"{url}/v1/models/digits.v1/metadata", timeout=30).json()
    assert metadata["model_spec"] == {"name": "digits.v1", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image"]["dtype"] == "DT_FLOAT"
    assert [dimension["size"] for dimension in signature["inputs"]["image"]["tensor_shape"]["dim"]] == ["-1", "8", "8", "1"]
    assert set(signature["outputs"]) == {"probabilities", "class_id", "label", "logits"}
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_numbers_that_are_not_finite_pass_both_ways(url: str) -> None:
    response = post(url, HALF, '{"instances": [NaN, Infinity, -Infinity, 1]}')
    assert response.text.replace(" ", "") == '{"predictions":[NaN,Infinity,-Infinity,3.5]}'
    assert math.isnan(response.json()["predictions"][0])


def test_gzip_bodies(url: str) -> None:
    packed = gzip.compress(b'{"instances": [1.0]}')
    assert post(url, HALF, packed, headers={"Content-Encoding": "gzip"}).json() == {"predictions": [3.5]}
    assert "document is empty" in post(url, HALF, b"no gzip", headers={"Content-Encoding": "gzip"}).json()["error"]
    bomb = gzip.compress(b'{"instances": [' + b" " * 1_000_000 + b"1]}")
    assert post(url, HALF, bomb, headers={"Content-Encoding": "gzip"}).status_code == 413


def test_served_probabilities_are_kerass(url: str, classifier: tuple[Any, Card]) -> None:
    model, _ = classifier
    digits = zoo.load_dataset("digits", "test")
    images = digits.images[:64]
    predictions = post(url, "digits.v1:predict", {"instances": images.tolist()}).json()["predictions"]
    served = numpy.array([prediction["probabilities"] for prediction in predictions])
    numpy.testing.assert_allclose(served, softmax(model.predict(images, verbose=0)), atol=1e-5)
    columns = post(url, "digits.v1:predict", {"inputs": {"image": images.tolist()}}).json()["outputs"]
    assert columns["label"] == [prediction["label"] for prediction in predictions]
    assert sum(int(label) == truth for label, truth in zip(columns["label"], digits.labels[:64], strict=True)) >= 60


def test_requests_in_parallel(url: str) -> None:
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = post(url, HALF, {"instances": [float(number)] * 50}).json()["predictions"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [number / 2 + 3.0] * 50 for number in range(16)}


def test_base64_of_binary_data_survives(url: str) -> None:
    data = base64.b64encode(bytes(range(256))).decode()
    body = {"inputs": {"text": [{"b64": data}], "number": [1], "flag": [True]}}
    assert post(url, "several:predict", body).json()["outputs"]["raw_bytes"] == [{"b64": data}]


def test_folders_without_a_config_are_found(repository: Path, tmp_path: Path) -> None:
    half_plus(tmp_path / "model" / "4", 2)
    half_plus(tmp_path / "model" / "11", 2)
    (tmp_path / "model" / ".tmp-12").mkdir()
    (source,) = find_models(tmp_path)
    assert (source.name, source.versions()) == ("model", [11])
    assert find_models(tmp_path / "model")[0].name == "model"
    assert dataclasses.replace(source, policy="all").versions() == [4, 11]
    assert dataclasses.replace(source, policy="specific", chosen=(4,)).versions() == [4]
    with pytest.raises(ServingError, match="has no version 5"):
        dataclasses.replace(source, policy="specific", chosen=(5,)).versions()
    with pytest.raises(ServingError, match="No versions of model"):
        ModelSource("nothing", tmp_path / "nothing").versions()
    with pytest.raises(ServingError, match="no model repository"):
        find_models(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServingError, match="holds no model"):
        find_models(tmp_path / "empty")


@pytest.mark.parametrize(
    "text", ["model_config_list {", 'model_config_list { config { name: "a" } }', "model_config_list { config { name: } }", "}", "@"]
)
def test_a_malformed_models_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ServingError, match=r"Error parsing text-format tensorflow\.serving\.ModelServerConfig"):
        read_models_config(tmp_path / "models.config")


def test_the_command_serves_drains_and_stops(repository: Path) -> None:
    with start(repository) as server:
        assert post(server.url, HALF, {"instances": [2.0]}).json() == {"predictions": [4.0]}
        port = server.url.rpartition(":")[2]
        taken = subprocess.run([sys.executable, "-m", "zoo.cli", "serve", str(repository), "--port", port], capture_output=True, text=True)
        assert taken.returncode == 1
        assert taken.stderr.strip().startswith(f"zoo: Port {port} on 127.0.0.1 is in use")
        assert server.stop() == 0
    with pytest.raises(ServingError, match="no model repository"):
        start(repository / "nowhere")
