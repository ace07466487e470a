"""Files of other runtimes: they hold the model, for any batch size, and a missing package is named."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy
import pytest

import zoo
from zoo.errors import MissingExtraError
from zoo.formats import load_litert, load_onnx, write_litert, write_onnx

FORMATS = [(write_litert, load_litert, "model.tflite"), (write_onnx, load_onnx, "model.onnx")]


@pytest.mark.parametrize(("write", "load", "name"), FORMATS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_file_answers_like_its_model_for_any_batch(activation: str, write, load, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    keras.utils.set_random_seed(0)
    model = zoo.create_model("cnn_bn", input_shape=(8, 8, 1), filters=4, units=8, activation=activation, whitening=2)
    images = numpy.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype("uint8")
    write(model, tmp_path / name)
    predict = load(tmp_path / name)
    for count in (5, 1, 3):
        numpy.testing.assert_allclose(predict(images[:count]), model.predict(images[:count], verbose=0), atol=1e-5)


def test_nothing_is_said_while_writing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_litert(zoo.create_model("relu_mlp", input_shape=(4, 4, 1), units=4), tmp_path / "model.tflite")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("ai_edge_litert.interpreter", lambda path: load_litert(path), "LiteRT needs ai-edge-litert: pip install 'neuron-zoo"),
        ("onnxruntime", lambda path: load_onnx(path), "ONNX needs onnxruntime: pip install 'neuron-zoo"),
        ("tf2onnx", lambda path: write_onnx(zoo.create_model("relu_mlp"), path), "ONNX needs tf2onnx: pip install 'neuron-zoo"),
    ],
)
def test_a_missing_package(module: str, call, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=message):
        call(tmp_path / "file")
