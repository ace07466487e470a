"""Learned warm-up: what is kept of real requests, where it goes, and who is warmed up by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
import tensorflow as tf
from serving_models import QUICK, half_plus, serving, several
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

import zoo
from zoo.golden import WARMUP
from zoo.serving.manager import Manager
from zoo.serving.recording import Recorder, learned
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable
from zoo.serving.tfrecord import read_records, write_records
from zoo.serving.warmup import warm_up_by_learned

MODEL = "relu_mlp.digits"
EXPORT = Path(__file__).parent.parent / "saved_models" / MODEL
GOLDEN = EXPORT / "1" / "assets.extra" / "golden"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXPORT, tmp_path / MODEL))


def logs(base: Path) -> list[PredictionLog]:
    path = base / WARMUP
    return [PredictionLog.FromString(record) for record in read_records(path)] if path.exists() else []


def kept(base: Path) -> list[tuple[str, str, list[int]]]:
    """The kind, the signature and the shape of each record."""
    found = []
    for log in logs(base):
        if log.HasField("predict_log"):
            ((_, proto),) = log.predict_log.request.inputs.items()
            found.append(("predict", log.predict_log.request.model_spec.signature_name, [size.size for size in proto.tensor_shape.dim]))
        else:
            examples = log.classify_log.request.input.example_list.examples
            found.append(("classify", log.classify_log.request.model_spec.signature_name, [len(examples)]))
    return sorted(found)


def ask(url: str, body: Any, method: str = "predict", chunked: bool = False) -> int:
    text = json.dumps(body).encode()
    return requests.post(f"{url}/v1/models/{MODEL}:{method}", data=iter([text]) if chunked else text, timeout=30).status_code


def images(count: int) -> dict[str, Any]:
    return {"instances": numpy.random.default_rng(0).uniform(1, 16, (count, 8, 8, 1)).tolist()}


def test_shapes_of_every_way_in_are_kept_and_no_value(base: Path) -> None:
    with serving([ModelSource(MODEL, base)], observers=lambda _: [Recorder(20)]) as server:
        for count, chunked in ((1, False), (1, False), (3, False), (3, True), (5, True)):
            assert ask(server.url, images(count), chunked=chunked) == 200
        for name in ("predict_bytes", "predict_uint8"):
            assert ask(server.url, json.loads((GOLDEN / f"{name}.request.json").read_text())) == 200
        assert ask(server.url, json.loads((GOLDEN / "classify.request.json").read_text()), "classify") == 200
        request = PredictRequest()
        request.model_spec.name = MODEL
        request.inputs["image"].CopyFrom(tf.make_tensor_proto(numpy.ones((7, 8, 8, 1), "float32")))
        server.prediction.Predict(request)
        assert ask(server.url, {"instances": [1]}) == 400, "what fails is not kept"
    expected = [("predict", "serving_default", [count, 8, 8, 1]) for count in (1, 3, 5, 7)]
    examples = len(json.loads((GOLDEN / "classify.request.json").read_text())["examples"])
    more = [("predict", "predict_bytes", [2]), ("predict", "predict_uint8", [2, 8, 8, 1]), ("classify", "classify", [examples])]
    assert kept(base) == sorted(expected + more)
    for log in logs(base):
        for alias, proto in log.predict_log.request.inputs.items():
            assert not [*proto.float_val, *proto.int_val, *proto.tensor_content], "numbers are zeros"
            brought = [PredictionLog.FromString(record).predict_log.request for record in read_records(base / "1" / "assets.extra" / WARMUP)]
            known = [request.inputs[alias].string_val[0] for request in brought if request.inputs[alias].string_val]
            assert all(string in known for string in proto.string_val), "strings are those that came with the version"


def test_there_are_never_more_than_asked_for_and_those_of_earlier_servers_count(base: Path) -> None:
    for counts, expected in (((1, 2), [1, 2]), ((2, 3, 4, 5), [1, 2, 3])):
        with serving([ModelSource(MODEL, base)], observers=lambda _: [Recorder(3)]) as server:
            assert {ask(server.url, images(count)) for count in counts} == {200}
        assert kept(base) == [("predict", "serving_default", [count, 8, 8, 1]) for count in expected]


def test_a_damaged_file_is_begun_anew(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    (base / WARMUP).write_bytes(b"no record at all")
    with serving([ModelSource(MODEL, base)], observers=lambda _: [Recorder(3)]) as server:
        assert ask(server.url, images(2)) == 200
    assert kept(base) == [("predict", "serving_default", [2, 8, 8, 1])]
    assert "is passed over: DATA_LOSS" in caplog.text
    assert "is begun anew: corrupted record" in caplog.text


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_records(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("zoo.serving.recording.write_records", refuse)
    with serving([ModelSource(MODEL, base)], observers=lambda _: [Recorder(3)]) as server:
        assert ask(server.url, images(2)) == 200
    assert f"{base / WARMUP} cannot be written: Read-only file system." in caplog.text
    assert not (base / WARMUP).exists()


def test_requests_of_which_no_record_can_be_made_are_left_out(tmp_path: Path) -> None:
    several(tmp_path / "several" / "1")
    with serving([ModelSource("several", tmp_path / "several")], observers=lambda _: [Recorder(9)]) as server:
        strings = {"inputs": {"text": ["a"], "number": [1], "flag": [True]}}
        divided = {"signature_name": "slow", "instances": [0]}
        for body in (strings, divided):
            assert requests.post(f"{server.url}/v1/models/several:predict", json=body, timeout=30).status_code == 200
    assert [log.predict_log.request.model_spec.signature_name for log in logs(tmp_path / "several")] == ["slow"], "there is no string to put in"


def test_the_next_version_is_warmed_up_by_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "half"
    half_plus(base / "1", 2)
    with serving([ModelSource("half", base)], observers=lambda _: [Recorder(9)]) as server:
        for count in (1, 4):
            assert requests.post(f"{server.url}/v1/models/half:predict", json={"instances": [1.0] * count}, timeout=30).status_code == 200
    shapes: list[tuple[int, ...]] = []
    half_plus(base / "2", 3)
    servable = Servable(base / "2")
    signature = servable.signature()
    assert signature is not None
    run = signature.run
    monkeypatch.setattr(signature, "run", lambda arrays, outputs=(): (shapes.append(arrays["x"].shape), run(arrays, outputs))[1])
    assert warm_up_by_learned(servable) == 2
    assert shapes == [(1,), (4,)]
    servable.close()


def test_a_version_that_cannot_answer_them_is_loaded_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half_plus(tmp_path / "half" / "1", 2)
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "gone"
    for records in ([log.SerializeToString()], [b"\xff\xff"]):
        write_records(tmp_path / "half" / WARMUP, records)
        manager = Manager([ModelSource("half", tmp_path / "half")], QUICK)
        assert list(manager.loaded("half")) == [1]
        assert learned(manager.loaded("half")[1].path) == tmp_path / "half" / WARMUP
        manager.close()
    assert "is passed over" in caplog.text


def test_an_export_takes_over_what_it_can_answer(base: Path) -> None:
    with serving([ModelSource(MODEL, base)], observers=lambda _: [Recorder(9)]) as server:
        assert {ask(server.url, images(count)) for count in (1, 6)} == {200}
        classify = json.loads((GOLDEN / "classify.request.json").read_text())
        assert ask(server.url, {**classify, "examples": classify["examples"][:1]}, "classify") == 200
    foreign = PredictionLog()
    foreign.predict_log.request.model_spec.name, foreign.predict_log.request.model_spec.signature_name = MODEL, "serving_default"
    foreign.predict_log.request.inputs["image"].CopyFrom(tf.make_tensor_proto(numpy.ones((1, 9, 9, 1), "float32")))
    write_records(base / WARMUP, [*read_records(base / WARMUP), foreign.SerializeToString(), b"\xff\xff"])
    path = zoo.export_model(MODEL, base.parent)
    records = list(read_records(path / "assets.extra" / WARMUP))
    assert records[:5] == list(read_records(base / "1" / "assets.extra" / WARMUP))
    assert records[5:] == list(read_records(base / WARMUP))[:3]


@pytest.mark.parametrize("most", [0, 1001])
def test_a_number_that_tf_serving_would_not_take(most: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 1000 warm-up records. Received: {most}."):
        Recorder(most)
