"""The server as a process: start, announce, drain, stop; and what each flag of TF Serving does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import requests
from serving_models import half_plus, repository

from zoo.cli import main
from zoo.commands import serve as command
from zoo.errors import ServingError
from zoo.serving import Client, ServerOptions, start
from zoo.serving.messages import message
from zoo.serving.server import bind
from zoo.serving.tensors import fill_proto

HALF = "/v1/models/half_plus_two:predict"
LABELS = "--allow_version_labels_for_unavailable_models"


def post(url: str, path: str, body: Any) -> requests.Response:
    return requests.post(url + path, json=body, timeout=60)


def test_it_serves_announces_drains_and_stops() -> None:
    with start(repository(), 0, LABELS, "--max_num_load_retries=0", "--a_flag_of_tomorrow=3") as server:
        assert post(server.url, HALF, {"instances": [2.0]}).json() == {"predictions": [4.0]}
        with Client(server.grpc) as client:
            assert client.predict("half_plus_two", x=numpy.float32([2.0]))["y"].tolist() == [4.0]
        said = server.said
        assert "unknown argument: --a_flag_of_tomorrow=3" in said
        assert "usage: " in said
        assert re.search(r"not served: .*broken/1 cannot be loaded", said)
        assert "half_plus_two: version 1, 2 on tf\n" in said
        shown = re.search(r"^try:  (.*)$", said, re.MULTILINE)
        assert shown is not None
        answered = subprocess.run(["bash", "-c", shown[1]], capture_output=True, text=True, timeout=60)
        assert "error" not in json.loads(answered.stdout), "the line that it prints works"
        assert f"\npage: {server.url}/\n" in said
        assert "<title>neuron-zoo playground</title>" in requests.get(f"{server.url}/", timeout=60).text

        answers: dict[str, Any] = {}

        def ask_rest() -> None:
            answers["rest"] = post(server.url, "/v1/models/several:predict", {"signature_name": "slow", "instances": [400]}).status_code

        def ask_grpc() -> None:
            with Client(server.grpc, retries=0) as client:
                answers["grpc"] = client.predict("several", signature="slow", steps=numpy.array([400], "int32"))["done"].tolist()

        threads = [threading.Thread(target=ask) for ask in (ask_rest, ask_grpc)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        assert not answers, "both are under way"
        os.kill(server.pid, signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers == {"rest": 200, "grpc": [400]}, "what was under way was answered"
        assert server.stop() == 0
        with pytest.raises(requests.ConnectionError):
            post(server.url, HALF, {"instances": [2.0]})


def test_tf_servings_flags_in_a_process(tmp_path: Path) -> None:
    """As tensorflow_model_server is started in a container: before the model is there."""
    monitoring, batching = tmp_path / "monitoring.config", tmp_path / "batching.config"
    monitoring.write_text('prometheus_config { enable: true, path: "/metrics" }')
    batching.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 1000 }")
    (tmp_path / "model").mkdir()
    flags = ["--port=any", "--rest_api_port=any", "--model_name=m", f"--model_base_path={tmp_path}/model", "--file_system_poll_wait_seconds=0.1"]
    flags += [f"--monitoring_config_file={monitoring}", "--enable_batching", f"--batching_parameters_file={batching}"]
    flags += [
        f"--grpc_socket_path={tmp_path}/socket",
        "--enable_serialization_as_tensor_content=true",
        "--rest_api_enable_cors_support",
        "--no-playground",
    ]
    command_line = [sys.executable, "-u", "-m", "zoo.cli", "serve", *flags]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            assert "No versions of servable m found under base path" in process.stdout.readline()
            half_plus(tmp_path / "made", 2).rename(tmp_path / "model" / "7")
            lines = []
            for line in iter(process.stdout.readline, ""):
                lines.append(line)
                if line.startswith("listening on "):
                    break
            url = re.findall(r"http://\S+", lines[-1])[0]
            assert not any(line.startswith("page: ") for line in lines)
            outside = requests.get(url, timeout=60)
            assert (outside.status_code, outside.json()) == (404, {"error": "Not Found"})
            answer = post(url, "/v1/models/m/versions/7:predict", {"instances": [1.0]})
            assert (answer.json(), answer.headers["access-control-allow-origin"]) == ({"predictions": [2.5]}, "*")
            assert "Task size 5 is larger" in post(url, "/v1/models/m:predict", {"instances": [1.0] * 5}).json()["error"]
            page = requests.get(f"{url}/metrics", timeout=30).text
            assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1' in page.splitlines()
            assert ask_socket(tmp_path / "socket").tensor_content == numpy.float32([2.5]).tobytes()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def ask_socket(path: Path) -> Any:
    """Asks the model `m` over a UNIX socket, and returns the output `y`."""
    request = message("PredictRequest")()
    request.model_spec.name = "m"
    fill_proto(request.inputs["x"], numpy.float32([1.0]))
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict", None, message("PredictResponse").FromString)
        return call(request.SerializeToString(), timeout=30).outputs["y"]


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives `options(*arguments)`: what `zoo serve` would start the server with."""
    seen: dict[str, Any] = {}

    def serve(sources: Any, given: ServerOptions, **more: Any) -> None:
        seen.update(sources=sources, options=given, **more)

    monkeypatch.setattr("zoo.serving.server.serve", serve)

    def run(*arguments: str) -> dict[str, Any]:
        assert main(["serve", *arguments]) == 0
        return seen

    return run


def test_defaults(options: Any, tmp_path: Path) -> None:
    seen = options(f"--model_base_path={tmp_path}")
    given: ServerOptions = seen["options"]
    assert (given.host, given.grpc_port, given.rest_port) == ("127.0.0.1", 8500, 8501)
    assert (given.timeout_seconds, given.body_bytes, given.batching, given.metrics_path, given.cors) == (30.0, 256 * 1024 * 1024, None, None, False)
    manager = given.manager
    assert manager is not None
    assert (manager.poll_seconds, manager.config_poll_seconds, manager.retries, manager.retry_seconds) == (1, 0, 5, 60)
    assert (manager.warmup, manager.labels_for_unavailable, manager.session.tags, manager.engine) == (True, False, ("serve",), "auto")
    assert [(source.name, source.base_path) for source in seen["sources"]] == [("default", tmp_path)]
    assert seen["wait"]
    assert given.playground
    assert not options(f"--model_base_path={tmp_path}", "--no-playground")["options"].playground


def test_parameters_of_each_version_take_batching(options: Any, tmp_path: Path, capsys: Any) -> None:
    where, per_model = f"--model_base_path={tmp_path}", "--enable_per_model_batching_parameters"
    assert options(where, "--enable_batching", per_model)["options"].manager.per_model_batching
    assert not options(where, "--enable_batching", f"{per_model}=false")["options"].manager.per_model_batching
    assert not capsys.readouterr().err
    assert not options(where, per_model)["options"].manager.per_model_batching
    assert f"without effect here: {per_model} without --enable_batching" in capsys.readouterr().err


def test_every_flag_arrives(options: Any, tmp_path: Path) -> None:
    (tmp_path / "session.config").write_text("allow_soft_placement: true")
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    (tmp_path / "models.config").write_text(f"model_config_list {{ config {{ name: 'a' base_path: '{tmp_path}/a' model_platform: 'tensorflow' }} }}")
    seen = options(
        "--port=0",
        "--rest_api_port=9000",
        "--host=0.0.0.0",
        "--rest_api_timeout_in_ms=500",
        "--rest_api_num_threads=3",
        "--grpc_max_threads=4",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=2000",
        f"--model_config_file={tmp_path}/models.config",
        "--model_config_file_poll_wait_seconds=7",
        "--file_system_poll_wait_seconds=0",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=1500000",
        "--saved_model_tags=serve,gpu",
        "--enable_batching=true",
        "--enable_model_warmup=false",
        "--num_request_iterations_for_warmup=3",
        f"--monitoring_config_file={tmp_path}/monitoring.config",
        f"--tensorflow_session_config_file={tmp_path}/session.config",
        "--tensorflow_session_parallelism=6",
        "--tensorflow_intra_op_parallelism=5",
        "--per_process_gpu_memory_fraction=0.5",
        "--enable_signature_method_name_check",
        "--max_body_bytes=1000",
        "--max_waiting_requests=9",
        "--flush_filesystem_caches=false",
        "--engine=tf",
        LABELS,
    )
    given: ServerOptions = seen["options"]
    assert (given.grpc_port, given.rest_port, given.host, given.timeout_seconds) == (None, 9000, "0.0.0.0", 0.5)
    assert (given.rest_threads, given.grpc_threads, given.body_bytes, given.waiting) == (3, 4, 1000, 9)
    assert (given.grpc_channel_arguments, given.check_methods, given.metrics_path) == (
        "grpc.max_connection_age_ms=2000",
        True,
        "/monitoring/prometheus/metrics",
    )
    assert given.batching is not None
    assert (given.batching.max_batch_size, given.batching.queue_seconds) == (1000, 0.5)
    manager = given.manager
    assert manager is not None
    assert (manager.poll_seconds, manager.config_poll_seconds, manager.retries, manager.retry_seconds) == (0, 7, 2, 1.5)
    assert (manager.warmup, manager.warmup_iterations, manager.labels_for_unavailable) == (False, 3, True)
    session = manager.session
    assert (session.tags, session.intra_op_threads, session.inter_op_threads, session.gpu_memory_fraction) == (("serve", "gpu"), 5, 6, 0.5)
    assert session.config
    assert manager.engine == "tf"
    assert [source.name for source in seen["refresh"]()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["x", "--model_base_path=/y"], 2, "Name what to serve once: WHAT, --model_base_path or --model_config_file."),
        (["--port=8501", "--model_base_path=/y"], 2, "--rest_api_port cannot be same as --port. Received: 8501 for both."),
        (["--batching_parameters_file=x"], 2, "--batching_parameters_file is set without setting --enable_batching to true."),
        (["--model_config_file=/nowhere.config"], 1, "/nowhere.config cannot be read: No such file or directory."),
        (["some/where"], 1, "There is no model repository some/where. `zoo export NAME --to some/where` makes one."),
        ([], 1, "There is no model repository saved_models here."),
        (["cnn.nothing"], 2, "Unknown"),
        (["--engine=tensorflow_model_server"], 1, "tensorflow_model_server is not on PATH."),
    ],
)
def test_wrong_usage(arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", *arguments]) == status
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"zoo: {message}")


@pytest.mark.parametrize("argument", ["--port=70000", "--port=x", "--enable_batching=maybe"])
def test_a_flag_with_a_wrong_value(argument: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", argument])
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_version(capsys: Any) -> None:
    assert main(["serve", "--version"]) == 0
    assert capsys.readouterr().out.startswith("TensorFlow ModelServer: neuron-zoo ")


def test_what_keeps_it_from_starting(tmp_path: Path, capsys: Any) -> None:
    def fails(*arguments: str) -> str:
        assert main(["serve", "--port=any", "--rest_api_port=any", *arguments]) == 1
        return str(capsys.readouterr().err.strip().splitlines()[-1])

    with pytest.raises(ServingError, match=r"The server did not start: zoo: There is no model repository .*nowhere"):
        start(tmp_path / "nowhere")
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "models.config").write_text("model_config_list { config { name: 'bad' base_path: '/models/bad' model_platform: 'tensorflow' } }")
    assert re.search(r"zoo: No model could be loaded\. .*bad/1 cannot be loaded", fails(str(tmp_path)))
    label = "Request to assign label to version 7 of model half_plus_two, which is not currently available for inference"
    assert re.fullmatch(rf"zoo: Failed to start server\. Error: FAILED_PRECONDITION: {label}", fails(str(repository())))
    (tmp_path / "models.config").write_text("model_config_list {")
    assert fails(str(tmp_path)).startswith("zoo: Error parsing text-format tensorflow.serving.ModelServerConfig: ")
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        message = f"zoo: Port {port} on 127.0.0.1 is in use. Choose another with --rest_api_port, or --rest_api_port=any for a free one."
        assert fails(str(repository()), f"--rest_api_port={port}", LABELS) == message
        assert fails(str(repository()), f"--port={port}", "--max_num_load_retries=0", LABELS).startswith(
            f"zoo: gRPC cannot listen on 127.0.0.1:{port}"
        )
    assert fails(str(repository()), "--host=256.0.0.1", LABELS).startswith("zoo: Cannot listen on 256.0.0.1, port 0: ")


FAKE = """#!/bin/sh
echo "$@" > "$0.arguments"
for argument in "$@"; do case "$argument" in --model_config_file=*) cat "${argument#*=}" > "$0.config";; esac; done
trap 'echo stopped > "$0.stopped"; exit 3' TERM
echo ready
while :; do sleep 0.05; done
"""


def test_the_real_server_gets_the_same_arguments(tmp_path: Path) -> None:
    fake = tmp_path / "tensorflow_model_server"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for arguments, expected in [
        (
            ["--engine", "tensorflow_model_server", "--port=8500", "--model_name=m", "--model_base_path=/srv/m", "--enable_batching", "--anything=1"],
            "--port=8500 --model_name=m --model_base_path=/srv/m --enable_batching --anything=1 --rest_api_port=8501",
        ),
        (
            ["--no-playground", str(repository()), "--engine=tensorflow_model_server", "--rest_api_port=9000"],
            r"--rest_api_port=9000 --model_config_file=\S+",
        ),
    ]:
        command_line = [sys.executable, "-m", "zoo.cli", "serve", *arguments]
        with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.wait(timeout=30) == 3, "the signal and the exit status are passed on"
        assert re.fullmatch(expected, (tmp_path / "tensorflow_model_server.arguments").read_text().strip())
    config = (tmp_path / "tensorflow_model_server.config").read_text()
    assert f'base_path: "{repository()}/half_plus_two"' in config
    assert 'key: "stable"' in config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("half_plus_two", "curl -s -d '{\"instances\": [0.0]}' http://h/v1/models/m:predict"),
        ("several", 'curl -s -d \'{"instances": [{"flag": false, "number": 0, "text": ""}]}\' http://h/v1/models/m:predict'),
        ("types", "curl -s http://h/v1/models/m/metadata"),
        ("defaults", "curl -s http://h/v1/models/m/metadata"),
    ],
)
def test_the_example_that_is_printed(name: str, expected: str) -> None:
    from zoo.serving.servable import Servable

    (path,) = (child for child in (repository() / name).iterdir() if child.name in ("1",))
    servable = Servable(path)
    assert command._example(servable, "http://h/v1/models/m") == expected
    servable.close()
