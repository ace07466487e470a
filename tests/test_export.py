"""Exports: equal answers, the same bytes, whole versions or none, and TensorFlow's own command on each shipped one."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import interrupted_export
import keras
import numpy
import pytest
import tensorflow as tf
from processes import forking
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import zoo
from zoo import export
from zoo.cards import Card
from zoo.check import check
from zoo.errors import ExportError, MissingExtraError, UsageError
from zoo.evaluation import softmax
from zoo.export import export_model, export_report, model_names, versions, write_models_config
from zoo.formats import load_litert, load_onnx
from zoo.serving import start

SAVED_MODELS = Path(__file__).parents[1] / "saved_models"


def card_of(model: keras.Model, name: str = "tiny") -> Card:
    classes = model.output_shape[-1]
    return Card(
        name=name,
        model=model.name,
        hyperparameters={},
        input_shape=model.input_shape[1:],
        num_classes=classes,
        class_names=tuple(f"class {index}" for index in range(classes)),
        dataset="digits",
        light_on_dark=True,
        recipe={},
        sha256="",
        parameters=model.count_params(),
    )


@pytest.fixture(scope="module")
def tiny() -> tuple[keras.Model, Card]:
    model = zoo.create_model("cnn_bn", input_shape=(8, 6, 1), num_classes=3, filters=4, units=8)
    return model, card_of(model)


@pytest.fixture(scope="module")
def exported(tiny: tuple[keras.Model, Card], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(tiny, tmp_path_factory.mktemp("repository"))


@pytest.mark.parametrize("name", zoo.list_models())
def test_the_saved_model_answers_as_keras_does(name: str, small: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    model = zoo.create_model(name, input_shape=(8, 8, 2), num_classes=4, **small(name))
    loaded = tf.saved_model.load(str(export_model((model, card_of(model)), tmp_path)))
    images = numpy.random.default_rng(0).uniform(0, 255, (5, 8, 8, 2)).astype("float32")
    logits = model.predict(images, verbose=0)
    for count in (1, 5):
        answer = loaded.signatures["serving_default"](image=tf.constant(images[:count]))
        numpy.testing.assert_allclose(answer["logits"], logits[:count], atol=1e-5)
        numpy.testing.assert_allclose(answer["probabilities"], softmax(logits[:count]), atol=1e-5)
        assert answer["class_id"].numpy().tolist() == logits[:count].argmax(axis=1).tolist()
        assert answer["label"].numpy().tolist() == [f"class {index}".encode() for index in logits[:count].argmax(axis=1)]


def test_the_signature_has_stable_names_and_types(exported: Path) -> None:
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    (given,) = signature.structured_input_signature[1].values()
    assert (given.name, given.dtype, given.shape.as_list()) == ("image", tf.float32, [None, 8, 6, 1])
    outputs = {name: (spec.dtype, spec.shape.as_list()) for name, spec in signature.structured_outputs.items()}
    assert outputs == {
        "class_id": (tf.int64, [None]),
        "label": (tf.string, [None]),
        "logits": (tf.float32, [None, 3]),
        "probabilities": (tf.float32, [None, 3]),
    }


def test_labels_and_card_lie_beside_the_graph(exported: Path) -> None:
    assert (exported / "assets" / "labels.txt").read_text() == "class 0\nclass 1\nclass 2\n"
    assert Card.read(exported / "assets.extra" / "card.json").name == "tiny"
    assert (exported.parents[1] / "models.config").read_text().count("config {") == 1


def test_versions_count_up_and_are_never_overwritten(tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    assert [export_model(tiny, tmp_path).name, export_model(tiny, tmp_path, version=7).name, export_model(tiny, tmp_path).name] == ["1", "7", "8"]
    with pytest.raises(ExportError, match=r"tiny/7 exists\. .* next free one is 9"):
        export_model(tiny, tmp_path, version=7)
    assert versions(tmp_path / "tiny") == [1, 7, 8]
    export_model(tiny, tmp_path, name="other")
    assert model_names(tmp_path) == ["other", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"name": "a/b"}, "name consists of"), ({"name": ".hidden"}, "name consists of"), ({"version": 0}, "above 0")]
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(tiny, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tiny: tuple[keras.Model, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_then_fail(model: keras.Model, card: Card, name: str, formats: object, directory: Path) -> None:
        (directory / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "_write", write_then_fail)
    with pytest.raises(ExportError, match=r"No space left on device\. Nothing was exported"):
        export_model(tiny, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(tiny, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_models_config_lists_what_has_a_version(tmp_path: Path) -> None:
    (tmp_path / "b" / "1").mkdir(parents=True)
    (tmp_path / "a" / "3").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    text = write_models_config(tmp_path).read_text()
    assert text.index('name: "a"') < text.index('name: "b"')
    assert "empty" not in text
    assert 'base_path: "/models/a"' in text


def test_versions_are_whole_numbers_of_64_bits(tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    for name in ("1", "07", "-3", "1.0", "v2", "٣"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
    assert versions(tmp_path / "tiny") == [1, 7]
    with pytest.raises(ExportError, match=r"below 2\*\*63. Received: 9223372036854775808"):
        export_model(tiny, tmp_path, version=2**63)


def test_other_formats_lie_where_tf_serving_passes_over_them(tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    path = export_model(tiny, tmp_path, formats=["saved_model", "litert", "onnx"])
    report = export_report(path)
    assert report["formats"].keys() == {"saved_model", "litert", "onnx"}
    images = numpy.random.default_rng(0).uniform(0, 255, (3, 8, 6, 1)).astype("float32")
    expected = tiny[0].predict(images, verbose=0)
    numpy.testing.assert_allclose(load_litert(path / "assets.extra" / "model.tflite")(images), expected, atol=1e-4)
    numpy.testing.assert_allclose(load_onnx(path / "assets.extra" / "model.onnx")(images), expected, atol=1e-4)
    assert check(tmp_path) == []


def test_unknown_formats_and_missing_packages_leave_nothing(tiny: tuple[keras.Model, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"Unknown format 'tflite'\.( Did you mean 'litert'\?)? Formats: saved_model, litert, onnx\."):
        export_model(tiny, tmp_path, formats=["tflite"])
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(MissingExtraError, match="ONNX needs tf2onnx"):
        export_model(tiny, tmp_path, formats=["onnx"])
    assert not list(tmp_path.iterdir())


def test_the_same_weights_give_the_same_bytes(tiny: tuple[keras.Model, Card], tmp_path: Path) -> None:
    first = export_model(tiny, tmp_path / "first")
    second = export_model(tiny, tmp_path / "second")  # after the process traced more functions
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 17
    assert [file for file in files if (first / file).read_bytes() != (second / file).read_bytes()] == []


def test_a_shipped_export_is_what_an_export_makes_today(tmp_path: Path) -> None:
    shipped = SAVED_MODELS / "relu_mlp.digits" / "1"
    meta = SavedModel.FromString((shipped / "saved_model.pb").read_bytes()).meta_graphs[0].meta_info_def
    if meta.tensorflow_version != tf.__version__:
        pytest.skip(f"exported by TensorFlow {meta.tensorflow_version}, and this is {tf.__version__}")
    path = export_model("relu_mlp.digits", tmp_path)
    for file in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", "assets.extra/card.json"):
        assert (path / file).read_bytes() == (shipped / file).read_bytes(), file


class Poller(threading.Thread):
    """Looks into a model's folder all the time, and does with each new version what a server does: loads it, asks it."""

    def __init__(self, base: Path) -> None:
        super().__init__(daemon=True)
        self.base = base
        self.seen: dict[int, dict[str, int]] = {}
        self.findings: list[Any] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.001):
            for version in set(versions(self.base)) - self.seen.keys():
                self.seen[version] = files_of(self.base / str(version))
                self.findings += check(self.base / str(version))


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kills", [pytest.param(2, id="two"), pytest.param(20, id="twenty", marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_leaves_nothing_half_written(kills: int, tmp_path: Path) -> None:
    """Every other moment lies anywhere in the export, the others after its first file; a reader and a server look on all the time."""
    base, generator = tmp_path / "tiny", random.Random(0)

    @contextlib.contextmanager
    def ready_to_export() -> Iterator[tuple[Any, Connection]]:
        context = forking()
        here, there = context.Pipe()
        process = context.Process(target=interrupted_export.export_when_told, args=(there, tmp_path))
        process.start()
        assert here.recv() == "ready"
        yield process, here
        process.join()

    def seconds_until(happened: Callable[[], bool], process: Any) -> float:
        start = time.perf_counter()
        while not happened() and process.is_alive():
            time.sleep(0.001)
        return time.perf_counter() - start

    def temporary_folders() -> set[Path]:
        return set(base.glob(".tmp-*"))

    with ready_to_export() as (export, pipe):
        pipe.send("go")
        before_writing = seconds_until(lambda: bool(temporary_folders()), export)
        writing = seconds_until(lambda: not temporary_folders(), export)
    assert versions(base) == [1]
    poller = Poller(base)
    poller.start()
    interrupted = 0
    with start(tmp_path) as server:
        for moment in range(kills):
            with ready_to_export() as (export, pipe):
                left = temporary_folders()
                pipe.send("go")
                if moment % 2:
                    seconds_until(lambda left=left: bool(temporary_folders() - left), export)  # type: ignore[misc]
                    time.sleep(generator.uniform(0, writing))
                else:
                    time.sleep(generator.uniform(0, before_writing + writing))
                export.kill()
            interrupted += export.exitcode == -signal.SIGKILL
        last, deadline = versions(base)[-1], time.monotonic() + 60
        while (answered := status_of(server.url)) != {last}:
            assert answered, "while new versions come, an old one serves"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while poller.seen.keys() != set(versions(base)):
            assert poller.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    poller.done.set()
    poller.join()
    assert interrupted
    assert poller.findings == []
    assert poller.seen == {version: files_of(base / str(version)) for version in versions(base)}, "a version grew after it appeared"


def status_of(url: str) -> set[int]:
    """The available versions; none may have failed."""
    with urllib.request.urlopen(f"{url}/v1/models/tiny", timeout=10) as response:
        states = json.load(response)["model_version_status"]
    assert {state["status"]["error_code"] for state in states} == {"OK"}
    return {int(state["version"]) for state in states if state["state"] == "AVAILABLE"}


# The weights for larger images are exported where they are wanted: their exports would fill the repository.
EXPORTED = [name for name in zoo.list_models(pretrained=True) if name.endswith((".mnist", ".digits"))]


def test_the_repository_holds_the_exports_for_mnist_and_digits() -> None:
    assert model_names(SAVED_MODELS) == EXPORTED
    assert (SAVED_MODELS / "models.config").read_text().count("model_platform") == len(EXPORTED)


def test_the_linter_has_nothing_to_say_about_the_shipped_exports() -> None:
    assert check(SAVED_MODELS) == []


@pytest.mark.parametrize("name", EXPORTED)
def test_the_shipped_export_stores_each_weight_once(name: str) -> None:
    newest = SAVED_MODELS / name / str(versions(SAVED_MODELS / name)[-1])
    model, _ = zoo.load_trained(name)
    sizes = [math.prod(shape) for key, shape in tf.train.list_variables(str(newest / "variables" / "variables")) if "CHECKPOINTABLE" not in key]
    assert sum(sizes) == model.count_params()


@pytest.mark.parametrize("name", EXPORTED)
def test_the_shipped_export_holds_the_shipped_weights(name: str) -> None:
    model, card = zoo.load_trained(name)
    newest = SAVED_MODELS / name / str(versions(SAVED_MODELS / name)[-1])
    assert Card.read(newest / "assets.extra" / "card.json").sha256 == card.sha256
    images = numpy.random.default_rng(0).uniform(0, 255, (3, *card.input_shape)).astype("float32")
    answer = tf.saved_model.load(str(newest)).signatures["serving_default"](image=tf.constant(images))
    numpy.testing.assert_allclose(answer["logits"], model.predict(images, verbose=0), atol=1e-4, rtol=1e-5)


def test_tensorflows_own_command_shows_and_runs_each(tmp_path: Path) -> None:
    script = [
        "import sys, numpy",
        "from tensorflow.python.tools import saved_model_cli",
        "arguments = sys.argv[1:]",
        "for folder, height, width in zip(arguments[0::3], arguments[1::3], arguments[2::3]):",
        "    numpy.save('image.npy', numpy.zeros((2, int(height), int(width), 1), 'float32'))",
        "    for command in (['show', '--dir', folder, '--all'],",
        "                    ['run', '--dir', folder, '--tag_set', 'serve', '--signature_def', 'serving_default', '--inputs', 'image=image.npy']):",
        "        sys.argv = ['saved_model_cli', *command]",
        "        try:",
        "            saved_model_cli.main()",
        "        except SystemExit as done:  # absl ends the process after every command",
        "            assert not done.code, done.code",
    ]
    arguments = []
    for name in EXPORTED:
        height, width, _ = zoo.load_trained(name)[1].input_shape
        arguments += [str(SAVED_MODELS / name / str(versions(SAVED_MODELS / name)[-1])), str(height), str(width)]
    done = subprocess.run([sys.executable, "-c", "\n".join(script), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count = len(EXPORTED)
    assert done.stdout.count("inputs['image'] tensor_info") >= count
    assert done.stdout.count("Result for output key probabilities") == count
    assert done.stdout.count("Result for output key label") == count
