"""Joining requests: several clients' rows run through the model together, as TF Serving's batching does it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from zoo.errors import ServingError
from zoo.serving.repository import read_text_message
from zoo.serving.status import Code, StatusError, failed_precondition, invalid_argument

if TYPE_CHECKING:
    from zoo.serving.servable import Signature

OWN_PARAMETERS = "batching_params.pbtxt"
"""The file in a version's folder that says how its requests are joined."""


@dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's BatchingParameters.

    Attributes:
        max_batch_size: The largest number of rows that run together; a larger request is refused.
        batch_timeout_micros: How long a request may wait for others, in microseconds.
        max_enqueued_batches: How many batches may wait, per signature; a request that would open another is refused.
        num_batch_threads: How many batches run at the same time.
        allowed_batch_sizes: The sizes that batches are filled up to, ascending; any size where there are none.
        pad_variable_length_inputs: Whether shorter inputs are filled up with zeros to the longest of their batch.
        queue_seconds: How long a request may wait altogether; 0 for no limit.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    queue_seconds: float = 30.0

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1):
            raise ServingError(f"allowed_batch_sizes must be positive and ascending. Received: {list(sizes)}.", Code.INVALID_ARGUMENT)
        if sizes and sizes[-1] != self.max_batch_size:
            raise ServingError(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; expected {self.max_batch_size}",
                Code.INVALID_ARGUMENT,
            )


def read_batching_parameters(path: str | Path) -> BatchingParameters:
    """Reads a BatchingParameters message in protocol buffer text format.

    Raises:
        ServingError: The file cannot be read or parsed, or its values do not fit together.
    """
    from zoo.serving.messages import message

    given = read_text_message(path, message("BatchingParameters")())
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    numbers = {name: getattr(given, name).value for name in names if given.HasField(name)}
    return BatchingParameters(
        **numbers, allowed_batch_sizes=tuple(given.allowed_batch_sizes), pad_variable_length_inputs=given.pad_variable_length_inputs
    )


def read_own_parameters(version: str | Path) -> BatchingParameters | None:
    """Reads a version's own `batching_params.pbtxt`.

    Args:
        version: The version's folder.

    Returns:
        The parameters, or None where the version has no such file, and is not batched.

    Raises:
        ServingError: See `read_batching_parameters`.
    """
    path = Path(version) / OWN_PARAMETERS
    return read_batching_parameters(path) if path.exists() else None


@dataclass
class _Task:
    """One request's share of a batch."""

    arrays: Mapping[str, numpy.ndarray]
    size: int
    done: threading.Event = field(default_factory=threading.Event)
    result: dict[str, numpy.ndarray] | None = None
    error: StatusError | None = None


@dataclass
class _Batch:
    signature: Signature
    outputs: tuple[str, ...]
    parameters: BatchingParameters
    due: float
    tasks: list[_Task] = field(default_factory=list)
    size: int = 0

    def is_due(self, now: float) -> bool:
        return self.size >= self.parameters.max_batch_size or self.due <= now


class Batcher:
    """Runs signatures on the rows of several requests at a time.

    Args:
        parameters: How many, and how long they wait.
        per_model: Whether each version's own parameters say that, and a version without any is not batched; of `parameters`
            only the threads, which all models share, and the longest wait then count.
    """

    def __init__(self, parameters: BatchingParameters, per_model: bool = False) -> None:
        self._parameters, self._per_model = parameters, per_model
        self._queues: dict[tuple[Signature, tuple[str, ...]], deque[_Batch]] = {}  # only such as hold a batch
        self._condition = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(max(parameters.num_batch_threads, 1))]
        for thread in self._threads:
            thread.start()

    def run(self, signature: Signature, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str]) -> dict[str, numpy.ndarray]:
        """Runs one request, together with others of the same signature.

        Raises:
            StatusError: The request is too large, too many wait, it waited too long, or the batch failed.
        """
        parameters = signature.batching if self._per_model else self._parameters
        if parameters is None or not arrays:
            return signature.run(arrays, outputs)
        task = _Task(arrays, _rows(arrays))
        with self._condition:
            self._enqueue(task, signature, tuple(outputs), parameters)
            self._condition.notify()
        if not task.done.wait(self._parameters.queue_seconds or None):
            raise StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
        if task.error is not None:
            raise StatusError(task.error.code, task.error.message)
        assert task.result is not None
        return task.result

    def close(self) -> None:
        """Ends the threads when what waits has run."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, task: _Task, signature: Signature, outputs: tuple[str, ...], parameters: BatchingParameters) -> None:
        if task.size > parameters.max_batch_size:
            raise invalid_argument(f"Task size {task.size} is larger than maximum input batch size {parameters.max_batch_size}")
        queue = self._queues.get((signature, outputs)) or deque()
        if not queue or queue[-1].size + task.size > parameters.max_batch_size:
            if len(queue) >= parameters.max_enqueued_batches:
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"The batch scheduling queue to which this task was submitted is full; currently there are {len(queue)} batches enqueued "
                    f"and max_enqueued_batches is {parameters.max_enqueued_batches}",
                )
            queue.append(_Batch(signature, outputs, parameters, time.monotonic() + parameters.batch_timeout_micros / 1e6))
            self._queues[signature, outputs] = queue
        queue[-1].tasks.append(task)
        queue[-1].size += task.size

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Answers a batch; returns whether there was one. What waits for the next keeps nothing of the last, so that its model can go."""
        batch = self._take()
        if batch is None:
            return False
        try:
            _process(batch)
        except StatusError as error:
            for task in batch.tasks:
                task.error = error
        except Exception as error:  # whoever waits has to learn of it
            for task in batch.tasks:
                task.error = StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        for task in batch.tasks:
            task.done.set()
        return True

    def _take(self) -> _Batch | None:
        """Waits for a batch that is full or has waited long enough; None when there will be no more."""
        with self._condition:
            while True:
                now = time.monotonic()
                if (batch := self._pop(now)) is not None:
                    return batch
                if self._closed:
                    return None
                earliest = min((queue[0].due for queue in self._queues.values()), default=None)
                self._condition.wait(None if earliest is None else earliest - now)

    def _pop(self, now: float) -> _Batch | None:
        """Takes the first batch that is full or has waited long enough out of its queue, or returns None."""
        for key, queue in self._queues.items():
            if len(queue) > 1 or queue[0].is_due(now) or self._closed:
                del self._queues[key]
                batch = queue.popleft()
                if queue:  # behind the others, so that every signature has its turn
                    self._queues[key] = queue
                return batch
        return None


def _process(batch: _Batch) -> None:
    names, parameters = list(batch.tasks[0].arrays), batch.parameters
    size = next((allowed for allowed in parameters.allowed_batch_sizes if allowed >= batch.size), batch.size)
    arrays = {
        name: _join([task.arrays[name] for task in batch.tasks], name, size - batch.size, parameters.pad_variable_length_inputs) for name in names
    }
    outputs = batch.signature.run(arrays, batch.outputs)
    for array in outputs.values():
        if not array.ndim:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if len(array) != size:
            raise failed_precondition("Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors")
    start = 0
    for task in batch.tasks:
        task.result = {name: array[start : start + task.size] for name, array in outputs.items()}
        start += task.size


def _join(arrays: list[numpy.ndarray], name: str, more: int, pad: bool) -> numpy.ndarray:
    """Joins one input's rows, and repeats the first row to reach a batch's size."""
    if len({array.shape[1:] for array in arrays}) > 1 or len({array.dtype for array in arrays}) > 1:
        if not pad or len({array.ndim for array in arrays}) > 1:
            raise invalid_argument(
                f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. Set "
                "pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal dimensions starting with the "
                "first dim."
            )
        arrays = _padded(arrays)
    if more:
        first = next(array for array in arrays if len(array))
        arrays = [*arrays, numpy.repeat(first[:1], more, axis=0)]
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)


def _rows(arrays: Mapping[str, numpy.ndarray]) -> int:
    if any(not array.ndim for array in arrays.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension.")
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size.")
    return sizes.pop()


def _padded(arrays: list[numpy.ndarray]) -> list[numpy.ndarray]:
    longest = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    blank = b"" if arrays[0].dtype.kind == "O" else 0
    return [
        numpy.pad(array, [(0, 0), *((0, size - given) for size, given in zip(longest, array.shape[1:], strict=True))], constant_values=blank)
        for array in arrays
    ]
