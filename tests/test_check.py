"""The linter: each defect, planted, is named with its consequence and its mend; what is well passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf
from interrupted_export import tiny_model
from serving_models import half_plus, half_plus_two_v1
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from zoo.check import ERROR, NOTE, RULES, WARNING, check
from zoo.cli import main
from zoo.errors import UsageError
from zoo.export import export_model

v1 = tf.compat.v1
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model, `tiny`."""
    folder = tmp_path_factory.mktemp("good")
    export_model(tiny_model(), folder)
    return folder


@pytest.fixture
def repository(good: Path, tmp_path: Path) -> Path:
    """A copy to plant a defect in."""
    return Path(shutil.copytree(good, tmp_path / "repository"))


@pytest.fixture
def version(repository: Path) -> Path:
    return repository / "tiny" / "1"


def rules(path: Path, severity: str = "") -> set[str]:
    return {finding.rule for finding in check(path) if not severity or finding.severity == severity}


def test_what_is_well_passes(repository: Path, version: Path, tmp_path: Path) -> None:
    for path in (repository, repository / "models.config", repository / "tiny", version):
        assert check(path) == []
    for model in (half_plus(tmp_path / "two" / "1", 2), half_plus_two_v1(tmp_path / "one" / "1")):
        assert rules(model, ERROR) <= {"unknown-method", "regress-form"}  # both stand in the old model on purpose


def test_there_has_to_be_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*nowhere to check\. Expected a SavedModel"):
        check(tmp_path / "nowhere")


# Files and folders


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], Any]:
    return lambda repository: (repository / name).write_text(change((repository / name).read_text()))


def add(line: str) -> Callable[[Path], Any]:
    return edit("models.config", lambda text: text.replace('model_platform: "tensorflow"', f'model_platform: "tensorflow"\n{line}'))


def truncate(name: str, share: float) -> Callable[[Path], Any]:
    def cut(repository: Path) -> None:
        path = repository / "tiny" / "1" / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return cut


def remove(name: str) -> Callable[[Path], Any]:
    return lambda repository: (repository / "tiny" / "1" / name).unlink()


def move(source: str, target: str) -> Callable[[Path], Any]:
    return lambda repository: (repository / source).rename(repository / target)


def write_records(count: int, record: bytes = b"") -> Callable[[Path], Any]:
    def write(repository: Path) -> None:
        with tf.io.TFRecordWriter(str(repository / "tiny" / "1" / WARMUP)) as writer:
            for _ in range(count):
                writer.write(record or prediction(signature_name="predict_uint8", image=numpy.zeros((1, 6, 5, 2), "uint8")))

    return write


def prediction(signature_name: str = "", **inputs: Any) -> bytes:
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature_name
    for alias, values in inputs.items():
        log.predict_log.request.inputs[alias].CopyFrom(tf.make_tensor_proto(values))
    return log.SerializeToString()


def classification(signature_name: str, examples: int = 1) -> bytes:
    log = PredictionLog()
    log.classify_log.request.model_spec.signature_name = signature_name
    for _ in range(examples):
        log.classify_log.request.input.example_list.examples.add()
    return log.SerializeToString()


def two_shards(repository: Path) -> None:
    folder = repository / "tiny" / "1" / "variables"
    (folder / "variables.data-00000-of-00001").rename(folder / "variables.data-00000-of-00002")


def empty_version(repository: Path) -> None:
    shutil.rmtree(repository / "tiny" / "1")
    (repository / "tiny" / "1").mkdir()


ENTRY = 'config { name: "tiny" base_path: "/models/tiny" model_platform: "tensorflow" }'
IMAGE = numpy.zeros((1, 6, 5, 2), "float32")
FOLDERS: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("config-syntax", "", edit("models.config", lambda text: text + "}")),
    ("empty-config", "", edit("models.config", lambda text: "# nothing\n")),
    ("relative-base-path", "", edit("models.config", lambda text: text.replace("/models/tiny", "tiny"))),
    ("missing-model-platform", "", edit("models.config", lambda text: text.replace('model_platform: "tensorflow"', ""))),
    ("model-type", "", add("model_type: TENSORFLOW")),
    ("unknown-platform", "", edit("models.config", lambda text: text.replace('"tensorflow"', '"onnx"'))),
    ("duplicate-model", "", edit("models.config", lambda text: text.replace("model_config_list {", f"model_config_list {{ {ENTRY}"))),
    ("missing-base-path", "", edit("models.config", lambda text: text.replace("/models/tiny", "/models/other"))),
    ("missing-specific-version", "", add("model_version_policy { specific { versions: 1 versions: 2 } }")),
    ("label-without-version", "", add('version_labels { key: "stable" value: 2 }')),
    ("labels-need-flag", "", add('version_labels { key: "stable" value: 1 }')),
    ("unlisted-model", "", lambda repository: shutil.copytree(repository / "tiny", repository / "other")),
    ("no-version", "tiny", move("tiny/1", "tiny/latest")),
    ("no-version", "tiny/model", move("tiny/1", "tiny/model")),
    ("ignored-folder", "tiny", lambda repository: shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "v2")),
    ("too-large-version", "tiny", lambda repository: (repository / "tiny" / str(2**63)).mkdir()),
    ("version-below-one", "tiny", move("tiny/1", "tiny/0")),
    ("duplicate-version", "tiny", lambda repository: shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "01")),
    ("version-is-a-file", "tiny", lambda repository: (repository / "tiny" / "2").write_text("")),
    ("leftover", "tiny", lambda repository: (repository / "tiny" / ".tmp-2-abc").mkdir()),
    ("no-saved-model", "tiny", empty_version),
    ("half-copied", "", remove("saved_model.pb")),
    ("half-copied", "", remove("variables/variables.index")),
    ("half-copied", "", remove("variables/variables.data-00000-of-00001")),
    ("half-copied", "", two_shards),
    ("truncated-graph", "", truncate("saved_model.pb", 0.5)),
    ("truncated-graph", "", truncate("saved_model.pb", 0)),
    ("damaged-variables", "", truncate("variables/variables.data-00000-of-00001", 0.5)),
    ("damaged-variables", "", truncate("variables/variables.index", 0.5)),
    ("misplaced-warmup", "", move(f"tiny/1/{WARMUP}", "tiny/1/assets/tf_serving_warmup_requests")),
    ("private-files", "", lambda repository: (repository / "tiny" / "1" / "saved_model.pb").chmod(0o600)),
    ("no-warmup", "", remove(str(WARMUP))),
    ("broken-warmup", "", truncate(str(WARMUP), 0.9)),
    ("broken-warmup", "", lambda repository: (repository / "tiny" / "1" / WARMUP).write_text("no records at all")),
    ("broken-warmup", "", write_records(1, b"\xff\xff")),
    ("too-many-warmup-records", "", write_records(1001)),
    ("failing-warmup", "", write_records(1, prediction("missing", image=IMAGE))),
    ("failing-warmup", "", write_records(1, prediction(picture=IMAGE))),
    ("failing-warmup", "", write_records(1, prediction(image=IMAGE[:, :2]))),
    ("failing-warmup", "", write_records(1, prediction(image=IMAGE.astype("int32")))),
    ("failing-warmup", "", write_records(1, classification("serving_default"))),
    ("failing-warmup", "", write_records(1, classification("classify", examples=0))),
    ("failing-warmup", "", write_records(1, classification("classify"))),
    ("failing-warmup", "", write_records(1, PredictionLog().SerializeToString(deterministic=True) or b"\x0a\x00")),
    ("golden-mismatch", "", edit("tiny/1/assets.extra/golden/serving_default.response.json", lambda text: text.replace("0.", "1."))),
    ("golden-mismatch", "", remove("assets.extra/golden/classify.response.json")),
    ("golden-mismatch", "", move("tiny/1/assets.extra/golden/classify.request.json", "tiny/1/assets.extra/golden/other.request.json")),
]


@pytest.mark.parametrize(("rule", "where", "plant"), FOLDERS, ids=[f"{index}-{rule}" for index, (rule, _, _) in enumerate(FOLDERS)])
def test_a_defect_of_files_is_named(rule: str, where: str, plant: Callable[[Path], Any], repository: Path) -> None:
    plant(repository)
    assert rule in rules(repository / where)


# Graphs and signatures


def save(path: Path, function: Callable[..., Any], *specs: tf.TensorSpec, **options: Any) -> Path:
    module = options.pop("module", None) or tf.Module()
    module.serve = tf.function(function, input_signature=specs, **options)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


X = tf.TensorSpec((None, 4), tf.float32, name="x")
PICTURE = tf.TensorSpec((None, 3, 8, 8), tf.float32, name="x")


def rewritten(path: Path, change: Callable[[Any], Any], function: Callable[..., Any] | None = None) -> Path:
    """A sound model whose MetaGraphDef was changed."""
    save(path, function or (lambda x: {"y": 2 * x}), X)
    saved_model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved_model.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return path


def rename_op(graph: Any, to: str) -> None:
    node = next(node for function in graph.graph_def.library.function for node in function.node_def if node.op in ("Mul", "AddV2"))
    node.op = to


def as_classify(graph: Any) -> None:
    graph.signature_def["serving_default"].method_name = "tensorflow/serving/classify"


def as_regress(graph: Any) -> None:
    graph.signature_def["serving_default"].method_name = "tensorflow/serving/regress"


def set_attribute(graph: Any, name: str, **value: Any) -> None:
    node = next(node for function in graph.graph_def.library.function for node in function.node_def if node.op == "Mul")
    for field, item in value.items():
        setattr(node.attr[name], field, item)


def set_device(graph: Any) -> None:
    next(node for function in graph.graph_def.library.function for node in function.node_def if node.op == "Mul").device = "/device:GPU:0"


def output(graph: Any) -> Any:
    return graph.signature_def["serving_default"].outputs["y"]


def with_asset(path: Path) -> Path:
    words = path.parent / "words.txt"
    words.parent.mkdir(parents=True, exist_ok=True)
    words.write_text("a\nb\n")
    module = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    save(path, lambda x: {"y": module.table.lookup(x)}, tf.TensorSpec((None,), tf.string, name="x"), module=module)
    (path / "assets" / "words.txt").unlink()
    return path


def untracked_variable(path: Path) -> Path:
    """A second variable in the graph, which the signature reads and nothing restores."""

    def change(graph: Any) -> None:
        variables = [node.name for node in graph.graph_def.node if node.op == "VarHandleOp"]
        for node in graph.graph_def.node:
            if node.name == "StatefulPartitionedCall":
                node.input[:] = ["stray" if name in variables else name for name in node.input]
        node = graph.graph_def.node.add(name="stray", op="VarHandleOp")
        node.attr["dtype"].type, node.attr["shape"].shape.unknown_rank = 1, True

    module = tf.Module()
    module.weight = tf.Variable(2.0)
    save(path, lambda x: {"y": module.weight * x}, X, module=module)
    saved_model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved_model.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return path


def without_initializer(path: Path) -> Path:
    """An init op that fails."""

    def change(graph: Any) -> None:
        graph.saver_def.restore_op_name = "nothing_there"

    module = tf.Module()
    module.weight = tf.Variable(2.0)
    save(path, lambda x: {"y": module.weight * x}, X, module=module)
    saved_model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    change(saved_model.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return path


def no_signature(path: Path) -> Path:
    tf.saved_model.save(tf.Module(), str(path))
    return path


def training_batchnorm(x: tf.Tensor) -> dict[str, tf.Tensor]:
    ones = tf.ones((4,))
    return {"y": v1.nn.fused_batch_norm(x[:, None, None], ones, ones, is_training=True)[0]}


def no_input(path: Path) -> Path:
    return save(path, lambda: {"y": tf.zeros((1, 2))})


def cudnn(x: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": tf.raw_ops.NcclAllReduce(input=x, reduction="sum", num_devices=1, shared_name="all")}


GRAPHS: list[tuple[str, Callable[[Path], Path]]] = [
    ("no-serve-tag", lambda path: rewritten(path, lambda graph: graph.meta_info_def.tags.__setitem__(0, "train"))),
    ("missing-asset", with_asset),
    ("missing-op", lambda path: rewritten(path, lambda graph: rename_op(graph, "MyCustomOp"))),
    ("contributed-op", lambda path: rewritten(path, lambda graph: rename_op(graph, "SentencepieceTokenizeOp"))),
    ("unknown-attribute", lambda path: rewritten(path, lambda graph: set_attribute(graph, "grad_future", b=True))),
    ("python-op", lambda path: save(path, lambda x: {"y": tf.ensure_shape(tf.py_function(lambda a: a, [x], tf.float32), (None, 4))}, X)),
    ("python-op", lambda path: save(path, lambda x: {"y": tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), (None, 4))}, X)),
    ("xla", lambda path: save(path, lambda x: {"y": 2 * x}, X, jit_compile=True)),
    ("xla", lambda path: rewritten(path, lambda graph: set_attribute(graph, "_XlaMustCompile", b=True))),
    ("no-cpu-kernel", lambda path: save(path, cudnn, X)),
    ("gpu-layout", lambda path: save(path, lambda x: {"y": tf.nn.max_pool2d(x, 2, 2, "SAME", data_format="NCHW")}, PICTURE)),
    ("gpu-layout", lambda path: save(path, lambda x: {"y": tf.nn.conv2d(x, tf.ones((3, 3, 3, 2)), 1, "SAME", data_format="NCHW")}, PICTURE)),
    ("pinned-device", lambda path: rewritten(path, set_device)),
    ("training-mode", lambda path: save(path, training_batchnorm, X)),
    ("no-signature", no_signature),
    ("no-serving-default", lambda path: rewritten(path, lambda graph: move_signature(graph, "other"))),
    ("no-outputs", lambda path: rewritten(path, lambda graph: graph.signature_def["serving_default"].ClearField("outputs"))),
    ("no-inputs", no_input),
    ("unknown-method", lambda path: rewritten(path, lambda graph: setattr(graph.signature_def["serving_default"], "method_name", ""))),
    ("classify-form", lambda path: rewritten(path, as_classify)),
    ("regress-form", lambda path: rewritten(path, as_regress)),
    ("unsupported-dtype", lambda path: save(path, lambda x: {"y": tf.cast(x, tf.bfloat16)}, X)),
    ("unsupported-dtype", lambda path: save(path, lambda x: {"y": tf.cast(x, tf.half)}, X)),
    ("unsupported-dtype", lambda path: save(path, lambda x: {"y": tf.cast(x, tf.float32)}, tf.TensorSpec((None,), tf.uint16, name="x"))),
    ("dangling-tensor", lambda path: rewritten(path, lambda graph: setattr(output(graph), "name", "nothing:0"))),
    ("wrong-dtype", lambda path: rewritten(path, lambda graph: setattr(output(graph), "dtype", tf.int32.as_datatype_enum))),
    ("unstable-name", lambda path: save(path, lambda x: x + 1, X)),
    ("unstable-name", lambda path: save(path, lambda keras_tensor_3: {"y": keras_tensor_3 + 1}, tf.TensorSpec((None,), tf.float32))),
    ("fixed-batch", lambda path: save(path, lambda x: {"y": 2 * x}, tf.TensorSpec((32, 4), tf.float32, name="x"))),
    ("no-batch-dimension", lambda path: save(path, lambda x: {"y": tf.reduce_mean(x)}, X)),
    ("uninitialized-variable", untracked_variable),
    ("fails-to-load", without_initializer),
]


def move_signature(graph: Any, to: str) -> None:
    graph.signature_def[to].CopyFrom(graph.signature_def["serving_default"])
    del graph.signature_def["serving_default"]


@pytest.mark.parametrize(("rule", "make"), GRAPHS, ids=[f"{index}-{rule}" for index, (rule, _) in enumerate(GRAPHS)])
def test_a_defect_of_a_graph_is_named(rule: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    findings = check(make(tmp_path / "model" / "1"))
    assert rule in {finding.rule for finding in findings}
    expected = {rule, "no-warmup", "unstable-name"} if RULES[rule].severity != ERROR else set(RULES)
    assert {finding.rule for finding in findings if finding.severity == ERROR} <= expected, "no alarm beside the defect"


def test_what_keras_exports_of_a_model_has_no_error(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1), name="image")
    scores = keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(image))
    keras.Model(image, {"scores": scores}).export(tmp_path / "own" / "1", verbose=False)
    assert not [finding for finding in check(tmp_path / "own") if finding.severity == ERROR]


def test_every_rule_is_planted_here_and_says_what_follows() -> None:
    assert {rule for rule, *_ in FOLDERS} | {rule for rule, _ in GRAPHS} == set(RULES)
    for rule in RULES.values():
        assert rule.severity in (ERROR, WARNING, NOTE)
        assert rule.consequence[-1] in ".`)"
        assert rule.mend.endswith(".") or rule.mend.endswith("...") or rule.mend.endswith(")")


def test_a_remote_base_path_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(
        'model_config_list { config { name: "a" base_path: "gs://bucket/a" model_platform: "tensorflow" } }', encoding="utf-8"
    )
    assert check(tmp_path) == []


def test_the_command(repository: Path, version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(repository)]) == 0
    assert capsys.readouterr().out == f"{repository}: TF Serving will load and serve it\n"
    (version / "saved_model.pb").unlink()
    assert main(["check", str(repository)]) == 1
    printed = capsys.readouterr().out
    assert "error half-copied" in printed
    assert "Mend: Copy to a folder beside it" in printed
    assert printed.endswith("1 error\n")
    assert main(["check", str(repository), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding.keys() == {"rule", "severity", "path", "what", "consequence", "mend"}
    assert finding["path"] == str(version)
    shutil.rmtree(version)
    assert main(["check", str(repository / "nowhere")]) == 2
    assert "There is no" in capsys.readouterr().err
