"""One version of a model, loaded as TF Serving loads it: into a session of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from zoo.errors import ServingError
from zoo.serving.messages import as_declared
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument
from zoo.serving.tensors import TensorInfo, type_of

TAGS = ("serve",)
DEFAULT_SIGNATURE = "serving_default"
CLOSE_SECONDS = 30
ABORTING = frozenset(("AvgPool3D", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool3D"))
"""Operations whose oneDNN kernels end the whole process, or read past their input, when it has too few dimensions."""
SMALL_MODEL = 32 * 1024 * 1024
"""Bytes on disk below which a model runs in the thread that calls it: handing its operations to pools costs more than they do."""


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
        name: Its name.
        definition: Its SignatureDef.
    """

    def __init__(self, session: Any, name: str, definition: Any, aborts: bool) -> None:
        self._session, self.name, self.definition, self._aborts = session, name, definition, aborts
        self._callables: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        self._feeds = sorted(self.inputs, key=lambda alias: self.inputs[alias].tensor)

    @cached_property
    def inputs(self) -> dict[str, TensorInfo]:
        """The inputs by name, sorted."""
        return {name: TensorInfo.of(self.definition.inputs[name]) for name in sorted(self.definition.inputs)}

    @cached_property
    def outputs(self) -> dict[str, TensorInfo]:
        """The outputs by name, sorted."""
        return {name: TensorInfo.of(self.definition.outputs[name]) for name in sorted(self.definition.outputs)}

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
        names = tuple(outputs) or tuple(self.outputs)
        for index, alias in enumerate(self._feeds):
            info, array = self.inputs[alias], arrays[alias]
            if (expected := info.type) is not (given := type_of(array)) and expected.dtype is not None:
                raise invalid_argument(f"Expects arg[{index}] to be {expected.name} but {given.name} is provided")
            if self._aborts and array.ndim < len(info.shape or ()):
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
        with self._lock, status_of_errors():
            if names not in self._callables:
                self._callables[names] = self._session._make_callable_from_options(options)
        return self._callables[names]


class Servable:
    """A SavedModel, of TensorFlow 1 or 2, in a session.

    The session loader takes every SavedModel that TF Serving takes, which `tf.saved_model.load` does not, and like TF
    Serving it does not hold an input against the signature's shape.

    Args:
        path: The version's folder, with `saved_model.pb` in it.
        options: How the session runs.

    Raises:
        ServingError: The folder holds no SavedModel that can be loaded.
    """

    def __init__(self, path: str | Path, options: SessionOptions | None = None) -> None:
        import tensorflow as tf

        self.path, options = Path(path), options or SessionOptions()
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=_config(self.path, options))
        try:
            with self._session.graph.as_default():
                self.meta_graph = tf.compat.v1.saved_model.loader.load(self._session, list(options.tags), str(path))
            self._require_variables()
        except (OSError, RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
            self._session.close()
            code = Code.NOT_FOUND if isinstance(error, OSError) else getattr(error, "error_code", Code.FAILED_PRECONDITION)
            raise ServingError(f"{path} cannot be loaded: {str(error).strip().partition(chr(10))[0]}", code) from None
        graph = self.meta_graph.graph_def
        aborts = any(node.op in ABORTING for nodes in (graph.node, *(function.node_def for function in graph.library.function)) for node in nodes)
        definitions = {name: as_declared("SignatureDef", definition) for name, definition in self.meta_graph.signature_def.items()}
        self._signatures = {name: Signature(self._session, name, definition, aborts) for name, definition in definitions.items()}
        self._users, self._closing = 0, False
        self._condition = threading.Condition()

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
        self._session.close()

    def _require_variables(self) -> None:
        """Refuses a version whose graph was copied before its variables: the loader would leave them without values."""
        holds_variables = any(operation.type in ("VarHandleOp", "VariableV2", "Variable") for operation in self._session.graph.get_operations())
        if holds_variables and self.meta_graph.HasField("saver_def") and not (self.path / "variables" / "variables.index").is_file():
            raise ValueError("its graph has variables, but there is no variables/variables.index: is it still being copied?")


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
    small = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < SMALL_MODEL
    # A negative number stands for the caller's own thread. The pool within operations is one for the whole process.
    intra, inter = (1, -1) if small else (0, 0)
    config.intra_op_parallelism_threads = intra if options.intra_op_threads is None else options.intra_op_threads
    config.inter_op_parallelism_threads = inter if options.inter_op_threads is None else options.inter_op_threads
    if options.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_memory_fraction
    return config
