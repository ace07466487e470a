"""Learned warm-up: the shapes of real requests become the warm-up requests of the next version.

What is kept of a request is its signature and the shape and type of each input, and never its values: numbers become zeros, and
strings, which have to be something that the model can read, are taken from the warm-up requests that the version brought along.
The records lie beside the versions, as TF Serving's warm-up records, in `BASE_PATH/tf_serving_warmup_requests`. A version that is
loaded later is warmed up by them, and `zoo.export_model` puts those that it can answer into the version that it writes.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.files import atomic_file
from zoo.serving import warmup
from zoo.serving.messages import message
from zoo.serving.servable import DEFAULT_SIGNATURE
from zoo.serving.status import StatusError
from zoo.serving.tensors import BY_NUMBER, STRING, type_of
from zoo.serving.tfrecord import read_records, write_records

if TYPE_CHECKING:
    import numpy

    from zoo.serving.observation import Run
    from zoo.serving.servable import Servable

logger = logging.getLogger(__name__)
WRITE_SECONDS = 5.0
MOST_ROWS = 1024
"""Larger requests are not kept: their records would be large, too, and a server that warms up by them slow to start."""
_LOGS = {"Classify": "classify_log", "Regress": "regress_log"}


class Input(NamedTuple):
    """What is kept of an input.

    Attributes:
        name: Its name.
        type: The name of its type, as TensorFlow's messages spell it.
        shape: Its shape.
    """

    name: str
    type: str
    shape: tuple[int, ...]


class Key(NamedTuple):
    """What is kept of a request.

    Attributes:
        api: `Predict`, `Classify` or `Regress`.
        signature: The signature's name.
        inputs: The inputs.
    """

    api: str
    signature: str
    inputs: tuple[Input, ...]


class Recorder:
    """Keeps the shapes of requests, up to a number of different ones for each model, and writes them down.

    Args:
        most: How many records a model has at most, those of earlier servers included; TF Serving takes 1000.
        seconds: Time between two looks for what is new.

    Example:
        >>> Recorder(most=0)
        Traceback (most recent call last):
        ...
        ValueError: A model keeps 1 to 1000 warm-up records. Received: 0.
    """

    def __init__(self, most: int, seconds: float = WRITE_SECONDS) -> None:
        if not 1 <= most <= warmup.MAXIMUM_RECORDS:
            raise ValueError(f"A model keeps 1 to {warmup.MAXIMUM_RECORDS} warm-up records. Received: {most}.")
        self._most, self._seconds = most, seconds
        self._seen: dict[str, set[Key]] = {}
        self._new: list[tuple[str, Key, Servable]] = []
        self._said: set[str] = set()
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def observe(self, run: Run) -> None:
        """Keeps the shapes of a run's requests, where they are new."""
        if run.outputs is None:
            return
        seen = self._seen.get(run.model)
        if seen is None:
            seen = self._seen.setdefault(run.model, set())
        for rows in set(run.rows) if run.rows else (None,):
            if len(seen) >= self._most:
                return
            inputs = tuple(Input(name, type_of(array).name, _shape(array, rows)) for name, array in run.arrays.items())
            key = Key(run.api, run.signature.name, inputs)
            if key not in seen and all(not given.shape or given.shape[0] <= MOST_ROWS for given in inputs):
                seen.add(key)
                self._new.append((run.model, key, run.signature.servable))

    def close(self) -> None:
        """Writes down what is not written yet, and ends."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait(self._seconds)
            try:
                self._write()
            except Exception:  # the server goes on without
                logger.exception("Recording warm-up requests failed")

    def _write(self) -> None:
        new, self._new = self._new, []
        by_path: dict[Path, list[tuple[str, Key, Servable]]] = {}
        for model, key, servable in new:
            by_path.setdefault(learned(servable.path), []).append((model, key, servable))
        for path, found in by_path.items():
            before = _known(path)
            records = list(before)
            for model, key, servable in found:
                if len(records) < self._most and (record := _record(model, key, servable)) is not None and record not in records:
                    records.append(record)
            if records == before:
                continue
            try:
                with atomic_file(path) as temporary:
                    write_records(temporary, records)
            except OSError as error:
                self._say(f"{path} cannot be written: {error.strerror or error}. Requests are answered, but their shapes are not kept.")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


def learned(version: Path) -> Path:
    """Returns the file of the records that servers wrote down for the versions beside this one."""
    return version.parent / warmup.FILE.name


def _known(path: Path) -> list[bytes]:
    """The records of a file; none where there is no file, or one that is damaged."""
    try:
        return list(read_records(path)) if path.is_file() else []
    except StatusError as error:
        logger.warning("%s is begun anew: %s", path, error.message)
        return []


def _shape(array: numpy.ndarray, rows: int | None) -> tuple[int, ...]:
    return array.shape if rows is None else (rows, *array.shape[1:])


def _record(model: str, key: Key, servable: Servable) -> bytes | None:
    """Makes a record of a request's shapes; None where there is none that the version can answer."""
    examples = _brought_along(servable).get((key.api, key.signature))
    log = message("PredictionLog")()
    if key.api == "Predict":
        request = log.predict_log.request
        for alias, kind, shape in key.inputs:
            strings: Sequence[bytes] = examples.inputs[alias].string_val if examples is not None and alias in examples.inputs else ()
            if kind == STRING.name and not strings:
                return None
            proto = request.inputs[alias]
            proto.dtype = next(type.number for type in BY_NUMBER.values() if type.name == kind)
            for size in shape:
                proto.tensor_shape.dim.add().size = size  # no values stand for zeros, and one for as many as there are
            if kind == STRING.name:
                proto.string_val.append(strings[0])
    elif (field := _LOGS.get(key.api)) is not None and examples is not None and examples.input.example_list.examples:
        request = getattr(log, field).request
        (rows,) = key.inputs[0].shape
        known = examples.input.example_list.examples
        request.input.example_list.examples.extend(itertools.islice(itertools.cycle(known), rows))
    else:
        return None
    request.model_spec.name, request.model_spec.signature_name = model, key.signature
    return log.SerializeToString(deterministic=True) if warmup.answers(servable, log) else None


def _brought_along(servable: Servable) -> dict[tuple[str, str], Any]:
    """API and signature -> a warm-up request that came with the version."""
    path = servable.path / warmup.FILE
    found: dict[tuple[str, str], Any] = {}
    for record in _known(path):
        log = message("PredictionLog").FromString(record)
        for api, part in (("Predict", log.predict_log), ("Classify", log.classify_log), ("Regress", log.regress_log)):
            if part.HasField("request"):
                found.setdefault((api, part.request.model_spec.signature_name or DEFAULT_SIGNATURE), part.request)
    return found
