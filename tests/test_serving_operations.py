"""What those who run a server ask it: health, readiness, models, the interface's description, metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from serving_models import Running, half_plus, repository, serving

from zoo.serving.metrics import MOST_NAMES, OTHER, Facts, Metrics
from zoo.serving.openapi import document
from zoo.serving.repository import ModelSource, find_models
from zoo.serving.rest import Limits
from zoo.serving.server import ServerProcess, start

MODEL = "relu_mlp.digits"
EXPORT = Path(__file__).parent.parent / "saved_models" / MODEL
IMAGES = [[[[1.0]] * 8] * 8]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving([ModelSource(MODEL, EXPORT), *find_models(repository())], playground=True) as server:
        yield server


def test_health(running: Running) -> None:
    response = requests.get(f"{running.url}/healthz", timeout=30)
    assert (response.status_code, response.json()) == (200, {"status": "alive"})
    assert requests.head(f"{running.url}/readyz", timeout=30).content == b""
    assert requests.post(f"{running.url}/healthz", timeout=30).status_code == 404


def test_ready_is_who_has_a_version_of_every_model(tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    half_plus(tmp_path / "half" / "1", 1)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "saved_model.pb").write_bytes(b"nothing of the kind")
    sources = [ModelSource(name, tmp_path / name) for name in ("half", "later", "broken")]
    with serving(sources, playground=True) as server:
        answer = requests.get(f"{server.url}/readyz", timeout=30)
        assert answer.status_code == 503
        reasons = answer.json()["reasons"]
        assert [reason.partition(":")[0] for reason in reasons] == ["later", "broken"]
        assert "cannot be loaded" in reasons[1]
        for name in ("later", "broken"):
            half_plus(tmp_path / "new" / name, 2).rename(tmp_path / name / "2")
        deadline = time.monotonic() + 60
        while requests.get(f"{server.url}/readyz", timeout=30).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert requests.get(f"{server.url}/readyz", timeout=30).json() == {"status": "ready"}


def test_health_is_answered_when_no_request_may_wait() -> None:
    with serving([ModelSource("several", repository() / "several")], limits=Limits(threads=1, waiting=0), playground=True) as server:
        body = json.dumps({"signature_name": "slow", "instances": [300]})
        asking = threading.Thread(target=requests.post, args=(f"{server.url}/v1/models/several:predict",), kwargs={"data": body, "timeout": 60})
        asking.start()
        time.sleep(0.2)
        assert requests.get(f"{server.url}/v1/models/several", timeout=30).status_code == 503
        assert [requests.get(f"{server.url}/{name}", timeout=30).status_code for name in ("healthz", "readyz")] == [200, 200]
        asking.join()


def test_the_models(running: Running) -> None:
    models = {model["name"]: model for model in requests.get(f"{running.url}/models", timeout=30).json()["models"]}
    version = models[MODEL]["versions"][0]
    assert (version["version"], version["state"], version["engine"]) == (1, "AVAILABLE", "tf")
    assert version["inputs"]["serving_default"] == {"image": {"dtype": "float", "shape": [-1, 8, 8, 1]}}
    assert version["outputs"]["serving_default"]["probabilities"] == {"dtype": "float", "shape": [-1, 10]}
    assert version["card"]["name"] == MODEL
    assert models["half_plus_two"]["versions"][0]["card"] is None
    first = requests.get(f"{running.url}/models", timeout=30)
    again = requests.get(f"{running.url}/models", headers={"If-None-Match": first.headers["etag"]}, timeout=30)
    assert (again.status_code, again.content) == (304, b"")


def test_the_interface_is_described(running: Running) -> None:
    described = requests.get(f"{running.url}/openapi.json", timeout=30).json()
    openapi_spec_validator.validate(described)
    assert f"/v1/models/{MODEL}/labels/{{label}}:predict" in described["paths"]
    assert "security" not in described
    assert document([], with_tokens=True)["security"] == [{"token": []}]
    openapi_spec_validator.validate(document([], with_tokens=True))


@pytest.mark.parametrize(
    ("model", "body", "fits"),
    [
        (MODEL, {"instances": IMAGES}, True),
        (MODEL, {"instances": [{"image": IMAGES[0]}]}, True),
        (MODEL, {"inputs": IMAGES}, True),
        (MODEL, {"inputs": {"image": IMAGES}}, True),
        (MODEL, {"signature_name": "predict_uint8", "instances": [[[[255]] * 8] * 8]}, True),
        (MODEL, {"instances": []}, False),
        (MODEL, {"instances": [[[1.0]]]}, False),
        (MODEL, {"signature_name": "nothing", "instances": IMAGES}, False),
        (MODEL, {}, False),
        ("several", {"instances": [{"text": "a", "number": 1, "flag": True}]}, True),
    ],
)
def test_requests_are_answered_as_described(running: Running, model: str, body: Any, fits: bool) -> None:
    described = requests.get(f"{running.url}/openapi.json", timeout=30).json()
    operation = described["paths"][f"/v1/models/{model}:predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is fits
    response = requests.post(f"{running.url}/v1/models/{model}:predict", json=body, timeout=30)
    assert (response.status_code == 200) is fits, response.text
    if fits:
        jsonschema.validate(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"])


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    with start(EXPORT, 0, "--drain_seconds=1") as server:
        yield server


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_are_prometheus_s(process: ServerProcess) -> None:
    for count in (1, 3):
        assert requests.post(f"{process.url}/v1/models/{MODEL}:predict", json={"instances": IMAGES * count}, timeout=30).status_code == 200
    requests.post(f"{process.url}/v1/models/{MODEL}:predict", json={"instances": [[1]]}, timeout=30)
    response = requests.get(f"{process.url}/metrics", timeout=30)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)
    labels = {"model": MODEL, "version": "1", "signature": "serving_default", "engine": "tf", "api": "Predict", "protocol": "REST"}
    assert found["zoo_requests_total", tuple(sorted({**labels, "status": "OK"}.items()))] == 2
    assert found["zoo_request_seconds_count", tuple(sorted(labels.items()))] == 2
    assert 0 < found["zoo_request_seconds_sum", tuple(sorted(labels.items()))] < 60
    assert found["zoo_batch_rows_bucket", (("le", "1"), ("model", MODEL))] == 1
    assert found["zoo_batch_rows_sum", (("model", MODEL),)] == 4
    assert found["zoo_model_version", (("engine", "tf"), ("model", MODEL), ("version", "1"))] == 1
    assert any(name == "zoo_requests_total" and dict(given)["status"] == "INVALID_ARGUMENT" for name, given in found)
    assert found["process_resident_memory_bytes", ()] > 1e7
    assert found["process_open_fds", ()] > 3


def test_a_server_that_is_about_to_stop_is_not_ready(process: ServerProcess) -> None:
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30):
        assert requests.get(f"{process.url}/readyz", timeout=30).status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.3)
        answer = requests.get(f"{process.url}/readyz", timeout=30)
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the server is about to stop"])
        assert requests.post(f"{process.url}/v1/models/{MODEL}:predict", json={"instances": IMAGES}, timeout=30).status_code == 200


def test_names_that_nobody_has_do_not_fill_the_memory() -> None:
    metrics = Metrics()
    for number in range(3 * MOST_NAMES):
        metrics.request(Facts(f"made up {number}"), "Predict", "REST", "NOT_FOUND", seconds=0.0)
    metrics.request(Facts("real", 1, "serving_default", "tf"), "Predict", "REST", "OK", seconds=0.1)
    for page in (metrics.page(), metrics.own_page()):
        assert page.count("NOT_FOUND") == MOST_NAMES + 1
        assert f'"{OTHER}"' in page
        assert '"real"' in page


def test_pages_without_metrics_and_without_the_page() -> None:
    with start(EXPORT, 0, "--no-metrics", "--no-playground") as server:
        assert [requests.get(f"{server.url}/{name}", timeout=30).status_code for name in ("metrics", "", "healthz")] == [404, 404, 200]
