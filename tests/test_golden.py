"""Golden and warm-up requests: written as TF Serving reads them, and read back as they were."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from test_export import card_of

import zoo
from zoo.cards import Card
from zoo.golden import (
    Exchange,
    golden_difference,
    golden_exchanges,
    golden_images,
    golden_inputs,
    read_golden_requests,
    write_golden_requests,
    write_warmup_requests,
)
from zoo.signatures import CLASSIFY, FEATURES, PREDICT_BYTES, PREDICT_UINT8, SERVING_DEFAULT, signature_functions


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return zoo.create_model("relu_mlp", input_shape=(6, 5, 3), num_classes=3, units=4)


@pytest.fixture(scope="module")
def card(model: keras.Model) -> Card:
    return card_of(model, "ünïcode")


@pytest.fixture(scope="module")
def exchanges(model: keras.Model, card: Card) -> list[Exchange]:
    return golden_exchanges(signature_functions(model, card), card)


def test_images_follow_from_the_name_alone() -> None:
    images = golden_images("any name", (9, 7, 3), 5)
    assert (images.shape, images.dtype) == ((5, 9, 7, 3), "uint8")
    assert numpy.array_equal(images, golden_images("any name", (9, 7, 3), 5))
    assert not numpy.array_equal(images, golden_images("another name", (9, 7, 3), 5))
    assert numpy.ptp(images) > 100


def test_every_signature_is_asked_and_answers_as_the_model(model: keras.Model, exchanges: list[Exchange]) -> None:
    assert {exchange.signature for exchange in exchanges} == {SERVING_DEFAULT, PREDICT_UINT8, PREDICT_BYTES, CLASSIFY, FEATURES}
    for exchange in exchanges:
        if exchange.signature in (SERVING_DEFAULT, PREDICT_UINT8):
            logits = model.predict(exchange.inputs["image"], verbose=0)
            numpy.testing.assert_allclose(exchange.outputs["logits"], logits, atol=1e-5)


def test_requests_are_bodies_for_tf_serving_and_come_back_as_they_were(exchanges: list[Exchange], tmp_path: Path) -> None:
    write_golden_requests(exchanges, tmp_path / "golden")
    bodies = read_golden_requests(tmp_path / "golden")
    assert bodies.keys() == {exchange.signature for exchange in exchanges}
    for exchange in exchanges:
        request, response = bodies[exchange.signature]
        assert request["signature_name"] == exchange.signature
        assert response.keys() == ({"results"} if exchange.signature == CLASSIFY else {"outputs"})
        inputs = golden_inputs(request)
        assert inputs.keys() == exchange.inputs.keys()
        for alias, values in exchange.inputs.items():
            assert numpy.array_equal(numpy.array(inputs[alias], values.dtype), values)
        assert golden_difference(exchange.signature, exchange.outputs, response) == 0


def test_the_form_of_a_classify_request(exchanges: list[Exchange], tmp_path: Path) -> None:
    write_golden_requests(exchanges, tmp_path / "golden")
    request, response = read_golden_requests(tmp_path / "golden")[CLASSIFY]
    floats, integers, file = request["examples"]
    assert (floats.keys(), integers.keys(), file.keys()) == ({"image"}, {"image_uint8"}, {"image_bytes"})
    assert {type(value) for value in floats["image"]} == {float}
    assert {type(value) for value in integers["image_uint8"]} == {int}
    assert tf.io.decode_png(base64.b64decode(file["image_bytes"][0]["b64"])).shape == (21, 10, 3)
    scores = [[score for _, score in row] for row in response["results"]]
    assert all(row == sorted(row, reverse=True) for row in scores)
    assert {label for label, _ in response["results"][0]} == {"class 0", "class 1", "class 2"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda body: body["outputs"]["logits"][0].__setitem__(0, body["outputs"]["logits"][0][0] + 0.5), pytest.approx(0.5, abs=1e-6)),
        (lambda body: body["outputs"]["label"].__setitem__(0, "another"), float("inf")),
        (lambda body: body["outputs"].pop("label"), float("inf")),
        (lambda body: body["outputs"]["class_id"].append(1), float("inf")),
        (lambda body: body["outputs"].__setitem__("logits", None), float("inf")),
        (lambda body: body["outputs"]["logits"][1].__setitem__(2, float("nan")), float("inf")),
    ],
)
def test_a_difference_is_found(change: Any, expected: float, exchanges: list[Exchange], tmp_path: Path) -> None:
    write_golden_requests(exchanges, tmp_path / "golden")
    _, response = read_golden_requests(tmp_path / "golden")[SERVING_DEFAULT]
    change(response)
    (exchange,) = [exchange for exchange in exchanges if exchange.signature == SERVING_DEFAULT]
    assert golden_difference(SERVING_DEFAULT, exchange.outputs, response) == expected


def test_a_missing_or_broken_response_is_an_error(exchanges: list[Exchange], tmp_path: Path) -> None:
    write_golden_requests(exchanges, tmp_path / "golden")
    (tmp_path / "golden" / "features.response.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        read_golden_requests(tmp_path / "golden")
    (tmp_path / "golden" / "features.response.json").unlink()
    with pytest.raises(FileNotFoundError):
        read_golden_requests(tmp_path / "golden")


def test_the_warm_up_holds_a_request_for_each_signature(exchanges: list[Exchange], tmp_path: Path) -> None:
    path = tmp_path / "tf_serving_warmup_requests"
    write_warmup_requests(exchanges, "served", path)
    logs = [PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert len(logs) == 5
    for exchange, log in zip(exchanges, logs, strict=True):
        kind = "classify_log" if exchange.signature == CLASSIFY else "predict_log"
        assert log.WhichOneof("log_type") == kind
        request = getattr(log, kind).request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("served", exchange.signature)
        if exchange.signature == CLASSIFY:
            assert [example.SerializeToString() for example in request.input.example_list.examples] == exchange.inputs["inputs"].tolist()
        else:
            for alias, values in exchange.inputs.items():
                assert numpy.array_equal(tf.make_ndarray(request.inputs[alias]), values[:1])


def test_both_are_the_same_bytes_every_time(exchanges: list[Exchange], card: Card, model: keras.Model, tmp_path: Path) -> None:
    again = golden_exchanges(signature_functions(model, card), card)
    for folder, found in (("a", exchanges), ("b", again)):
        write_golden_requests(found, tmp_path / folder / "golden")
        write_warmup_requests(found, "served", tmp_path / folder / "warmup")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 11
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
