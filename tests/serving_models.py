"""What the tests of the server share: small models in every form, and a server of them in this process."""

from __future__ import annotations

import atexit
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from hypothesis import HealthCheck, settings
from tensorflow.python.data.experimental.ops import testing
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from zoo.serving.grpc_server import Observers, start_grpc
from zoo.serving.inference import Options
from zoo.serving.manager import Manager, ManagerOptions
from zoo.serving.metrics import Metrics
from zoo.serving.observation import Observer
from zoo.serving.operations import Operations
from zoo.serving.playground import Playground
from zoo.serving.repository import ModelSource, find_models
from zoo.serving.rest import Limits, RestApplication
from zoo.serving.server import bind, http_server
from zoo.serving.service import Service

v1 = tf.compat.v1
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
"""Hypothesis's settings for machines that others use, too."""
TYPES = ("float32", "float64", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "bool", "string", "float16", "bfloat16", "uint16")


def half_plus_two_v1(path: Path) -> Path:
    """TF Serving's own test model in its first form: a graph, a checkpoint, and signatures of all three methods."""
    with v1.Graph().as_default(), v1.Session() as session:
        example = v1.placeholder(tf.string, [None], name="tf_example")
        features = {name: v1.FixedLenFeature([1], tf.float32, default_value=[0.0]) for name in ("x", "x2")}
        parsed = v1.parse_example(example, features)
        x = tf.identity(parsed["x"], name="x")
        a, b, c = (v1.get_variable(name, initializer=value) for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0)))
        y, y2, y3 = a * x + b, a * x + c, a * parsed["x2"] + c
        session.run(v1.global_variables_initializer())

        def signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str) -> Any:
            info = v1.saved_model.utils.build_tensor_info
            return v1.saved_model.signature_def_utils.build_signature_def(
                {name: info(tensor) for name, tensor in inputs.items()},
                {name: info(tensor) for name, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )

        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                "regress_x_to_y": signature({"inputs": example}, {"outputs": y}, "regress"),
                "regress_x_to_y2": signature({"inputs": example}, {"outputs": y2}, "regress"),
                "regress_x2_to_y3": signature({"inputs": parsed["x2"]}, {"outputs": y3}, "regress"),
                "classify_x_to_y": signature({"inputs": example}, {"scores": y}, "classify"),
                "odd_method": signature({"x": x}, {"y": y}, "something"),
            },
        )
        builder.save()
    return path


def half_plus(path: Path, offset: float, *, loops: bool = False) -> Path:
    """The same model in its second form: a module of functions, which all have the method `predict`."""
    module = tf.Module()
    module.a, module.b = tf.Variable(0.5), tf.Variable(float(offset))
    examples = tf.TensorSpec([None], tf.string, name="inputs")

    def parse(inputs: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": module.a * x + module.b}

    @tf.function(input_signature=[examples])
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        y = module.a * parse(inputs) + module.b
        return {"classes": tf.stack([tf.fill(tf.shape(y), "less"), tf.fill(tf.shape(y), "more")], 1), "scores": tf.stack([y, y + 1.0], 1)}

    @tf.function(input_signature=[examples])
    def labels(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"classes": tf.strings.as_string(parse(inputs)[:, None], precision=1)}

    @tf.function(input_signature=[examples])
    def flat(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": parse(inputs)}

    @tf.function(input_signature=[examples])
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": module.a * parse(inputs) + module.b}

    @tf.function(input_signature=[examples])
    def wide(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": tf.stack([parse(inputs)] * 2, 1)}

    @tf.function(input_signature=[examples])
    def integers(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": tf.cast(parse(inputs), tf.int32)}

    functions = {"serving_default": predict, "again": predict, "classify": classify, "labels": labels, "flat": flat}
    tf.saved_model.save(module, str(path), signatures={**functions, "regress": regress, "wide": wide, "integers": integers})
    return path


def several(path: Path) -> Path:
    """A model of several inputs and outputs, and of operations that fail."""
    module = tf.Module()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None], tf.int64, name="number"),
            tf.TensorSpec([None], tf.bool, name="flag"),
        ]
    )
    def predict(text: tf.Tensor, number: tf.Tensor, flag: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": text, "raw_bytes": text, "number": number + 1, "flag": flag, "ratio": 1.0 / tf.cast(number, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.uint8, name="x")])
    def total(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x, "total": tf.reduce_sum(tf.cast(x, tf.float32))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def uneven(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"a": x, "b": tf.concat([x, x], 0)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def numbers(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": tf.strings.to_number(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="steps")])
    def slow(steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """Sleeps a hundredth of a second for each step."""
        naps = tf.data.Dataset.range(tf.cast(steps[0], tf.int64)).apply(testing.sleep(10_000))
        return {"done": naps.reduce(tf.zeros_like(steps), lambda done, _: done + 1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x"), tf.TensorSpec([3, None], tf.float32, name="y")])
    def product(x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"z": x @ y}

    functions = {"total": total, "uneven": uneven, "numbers": numbers, "slow": slow, "product": product}
    tf.saved_model.save(module, str(path), signatures={"serving_default": predict, **functions})
    return path


def types(path: Path) -> Path:
    """A model that gives back what it gets, by one signature for each type."""
    module, functions = tf.Module(), {}
    for name in TYPES:

        @tf.function(input_signature=[tf.TensorSpec(None, getattr(tf, name), name="x")])
        def identity(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.identity(x)}

        functions[name] = identity
    tf.saved_model.save(module, str(path), signatures=functions)
    return path


def defaults(path: Path) -> Path:
    """A model whose second input has a default in its signature."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name="factor")])
    def scale(x: tf.Tensor, factor: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * factor}

    tf.saved_model.save(module, str(path), signatures=scale)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].signature_def["serving_default"].defaults["factor"].CopyFrom(tf.make_tensor_proto(10.0))
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    return path


def write_warmup(path: Path, logs: Sequence[PredictionLog | bytes]) -> None:
    """Gives a version warm-up requests."""
    folder = path / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log if isinstance(log, bytes) else log.SerializeToString())


@functools.cache
def repository() -> Path:
    """The repository behind the contract's tests, made once."""
    directory = tempfile.TemporaryDirectory(prefix="zoo-serving-")
    atexit.register(directory.cleanup)
    folder = Path(directory.name)
    for version in (1, 2):
        half_plus(folder / "half_plus_two" / str(version), offset=version + 1)
    half_plus_two_v1(folder / "half_plus_two_v1" / "00000123")
    several(folder / "several" / "1")
    types(folder / "types" / "1")
    defaults(folder / "defaults" / "1")
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"half a file")
    names = ["half_plus_two_v1", "several", "types", "defaults", "broken"]
    entries = "".join(f'config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n' for name in names)
    labelled = """config { name: 'half_plus_two' base_path: '/models/half_plus_two' model_platform: 'tensorflow'
      model_version_policy { all {} }  # both
      version_labels { key: 'stable' value: 1 } version_labels: { key: "canary", value: 2 } version_labels { key: 'next' value: 7 } }"""
    (folder / "models.config").write_text(f"model_config_list: {{ {entries} {labelled} }}")
    return folder


@dataclass(frozen=True)
class Running:
    """A server in this process."""

    url: str
    address: str
    manager: Manager

    @functools.cached_property
    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)])

    @functools.cached_property
    def prediction(self) -> Any:
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @functools.cached_property
    def models(self) -> Any:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)


QUICK = ManagerOptions(poll_seconds=0.1, retries=0, labels_for_unavailable=True)


@contextmanager
def serving(
    sources: Sequence[ModelSource],
    manager_options: ManagerOptions = QUICK,
    options: Options | None = None,
    limits: Limits | None = None,
    grpc_limits: tuple[int, int] = (8, 1000),
    playground: bool = False,
    observers: Callable[[Manager], Sequence[Observer]] = lambda _: (),
    **rest: Any,
) -> Iterator[Running]:
    """Serves models over REST and gRPC, in threads of this process."""
    metrics: Metrics | None = rest.get("metrics")
    manager = Manager(sources, manager_options)
    watching = observers(manager)
    service = Service(manager, options or Options(), metrics, observers=watching)
    application = RestApplication(
        service,
        limits or Limits(body_bytes=300_000),
        playground=Playground(manager) if playground else None,
        operations=Operations(manager, with_tokens="tokens" in rest) if playground else None,
        **rest,
    )
    listener = bind("127.0.0.1", 0)
    server = http_server(application)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    grpc_server, (port,) = start_grpc(service, ["127.0.0.1:0"], threads=grpc_limits[0], waiting=grpc_limits[1], observers=Observers(manager, metrics))
    while not server.started:
        time.sleep(0.005)
    running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", f"127.0.0.1:{port}", manager)
    try:
        yield running
    finally:
        if "channel" in vars(running):
            running.channel.close()
        server.should_exit = True
        thread.join()
        grpc_server.stop(5).wait()
        application.close()
        for observer in watching:
            observer.close()
        manager.close()
        listener.close()


@functools.cache
def contract_server() -> Running:
    """The server behind the contract's tests, started once."""
    context = serving(find_models(repository()))
    running = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    return running
