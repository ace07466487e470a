"""Batching: requests that run together, and what is refused."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
from serving_models import QUICK, half_plus, repository, serving

from zoo.errors import ServingError
from zoo.serving.batching import OWN_PARAMETERS, Batcher, BatchingParameters, read_batching_parameters, read_own_parameters
from zoo.serving.inference import Options
from zoo.serving.manager import Manager, State
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable, Signature
from zoo.serving.status import StatusError


class Recorder:
    """A signature that notes what it is asked, and waits until it may answer."""

    def __init__(self, batching: BatchingParameters | None = None) -> None:
        self.batching = batching
        self.batches: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def run(self, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str] = ()) -> dict[str, numpy.ndarray]:
        self.batches.append({name: array.tolist() for name, array in arrays.items()})
        self.may_answer.wait()
        return {"y": arrays["x"] * 2}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.may_answer.set()


def row(*values: float) -> dict[str, numpy.ndarray]:
    return {"x": numpy.array(values, "float32")}


def together(batcher: Batcher, recorder: Any, requests_: Sequence[dict[str, numpy.ndarray]]) -> list[Any]:
    """The answers, or errors, of requests that are sent at the same time, in their order."""

    def ask(arrays: dict[str, numpy.ndarray]) -> Any:
        try:
            return {name: array.tolist() for name, array in batcher.run(recorder, arrays, ()).items()}
        except StatusError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(requests_)) as pool:
        asked = []
        for request in requests_:
            asked.append(pool.submit(ask, request))
            time.sleep(0.02)
        return [future.result() for future in asked]


def test_requests_run_together_and_get_their_own_rows(recorder: Recorder) -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=6, batch_timeout_micros=10_000_000, num_batch_threads=1))
    answers = together(batcher, recorder, [row(1), row(2, 3), row(4, 5, 6)])
    assert answers == [{"y": [2]}, {"y": [4, 6]}, {"y": [8, 10, 12]}]
    assert recorder.batches == [{"x": [1, 2, 3, 4, 5, 6]}], "a full batch does not wait"
    batcher.close()


def test_a_batch_that_is_not_full_goes_when_its_time_is_up(recorder: Recorder) -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=100, batch_timeout_micros=200_000, num_batch_threads=1))
    assert together(batcher, recorder, [row(1), row(2)]) == [{"y": [2]}, {"y": [4]}]
    assert recorder.batches == [{"x": [1, 2]}]
    batcher.close()


def test_batches_are_filled_up_to_the_allowed_sizes(recorder: Recorder) -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=8, allowed_batch_sizes=(1, 4, 8), batch_timeout_micros=200_000, num_batch_threads=1))
    assert together(batcher, recorder, [row(1), row(2, 3)]) == [{"y": [2]}, {"y": [4, 6]}]
    assert recorder.batches == [{"x": [1, 2, 3, 1]}]
    batcher.close()


def test_inputs_of_several_lengths(recorder: Recorder) -> None:
    given = [{"x": numpy.array([[1.0]])}, {"x": numpy.array([[2.0, 3.0]])}]
    plain = Batcher(BatchingParameters(max_batch_size=2, batch_timeout_micros=10_000_000))
    for error in together(plain, recorder, given):
        assert "Tensors with name 'x' from different tasks have different shapes and padding is turned off." in error.message
    plain.close()
    padding = Batcher(BatchingParameters(max_batch_size=2, batch_timeout_micros=10_000_000, pad_variable_length_inputs=True))
    assert together(padding, recorder, given) == [{"y": [[2, 0]]}, {"y": [[4, 6]]}]
    padding.close()


def test_what_is_refused(recorder: Recorder) -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=4, max_enqueued_batches=1, num_batch_threads=1, queue_seconds=1.5))
    for arrays, message in [
        (row(1, 2, 3, 4, 5), "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"),
        ({"x": numpy.float32(1)[()] * numpy.ones(())}, "INVALID_ARGUMENT: Batching Run() input tensors must have at least one dimension."),
        ({**row(1), "z": numpy.ones(2)}, "INVALID_ARGUMENT: Batching Run() input tensors must have equal 0th-dimension size."),
    ]:
        with pytest.raises(StatusError) as failure:
            batcher.run(recorder, arrays, ())  # type: ignore[arg-type]
        assert str(failure.value) == message
    recorder.may_answer.clear()
    answers = together(batcher, recorder, [row(1), row(2, 3, 4), row(5, 6)])
    assert [str(answer).partition(";")[0] for answer in answers[2:]] == [
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full"
    ]
    assert [(error.http, error.message) for error in answers[:2]] == [(429, "Run() timeout exceeded while waiting in batching queue")] * 2
    recorder.may_answer.set()
    batcher.close()


def test_outputs_without_rows() -> None:
    servable = Servable(repository() / "several" / "1")
    batcher = Batcher(BatchingParameters())
    for name, message in [("total", "Batched output tensor has 0 dimensions"), ("uneven", "Batched output tensor's 0th dimension does not equal")]:
        signature = servable.signature(name)
        assert isinstance(signature, Signature)
        arrays = {"x": numpy.ones((1, 1), "uint8") if name == "total" else numpy.ones(1, "float32")}
        with pytest.raises(StatusError, match=message):
            batcher.run(signature, arrays, ())
    batcher.close()
    servable.close()


def test_a_server_that_joins_requests() -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=16, batch_timeout_micros=20_000))
    sources = [ModelSource("half_plus_two", repository() / "half_plus_two")]
    with serving(sources, options=Options(run=batcher.run)) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> Any:
            body = {"instances": [float(number)] * (number % 3 + 1)}
            return requests.post(f"{server.url}/v1/models/half_plus_two:predict", json=body, timeout=30).json()

        assert list(pool.map(ask, range(24))) == [{"predictions": [number / 2 + 3.0] * (number % 3 + 1)} for number in range(24)]
        assert "Task size 17 is larger than maximum input batch size 16" in ask_many(server.url, 17)["error"]
        assert "Batching Run() input tensors must have at least one dimension." in ask_scalar(server.url)["error"]
    batcher.close()


def test_each_version_has_its_own_parameters() -> None:
    common = BatchingParameters(max_batch_size=1, batch_timeout_micros=0, max_enqueued_batches=0, num_batch_threads=1)
    batcher = Batcher(common, per_model=True)
    pairs = Recorder(BatchingParameters(max_batch_size=2, batch_timeout_micros=10_000_000, num_batch_threads=7))
    filled = Recorder(BatchingParameters(max_batch_size=4, batch_timeout_micros=200_000, allowed_batch_sizes=(4,)))
    padded = Recorder(BatchingParameters(max_batch_size=2, batch_timeout_micros=10_000_000, pad_variable_length_inputs=True))
    alone = Recorder()
    assert together(batcher, pairs, [row(1), row(2)]) == [{"y": [2]}, {"y": [4]}]
    assert together(batcher, filled, [row(1), row(2)]) == [{"y": [2]}, {"y": [4]}]
    assert together(batcher, padded, [{"x": numpy.array([[1.0]])}, {"x": numpy.array([[2.0, 3.0]])}]) == [{"y": [[2, 0]]}, {"y": [[4, 6]]}]
    assert together(batcher, alone, [row(1), row(2, 3, 4)]) == [{"y": [2]}, {"y": [4, 6, 8]}]
    assert pairs.batches == [{"x": [1, 2]}]
    assert filled.batches == [{"x": [1, 2, 1, 1]}]
    assert alone.batches == [{"x": [1]}, {"x": [2, 3, 4]}], "a version without parameters is not batched"
    with pytest.raises(StatusError, match="Task size 3 is larger than maximum input batch size 2"):
        batcher.run(pairs, row(1, 2, 3), ())  # type: ignore[arg-type]
    with pytest.raises(StatusError, match="max_enqueued_batches is 0"):
        batcher.run(Recorder(BatchingParameters(max_enqueued_batches=0)), row(1), ())  # type: ignore[arg-type]
    assert len(batcher._threads) == 1, "the threads are all models'"
    assert together(batcher, pairs, [row(5), row(6)]) == [{"y": [10]}, {"y": [12]}], "what was refused left the threads at work"
    batcher.close()


def test_what_was_unloaded_is_not_kept() -> None:
    batcher = Batcher(BatchingParameters(max_batch_size=2, batch_timeout_micros=100_000, num_batch_threads=3))
    gone = []
    for _ in range(3):
        recorder = Recorder()
        together(batcher, recorder, [row(1), row(2), row(3)])
        gone.append(weakref.ref(recorder))
        del recorder
    time.sleep(0.3)
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
    assert not batcher._queues
    batcher.close()


def test_a_server_with_parameters_of_each_version(tmp_path: Path) -> None:
    for version, text in ((1, "max_batch_size { value: 3 }"), (2, "")):
        half_plus(tmp_path / "model" / str(version), version)
        if text:
            (tmp_path / "model" / str(version) / OWN_PARAMETERS).write_text(text)
    half_plus(tmp_path / "wrong" / "1", 1)
    own = tmp_path / "wrong" / "1" / OWN_PARAMETERS
    own.write_text("max_batch_size: 3")
    options = dataclasses.replace(QUICK, per_model_batching=True)
    batcher = Batcher(BatchingParameters(max_batch_size=2), per_model=True)
    sources = [ModelSource("model", tmp_path / "model", "all"), ModelSource("wrong", tmp_path / "wrong")]
    with serving(sources, options, Options(run=batcher.run)) as server:

        def ask(version: int, count: int) -> Any:
            url = f"{server.url}/v1/models/model/versions/{version}:predict"
            return requests.post(url, json={"instances": [2.0] * count}, timeout=30).json()

        assert ask(1, 3) == {"predictions": [2.0] * 3}, "more than the common parameters allow"
        assert "Task size 4 is larger than maximum input batch size 3" in ask(1, 4)["error"]
        assert ask(2, 40) == {"predictions": [3.0] * 40}, "it has no parameters"
        (failed,) = server.manager.statuses("wrong").values()
        assert failed.error is not None
        assert (failed.error.code.name, failed.state) == ("INVALID_ARGUMENT", State.END)
        assert failed.error.message.startswith(f"Error parsing text-format tensorflow.serving.BatchingParameters: {own}: ")
        own.write_text("max_batch_size { value: 5 }")
        wait_for(lambda: server.manager.loaded("wrong"))
        signature = server.manager.loaded("wrong")[1].signature()
        assert signature is not None
        assert signature.batching == read_own_parameters(own.parent) == BatchingParameters(5)
    batcher.close()


def test_without_the_switch_the_file_is_not_read(tmp_path: Path) -> None:
    half_plus(tmp_path / "1", 1)
    (tmp_path / "1" / OWN_PARAMETERS).write_text("nonsense")
    manager = Manager([ModelSource("model", tmp_path)], QUICK)
    signature = manager.loaded("model")[1].signature()
    assert signature is not None
    assert signature.batching is None
    manager.close()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ask_many(url: str, count: int) -> Any:
    return requests.post(f"{url}/v1/models/half_plus_two:predict", json={"instances": [1.0] * count}, timeout=30).json()


def ask_scalar(url: str) -> Any:
    return requests.post(f"{url}/v1/models/half_plus_two:predict", json={"inputs": 1.0}, timeout=30).json()


def test_the_parameters_file(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text("max_batch_size { value: 32 } batch_timeout_micros { value: 5 } num_batch_threads { value: 3 } allowed_batch_sizes: [8, 32]")
    parameters = read_batching_parameters(path)
    assert parameters == BatchingParameters(32, 5, num_batch_threads=3, allowed_batch_sizes=(8, 32))
    for text, message in [
        ("max_batch_size: 3", r"Error parsing text-format tensorflow\.serving\.BatchingParameters"),
        (
            "max_batch_size { value: 32 } allowed_batch_sizes: 16",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16; expected 32",
        ),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [16, 8]", "allowed_batch_sizes must be positive and ascending"),
    ]:
        path.write_text(text)
        with pytest.raises(ServingError, match=message):
            read_batching_parameters(path)
