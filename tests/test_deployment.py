"""Deployment files: they fit the schemas of those who read them, and their probe tells a ready server from others."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import keras
import kubernetes_validate
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf import wrappers_pb2 as wrappers
from interrupted_export import tiny_model
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from zoo.cli import main
from zoo.deployment import (
    kubernetes_names,
    latency_curve,
    ready_script,
    write_deployment,
)
from zoo.errors import ExportError
from zoo.export import export_model
from zoo.serving import start
from zoo.serving.autotune import Batching, batching_parameters, choose_batching

KUBERNETES = "1.33"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    model: tuple[keras.Model, Any] = tiny_model()
    export_model(model, folder, name="tiny")
    shutil.copytree(folder / "tiny", folder / "cnn_bn.toy")
    return folder


def message(name: str, *fields: tuple[str, int, str | int]) -> Any:
    """A message of TF Serving whose Python module the package with its messages lacks; `(name, number, type)`, `*` for repeated."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="tests", syntax="proto3", dependency=["google/protobuf/wrappers.proto"])
    types: dict[Any, Any] = {"bool": 8, "string": 9, "int64": 3}
    parts: dict[str, list[tuple[str, int, Any]]] = {}
    for path, number, kind in fields:
        owner, _, field = path.rpartition(".")
        parts.setdefault(owner or name, []).append((field, number, kind))
    for owner, members in parts.items():
        definition = file.message_type.add(name=owner)
        for field, number, kind in members:
            added = definition.field.add(name=field.rstrip("*"), number=number, label=3 if field.endswith("*") else 1)
            added.type = types.get(kind, 11)
            if kind not in types:
                added.type_name = f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}"))


INT64, STRING = "google.protobuf.Int64Value", "google.protobuf.StringValue"
# session_bundle_config.proto and monitoring_config.proto of TF Serving
BATCHING_PARAMETERS = message(
    "BatchingParameters",
    ("max_batch_size", 1, INT64),
    ("batch_timeout_micros", 2, INT64),
    ("max_enqueued_batches", 3, INT64),
    ("num_batch_threads", 4, INT64),
    ("thread_pool_name", 5, STRING),
    ("allowed_batch_sizes*", 6, "int64"),
    ("pad_variable_length_inputs", 7, "bool"),
)
MONITORING_CONFIG = message(
    "MonitoringConfig",
    ("prometheus_config", 1, "tests.PrometheusConfig"),
    ("PrometheusConfig.enable", 1, "bool"),
    ("PrometheusConfig.path", 2, "string"),
)


def check_server_files(files: dict[str, str]) -> None:
    """The configurations that the server itself reads, as text of its messages."""
    parameters = text_format.Parse(files["batching_parameters.txt"], BATCHING_PARAMETERS())
    assert parameters.max_batch_size.value >= 1
    assert parameters.num_batch_threads.value >= 1
    assert parameters.max_enqueued_batches.value >= 1
    monitoring = text_format.Parse(files["monitoring.config"], MONITORING_CONFIG())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    if "models.config" in files:
        models = text_format.Parse(files["models.config"], ModelServerConfig()).model_config_list.config
        assert [(model.name, model.base_path, model.model_platform) for model in models] == [
            ("cnn_bn.toy", "/models/cnn_bn.toy", "tensorflow"),
            ("tiny", "/models/tiny", "tensorflow"),
        ]


def arguments_of(container: dict[str, Any], key: str) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in container[key])


def test_the_compose_file(repository: Path) -> None:
    deployment = write_deployment(repository, "docker")
    folder = repository / "deploy" / "docker"
    assert set(deployment.files) == set(folder.iterdir())
    assert deployment.command == f"docker compose --file {folder}/compose.yaml up --detach"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    schema = json.loads((importlib.resources.files(check_jsonschema) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**compose, "services": {"a": {"image": 1}}})
    (service,) = compose["services"].values()
    flags = arguments_of(service, "command")
    assert flags["enable_batching"] == "true"
    mounts = {volume["target"]: (folder / volume["source"]).resolve() for volume in service["volumes"]}
    assert mounts == {"/models": repository.resolve(), "/deploy": folder.resolve()}
    for path in (*[value for value in flags.values() if value.startswith("/")], service["healthcheck"]["test"][2]):
        root = next(target for target in mounts if path.startswith(f"{target}/"))
        assert (mounts[root] / Path(path).relative_to(root)).is_file(), path
    check_server_files({path.name: path.read_text() for path in (*folder.iterdir(), repository / "models.config")})


def objects(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: yaml.safe_load(path.read_text()) for path in folder.iterdir()}


def test_kubernetes(repository: Path) -> None:
    deployment = write_deployment(repository, "kubernetes")
    folder = repository / "deploy" / "kubernetes"
    assert deployment.command == f"kubectl apply --filename {folder}"
    found = objects(folder)
    for item in found.values():
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    workload, service = found["deployment.yaml"], found["service.yaml"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**workload, "spec": {"replicas": "two"}}, KUBERNETES, strict=True)
    pod = workload["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert workload["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    flags = arguments_of(container, "args")
    assert {int(flags["port"]), int(flags["rest_api_port"])} == {port["containerPort"] for port in container["ports"]}
    data = found["config-map.yaml"]["data"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}
    probed = [container[probe]["exec"]["command"][1] for probe in ("startupProbe", "readinessProbe")]
    for path in (*[value for value in flags.values() if value.startswith("/")], *probed):
        assert path.removeprefix(f"{mounts['configuration']}/") in data, path
    claim = next(volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume)
    assert claim == found["persistent-volume-claim.yaml"]["metadata"]["name"]
    assert data["ready.sh"] == ready_script(["cnn_bn.toy", "tiny"])
    check_server_files(data)


# What KServe's published API reference says of an InferenceService, as far as its files here go. The rest of a predictor is a
# PodSpec, the rest of a model a Container, which Kubernetes' own schemas check.
INFERENCE_SERVICE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}},
        },
        "spec": {
            "type": "object",
            "required": ["predictor"],
            "additionalProperties": False,
            "properties": {
                "predictor": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "minReplicas": {"type": "integer", "minimum": 0},
                        "maxReplicas": {"type": "integer", "minimum": 0},
                        "model": {
                            "type": "object",
                            "required": ["modelFormat"],
                            "properties": {
                                "modelFormat": {
                                    "type": "object",
                                    "required": ["name"],
                                    "additionalProperties": False,
                                    "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
                                },
                                "runtime": {"type": "string"},
                                "runtimeVersion": {"type": "string"},
                                "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                                "storageUri": {"type": "string", "pattern": "^(pvc|s3|gs|https?|hdfs)://"},
                            },
                        },
                    },
                }
            },
        },
    },
}
MODEL_FIELDS = {"modelFormat", "runtime", "runtimeVersion", "protocolVersion", "storageUri"}
PREDICTOR_FIELDS = {"model", "minReplicas", "maxReplicas"}


def test_kserve(repository: Path) -> None:
    write_deployment(repository, "kserve")
    found = objects(repository / "deploy" / "kserve")
    services = [item for item in found.values() if item["kind"] == "InferenceService"]
    for item in found.values():
        if item not in services:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert {service["metadata"]["name"] for service in services} == {"tiny", "cnn-bn-toy"}
    for service in services:
        jsonschema.validate(service, INFERENCE_SERVICE)
        predictor = service["spec"]["predictor"]
        model = predictor["model"]
        container = {"name": "kserve-container", **{key: value for key, value in model.items() if key not in MODEL_FIELDS}}
        pod = {"containers": [container], **{key: value for key, value in predictor.items() if key not in PREDICTOR_FIELDS}}
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}, KUBERNETES, strict=True)
        claim, folder = model["storageUri"].removeprefix("pvc://").split("/")
        assert claim == found["persistent-volume-claim.yaml"]["metadata"]["name"]
        assert (repository / folder / "1" / "saved_model.pb").is_file()
        assert model["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{service['metadata']['name']}/metadata"
        (mount,) = model["volumeMounts"]
        paths = [value for value in arguments_of(model, "args").values() if value.startswith("/")]
        assert len(paths) == 2
        assert all(path.removeprefix(f"{mount['mountPath']}/") in found["config-map.yaml"]["data"] for path in paths)
    check_server_files(found["config-map.yaml"]["data"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is Bash's")
def test_the_probe_tells_a_ready_server_from_others(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "ready.sh"

    def ready(names: list[str], port: int | str) -> int:
        script.write_text(ready_script(names))
        return subprocess.run(["bash", str(script), str(port)], capture_output=True, timeout=30).returncode

    with start(repository) as server:
        port = server.url.rpartition(":")[2]
        assert ready(["tiny", "cnn_bn.toy"], port) == 0
        assert ready(["tiny", "missing"], port) == 1
    assert ready(["tiny"], port) == 1


def test_a_curve_is_measured_and_its_figures_stand_in_the_file(repository: Path) -> None:
    curve = latency_curve(repository / "tiny" / "1", (1, 4))
    assert curve.keys() == {1, 4}
    assert all(milliseconds > 0 for milliseconds in curve.values())
    text = batching_parameters({"tiny": {1: 2.0, 2: 2.5, 4: 4.0}})
    assert re.search(r"# tiny +2\.000 +2\.500 +4\.000", text)
    parameters = text_format.Parse(text, BATCHING_PARAMETERS())
    assert (parameters.max_batch_size.value, parameters.batch_timeout_micros.value) == (4, 1000)


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ({}, Batching(1, 0, 2000, 2)),
        ({"flat": {1: 1.0, 2: 2.0, 4: 4.0}}, Batching(1, 0, 2000, 2)),
        ({"free": {1: 8.0, 2: 8.0, 4: 8.0}}, Batching(4, 6000, 250, 2)),
        ({"nearly": {1: 8.0, 2: 8.0, 4: 15.0}}, Batching(2, 4000, 250, 2)),
        ({"free": {1: 8.0, 4: 8.0}, "quick": {1: 0.1, 4: 0.2}}, Batching(4, 50, 250, 2)),
        ({"very slow": {1: 9000.0}}, Batching(1, 0, 1, 2)),
    ],
)
def test_parameters_follow_from_the_curves(curves: dict[str, dict[int, float]], expected: Batching) -> None:
    assert choose_batching(curves, cores=2) == expected


def test_names_for_kubernetes() -> None:
    names = kubernetes_names(["A_b.c", "a-b.c", "9lives", "x" * 80, "..."])
    assert list(names.values())[:3] == ["a-b-c", "a-b-c-2", "model-9lives"]
    assert len(set(names.values())) == 5
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 50 for name in names.values())


def test_mistakes(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"There is no model in the repository .*nowhere\. `zoo export NAME --to"):
        write_deployment(tmp_path / "nowhere", "docker")
    shutil.copytree(repository / "tiny", tmp_path / "a b")
    with pytest.raises(ExportError, match="Received: 'a b'"):
        write_deployment(tmp_path, "docker")


def test_the_command(repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.deployment.latency_curve", lambda version: {1: 1.0, 2: 1.0})
    assert main(["export", "--to", str(repository), "--deploy", "docker"]) == 0
    printed = capsys.readouterr().out
    assert f"{repository}/deploy/docker/compose.yaml" in printed
    assert "run with: docker compose --file" in printed
    assert main(["export", "--to", str(repository), "--deploy", "kubernetes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deployment"]["command"].startswith("kubectl apply")
    assert main(["export"]) == 2
    assert "Name what to export" in capsys.readouterr().err
    assert main(["export", "cnn.digits", "--format", "savedmodel"]) == 2
    assert "Unknown format 'savedmodel'. Did you mean 'saved_model'?" in capsys.readouterr().err
    assert main(["export", "cnn.digits", "--to", str(repository), "--format", "saved_model,litert", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["formats"].keys() == {"saved_model", "litert"}
