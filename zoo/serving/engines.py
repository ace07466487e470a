"""Engines: the LiteRT or the ONNX form of a version answers in place of its session, where nobody can tell by the answers.

A version that was exported with `--format saved_model,litert,onnx` holds the model three times. The two files give logits
from images; the rest of an answer, probabilities, classes and labels, is added here. An engine is taken only where it gives
the export's golden answers: to 1e-5, with equal labels. Even then it gets only requests that are as the signature says, one
or more images of the right type and shape; what is left, errors among it, is the session's, which is loaded when it is
needed and TensorFlow with it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy

from zoo.errors import MissingExtraError, UsageError
from zoo.export import EXTRA, FORMATS
from zoo.golden import GOLDEN, golden_difference, golden_inputs, read_golden_requests
from zoo.serving.status import StatusError
from zoo.serving.tensors import STRING, TensorInfo, from_proto
from zoo.signatures import PREDICT_UINT8, SERVING_DEFAULT

logger = logging.getLogger(__name__)

AUTO, TF, LITERT, ONNX = "auto", "tf", "litert", "onnx"
ENGINES = (AUTO, TF, LITERT, ONNX)
RUNTIME_NAMES = {TF: "TF1", LITERT: "LiteRT", ONNX: "ONNX"}
"""Engine -> its name in the metrics; that of the session is TF Serving's."""
TOLERANCE = 1e-5
MOST_ROWS = 64
"""Rows that run at a time: more would not be faster, and what a runtime allocates for them it keeps."""
SIZES = (1, 32)
"""Batch sizes that are measured, and the smallest size to which the second one's winner applies."""
LARGE = 8
HEAVY_SECONDS = 1e-3
"""Time for one image above which a session may be the faster one. Below, what it costs to call one decides."""
NOISE = 1.03
"""The order of preference decides between engines whose times differ by less."""
_PACKAGES = {LITERT: ("ai_edge_litert", "LiteRT needs ai-edge-litert"), ONNX: ("onnxruntime", "ONNX needs onnxruntime")}
_OUTPUTS = {"class_id": "int64", "label": "string", "logits": "float", "probabilities": "float"}
_measuring = threading.Lock()


class Refused(Exception):
    """An engine is not taken for a version, and why."""


class Runtime(Protocol):
    """Something that turns images into logits; any number of threads may call it."""

    name: str

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        """Returns the logits, float32 `(batch, classes)`, of images, float32 `(batch, height, width, channels)`."""
        ...


class _Interpreter:
    """A LiteRT interpreter, which serves one caller at a time."""

    def __init__(self, content: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads or os.cpu_count())
        (entry,), (answer,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._entry, self._answer = entry["index"], answer["index"]
        self._shape: tuple[int, ...] = ()

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        interpreter = self._interpreter
        if self._shape != images.shape:
            self._shape = ()
            interpreter.resize_tensor_input(self._entry, images.shape)
            interpreter.allocate_tensors()
            self._shape = images.shape
        interpreter.set_tensor(self._entry, images)
        interpreter.invoke()
        logits: numpy.ndarray = interpreter.get_tensor(self._answer)
        return logits


class LiteRt:
    """A LiteRT file, with as many interpreters as callers, and at most one for each processor."""

    name = LITERT

    def __init__(self, path: Path, threads: int) -> None:
        self._content, self._threads = path.read_bytes(), threads
        self._interpreters: queue.LifoQueue[_Interpreter | None] = queue.LifoQueue()  # the one that was used last comes first
        for _ in range((os.cpu_count() or 1) - 1):
            self._interpreters.put(None)  # to be made when as many callers come
        self._interpreters.put(_Interpreter(self._content, threads))

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        interpreter = self._interpreters.get()
        try:
            interpreter = interpreter or _Interpreter(self._content, self._threads)
            return interpreter(images)
        finally:
            self._interpreters.put(interpreter)


class Onnx:
    """An ONNX file in ONNX Runtime, on the processor."""

    name = ONNX

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        (entry,), (answer,) = self._session.get_inputs(), self._session.get_outputs()
        self._entry, self._answers = entry.name, [answer.name]

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        logits: numpy.ndarray = self._session.run(self._answers, {self._entry: images})[0]
        return logits


RUNTIMES: dict[str, Callable[[Path, int], Runtime]] = {LITERT: LiteRt, ONNX: Onnx}
"""In the order of preference."""


def require(engine: str) -> None:
    """Raises an error where an engine cannot be had.

    Raises:
        MissingExtraError: Its package is not installed.
        UsageError: There is no such engine.
    """
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}. Engines: {', '.join(ENGINES)}.")
    if engine in _PACKAGES and not _is_installed(engine):
        raise MissingExtraError(f"{_PACKAGES[engine][1]}: pip install 'neuron-zoo[formats]'")


def _is_installed(engine: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[engine][0]) is not None


@dataclass(frozen=True)
class Form:
    """What an export's answers are made of.

    Attributes:
        shape: `(height, width, channels)` of an image.
        labels: The names of the classes, as bytes.
        signatures: The signatures that can be answered from logits -> the dtype of their images.
    """

    shape: tuple[int, ...]
    labels: numpy.ndarray
    signatures: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, meta_graph: Any) -> Form:
        """Reads the form of a version.

        Raises:
            Refused: The version is not made as `zoo export` makes it.
        """
        found = {name: _images(meta_graph.signature_def[name]) for name in (SERVING_DEFAULT, PREDICT_UINT8) if name in meta_graph.signature_def}
        signatures = {name: images for name, images in found.items() if images is not None}
        shape, dtype = signatures.get(SERVING_DEFAULT, ((), ""))
        if dtype != "float32":
            raise Refused(f"its {SERVING_DEFAULT} is not that of an export")
        same = {name: dtype for name, (other, dtype) in signatures.items() if other == shape}
        return cls(shape, _labels(path, meta_graph), same)


def _images(definition: Any) -> tuple[tuple[int, ...], str] | None:
    """The shape and the dtype of a signature's images, or None where it is not from `image` to an export's outputs."""
    outputs = {name: TensorInfo.of(info).type.name for name, info in definition.outputs.items()}
    if set(definition.inputs) != {"image"} or outputs != _OUTPUTS:
        return None
    image = TensorInfo.of(definition.inputs["image"])
    if image.shape is None or len(image.shape) != 4 or min(image.shape[1:]) < 1 or image.type.name not in ("float", "uint8"):
        return None
    return image.shape[1:], str(image.type.numpy_name)


def _labels(path: Path, meta_graph: Any) -> numpy.ndarray:
    """The names of the classes as they lie beside the graph, where the graph has the same."""
    try:
        names = (path / "assets" / "labels.txt").read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise Refused(f"its labels cannot be read: {error}") from None
    nodes = [node for function in meta_graph.graph_def.library.function for node in function.node_def if node.op == "Const"]
    constants = (node.attr["value"].tensor for node in nodes)
    if not any(tensor.dtype == STRING.number and from_proto(tensor).tolist() == names for tensor in constants):
        raise Refused("assets/labels.txt does not hold the labels of its graph")
    labels = numpy.empty(len(names), dtype=object)
    labels[:] = names
    return labels


class Answers:
    """What answers requests in place of a session.

    Attributes:
        form: What the answers are made of.
        small: The runtime of less than `LARGE` images, None for the session.
        large: The runtime of more.
    """

    def __init__(self, form: Form, small: Runtime | None, large: Runtime | None) -> None:
        self.form, self.small, self.large = form, small, large

    @property
    def name(self) -> str:
        """The engine's name, or both names with a plus where few images and many have different ones."""
        return "+".join(dict.fromkeys(TF if runtime is None else runtime.name for runtime in (self.small, self.large)))

    def runtime(self, signature: str, arrays: Mapping[str, numpy.ndarray]) -> Runtime | None:
        """Returns the runtime for a request, or None where it is the session's."""
        dtype, array = self.form.signatures.get(signature), arrays.get("image")
        if dtype is None or array is None or array.dtype != dtype or array.ndim != 4 or array.shape[1:] != self.form.shape or not len(array):
            return None
        return self.small if len(array) < LARGE else self.large

    def run(self, signature: str, arrays: Mapping[str, numpy.ndarray], names: Sequence[str]) -> dict[str, numpy.ndarray] | None:
        """Returns the outputs of a signature, or None where they are the session's to compute."""
        runtime = self.runtime(signature, arrays)
        if runtime is None:
            return None
        images = numpy.ascontiguousarray(arrays["image"], "float32")
        try:
            parts = [runtime(images[start : start + MOST_ROWS]) for start in range(0, len(images), MOST_ROWS)]
        except Exception:  # whatever it is, as when memory is short: the session has the last word
            logger.exception("%s failed; the session answers", runtime.name)
            return None
        logits = parts[0] if len(parts) == 1 else numpy.concatenate(parts)
        if not numpy.isfinite(logits).all():  # what comes of these is each runtime's own affair
            return None
        return self._outputs(logits, names)

    def _outputs(self, logits: numpy.ndarray, names: Sequence[str]) -> dict[str, numpy.ndarray]:
        found = {"logits": logits}
        if "probabilities" in names:
            powers = numpy.exp(logits - logits.max(axis=-1, keepdims=True))
            found["probabilities"] = powers / powers.sum(axis=-1, keepdims=True)
        if "class_id" in names or "label" in names:
            found["class_id"] = logits.argmax(axis=-1)
            found["label"] = self.form.labels[found["class_id"]]
        return {name: found[name] for name in names}


def candidates(path: Path, engine: str) -> list[str]:
    """Returns the engines, of those that are asked for, for which a version has a file."""
    if engine == AUTO:
        return [name for name in RUNTIMES if (path / FORMATS[name]).is_file() and _is_installed(name)]
    if engine == TF:
        return []
    file = FORMATS[engine]
    if not (path / file).is_file():
        logger.warning("%s is not served by %s: there is no %s; `zoo export --format saved_model,%s` writes one", path, engine, file, engine)
        return []
    return [engine]


def choose(path: Path, meta_graph: Any, engine: str, threads: int, session: Callable[[], Callable[[numpy.ndarray], Any]]) -> Answers | None:
    """Returns what answers for a version, or None where its session does.

    Args:
        path: The version's folder.
        meta_graph: Its graph.
        engine: `litert` or `onnx`, or `auto` for the fastest, by measurement.
        threads: Threads within an operation; 0 for the runtime's own choice.
        session: Loads the session, and returns a function that runs it on images.
    """
    found: dict[str, Answers] = {}
    for name in candidates(path, engine):
        try:
            found[name] = _checked(path, meta_graph, name, threads)
        except Refused as reason:
            logger.warning("%s is not served by %s: %s", path, name, reason)
    if engine != AUTO or not found:
        return next(iter(found.values()), None)
    return _fastest(found, next(iter(_golden(path, (SERVING_DEFAULT,))))[1], session)


def _checked(path: Path, meta_graph: Any, name: str, threads: int) -> Answers:
    """Loads an engine and holds its answers against the golden ones.

    Raises:
        Refused: It cannot be loaded, or gives others.
    """
    file = path / FORMATS[name]
    try:
        form = Form.of(path, meta_graph)
    except ValueError as error:
        raise Refused(f"its graph cannot be read: {error}") from None
    try:
        runtime = RUNTIMES[name](file, threads)
    except Exception as error:  # each runtime has errors of its own
        raise Refused(f"{file.name} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from None
    answers = Answers(form, runtime, runtime)
    for signature, images, response in _golden(path, form.signatures):
        for rows in (len(images), 1):
            parts = [answers.run(signature, {"image": images[start : start + rows]}, tuple(_OUTPUTS)) for start in range(0, len(images), rows)]
            _require_equal(signature, parts, response)
    return answers


def row_wise(path: Path, run: Callable[[str, numpy.ndarray], dict[str, numpy.ndarray]]) -> frozenset[str]:
    """Returns the signatures that answer each image of a batch as they answer it alone, by their golden requests.

    Args:
        path: A version's folder.
        run: Computes a signature's outputs from images.
    """
    found = set()
    for signature in (SERVING_DEFAULT, PREDICT_UINT8):
        try:
            for _, images, response in _golden(path, (signature,)):
                _require_equal(signature, [run(signature, images)], response)
                _require_equal(signature, [run(signature, image[None]) for image in images], response)
                found.add(signature)
        except (Refused, StatusError, ValueError, KeyError):
            continue
    return frozenset(found)


def _require_equal(signature: str, parts: Sequence[dict[str, numpy.ndarray] | None], response: Mapping[str, Any]) -> None:
    outputs = [part for part in parts if part is not None]
    if len(outputs) < len(parts):
        raise Refused(f"it does not answer the golden request of {signature}")
    difference = golden_difference(signature, {name: numpy.concatenate([part[name] for part in outputs]) for name in sorted(_OUTPUTS)}, response)
    if not difference <= TOLERANCE:
        raise Refused(f"its answer to the golden request of {signature} is {difference:.1g} off; {TOLERANCE:g} is allowed")


def _golden(path: Path, signatures: Mapping[str, str] | Sequence[str]) -> Iterator[tuple[str, numpy.ndarray, dict[str, Any]]]:
    """Yields the golden requests of signatures: their names, images and responses.

    Raises:
        Refused: There are none, or they cannot be read.
    """
    try:
        requests = read_golden_requests(path / EXTRA / GOLDEN)
        for signature in signatures:
            request, response = requests[signature]
            dtype = "uint8" if signature == PREDICT_UINT8 else "float32"
            yield signature, numpy.array(golden_inputs(request)["image"], dtype), response
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise Refused(f"its golden requests cannot be read: {type(error).__name__}: {error}") from None


def _fastest(found: Mapping[str, Answers], images: numpy.ndarray, session: Callable[[], Callable[[numpy.ndarray], Any]]) -> Answers | None:
    """Returns the fastest of several engines, by measurement: one for few images, and one for many."""
    candidates: dict[str, Callable[[numpy.ndarray], Any]] = {name: _caller(answers) for name, answers in found.items()}
    with _measuring:
        batches = [images[numpy.arange(size) % len(images)] for size in SIZES]
        times = [seconds(candidates, batch) for batch in batches]
        if min(times[0].values()) > HEAVY_SECONDS:
            candidates[TF] = session()
            times = [seconds(candidates, batch) for batch in batches]
    names = [preferred(measured) for measured in times]
    for batch, measured in zip(SIZES, times, strict=True):
        logger.debug("%d images: %s", batch, ", ".join(f"{name} {value * 1e6:.0f} us" for name, value in measured.items()))
    if names == [TF, TF]:
        return None
    form = next(iter(found.values())).form
    return Answers(form, *(found[name].small if name in found else None for name in names))


def _caller(answers: Answers) -> Callable[[numpy.ndarray], Any]:
    return lambda images: answers.run(SERVING_DEFAULT, {"image": images}, tuple(_OUTPUTS))


def seconds(functions: Mapping[str, Callable[[numpy.ndarray], Any]], images: numpy.ndarray, budget: float = 0.03) -> dict[str, float]:
    """Returns each function's shortest time on images. They take turns, so that what disturbs one disturbs all."""
    for function in functions.values():
        function(images)
    best = dict.fromkeys(functions, float("inf"))
    rounds, end = 0, time.perf_counter() + budget * len(functions)
    while rounds < 3 or time.perf_counter() < end:
        for name, function in functions.items():
            began = time.perf_counter()
            function(images)
            best[name] = min(best[name], time.perf_counter() - began)
        rounds += 1
    return best


def preferred(times: Mapping[str, float]) -> str:
    """Returns the first of the engines that are as good as the fastest.

    Example:
        >>> preferred({"litert": 1.01, "onnx": 1.0, "tf": 0.99})
        'litert'
    """
    limit = min(times.values()) * NOISE
    return next(name for name, value in times.items() if value <= limit)
