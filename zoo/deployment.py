"""Files that run the real TF Serving on a model repository: a compose file, Kubernetes objects, KServe InferenceServices.

The parameters of request batching come from a measurement: how long each model takes for batches of several sizes on the
machine that writes the files.
"""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ExportError
from zoo.export import MODELS_CONFIG, MOUNT_POINT, model_names, versions, write_models_config
from zoo.files import write_text
from zoo.serving.autotune import BATCH_SIZES, batching_parameters, median_milliseconds
from zoo.signatures import SERVING_DEFAULT

if TYPE_CHECKING:
    import numpy

TARGETS = ("docker", "kubernetes", "kserve")
SERVER_VERSION = "2.20.0"
IMAGE = f"tensorflow/serving:{SERVER_VERSION}"
APPLICATION = "tensorflow-serving"
CLAIM = "models"
"""The PersistentVolumeClaim that holds the repository."""
FOLDER = "/deploy"
"""Where the server finds the files of its own configuration."""
GRPC_PORT, REST_PORT = 8500, 8501
KSERVE_REST_PORT = 8080
METRICS_PATH = "/monitoring/prometheus/metrics"
BATCHING, MONITORING, READY = "batching_parameters.txt", "monitoring.config", "ready.sh"

BASE_MEMORY = 512 * 2**20
"""What the server takes without models."""


@dataclass(frozen=True)
class Deployment:
    """What was written.

    Attributes:
        files: The files, for a human to read and a tool to apply.
        command: The command that applies them, to be run where the repository lies.
    """

    files: tuple[Path, ...]
    command: str


def write_deployment(repository: str | Path, target: str) -> Deployment:
    """Writes the files that run TF Serving on a repository, below its folder `deploy/`.

    Args:
        repository: A model repository, as of `zoo.export_model`.
        target: `docker`: a compose file. `kubernetes`: a Deployment with probes, a Service, a ConfigMap and the claim of a
            volume for the repository. `kserve`: an InferenceService per model, a ConfigMap and the claim.

    Returns:
        The files and the command that applies them.

    Raises:
        ExportError: The repository holds no model, or one whose name cannot stand in these files.
    """
    repository = Path(repository)
    names = model_names(repository) if repository.is_dir() else []
    if not names:
        raise ExportError(f"There is no model in the repository {repository}. `zoo export NAME --to {repository}` puts one there.")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ExportError(f"A deployed model's name consists of letters, digits, '_', '-' and '.'. Received: {name!r}.")
    newest = {name: repository / name / str(versions(repository / name)[-1]) for name in names}
    curves = {name: curve for name, version in newest.items() if (curve := latency_curve(version))}
    sizes = {name: sum(file.stat().st_size for file in version.rglob("*") if file.is_file()) for name, version in newest.items()}
    texts = {BATCHING: batching_parameters(curves), MONITORING: monitoring_config()}
    if target == "docker":
        texts = {"compose.yaml": _compose(), READY: ready_script(names), **texts}
    elif target == "kubernetes":
        configuration = {MODELS_CONFIG: write_models_config(repository).read_text(encoding="utf-8"), READY: ready_script(names), **texts}
        texts = {
            "persistent-volume-claim.yaml": _claim(sum(sizes.values())),
            "config-map.yaml": _config_map(configuration),
            "deployment.yaml": _deployment(configuration, sum(sizes.values())),
            "service.yaml": _service(),
        }
    else:
        services = kubernetes_names(names)
        texts = {
            "persistent-volume-claim.yaml": _claim(sum(sizes.values())),
            "config-map.yaml": _config_map(texts),
            **{f"{service}.yaml": _inference_service(service, name, sizes[name]) for name, service in services.items()},
        }
    write_models_config(repository)
    folder = repository / "deploy" / target
    try:
        for file_name, text in texts.items():
            write_text(folder / file_name, text)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror or error}.") from None
    command = f"docker compose --file {folder / 'compose.yaml'} up --detach" if target == "docker" else f"kubectl apply --filename {folder}"
    return Deployment(tuple(folder / file_name for file_name in texts), command)


def latency_curve(version: str | Path, sizes: Sequence[int] = BATCH_SIZES) -> dict[int, float]:
    """Measures how long the signature `serving_default` of a SavedModel takes, in a session as TF Serving runs it.

    Returns:
        Images per batch -> median milliseconds; empty where the signature takes strings, or shapes of unknown size.
    """
    import tensorflow as tf

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        with session.graph.as_default():
            graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
        signature = graph.signature_def.get(SERVING_DEFAULT)
        feeds = {info.name: _zeros(info) for info in signature.inputs.values()} if signature else {}
        if not feeds or not all(feeds.values()):
            return {}
        run = session.make_callable([info.name for info in signature.outputs.values()], list(feeds))
        return {size: median_milliseconds(functools.partial(run, *(zeros(size) for zeros in feeds.values() if zeros))) for size in sizes}


def _zeros(info: Any) -> Callable[[int], numpy.ndarray] | None:
    """Makes a function from a batch size to a batch of zeros that a tensor takes; None where it takes strings or any shape."""
    import numpy
    import tensorflow as tf

    dtype, rest = tf.as_dtype(info.dtype), [dim.size for dim in info.tensor_shape.dim[1:]]
    if dtype == tf.string or info.tensor_shape.unknown_rank or not info.tensor_shape.dim or min(rest, default=1) < 0:
        return None
    return lambda size: numpy.zeros((size, *rest), dtype.as_numpy_dtype)


def monitoring_config() -> str:
    """Returns the text of `--monitoring_config_file`: metrics for Prometheus on the REST port."""
    return f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n'


def ready_script(names: Sequence[str]) -> str:
    """Returns a Bash script that succeeds once every model is available; the server's image has neither curl nor Python.

    A probe cannot just ask for the status: that is 200 even when nothing is available.
    """
    return f"""#!/bin/bash
# Succeeds once every model is available.  bash {READY} [PORT]
for model in {" ".join(names)}; do
  exec 3<>"/dev/tcp/127.0.0.1/${{1:-{REST_PORT}}}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' "$model" >&3
  grep -Eq '"state": ?"AVAILABLE"' <&3 || {{ echo "$model is not available" >&2; exit 1; }}
  exec 3>&-
done
"""


def kubernetes_names(names: Sequence[str]) -> dict[str, str]:
    """Returns names -> names that a Kubernetes service may have: lower case letters, digits and '-', each once, 50 at most.

    Example:
        >>> kubernetes_names(["cnn_bn.mnist", "cnn-bn.mnist", "2"])
        {'cnn_bn.mnist': 'cnn-bn-mnist', 'cnn-bn.mnist': 'cnn-bn-mnist-2', '2': 'model-2'}
    """
    found: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        base = (base if base[:1].isalpha() else f"model-{base}")[:47].rstrip("-")
        taken = set(found.values())
        found[name] = next(candidate for candidate in [base, *(f"{base}-{count}" for count in range(2, len(names) + 2))] if candidate not in taken)
    return found


def _arguments(config: str) -> list[str]:
    return [
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",  # else labels in the file keep it from starting
        *_tuning(),
    ]


def _tuning() -> list[str]:
    return ["--enable_batching=true", f"--batching_parameters_file={FOLDER}/{BATCHING}", f"--monitoring_config_file={FOLDER}/{MONITORING}"]


def _list(items: Sequence[str], indent: int) -> str:
    """Items as a YAML list in block style."""
    return textwrap.indent("\n".join(f"- {item}" for item in items), " " * indent)


def _compose() -> str:
    return f"""# TF Serving on the models of the repository two folders up.
#     docker compose --file compose.yaml up --detach --wait
name: {APPLICATION}
services:
  {APPLICATION}:
    image: {IMAGE}
    # The image's own entry point knows one model only. As process 1 the server would ignore SIGTERM: hence init.
    entrypoint: [tensorflow_model_server]
    init: true
    command:
{_list(_arguments(f"{MOUNT_POINT}/{MODELS_CONFIG}"), 6)}
    ports:
      # The server asks nobody who they are: reachable from this machine only.
      - "127.0.0.1:{GRPC_PORT}:{GRPC_PORT}"
      - "127.0.0.1:{REST_PORT}:{REST_PORT}"
    volumes:
      - {{type: bind, source: ../.., target: {MOUNT_POINT}, read_only: true}}
      - {{type: bind, source: ., target: {FOLDER}, read_only: true}}
    healthcheck:
      test: [CMD, bash, {FOLDER}/{READY}]
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 60s
    restart: unless-stopped
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
"""


def _claim(size: int) -> str:
    gibibytes = max(1, ceil(4 * size / 2**30))
    return f"""# The volume with the model repository. Copy this repository's contents to its root before the server starts.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {CLAIM}
spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: {gibibytes}Gi
"""


def _config_map(files: Mapping[str, str]) -> str:
    data = "".join(f"  {name}: |\n{textwrap.indent(text, '    ')}" for name, text in files.items())
    return f"""apiVersion: v1
kind: ConfigMap
metadata:
  name: {APPLICATION}
data:
{data}"""


def _mebibytes(size: int) -> str:
    """Memory for models of this size in bytes. A new version is loaded before the old one goes: both count."""
    return f"{ceil((BASE_MEMORY + 2 * size) / 2**20)}Mi"


def _deployment(files: Mapping[str, str], size: int) -> str:
    checksum = hashlib.sha256("".join(files.values()).encode()).hexdigest()
    return f"""apiVersion: apps/v1
kind: Deployment
metadata:
  name: {APPLICATION}
  labels: {{app.kubernetes.io/name: {APPLICATION}}}
spec:
  replicas: 2
  selector:
    matchLabels: {{app.kubernetes.io/name: {APPLICATION}}}
  strategy:
    rollingUpdate: {{maxUnavailable: 0}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: {APPLICATION}}}
      annotations:
        neuron-zoo/configuration: "{checksum}"  # a new configuration starts new pods
        prometheus.io/scrape: "true"
        prometheus.io/port: "{REST_PORT}"
        prometheus.io/path: {METRICS_PATH}
    spec:
      shareProcessNamespace: true  # as process 1 the server would ignore SIGTERM
      terminationGracePeriodSeconds: 30
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: {APPLICATION}
          image: {IMAGE}
          command: [/usr/bin/tensorflow_model_server]
          args:
{_list(_arguments(f"{FOLDER}/{MODELS_CONFIG}"), 12)}
          ports:
            - {{name: grpc, containerPort: {GRPC_PORT}}}
            - {{name: rest, containerPort: {REST_PORT}}}
          # The status is 200 even when nothing is available: the script reads it.
          startupProbe:
            exec: {{command: [bash, {FOLDER}/{READY}]}}
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 150
          readinessProbe:
            exec: {{command: [bash, {FOLDER}/{READY}]}}
            periodSeconds: 10
            timeoutSeconds: 5
          livenessProbe:
            tcpSocket: {{port: grpc}}
            periodSeconds: 20
          lifecycle:
            preStop:
              exec: {{command: [sleep, "10"]}}  # until the Service sends nothing more
          resources:
            requests: {{cpu: "1", memory: {_mebibytes(size)}}}
            limits: {{memory: {_mebibytes(2 * size)}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            - {{name: models, mountPath: {MOUNT_POINT}, readOnly: true}}
            - {{name: configuration, mountPath: {FOLDER}, readOnly: true}}
      volumes:
        - name: models
          persistentVolumeClaim: {{claimName: {CLAIM}, readOnly: true}}
        - name: configuration
          configMap: {{name: {APPLICATION}}}
"""


def _service() -> str:
    return f"""apiVersion: v1
kind: Service
metadata:
  name: {APPLICATION}
  labels: {{app.kubernetes.io/name: {APPLICATION}}}
spec:
  selector: {{app.kubernetes.io/name: {APPLICATION}}}
  ports:
    - {{name: grpc, port: {GRPC_PORT}, targetPort: grpc}}
    - {{name: rest, port: {REST_PORT}, targetPort: rest}}
"""


def _inference_service(service: str, model: str, size: int) -> str:
    return f"""# {model}; in URLs its name is {service}, because Kubernetes allows no other characters.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service}
spec:
  predictor:
    minReplicas: 1
    model:
      modelFormat: {{name: tensorflow, version: "2"}}
      runtime: kserve-tensorflow-serving
      runtimeVersion: {SERVER_VERSION}
      protocolVersion: v1
      storageUri: pvc://{CLAIM}/{model}
      args:
{_list(_tuning(), 8)}
      # The status is 200 even when nothing is available; metadata are there only with the model.
      readinessProbe:
        httpGet: {{path: /v1/models/{service}/metadata, port: {KSERVE_REST_PORT}}}
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        requests: {{cpu: "1", memory: {_mebibytes(size)}}}
        limits: {{memory: {_mebibytes(2 * size)}}}
      volumeMounts:
        - {{name: configuration, mountPath: {FOLDER}, readOnly: true}}
    volumes:
      - name: configuration
        configMap: {{name: {APPLICATION}}}
"""
