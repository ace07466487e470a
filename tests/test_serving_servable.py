"""One loaded version: SavedModels of both forms, with tables and files, and how they run."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import tensorflow as tf
from serving_models import defaults, half_plus, half_plus_two_v1, repository

from zoo.errors import ServingError
from zoo.serving import servable as module
from zoo.serving.servable import Servable, SessionOptions, _config
from zoo.serving.status import Code, StatusError

v1 = tf.compat.v1


def floats(*values: float) -> dict[str, numpy.ndarray]:
    return {"x": numpy.array(values, "float32")}


def test_both_forms(tmp_path: Path) -> None:
    for path in (half_plus_two_v1(tmp_path / "v1"), half_plus(tmp_path / "v2", 2)):
        servable = Servable(path)
        assert servable.run("serving_default", floats(1, 2))["y"].tolist() == [2.5, 3.0]
        assert servable.run("", floats(1))["y"].tolist() == [2.5]
        servable.close()


def words(folder: Path) -> Path:
    path = folder / "words.txt"
    path.write_text("zero\none\ntwo\n")
    return path


def test_a_v1_model_with_a_table_from_a_file(tmp_path: Path) -> None:
    """The file becomes an asset, and the table is filled when the model is loaded."""
    with v1.Graph().as_default(), v1.Session() as session:
        file = tf.constant(str(words(tmp_path)))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file)
        initializer = tf.lookup.TextFileInitializer(
            file, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        table = tf.lookup.StaticHashTable(initializer, default_value="?")
        x = v1.placeholder(tf.int64, [None], name="x")
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(table.lookup(x))}, "tensorflow/serving/predict")
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        session.run(v1.tables_initializer())
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, assets_collection=[file], main_op=v1.tables_initializer()
        )
        builder.save()
    (tmp_path / "words.txt").unlink()
    servable = Servable(tmp_path / "model")
    assert servable.run("", {"x": numpy.array([2, 0, 9])})["y"].tolist() == [b"two", b"zero", b"?"]
    servable.close()


def test_a_v2_model_with_a_table_from_a_file(tmp_path: Path) -> None:
    made = tf.Module()
    made.file = tf.saved_model.Asset(str(words(tmp_path)))
    initializer = tf.lookup.TextFileInitializer(
        made.file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    made.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def look_up(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": made.table.lookup(x)}

    tf.saved_model.save(made, str(tmp_path / "model"), signatures=look_up)
    (tmp_path / "words.txt").unlink()
    servable = Servable(tmp_path / "model")
    assert servable.run("", {"x": numpy.array([b"two", b"nine"], object)})["y"].tolist() == [2, -1]
    servable.close()


def test_a_model_without_variables(tmp_path: Path) -> None:
    servable = Servable(defaults(tmp_path / "model"))
    assert servable.run("", {**floats(2), "factor": numpy.array(3, "float32")})["y"].tolist() == [6.0]
    servable.close()


def test_a_keras_model(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    model.export(str(tmp_path / "model"), verbose=False)
    servable = Servable(tmp_path / "model")
    signature = servable.signature()
    assert signature is not None
    value = numpy.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    (answer,) = signature.run({next(iter(signature.inputs)): value}).values()
    numpy.testing.assert_allclose(answer, model.predict(value, verbose=0), rtol=1e-5)
    servable.close()


@pytest.mark.parametrize("damage", ["nothing", "empty", "tags", "variables", "index"])
def test_what_cannot_be_loaded(damage: str, tmp_path: Path) -> None:
    path = half_plus(tmp_path / "1", 2)
    options = SessionOptions(tags=("gpu",)) if damage == "tags" else None
    if damage == "nothing":
        path = tmp_path / "nowhere"
    elif damage == "empty":
        (path / "saved_model.pb").write_bytes(b"")
    elif damage == "variables":
        (path / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
    elif damage == "index":
        (path / "variables" / "variables.index").unlink()
    with pytest.raises(ServingError, match=rf"{path} cannot be loaded: \S") as failure:
        Servable(path, options)
    assert failure.value.code != Code.OK
    assert "\n" not in str(failure.value)


def test_what_cannot_be_run() -> None:
    servable = Servable(repository() / "several" / "1")
    for name, arrays, code, message in [
        ("nothing", {}, Code.FAILED_PRECONDITION, 'Serving signature key "nothing" not found.'),
        ("uneven", {"x": numpy.array([1])}, Code.INVALID_ARGUMENT, "Expects arg[0] to be float but int64 is provided"),
        ("uneven", {"x": numpy.array(["a"])}, Code.INVALID_ARGUMENT, "Expects arg[0] to be float but string is provided"),
        ("numbers", {"text": numpy.array([b"a"], object)}, Code.INVALID_ARGUMENT, "StringToNumberOp could not correctly convert string: a"),
    ]:
        with pytest.raises(StatusError) as failure:
            servable.run(name, arrays)  # type: ignore[arg-type]
        assert failure.value.code == code
        assert failure.value.message.startswith(message)
    servable.close()


def test_some_outputs_only() -> None:
    servable = Servable(repository() / "several" / "1")
    signature = servable.signature("uneven")
    assert signature is not None
    assert list(signature.run(floats(1), ["b"])) == ["b"]
    assert list(signature.run(floats(1))) == ["a", "b"]
    servable.close()


def test_closing_waits_for_its_users_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    servable = Servable(repository() / "half_plus_two" / "1")
    assert servable.acquire()
    thread = threading.Thread(target=servable.close)
    thread.start()
    while servable.acquire():
        servable.release()
        time.sleep(0.005)
    assert servable.run("", floats(1))["y"].tolist() == [2.5]
    servable.release()
    thread.join()
    with pytest.raises(StatusError, match="Session has been closed"):
        servable.run("", floats(1))
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    kept = Servable(repository() / "half_plus_two" / "1")
    assert kept.acquire()
    kept.close()
    with pytest.raises(StatusError, match="Session has been closed"):
        kept.run("", floats(1))


@pytest.mark.parametrize(
    ("options", "size", "threads"),
    [
        (SessionOptions(), 0, (1, -1)),
        (SessionOptions(), module.SMALL_MODEL, (0, 0)),
        (SessionOptions(intra_op_threads=3, inter_op_threads=2), 0, (3, 2)),
        (SessionOptions(config=b"\x10\x07"), 0, (1, -1)),
    ],
)
def test_small_models_run_in_the_callers_thread(options: SessionOptions, size: int, threads: Any, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    config = _config(tmp_path, options)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == threads
    assert _config(tmp_path, SessionOptions(gpu_memory_fraction=0.5)).gpu_options.per_process_gpu_memory_fraction == 0.5


def test_too_few_dimensions_do_not_end_the_process(tmp_path: Path) -> None:
    """oneDNN's convolution aborts on them, and with it would go the server."""
    made = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.float32, name="x")])
    def blur(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.conv2d(x, tf.ones((3, 3, 1, 1)), 1, "SAME")}

    tf.saved_model.save(made, str(tmp_path / "model"), signatures=blur)
    servable = Servable(tmp_path / "model")
    for shape in ((), (1, 0), (3, 4, 1)):
        with pytest.raises(StatusError, match=rf"Expects x to have 4 dimensions but its shape is {re.escape(str(list(shape)))}"):
            servable.run("", {"x": numpy.ones(shape, "float32")})
    assert servable.run("", {"x": numpy.ones((1, 3, 4, 1), "float32")})["y"].shape == (1, 3, 4, 1)
    servable.close()
