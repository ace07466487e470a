"""One version of a model, loaded as TF Serving loads it: into a session of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ServingError

if TYPE_CHECKING:
    import numpy

TAG = "serve"


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature: the tensor's name in the graph, its numpy type and its rank (None: unknown)."""

    tensor: str
    dtype: Any
    rank: int | None


class Servable:
    """A SavedModel, of TensorFlow 1 or 2, in a session.

    The session loader takes every SavedModel that TF Serving takes, which `tf.saved_model.load` does not, and like TF
    Serving it does not hold an input against the signature's shape.

    Args:
        path: The version's folder, with `saved_model.pb` in it.

    Raises:
        ServingError: The folder holds no SavedModel that can be loaded.
    """

    def __init__(self, path: str | Path) -> None:
        import tensorflow as tf

        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            with self._session.graph.as_default():
                self.meta_graph = tf.compat.v1.saved_model.loader.load(self._session, [TAG], str(path))
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            self._session.close()
            raise ServingError(f"{path} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from None
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., Any]] = {}
        self._lock = threading.Lock()

    @property
    def signatures(self) -> Mapping[str, Any]:
        """Signature name -> SignatureDef."""
        return self.meta_graph.signature_def

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's inputs by name."""
        return {name: _info(info) for name, info in self.signatures[signature].inputs.items()}

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's outputs by name, sorted."""
        outputs = self.signatures[signature].outputs
        return {name: _info(outputs[name]) for name in sorted(outputs)}

    def run(self, signature: str, arrays: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """Computes all outputs of a signature.

        Raises:
            tensorflow.errors.OpError: An operation fails, as when a shape does not fit.
        """
        names = tuple(sorted(arrays))
        results = self._callable(signature, names)(*(arrays[name] for name in names))
        return dict(zip(self.outputs(signature), results, strict=True))

    def close(self) -> None:
        """Frees the session."""
        self._session.close()

    def _callable(self, signature: str, names: tuple[str, ...]) -> Callable[..., Any]:
        key = (signature, names)
        if key not in self._callables:
            with self._lock:
                inputs = self.inputs(signature)
                fetches = [info.tensor for info in self.outputs(signature).values()]
                self._callables[key] = self._session.make_callable(fetches, [inputs[name].tensor for name in names])
        return self._callables[key]


def _info(info: Any) -> TensorInfo:
    import tensorflow as tf

    shape = info.tensor_shape
    return TensorInfo(info.name, tf.dtypes.as_dtype(info.dtype), None if shape.unknown_rank else len(shape.dim))
