"""Several processes on the same ports: what one client sees of them, and what becomes of those that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

import zoo
from zoo.errors import ServingError
from zoo.serving.metrics import PATH, Facts, Metrics, merged
from zoo.serving.server import ServerProcess, bind, start

PREDICT = "/v1/models/relu_mlp.digits:predict"
BODY = json.dumps({"instances": [[[[1.0]] * 8] * 8]})
COUNT = 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that is served without TensorFlow, and so is served soon."""
    folder = tmp_path_factory.mktemp("exported")
    zoo.export_model("relu_mlp.digits", folder, formats=["saved_model", "litert"])
    return folder


@pytest.fixture(scope="module")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    monitoring = tmp_path_factory.mktemp("workers") / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    with start(exported, 0, f"--workers={COUNT}", f"--monitoring_config_file={monitoring}", "--file_system_poll_wait_seconds=0") as process:
        yield process


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return sorted(map(int, found.split()))


def until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def ask(server: ServerProcess) -> int:
    """Asks on a connection of its own, which the kernel gives to one of the processes."""
    return requests.post(f"{server.url}{PREDICT}", data=BODY, headers={"Connection": "close"}, timeout=30).status_code


def count(server: ServerProcess) -> int:
    lines = requests.get(f"{server.url}{PATH}", timeout=30).text.splitlines()
    found = [line for line in lines if line.startswith(':tensorflow:serving:request_count{model_name="relu_mlp.digits",status="OK"}')]
    assert len(found) <= 1
    return int(found[0].split()[-1]) if found else 0


def test_all_answer_and_each_tells_of_all(server: ServerProcess) -> None:
    assert f"{COUNT} workers\n" in server.said
    assert server.said.count("relu_mlp.digits: version 1") == 1, "what all say is shown once"
    assert len(children(server.pid)) == COUNT
    before = count(server)
    assert [ask(server) for _ in range(40)] == [200] * 40
    assert {count(server) for _ in range(10)} == {before + 40}, "whichever process is asked"


def test_grpc_is_shared_too(server: ServerProcess) -> None:
    request = predict_pb2.PredictRequest(model_spec={"name": "relu_mlp.digits"})
    request.inputs["image"].dtype = 1
    for size in (1, 8, 8, 1):
        request.inputs["image"].tensor_shape.dim.add().size = size
    for _ in range(8):
        with grpc.insecure_channel(server.grpc.removeprefix("grpc://"), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
            assert answer.outputs["class_id"].int64_val[:] != []
            with pytest.raises(grpc.RpcError) as error:
                model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=30)
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "several processes" in str(error.value.details())


def test_one_that_is_killed_is_replaced(server: ServerProcess) -> None:
    first, second = children(server.pid)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: len(pids := children(server.pid)) == COUNT and first not in pids)
    assert second in children(server.pid)
    assert f"worker {0 if f'worker 0 ended with status {-signal.SIGKILL}' in server.said else 1} ended with status -9" in server.said
    served = count(server)

    def both_answer() -> bool:
        """Whether the new one listens: then the answers of both are counted from either."""
        return all(ask(server) == 200 for _ in range(10))

    assert until(both_answer)
    assert count(server) >= served


def test_they_end_together(exported: Path) -> None:
    process = start(exported, 0, f"--workers={COUNT}")
    workers = children(process.pid)
    assert len(workers) == COUNT
    assert process.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_they_end_when_the_parent_is_killed(exported: Path) -> None:
    process = start(exported, 0, f"--workers={COUNT}")
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    assert until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers))
    process.stop()


def test_a_port_in_use_is_named(exported: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"Port {port} on 127.0.0.1 is in use"):
            start(exported, port, f"--workers={COUNT}")


@pytest.mark.slow
def test_what_keeps_one_from_starting_is_said_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(ServingError, match="No model could be loaded"):
        start(tmp_path / "broken", 0, f"--workers={COUNT}")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes(text: str) -> None:
    done = subprocess.run([sys.executable, "-m", "zoo.cli", "serve", f"--workers={text}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"expected a number of processes, received '{text}'" in done.stderr


def test_a_socket_is_not_shared(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zoo.cli", "serve", "--workers=2", f"--grpc_socket_path={tmp_path}/socket"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--grpc_socket_path is one server's" in done.stderr


def test_pages_are_added_up() -> None:
    pages = []
    for requests_ in (1, 2, 3):
        metrics = Metrics()
        for _ in range(requests_):
            metrics.request(Facts("m", 1), "Predict", "REST", "OK", seconds=0.001 * requests_)
        metrics.request(Facts(f"only{requests_}"), "Predict", "REST", "NOT_FOUND", seconds=0.0)
        pages.append(metrics.page())
    lines = merged(pages).splitlines()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 6' in lines
    assert ':tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="REST"} 6' in lines
    assert sum("only" in line for line in lines) == 3
    assert [line for line in lines if line.startswith("#")] == [line for line in pages[0].splitlines() if line.startswith("#")]
    assert merged(pages[:1]) == pages[0]
