"""Golden requests: inputs that are the same on every machine, with the answers that an export gives to them.

Inside a version they lie as files that any HTTP client can send and compare,

    curl -d @1/assets.extra/golden/predict_uint8.request.json http://localhost:8501/v1/models/NAME:predict

and as the requests by which a server warms a version up before it takes traffic.
"""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from zoo.signatures import (
    CLASSIFY,
    EXAMPLE_FILE,
    EXAMPLE_FLOATS,
    EXAMPLE_INTEGERS,
    FEATURES,
    PREDICT_BYTES,
    PREDICT_UINT8,
    SERVING_DEFAULT,
)

if TYPE_CHECKING:
    import numpy

    from zoo.cards import Card

GOLDEN = "golden"
WARMUP = "tf_serving_warmup_requests"
MOST_WARMUP_RECORDS = 1000
IMAGES = 8


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Attributes:
        signature: The signature's name.
        inputs: Alias -> array; strings as an array of `bytes`. Those of `classify` are serialized examples.
        outputs: Alias -> array.
    """

    signature: str
    inputs: Mapping[str, numpy.ndarray]
    outputs: Mapping[str, numpy.ndarray]


def golden_images(name: str, input_shape: Sequence[int], count: int = IMAGES) -> numpy.ndarray:
    """Returns images that follow from a name alone: soft blobs of random ink, no image of any data set.

    Args:
        name: Any text.
        input_shape: `(height, width, channels)`.
        count: How many.

    Returns:
        uint8 `(count, height, width, channels)`.

    Example:
        >>> golden_images("cnn.digits", (8, 8, 1)).shape
        (8, 8, 8, 1)
    """
    import numpy

    height, width, channels = input_shape
    generator = numpy.random.default_rng(zlib.crc32(name.encode()))
    rows, columns = numpy.mgrid[:height, :width]
    images = numpy.zeros((count, height, width, channels))
    for image in images:
        for _ in range(6):
            row, column = generator.uniform(0.15, 0.85, 2) * (height, width)
            size = generator.uniform(0.05, 0.2) * height
            ink = generator.uniform(80, 255, channels)
            image += numpy.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))[..., None] * ink
    return numpy.clip(numpy.floor(images), 0, 255).astype("uint8")


def golden_exchanges(functions: Mapping[str, Callable[..., Mapping[str, Any]]], card: Card) -> list[Exchange]:
    """Asks every signature of a model, and returns what it was asked and what it answered."""
    import tensorflow as tf

    exchanges = []
    for signature, inputs in _inputs(card).items():
        if signature in functions:
            outputs = functions[signature](**{alias: tf.constant(values) for alias, values in inputs.items()})
            exchanges.append(Exchange(signature, inputs, {alias: outputs[alias].numpy() for alias in sorted(outputs)}))
    return exchanges


def _inputs(card: Card) -> dict[str, dict[str, numpy.ndarray]]:
    """Signature -> its golden inputs."""
    import numpy

    images = golden_images(card.name, card.input_shape)
    inputs = {
        SERVING_DEFAULT: {"image": images.astype("float32")},
        PREDICT_UINT8: {"image": images[:2]},
        FEATURES: {"image": images[:1].astype("float32")},
    }
    examples = [_example(EXAMPLE_FLOATS, images[0].ravel().astype(float)), _example(EXAMPLE_INTEGERS, images[1].ravel())]
    if card.input_shape[-1] in (1, 3):
        files = [_png(images[0]), _png(_sheet(card))]
        inputs[PREDICT_BYTES] = {"image_bytes": numpy.array(files, object)}
        examples.append(_example(EXAMPLE_FILE, files[1:]))
    inputs[CLASSIFY] = {"inputs": numpy.array(examples, object)}
    return inputs


def _sheet(card: Card) -> numpy.ndarray:
    """A larger image of another shape, coloured and dark on light: nothing goes into the model as it is."""
    height, width, channels = card.input_shape
    sheet = 255 - golden_images(f"{card.name} sheet", (2 * height + 9, 2 * width, channels), 1)[0]
    return sheet.repeat(3 // channels, axis=-1)


def _png(image: numpy.ndarray) -> bytes:
    import tensorflow as tf

    return tf.io.encode_png(image).numpy()


def _example(key: str, values: Sequence[Any] | numpy.ndarray) -> bytes:
    import tensorflow as tf

    kinds = {
        EXAMPLE_FLOATS: lambda: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
        EXAMPLE_INTEGERS: lambda: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
        EXAMPLE_FILE: lambda: tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
    }
    return tf.train.Example(features=tf.train.Features(feature={key: kinds[key]()})).SerializeToString(deterministic=True)


def write_golden_requests(exchanges: Sequence[Exchange], directory: Path) -> None:
    """Writes each exchange as `SIGNATURE.request.json` and `SIGNATURE.response.json`, as they go over TF Serving's REST.

    `classify` goes to `:classify`, all others to `:predict`.
    """
    directory.mkdir(parents=True)
    for exchange in exchanges:
        for kind, body in (("request", _request(exchange)), ("response", _response(exchange.signature, exchange.outputs))):
            (directory / f"{exchange.signature}.{kind}.json").write_text(json.dumps(body) + "\n", encoding="utf-8")


def read_golden_requests(directory: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Returns signature -> the bodies of its request and its response, as of `write_golden_requests`.

    Raises:
        OSError: A response is missing.
        ValueError: A file is no JSON.
    """
    found = {}
    for path in sorted(directory.glob("*.request.json")):
        signature = path.name.removesuffix(".request.json")
        response = path.with_name(f"{signature}.response.json")
        found[signature] = (json.loads(path.read_text(encoding="utf-8")), json.loads(response.read_text(encoding="utf-8")))
    return found


def golden_inputs(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inputs in the body of a golden request: alias -> nested lists, strings as `bytes`."""
    if "examples" in body:
        return {"inputs": [_example(key, values) for row in body["examples"] for key, values in _from_json(row).items()]}
    return _from_json(body["inputs"])


def golden_difference(signature: str, outputs: Mapping[str, numpy.ndarray], body: Mapping[str, Any]) -> float:
    """Returns the largest absolute difference between outputs and the body of a golden response; infinite where they do not match."""
    return _difference(_response(signature, outputs), body)


def _difference(left: Any, right: Any) -> float:
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return max((_difference(left[key], right[key]) for key in left), default=0.0)
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return max((_difference(a, b) for a, b in zip(left, right, strict=True)), default=0.0)
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) if abs(left - right) >= 0 else float("inf")  # one of them is no number
    return 0.0 if left == right else float("inf")


def _request(exchange: Exchange) -> dict[str, Any]:
    named = {"signature_name": exchange.signature}
    if exchange.signature == CLASSIFY:
        return {**named, "examples": [_json_ready(_features(example), binary=True) for example in exchange.inputs["inputs"]]}
    return {**named, "inputs": _json_ready(exchange.inputs, binary=True)}


def _response(signature: str, outputs: Mapping[str, numpy.ndarray]) -> dict[str, Any]:
    ready = _json_ready(outputs)
    if signature == CLASSIFY:
        pairs = zip(ready["classes"], ready["scores"], strict=True)
        return {"results": [[list(pair) for pair in zip(*row, strict=True)] for row in pairs]}
    return {"outputs": ready if len(ready) > 1 else next(iter(ready.values()))}


def _features(serialized: bytes) -> dict[str, list[Any]]:
    import tensorflow as tf

    features = tf.train.Example.FromString(serialized).features.feature
    return {key: list(getattr(features[key], features[key].WhichOneof("kind")).value) for key in sorted(features)}


def _json_ready(value: Any, binary: bool = False) -> Any:
    """Arrays as nested lists; strings as text, or as TF Serving's `{"b64": ...}`; floats in the fewest digits that give them back."""
    import numpy

    if isinstance(value, Mapping):
        return {key: _json_ready(item, binary) for key, item in value.items()}
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if binary else value.decode()
    if isinstance(value, list | numpy.ndarray):
        return [_json_ready(item, binary) for item in value]
    return float(str(value)) if isinstance(value, float | numpy.floating) else int(value)


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"])
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def write_warmup_requests(exchanges: Sequence[Exchange], name: str, path: Path, learned: Sequence[bytes] = ()) -> None:
    """Writes a request per signature, of one image each, as the TFRecord file by which TF Serving warms a version up.

    Args:
        exchanges: Where the requests come from.
        name: The served model's name.
        path: `assets.extra/tf_serving_warmup_requests` of a version.
        learned: More records, as of `answerable_records`.
    """
    import tensorflow as tf

    records = [_prediction_log(exchange, name).SerializeToString(deterministic=True) for exchange in exchanges]
    records += [record for record in learned if record not in records]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:MOST_WARMUP_RECORDS]:
            writer.write(record)


def answerable_records(path: Path, functions: Mapping[str, Callable[..., Mapping[str, Any]]]) -> list[bytes]:
    """Returns the warm-up records of a file that signatures can answer: TF Serving does not load a version that fails at one.

    Args:
        path: What servers wrote down beside a model's versions; see `zoo.serving.recording`. It need not be there.
        functions: Signature -> function.
    """
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    found = []
    with contextlib.suppress(tf.errors.NotFoundError, tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            with contextlib.suppress(DecodeError, KeyError, TypeError, ValueError, tf.errors.OpError):
                signature, inputs = _logged(PredictionLog.FromString(record))
                functions[signature](**inputs)
                found.append(record)
    return found


def _logged(log: Any) -> tuple[str, dict[str, Any]]:
    """The signature and the inputs of a warm-up record.

    Raises:
        ValueError: It is neither for predict nor for classify.
    """
    import tensorflow as tf

    if log.HasField("predict_log"):
        request = log.predict_log.request
        inputs = {alias: tf.io.parse_tensor(proto.SerializeToString(), proto.dtype) for alias, proto in request.inputs.items()}
    elif log.HasField("classify_log"):
        request = log.classify_log.request
        inputs = {"inputs": tf.constant([example.SerializeToString() for example in request.input.example_list.examples])}
    else:
        raise ValueError("a record of another kind")
    return request.model_spec.signature_name or SERVING_DEFAULT, inputs


def _prediction_log(exchange: Exchange, name: str) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    log = PredictionLog()
    if exchange.signature == CLASSIFY:
        request = log.classify_log.request
        for serialized in exchange.inputs["inputs"]:
            request.input.example_list.examples.add().ParseFromString(serialized)
    else:
        request = log.predict_log.request
        for alias, values in exchange.inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(values[:1]))
    request.model_spec.name, request.model_spec.signature_name = name, exchange.signature
    return log
