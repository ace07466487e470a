"""Shadows: what is copied, what is counted, and that clients do not notice."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
from serving_load import until
from serving_models import QUICK, Running, half_plus, serving, several
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from zoo.errors import UsageError
from zoo.serving import shadow as shadow_module
from zoo.serving.manager import Manager, ManagerOptions
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Signature
from zoo.serving.shadow import Drift, Shadow, Target, comparisons, read_drifts

MODELS = Path(__file__).parent.parent / "saved_models"
MODEL = "relu_mlp.digits"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose version 2 is the same, and whose version 3 is another."""
    base = tmp_path_factory.mktemp("trained") / MODEL
    for version, name in ((1, MODEL), (2, MODEL), (3, "sigmoid_mlp.digits")):
        shutil.copytree(MODELS / name / "1", base / str(version))
    return base


@contextmanager
def shadowed(base: Path, version: int, fraction: float = 1.0, source: dict[str, Any] | None = None) -> Iterator[Running]:
    options = ManagerOptions(poll_seconds=0.1, retries=0, shadows={base.name: version})
    sources = [ModelSource(base.name, base, **source or {})]
    with serving(sources, options, observers=lambda manager: [Shadow(manager, [Target(base.name, version)], fraction)]) as server:
        yield server


def only(base: Path, version: int) -> Drift:
    (drift,) = read_drifts(base, version).values()
    return drift


def copy(base: Path, tmp_path: Path, versions: Sequence[int]) -> Path:
    for version in versions:
        shutil.copytree(base / str(version), tmp_path / base.name / str(version))
    return tmp_path / base.name


def images(count: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).uniform(0, 16, (count, 8, 8, 1)).astype("float32")


def predict(server: Running, rows: numpy.ndarray, path: str = f"{MODEL}:predict", chunked: bool = False) -> Any:
    body = json.dumps({"inputs": rows.tolist()}).encode()
    response = requests.post(f"{server.url}/v1/models/{path}", data=iter([body]) if chunked else body, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()["outputs"]


def test_the_drift_is_that_of_the_answers(trained: Path, tmp_path: Path) -> None:
    base = copy(trained, tmp_path, (1, 3))
    with shadowed(base, 3) as server:
        answers = [predict(server, images(count, count), chunked=chunked) for count, chunked in ((1, False), (4, False), (6, True))]
        others = [predict(server, images(count, count), f"{MODEL}/versions/3:predict") for count in (1, 4, 6)]
    pairs = list(zip(answers, others, strict=True))
    different = sum(one != other for left, right in pairs for one, other in zip(left["label"], right["label"], strict=True))
    distances = numpy.concatenate([numpy.abs(numpy.subtract(left["probabilities"], right["probabilities"])).sum(axis=1) / 2 for left, right in pairs])
    found = read_drifts(base, 3)
    drift = found[1, 3]
    assert (drift.requests, drift.rows, drift.errors, drift.failures, drift.dropped) == (3, 11, 0, 0, 0)
    assert drift.disagreements == different > 0
    assert drift.mean_distance == pytest.approx(distances.mean(), abs=1e-5)
    assert drift.greatest == pytest.approx(distances.max(), abs=1e-5)
    assert len(drift.answered) == len(drift.copied) == 3
    assert min(*drift.answered, *drift.copied) > 0
    back = found[3, 1]
    assert (back.requests, back.disagreements) == (3, different), "what the new version answers goes to the old one"


def test_the_same_weights_do_not_drift(trained: Path, tmp_path: Path) -> None:
    base = copy(trained, tmp_path, (1, 2))
    golden = json.loads((base / "1" / "assets.extra" / "golden" / "classify.request.json").read_text())
    with shadowed(base, 2) as server:
        predict(server, images(5))
        assert requests.post(f"{server.url}/v1/models/{MODEL}:classify", json=golden, timeout=30).status_code == 200
        message = PredictRequest()
        message.model_spec.name = MODEL
        from zoo.serving.tensors import fill_proto

        fill_proto(message.inputs["image"], images(2))
        server.prediction.Predict(message)
    drift = only(base, 2)
    assert (drift.requests, drift.rows) == (3, 7 + len(golden["examples"]))
    assert (drift.disagreements, drift.greatest, drift.errors) == (0, pytest.approx(0, abs=1e-6), 0)


def test_a_shadow_answers_nobody_who_does_not_name_it(tmp_path: Path) -> None:
    base = tmp_path / "half"
    for version in (1, 2, 3):
        half_plus(base / str(version), version)
    manager = Manager([ModelSource("half", base)], ManagerOptions(poll_seconds=0, retries=0, shadows={"half": 3}))
    assert list(manager.loaded("half")) == [2, 3]
    assert manager.acquire("half")[0] == 2
    assert manager.acquire("half", 3)[0] == 3
    manager.reload([ModelSource("half", base, "specific", chosen=(2, 3), labels={"stable": 3})])
    assert manager.acquire("half")[0] == 3, "a label names it: it is one like others"
    assert manager.acquire("half", label="stable")[0] == 3
    manager.reload([ModelSource("half", base, "specific", chosen=(2,), labels={"stable": 2})])
    assert manager.acquire("half")[0] == 2
    assert list(manager.loaded("half")) == [2, 3], "a shadow again"


def test_a_shadow_that_is_not_there_yet_and_one_that_goes(tmp_path: Path) -> None:
    base = tmp_path / "half"
    half_plus(base / "1", 1)
    half_plus(tmp_path / "made", 2)
    body = {"instances": [1.0]}
    with shadowed(base, 2) as server:
        url = f"{server.url}/v1/models/half:predict"
        assert requests.post(url, json=body, timeout=30).json() == {"predictions": [1.5]}
        (tmp_path / "made").rename(base / "2")
        assert until(lambda: 2 in server.manager.loaded("half"))
        assert requests.post(url, json=body, timeout=30).json() == {"predictions": [1.5]}
        shutil.rmtree(base / "2")
        assert until(lambda: 2 not in server.manager.loaded("half"))
        assert requests.post(url, json=body, timeout=30).json() == {"predictions": [1.5]}
    drift = only(base, 2)
    assert (drift.requests, drift.rows, drift.labelled, drift.greatest) == (1, 1, 0, 1.0), "the offsets differ by 1"


def test_a_share_of_the_traffic(trained: Path, tmp_path: Path) -> None:
    base = copy(trained, tmp_path, (1, 2))
    with shadowed(base, 2, fraction=0.25) as server:
        for _ in range(8):
            predict(server, images(1))
    assert only(base, 2).requests == 2


def test_a_shadow_that_fails_or_hangs_costs_clients_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = copy(trained, tmp_path, (1, 2))
    released, run = threading.Event(), Signature.run
    monkeypatch.setattr(shadow_module, "MOST_WAITING", 2)

    def hang(self: Signature, arrays: Any, outputs: Any = ()) -> Any:
        if self.servable.path.name == "2":
            released.wait(30)
            raise RuntimeError("broken")
        return run(self, arrays, outputs)

    monkeypatch.setattr(Signature, "run", hang)
    monkeypatch.setattr("zoo.serving.manager.warm_up", lambda *_: 0)
    monkeypatch.setattr("zoo.serving.servable.row_wise", lambda *_: frozenset())
    with shadowed(base, 2) as server:
        for _ in range(7):
            assert len(predict(server, images(1))["label"]) == 1
        released.set()
    drift = only(base, 2)
    assert drift.dropped >= 7 - 1 - 2, "one runs, and so many wait"
    assert drift.errors == 7 - drift.dropped
    assert drift.requests == 0


def test_what_only_the_version_that_answers_fails_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.serving.status import invalid_argument

    base = tmp_path / "half"
    for version in (1, 2):
        half_plus(base / str(version), version)
    run = Signature.run

    def fail(self: Signature, arrays: Any, outputs: Any = ()) -> Any:
        if self.servable.path.name == "1":
            raise invalid_argument("broken")
        return run(self, arrays, outputs)

    with shadowed(base, 2) as server:
        monkeypatch.setattr(Signature, "run", fail)
        assert requests.post(f"{server.url}/v1/models/half:predict", json={"instances": [1.0]}, timeout=30).status_code == 400
    assert (only(base, 2).failures, only(base, 2).errors, only(base, 2).requests) == (1, 0, 0)


def test_figures_outlive_the_server_and_are_summed_over_processes(trained: Path, tmp_path: Path) -> None:
    base = copy(trained, tmp_path, (1, 2))
    for expected in (1, 2):
        with shadowed(base, 2) as server:
            predict(server, images(3))
        assert only(base, 2).requests == expected
    shutil.copy(base / "shadow" / "2-0.json", base / "shadow" / "2-1.json")
    (base / "shadow" / "2-2.json").write_text('[{"answered_by": 1')
    assert only(base, 2).requests == 4
    (figures,) = comparisons(base, 2)
    assert figures["rows"] == 12
    assert figures["disagreement"] == 0
    assert figures["latency_ratio"] > 0


ONE = {"scores": numpy.array([[0.75, 0.25], [0.5, 0.5]], "float32"), "classes": numpy.array([[b"a", b"b"], [b"b", b"a"]], object)}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("the same", ONE, ONE, {"rows": 2, "labelled": 2, "disagreements": 0, "distance": 0.0}),
    ("classes in another order", ONE, {**ONE, "classes": ONE["classes"][:, ::-1]}, {"disagreements": 2, "distance": 0.0}),
    ("label", {"label": numpy.array([b"a", b"b"], object)}, {"label": numpy.array([b"a", b"c"], object)}, {"labelled": 2, "disagreements": 1}),
    ("class_id", {"class_id": numpy.array([1, 2])}, {"class_id": numpy.array([3, 2])}, {"labelled": 2, "disagreements": 1, "rows": 2}),
    (
        "certain of others",
        {"probabilities": numpy.eye(2)},
        {"probabilities": numpy.eye(2)[::-1]},
        {"distance": 2.0, "greatest": 1.0, "disagreements": 2},
    ),
    ("numbers", {"y": numpy.array([[1.0, 5.0]])}, {"y": numpy.array([[2.0, 3.0]])}, {"labelled": 0, "distance": 2.0, "greatest": 2.0}),
    ("a scalar", {"y": numpy.array(1.0)}, {"y": numpy.array(1.5)}, {"rows": 1, "distance": 0.5}),
    ("another shape", {"y": numpy.zeros(2)}, {"y": numpy.zeros(3)}, {"errors": 1, "requests": 0, "rows": 0}),
    ("another output", {"y": numpy.zeros(2)}, {"z": numpy.zeros(2)}, {"errors": 1}),
    ("not finite", {"y": numpy.zeros(2)}, {"y": numpy.array([0.0, numpy.nan])}, {"errors": 1, "rows": 0}),
    ("not finite in both", {"y": numpy.array([numpy.inf])}, {"y": numpy.array([numpy.inf])}, {"errors": 0, "rows": 1, "distance": 0.0}),
    ("no rows", {"scores": numpy.zeros((0, 2))}, {"scores": numpy.zeros((0, 2))}, {"requests": 1, "rows": 0, "errors": 0}),
]


@pytest.mark.parametrize(("answered", "copied", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_how_outputs_are_compared(answered: dict[str, Any], copied: dict[str, Any], expected: dict[str, Any]) -> None:
    drift = Drift()
    drift.compare(answered, copied)
    assert {name: getattr(drift, name) for name in expected} == expected


def test_nothing_is_said_of_what_was_not_measured() -> None:
    figures = Drift().figures()
    assert [figures[name] for name in ("disagreement", "mean_distance", "greatest_distance", "latency_ratio", "answered_ms")] == [None] * 5


@pytest.mark.parametrize("text", ["half", "half:", "half:x", "half:1:2", ":1", "a/b:1", "half:-1"])
def test_a_target_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=f"A shadow is a model's name and a version's number, .* Received: '{text}'."):
        Target.of(text)


def test_wrong_settings(tmp_path: Path) -> None:
    several(tmp_path / "several" / "1")
    manager = Manager([ModelSource("several", tmp_path / "several")], QUICK)
    with pytest.raises(UsageError, match=r"A model has one shadow\. Received: several:1, several:2\."):
        Shadow(manager, [Target("several", 1), Target("several", 2)])
    with pytest.raises(UsageError, match=r"Received: 1\.5\."):
        Shadow(manager, [Target("several", 1)], 1.5)
    manager.close()
