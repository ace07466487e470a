"""Versions: polling, policies, labels, warm-up, failures, and what replaces what."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tensorflow as tf
from serving_models import QUICK, half_plus, half_plus_two_v1, write_warmup
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from zoo.serving.manager import Manager, ManagerOptions, State
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable
from zoo.serving.status import Code, StatusError
from zoo.serving.warmup import warm_up

LOOK_BY_HAND = dataclasses.replace(QUICK, poll_seconds=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Path]:
    """Gives `exported(base, version)`: a copy of a model whose offset is the version."""
    folder = tmp_path_factory.mktemp("exports")

    def copy(base: Path, version: int) -> Path:
        if not (folder / str(version)).exists():
            half_plus(folder / str(version), version)
        temporary = base / f".tmp-{version}"
        shutil.copytree(folder / str(version), temporary)
        return temporary.rename(base / str(version))

    return copy


def answer(manager: Manager, name: str = "half", **which: Any) -> float:
    with manager.lease(name, **which) as (_, servable):
        return float(servable.run("", {"x": numpy.array([0.0], "float32")})["y"][0])


def states(manager: Manager, name: str = "half") -> dict[int, str]:
    return {number: version.state.name for number, version in manager.statuses(name).items()}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_policies(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    for version in (1, 2, 3):
        exported(tmp_path, version)
    source = ModelSource("half", tmp_path)
    for changes, expected in [({}, [3]), ({"count": 2}, [2, 3]), ({"policy": "all"}, [1, 2, 3]), ({"policy": "specific", "chosen": (1, 9)}, [1])]:
        manager = Manager([dataclasses.replace(source, **changes)], LOOK_BY_HAND)  # type: ignore[arg-type]
        assert list(manager.loaded("half")) == expected
        assert answer(manager) == max(expected)
        assert [answer(manager, version=number) for number in expected] == expected
        manager.close()


def test_a_new_version_replaces_the_old_one_by_polling(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    exported(tmp_path, 1)
    manager = Manager([ModelSource("half", tmp_path)], QUICK)
    assert answer(manager) == 1
    exported(tmp_path, 2)
    wait_for(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})
    assert answer(manager) == 2
    shutil.rmtree(tmp_path / "2")
    wait_for(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})
    assert answer(manager) == 1, "an older version comes back"
    shutil.rmtree(tmp_path / "1")
    wait_for(lambda: states(manager) == {2: "END", 1: "END"})
    with pytest.raises(StatusError, match="Servable not found for request: Latest"):
        answer(manager)
    exported(tmp_path, 1)
    wait_for(lambda: states(manager)[1] == "AVAILABLE")
    manager.close()
    assert states(manager) == {2: "END", 1: "END"}


def test_a_vanished_base_folder_unloads_nothing(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    (tmp_path / "half").mkdir()
    exported(tmp_path / "half", 1)
    manager = Manager([ModelSource("half", tmp_path / "half")], LOOK_BY_HAND)
    (tmp_path / "half").rename(tmp_path / "away")
    manager.poll()
    assert (states(manager), answer(manager)) == ({1: "AVAILABLE"}, 1)
    manager.close()


def test_a_version_that_fails_keeps_the_old_one_serving(tmp_path: Path, exported: Callable[[Path, int], Path], caplog: Any) -> None:
    exported(tmp_path, 1)
    manager = Manager([ModelSource("half", tmp_path)], LOOK_BY_HAND)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"half a file")
    manager.poll()
    assert (states(manager), answer(manager)) == ({2: "END", 1: "AVAILABLE"}, 1)
    error = manager.statuses("half")[2].error
    assert error is not None
    assert "2 cannot be loaded" in error.message
    assert list(manager.failures()) == ["half/2"]
    manager.poll()
    assert sum("Loading servable: half version 2 failed" in record.message for record in caplog.records) == 1, "said once"
    shutil.rmtree(tmp_path / "2")
    manager.poll()
    assert states(manager) == {1: "AVAILABLE"}
    manager.close()


def test_a_failed_load_is_tried_again(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    (tmp_path / "1").mkdir()
    manager = Manager([ModelSource("half", tmp_path)], ManagerOptions(poll_seconds=0, retries=2, retry_seconds=0))
    assert states(manager) == {1: "LOADING"}, "there are tries left"
    assert manager.statuses("half")[1].error is not None
    manager.poll()
    manager.poll()
    assert states(manager) == {1: "END"}
    manager.poll()
    assert manager.statuses("half")[1].attempts == 3, "no more than two retries"
    shutil.rmtree(tmp_path / "1")
    exported(tmp_path, 1)
    manager.poll()
    assert (states(manager), answer(manager)) == ({1: "AVAILABLE"}, 1), "a folder that changed is looked at again"
    manager.close()


def test_a_half_copied_version_is_not_served(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    """The graph without its variables would load, and answer from variables without values."""
    exported(tmp_path, 1)
    whole = exported(tmp_path, 2)
    whole.rename(tmp_path / "whole")
    manager = Manager([ModelSource("half", tmp_path)], LOOK_BY_HAND)
    for part in ("fingerprint.pb", "saved_model.pb", "variables/variables.data-00000-of-00001"):
        (tmp_path / "2" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "whole" / part, tmp_path / "2" / part)
        manager.poll()
        assert (states(manager), answer(manager)) == ({2: "END", 1: "AVAILABLE"}, 1), part
    shutil.copy(tmp_path / "whole" / "variables" / "variables.index", tmp_path / "2" / "variables")
    manager.poll()
    assert (states(manager), answer(manager)) == ({2: "AVAILABLE", 1: "END"}, 2)
    manager.close()


def test_a_version_that_is_unloaded_leaves_nothing_behind(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    exported(tmp_path, 1)
    manager = Manager([ModelSource("half", tmp_path)], LOOK_BY_HAND)
    graph = weakref.ref(manager.loaded("half")[1].session().graph)
    exported(tmp_path, 2)
    manager.poll()
    assert states(manager) == {2: "AVAILABLE", 1: "END"}
    assert graph() is None
    manager.close()


def test_labels(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    for version in (1, 2):
        exported(tmp_path, version)
    source = ModelSource("half", tmp_path, "all")
    labelled = dataclasses.replace(source, labels={"stable": 1})
    strict = dataclasses.replace(LOOK_BY_HAND, labels_for_unavailable=False)
    with pytest.raises(StatusError, match="Request to assign label to version 3 of model half, which is not currently available for inference"):
        Manager([dataclasses.replace(source, labels={"stable": 3})], strict)
    manager = Manager([labelled], strict)
    assert answer(manager, label="stable") == 1, "labels hold from the start"
    manager.close()
    manager = Manager([source], strict)
    manager.reload([labelled])
    assert answer(manager, label="stable") == 1
    manager.reload([dataclasses.replace(source, labels={"stable": 2, "old": 1})])
    assert (answer(manager, label="stable"), answer(manager, label="old")) == (2, 1)
    with pytest.raises(StatusError, match="Request to assign label to version 5"):
        manager.reload([dataclasses.replace(source, labels={"stable": 5})])
    assert answer(manager, label="stable") == 2, "a configuration that is not taken changes nothing"
    manager.reload([source])
    with pytest.raises(StatusError, match="Unrecognized servable version label: stable"):
        answer(manager, label="stable")
    manager.close()


def test_an_unused_label_may_wait_for_its_version_on_demand(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    exported(tmp_path, 1)
    source = ModelSource("half", tmp_path, "all", labels={"stable": 1, "next": 2})
    manager = Manager([source], LOOK_BY_HAND)
    with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(half, 2\)"):
        answer(manager, label="next")
    with pytest.raises(StatusError, match="Request to assign label to version 3"):
        manager.reload([dataclasses.replace(source, labels={"stable": 3})])
    exported(tmp_path, 2)
    manager.poll()
    assert answer(manager, label="next") == 2
    manager.close()


def test_the_configuration_is_read_again(tmp_path: Path, exported: Callable[[Path, int], Path], caplog: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        exported(tmp_path / name, 1)
    sources = [ModelSource("a", tmp_path / "a")]

    def refresh() -> list[ModelSource]:
        if not sources:
            raise StatusError(Code.INVALID_ARGUMENT, "nothing to read")
        return list(sources)

    manager = Manager(sources, dataclasses.replace(QUICK, config_poll_seconds=0.05), refresh)
    sources.append(ModelSource("b", tmp_path / "b"))
    wait_for(lambda: 1 in manager.loaded("b"))
    del sources[0]
    wait_for(lambda: states(manager, "a") == {1: "END"})
    sources.clear()
    wait_for(lambda: "Reading the models' configuration again failed: INVALID_ARGUMENT: nothing to read" in caplog.text)
    assert answer(manager, "b") == 1, "it goes on with what it has"
    manager.close()


def test_what_a_client_asked_for_stays_until_the_configuration_changes(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        exported(tmp_path / name, 1)
    sources, looks = [ModelSource(name, tmp_path / name) for name in ("a", "b")], list[float]()

    def refresh() -> list[ModelSource]:
        looks.append(time.monotonic())
        return list(sources)

    manager = Manager(sources, dataclasses.replace(QUICK, config_poll_seconds=0.02), refresh)
    manager.reload([ModelSource("a", tmp_path / "a", labels={"stable": 1})])
    seen = len(looks)
    wait_for(lambda: len(looks) > seen + 3)
    assert answer(manager, "a", label="stable") == 1
    assert states(manager, "b") == {1: "END"}
    del sources[0]
    wait_for(lambda: 1 in manager.loaded("b") and not manager.loaded("a"))
    manager.close()


def test_a_version_answers_what_it_has_before_it_goes(tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    exported(tmp_path, 1)
    manager = Manager([ModelSource("half", tmp_path)], LOOK_BY_HAND)
    with manager.lease("half") as (number, servable):
        exported(tmp_path, 2)
        thread = threading.Thread(target=manager.poll)
        thread.start()
        wait_for(lambda: states(manager) == {2: "AVAILABLE", 1: "UNLOADING"})
        assert answer(manager) == 2
        assert (number, float(servable.run("", {"x": numpy.array([0.0], "float32")})["y"][0])) == (1, 1.0)
    thread.join()
    assert states(manager) == {2: "AVAILABLE", 1: "END"}
    assert not servable.acquire()
    manager.close()


def log(signature: str = "", x: Any = (1.0,)) -> PredictionLog:
    made = PredictionLog()
    made.predict_log.request.model_spec.name = "any"
    made.predict_log.request.model_spec.signature_name = signature
    made.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    return made


def test_every_kind_of_warm_up_request(tmp_path: Path) -> None:
    path = half_plus_two_v1(tmp_path / "1")
    example = {"example_list": {"examples": [tf.train.Example()]}}
    regress, classify, several = PredictionLog(), PredictionLog(), PredictionLog()
    for made, signature in ((regress.regress_log, "regress_x_to_y"), (classify.classify_log, "classify_x_to_y")):
        made.request.model_spec.signature_name = signature
        made.request.input.MergeFrom(type(made.request.input)(**example))
    several.multi_inference_log.request.input.CopyFrom(regress.regress_log.request.input)
    task = several.multi_inference_log.request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "any", "regress_x_to_y"
    write_warmup(path, [log(), regress, classify, several, PredictionLog()])
    servable = Servable(path)
    assert warm_up(servable, iterations=2) == 5
    servable.close()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([log("x")], 'FAILED_PRECONDITION: Serving signature key "x" not found.'),
        ([log(), log(x=[1])], "INVALID_ARGUMENT: Expects arg[0] to be float but int32 is provided"),
        ([b"\xff\xff"], "INVALID_ARGUMENT: Failed to parse warmup record: "),
        ([log()] * 1001, "INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000) at "),
        ([PredictionLog(session_run_log={})], "UNIMPLEMENTED: Unsupported log_type for warmup: session_run_log"),
        (None, "Please verify your warmup data is in TFRecord format."),
    ],
    ids=range(6),
)
def test_a_warm_up_that_fails_fails_the_load(records: Any, message: str, tmp_path: Path, exported: Callable[[Path, int], Path]) -> None:
    exported(tmp_path, 1)
    manager = Manager([ModelSource("half", tmp_path)], LOOK_BY_HAND)
    path = exported(tmp_path, 2)
    write_warmup(path, records or [])
    if records is None:
        (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no record at all")
    manager.poll()
    assert (states(manager), answer(manager)) == ({2: "END", 1: "AVAILABLE"}, 1)
    assert message in str(manager.statuses("half")[2].error)
    manager.close()
    without = Manager([ModelSource("half", tmp_path)], dataclasses.replace(LOOK_BY_HAND, warmup=False))
    assert answer(without) == 2
    without.close()


def test_states_are_tf_servings() -> None:
    from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

    assert {state.name: state.value for state in State} == {name: value for name, value in ModelVersionStatus.State.items() if name != "UNKNOWN"}
    assert {code.name: code.value for code in Code} == {name: value for name, value in tf.errors.__dict__.items() if name in Code.__members__}
