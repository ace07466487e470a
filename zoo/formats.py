"""Models in the formats of other runtimes: LiteRT (TensorFlow Lite) and ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError
from zoo.files import atomic_file

if TYPE_CHECKING:
    import keras
    import numpy

Predict = Callable[["numpy.ndarray"], "numpy.ndarray"]


def write_litert(model: keras.Model, path: Path) -> None:
    """Writes a model as a LiteRT file: `image`, float32 `(batch, height, width, channels)`, to logits.

    Args:
        model: From images to logits, under TensorFlow.
        path: The `.tflite` file; written atomically.
    """
    import tensorflow as tf

    with contextlib.redirect_stdout(io.StringIO()):  # Keras tells of a temporary SavedModel
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def load_litert(path: Path) -> Predict:
    """Returns a function from images to logits that runs a LiteRT file.

    Raises:
        MissingExtraError: The extra `formats` is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise MissingExtraError("LiteRT needs ai-edge-litert: pip install 'neuron-zoo[formats]'") from None
    interpreter = Interpreter(model_path=str(path))
    (entry,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: numpy.ndarray) -> numpy.ndarray:
        interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], images.astype("float32"))
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return predict


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes a model as an ONNX file: `image`, float32 `(batch, height, width, channels)`, to logits.

    Args:
        model: From images to logits, under TensorFlow.
        path: The `.onnx` file; written atomically.

    Raises:
        MissingExtraError: The extra `formats` is not installed.
    """
    try:
        import tf2onnx
    except ModuleNotFoundError:
        raise MissingExtraError("ONNX needs tf2onnx: pip install 'neuron-zoo[formats]'") from None
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
    function = tf.function(lambda image: model(image, training=False), input_signature=signature)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17, custom_op_handlers={"Erfc": (_erfc, [])})
    with atomic_file(path) as temporary:
        temporary.write_bytes(converted.SerializeToString())


def load_onnx(path: Path) -> Predict:
    """Returns a function from images to logits that runs an ONNX file.

    Raises:
        MissingExtraError: The extra `formats` is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtraError("ONNX needs onnxruntime: pip install 'neuron-zoo[formats]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def predict(images: numpy.ndarray) -> numpy.ndarray:
        return session.run(None, {entry.name: images.astype("float32")})[0]

    return predict


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """ONNX has erf but not its complement, by which TensorFlow computes GELU: 1 - erf(x)."""
    import numpy

    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    (entry,), outputs = node.input, node.output
    context.remove_node(node.name)
    erf = context.make_node("Erf", [entry], shapes=[shape], dtypes=[dtype])
    one = context.make_const(f"{name}_one", numpy.float32(1.0))
    context.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype])
