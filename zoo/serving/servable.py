"""One version of a model, loaded as TF Serving loads it, into a session of its own; where an engine answers in its place, when it is needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from zoo.console import load_backend
from zoo.errors import ServingError
from zoo.export import EXTRA
from zoo.serving.batching import BatchingParameters
from zoo.serving.engines import TF, Answers, candidates, choose, row_wise
from zoo.serving.messages import as_declared, message
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument
from zoo.serving.tensors import TensorInfo, type_of

TAGS = ("serve",)
DEFAULT_SIGNATURE = "serving_default"
CLOSE_SECONDS = 30
ABORTING = frozenset(("AvgPool3D", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool3D"))
"""Operations whose oneDNN kernels end the whole process, or read past their input, when it has too few dimensions."""
SMALL_MODEL = 32 * 1024 * 1024
"""Bytes on disk below which a model runs in the thread that calls it: handing its operations to pools costs more than they do."""
_importing = threading.Lock()


@dataclass(frozen=True)
class SessionOptions:
    """How sessions run.

    Attributes:
        tags: The tags of the graph to load.
        intra_op_threads: Threads within an operation; 0 lets TensorFlow choose, None lets the model's size choose.
        inter_op_threads: Operations at the same time; the same.
        gpu_memory_fraction: Share of a GPU's memory, 0 for TensorFlow's choice.
        config: A serialized ConfigProto to start from.
    """

    tags: Sequence[str] = TAGS
    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    gpu_memory_fraction: float = 0.0
    config: bytes = b""


class Signature:
    """A function of a servable: named inputs to named outputs.

    Attributes:
        servable: The version that it is of.
        name: Its name.
        definition: Its SignatureDef.
    """

    def __init__(self, servable: Servable, name: str, definition: Any) -> None:
        self.servable, self.name, self.definition = servable, name, definition
        self._callables: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        self._feeds = sorted(self.inputs, key=lambda alias: self.inputs[alias].tensor)

    @property
    def batching(self) -> BatchingParameters | None:
        """The version's own parameters of batching, or None."""
        return self.servable.batching

    @cached_property
    def inputs(self) -> dict[str, TensorInfo]:
        """The inputs by name, sorted."""
        return {name: TensorInfo.of(self.definition.inputs[name]) for name in sorted(self.definition.inputs)}

    @cached_property
    def outputs(self) -> dict[str, TensorInfo]:
        """The outputs by name, sorted."""
        return {name: TensorInfo.of(self.definition.outputs[name]) for name in sorted(self.definition.outputs)}

    def engine(self, arrays: Mapping[str, numpy.ndarray]) -> str:
        """Returns the engine that a request goes to: `tf`, `litert` or `onnx`."""
        answers = self.servable.answers
        runtime = None if answers is None else answers.runtime(self.name, arrays)
        return TF if runtime is None else runtime.name

    def is_ready(self, arrays: Mapping[str, numpy.ndarray]) -> bool:
        """Whether a request can be answered without loading the session first."""
        return self.servable.has_session or self.engine(arrays) != TF

    def joins(self, array: numpy.ndarray) -> bool:
        """Whether a request with this input may run together with others: it holds one or more rows, which are answered one by one."""
        return self.name in self.servable.row_wise and array.ndim == self._rank and array.shape[1:] == self._row and len(array) > 0

    @cached_property
    def _row(self) -> tuple[int, ...]:
        ((_, info),) = self.inputs.items()
        return (info.shape or ())[1:]

    @cached_property
    def _rank(self) -> int:
        return len(self._row) + 1

    def run(self, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str] = ()) -> dict[str, numpy.ndarray]:
        """Computes outputs.

        As in TF Serving an array is held against its input's type, not against its shape; but an array of too few dimensions
        does not reach a graph with operations that would end the process over it.

        Args:
            arrays: One array for every input.
            outputs: Names of the outputs to compute; all where there are none.

        Raises:
            StatusError: A type does not fit, or an operation fails, as when a shape does not fit.
        """
        names, answers = tuple(outputs) or tuple(self.outputs), self.servable.answers
        if answers is not None and (found := answers.run(self.name, arrays, names)) is not None:
            return found
        return self.run_in_session(arrays, names)

    def run_in_session(self, arrays: Mapping[str, numpy.ndarray], names: tuple[str, ...]) -> dict[str, numpy.ndarray]:
        """Computes outputs, of these names and in this order, in the session.

        Raises:
            StatusError: See `run`.
        """
        for index, alias in enumerate(self._feeds):
            info, array = self.inputs[alias], arrays[alias]
            if (expected := info.type) is not (given := type_of(array)) and expected.dtype is not None:
                raise invalid_argument(f"Expects arg[{index}] to be {expected.name} but {given.name} is provided")
            if self.servable.aborts and array.ndim < len(info.shape or ()):
                raise invalid_argument(f"Expects {alias} to have {len(info.shape or ())} dimensions but its shape is {list(array.shape)}")
        function = self._callables.get(names) or self._callable(names)
        with status_of_errors():
            results = function(*[arrays[alias] for alias in self._feeds])
        return {name: result if isinstance(result, numpy.ndarray) else _scalar(result) for name, result in zip(names, results, strict=True)}

    def _callable(self, names: tuple[str, ...]) -> Any:
        """The fastest way into a session, and one that does not hold a shape against the signature."""
        from tensorflow.core.protobuf.config_pb2 import CallableOptions

        feeds = [self.inputs[alias].tensor for alias in self._feeds]
        options = CallableOptions(feed=feeds, fetch=[self.outputs[name].tensor for name in names])
        try:
            session = self.servable.session()
        except ServingError as error:  # its files were damaged, or are gone, after an engine had taken it: no fault of the request
            raise StatusError(Code.UNAVAILABLE, str(error)) from None
        with self._lock, status_of_errors():
            if names not in self._callables:
                self._callables[names] = session._make_callable_from_options(options)
        return self._callables[names]


class Servable:
    """A SavedModel, of TensorFlow 1 or 2.

    The session loader takes every SavedModel that TF Serving takes, which `tf.saved_model.load` does not, and like TF
    Serving it does not hold an input against the signature's shape.

    Args:
        path: The version's folder, with `saved_model.pb` in it.
        options: How the session runs.
        engine: `tf`, `litert`, `onnx`, or `auto` for the fastest; see `zoo.serving.engines`.
        batching: The version's own parameters of batching, or None.

    Attributes:
        batching: The same.
        answers: What answers in place of the session, or None.
        row_wise: The signatures whose requests may run together; see `zoo.serving.engines.row_wise`.
        aborts: Whether the graph has operations that end the process over too few dimensions.

    Raises:
        ServingError: The folder holds no SavedModel that can be loaded.
    """

    def __init__(self, path: str | Path, options: SessionOptions | None = None, engine: str = TF, batching: BatchingParameters | None = None) -> None:
        self.path, self._options, self.batching = Path(path), options or SessionOptions(), batching
        self._session: Any = None
        self._loading = threading.Lock()
        self._users, self._closing = 0, False
        self._condition = threading.Condition()
        self.answers: Answers | None = None
        meta_graph = _read_meta_graph(self.path, self._options.tags) if candidates(self.path, engine) else None
        if meta_graph is None:
            self.meta_graph = self._load()
            self._describe(self.meta_graph)
            self.row_wise = self._row_wise()
            return
        self.meta_graph = meta_graph
        self._describe(meta_graph)
        self.answers = choose(self.path, meta_graph, engine, _threads(self.path, self._options)[0], self._timed)
        if self.answers is None:
            self.session()
        self.row_wise = self._row_wise() if self.answers is None else frozenset(self.answers.form.signatures)

    def _row_wise(self) -> frozenset[str]:
        return row_wise(self.path, lambda name, images: self.run(name, {"image": images}))

    def _describe(self, meta_graph: Any) -> None:
        graph = meta_graph.graph_def
        self.aborts = any(
            node.op in ABORTING for nodes in (graph.node, *(function.node_def for function in graph.library.function)) for node in nodes
        )
        definitions = {name: as_declared("SignatureDef", definition) for name, definition in meta_graph.signature_def.items()}
        self._signatures = {name: Signature(self, name, definition) for name, definition in definitions.items()}

    @property
    def engine(self) -> str:
        """What answers requests as the signatures say: `tf`, `litert`, `onnx`, or two of them, as `litert+tf`, for few images and for many."""
        return TF if self.answers is None else self.answers.name

    @property
    def has_session(self) -> bool:
        """Whether the session is loaded."""
        return self._session is not None

    def session(self) -> Any:
        """Returns the session, and loads it where that has not been needed so far.

        Raises:
            ServingError: The folder holds no SavedModel that can be loaded.
        """
        if self._session is None:
            with self._loading:
                if self._session is None:
                    self._load()
        return self._session

    def _load(self) -> Any:
        """Loads the session, and returns the graph in it."""
        tf = _tensorflow()
        session = tf.compat.v1.Session(graph=tf.Graph(), config=_config(self.path, self._options))
        try:
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(session, list(self._options.tags), str(self.path))
            if _lacks_variables(self.path, meta_graph):
                raise ValueError("its graph has variables, but there is no variables/variables.index: is it still being copied?")
        except (OSError, RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
            session.close()
            code = Code.NOT_FOUND if isinstance(error, OSError) else getattr(error, "error_code", Code.FAILED_PRECONDITION)
            raise ServingError(f"{self.path} cannot be loaded: {str(error).strip().partition(chr(10))[0]}", code) from None
        self._session = session
        return meta_graph

    def _timed(self) -> Callable[[numpy.ndarray], Any]:
        """Returns what an engine's time is held against."""
        signature = self._signatures[DEFAULT_SIGNATURE]
        self.session()
        return lambda images: signature.run_in_session({"image": images}, tuple(signature.outputs))

    @property
    def signatures(self) -> Mapping[str, Any]:
        """Signature name -> SignatureDef."""
        return {name: signature.definition for name, signature in self._signatures.items()}

    def signature(self, name: str = "") -> Signature | None:
        """Returns a signature, `serving_default` for the empty name, or None where there is none of the name."""
        return self._signatures.get(name or DEFAULT_SIGNATURE)

    def run(self, signature: str, arrays: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """Computes all outputs of a signature.

        Raises:
            StatusError: There is no such signature, or an operation fails, as when a shape does not fit.
        """
        found = self.signature(signature)
        if found is None:
            raise failed_precondition(f'Serving signature key "{signature or DEFAULT_SIGNATURE}" not found.')
        return found.run(arrays)

    def acquire(self) -> bool:
        """Keeps the servable open until `release`; returns whether it still was."""
        with self._condition:
            if self._closing:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """Ends what `acquire` began."""
        with self._condition:
            self._users -= 1
            if self._closing and not self._users:
                self._condition.notify_all()

    def close(self) -> None:
        """Frees the session when nobody uses it any more, and at the latest after half a minute, which ends what still runs."""
        with self._condition:
            self._closing = True
            self._condition.wait_for(lambda: not self._users, timeout=CLOSE_SECONDS)
        if self._session is not None:
            self._session.close()


def _read_meta_graph(path: Path, tags: Sequence[str]) -> Any:
    """Reads a version's graph without TensorFlow; None where that does not go, for TensorFlow to say why."""
    from google.protobuf.message import DecodeError

    try:
        saved = message("SavedModel").FromString((path / "saved_model.pb").read_bytes())
    except (OSError, DecodeError):
        return None
    found = next((graph for graph in saved.meta_graphs if set(graph.meta_info_def.tags) == set(tags)), None)
    return None if found is None or _lacks_variables(path, found) else found


def _lacks_variables(path: Path, meta_graph: Any) -> bool:
    """Whether a version's graph was copied before its variables: the loader would leave them without values."""
    holds_variables = any(node.op in ("VarHandleOp", "VariableV2", "Variable") for node in meta_graph.graph_def.node)
    return holds_variables and meta_graph.HasField("saver_def") and not (path / "variables" / "variables.index").is_file()


def _tensorflow() -> Any:
    with _importing:
        load_backend(with_keras=False)
        import tensorflow as tf
    return tf


def _scalar(value: Any) -> numpy.ndarray:
    """A tensor of no dimensions comes out of a session as one of NumPy's scalars, or as plain bytes."""
    return numpy.array(value, dtype=object if isinstance(value, bytes) else None)


@contextlib.contextmanager
def status_of_errors() -> Iterator[None]:
    """Turns TensorFlow's errors into statuses."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise StatusError(error.error_code, str(error.message)) from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise StatusError(Code.INVALID_ARGUMENT, str(error).partition("\n")[0]) from None


def _config(path: Path, options: SessionOptions) -> Any:
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    config = ConfigProto.FromString(options.config)
    config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = _threads(path, options)
    if options.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_memory_fraction
    return config


def _threads(path: Path, options: SessionOptions) -> tuple[int, int]:
    """Threads within an operation, and operations at the same time; 0 for the runtime's own choice."""
    files = (file for file in path.rglob("*") if file.is_file() and EXTRA not in file.relative_to(path).parts)
    # A negative number stands for the caller's own thread. The pool within operations is one for the whole process.
    intra, inter = (1, -1) if sum(file.stat().st_size for file in files) < SMALL_MODEL else (0, 0)
    given = (options.intra_op_threads, options.inter_op_threads)
    return intra if given[0] is None else given[0], inter if given[1] is None else given[1]
