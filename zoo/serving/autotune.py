"""Parameters of batching from a measurement: how long models take for batches of several sizes, on this machine."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.environment import processor
from zoo.errors import ServingError
from zoo.files import write_text

if TYPE_CHECKING:
    import numpy

    from zoo.serving.manager import ManagerOptions
    from zoo.serving.repository import ModelSource
    from zoo.serving.servable import Signature

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_SIZE = 0.2
RUNS_PER_SIZE = 5
CLOSE_TO_BEST = 1.1
LONGEST_QUEUE_SECONDS = 1.0

Curve = Mapping[int, float]
"""Rows per batch -> median milliseconds per batch."""


@dataclass(frozen=True)
class Batching:
    """How TF Serving gathers requests into batches; see its BatchingParameters."""

    max_batch_size: int
    batch_timeout_micros: int
    max_enqueued_batches: int
    num_batch_threads: int


@dataclass(frozen=True)
class Measurement:
    """How long a model takes.

    Attributes:
        model: Its name.
        version: The version's folder.
        engine: What answered, such as `tf` or `litert+onnx`.
        curve: How long it took.
    """

    model: str
    version: Path
    engine: str
    curve: Curve


def choose_batching(curves: Mapping[str, Curve], cores: int) -> Batching:
    """Chooses the parameters of batching from latency curves.

    `max_batch_size` is the smallest size at which a row takes at most 10 % longer than at the best size, the largest of
    these over the models. `batch_timeout_micros` is what a row gains in such a batch over one alone, the smallest over
    the models: who waits longer for company than that would have been served sooner alone. The queue is as long as what
    the threads work off in a second.

    Args:
        curves: Model -> its curve.
        cores: Of the processor that serves.

    Example:
        >>> choose_batching({"model": {1: 2.0, 8: 4.0, 64: 30.0}}, cores=4)
        Batching(max_batch_size=8, batch_timeout_micros=1500, max_enqueued_batches=1000, num_batch_threads=4)
    """
    sizes, gains = [1], []
    for curve in curves.values():
        each = {size: milliseconds / size for size, milliseconds in curve.items()}
        sizes.append(min(size for size in each if each[size] <= CLOSE_TO_BEST * min(each.values())))
        gains.append(max(each[min(each)] - each[sizes[-1]], 0.0))
    slowest = max((curve[max(size for size in curve if size <= max(sizes))] for curve in curves.values()), default=1.0)
    queue = int(cores * 1000 * LONGEST_QUEUE_SECONDS / slowest)
    return Batching(max(sizes), round(1000 * min(gains, default=0.0)), max(queue, 1), cores)


def batching_parameters(curves: Mapping[str, Curve], *, callers: int = 1, threads: int | None = None, own: bool = False) -> str:
    """Returns the text of `--batching_parameters_file`, with the measurement that it follows from in comments.

    Args:
        curves: Model -> its curve.
        callers: How many batches ran at the same time when the curves were measured.
        threads: How many will when they are served; one per core where there is none.
        own: Whether the text is for a version's own file, which does not say that: the threads are all models'.

    Example:
        >>> text = batching_parameters({"model": {1: 2.0, 8: 4.0}}, own=True)
        >>> [line for line in text.splitlines() if not line.startswith("#")][:2]
        ['max_batch_size { value: 8 }', 'batch_timeout_micros { value: 1500 }']
    """
    cores = os.cpu_count() or 1
    threads = threads or cores
    chosen = choose_batching(curves, threads)
    sizes = sorted({size for curve in curves.values() for size in curve})
    width = max([len(name) for name in curves] + [5])
    company = "one request at a time" if callers == 1 else f"{callers} batches at the same time"
    lines = [
        f"Measured on {processor()}, {cores} cores: median milliseconds per batch of zeros, {company}.",
        f"{'model':<{width}}" + _cells(f"{size}" for size in sizes),
        *(f"{name:<{width}}" + _cells(f"{curve[size]:.3f}" for size in sizes) for name, curve in curves.items()),
        "",
        f"Smallest batch within {round(100 * CLOSE_TO_BEST - 100)} % of the best time per image, the largest over the models:",
    ]
    comments = "\n".join(f"# {line}".rstrip() for line in lines)
    text = (
        f"{comments}\nmax_batch_size {{ value: {chosen.max_batch_size} }}\n"
        "# What an image gains in such a batch over one alone, the smallest over the models; 0 takes what is waiting:\n"
        f"batch_timeout_micros {{ value: {chosen.batch_timeout_micros} }}\n"
        "# Batches that the slowest model works off in a second; beyond, requests are refused with 503 instead of waiting:\n"
        f"max_enqueued_batches {{ value: {chosen.max_enqueued_batches} }}\n"
    )
    if own:
        return text
    reason = "One per core of the machine above: set it to the cores that the server gets." if threads == cores else "As it was given."
    return f"{text}# {reason}\nnum_batch_threads {{ value: {chosen.num_batch_threads} }}\n"


def write_own_parameters(found: Measurement, callers: int) -> Path:
    """Writes a version's own `batching_params.pbtxt`, atomically, into its folder.

    Args:
        found: The measurement.
        callers: How many batches ran at the same time, and will.

    Returns:
        The file.

    Raises:
        ServingError: It cannot be written.
    """
    from zoo.serving.batching import OWN_PARAMETERS

    path = found.version / OWN_PARAMETERS
    write_parameters(path, batching_parameters({f"{found.model} on {found.engine}": found.curve}, callers=callers, threads=callers, own=True))
    return path


def write_parameters(path: Path, text: str) -> None:
    """Writes a file of parameters, atomically.

    Raises:
        ServingError: It cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise ServingError(f"{path} cannot be written: {error.strerror or error}.") from None


def measure(
    sources: Sequence[ModelSource], options: ManagerOptions, callers: int, say: Callable[[str], None], sizes: Sequence[int] = BATCH_SIZES
) -> list[Measurement]:
    """Loads models as they are served, and measures the newest version of each by its default signature.

    Args:
        sources: The models.
        options: How they are loaded.
        callers: How many batches run at the same time.
        say: Is given a table for humans, line by line, with a line for each model that is left out and why.
        sizes: Rows per batch.

    Returns:
        The measurements of those that take batches of numbers in shapes that are known.

    Raises:
        ServingError: No model can be measured.

    Example:
        >>> measure(find_models("saved_models"), ManagerOptions(), 2, print)  # doctest: +SKIP
    """
    from zoo.serving.manager import Manager

    options = dataclasses.replace(options, poll_seconds=0, config_poll_seconds=0, labels_for_unavailable=True, per_model_batching=False)
    manager = Manager(sources, options)
    try:
        reasons = [f"not served: {reason}" for reason in [*manager.failures().values(), *manager.missing()]]
        for reason in reasons:
            say(reason)
        loaded = {source.name: versions[max(versions)] for source in sources if (versions := manager.loaded(source.name))}
        width = max([len(name) for name in loaded] + [5])
        if loaded:
            say(f"Median milliseconds per batch, {callers} at the same time:")
            say(f"{'model':<{width}}  {'engine':<11}" + _cells(f"{size}" for size in sizes))
        found = []
        for name, servable in loaded.items():
            try:
                curve = measure_signature(servable.signature(), callers, sizes)
            except ServingError as error:
                reasons.append(f"left out: {name}: {error}")
                say(reasons[-1])
                continue
            say(f"{name:<{width}}  {servable.engine:<11}" + _cells(f"{milliseconds:.3f}" for milliseconds in curve.values()))
            found.append(Measurement(name, servable.path, servable.engine, curve))
    finally:
        manager.close()
    if not found:
        raise ServingError(f"No model can be measured. {' '.join(reasons)}".rstrip())
    return found


def measure_signature(signature: Signature | None, callers: int = 1, sizes: Sequence[int] = BATCH_SIZES) -> dict[int, float]:
    """Measures how long a signature takes for batches of zeros, with the engine that answers its requests.

    Args:
        signature: The signature.
        callers: How many batches run at the same time.
        sizes: Rows per batch.

    Returns:
        Rows per batch -> median milliseconds.

    Raises:
        ServingError: The signature takes no batches, or none that can be made up; the message is why.
    """
    from zoo.serving.status import StatusError

    rows, curve = _rows_of_zeros(signature), {}
    assert signature is not None
    for size in sizes:
        arrays = {name: zeros(size) for name, zeros in rows.items()}
        try:
            outputs = signature.run(arrays)
            if wrong := [name for name, array in outputs.items() if not array.ndim or len(array) != size]:
                raise ServingError(f"its output {wrong[0]} has not one row for each row that it is asked.")
            curve[size] = median_milliseconds(functools.partial(signature.run, arrays), callers)
        except StatusError as error:
            raise ServingError(f"a batch of {size} fails: {error}") from None
    return curve


def _rows_of_zeros(signature: Signature | None) -> dict[str, Callable[[int], numpy.ndarray]]:
    """Makes functions from a number of rows to an input of zeros.

    Raises:
        ServingError: There are none; the message is why.
    """
    import numpy

    if signature is None or not signature.inputs:
        raise ServingError("it has no signature serving_default with inputs.")
    found: dict[str, Callable[[int], numpy.ndarray]] = {}
    for name, info in signature.inputs.items():
        if info.type.name == "string":
            raise ServingError(f"its input {name} takes strings.")
        if info.type.dtype is None:
            raise ServingError(f"its input {name} is of type {info.type.name}, which arrays cannot hold.")
        if not info.shape or min(info.shape[1:], default=1) < 0:
            raise ServingError(f"its input {name} is of unknown shape." if info.shape != () else f"its input {name} has no rows.")
        found[name] = lambda size, rest=info.shape[1:], dtype=info.type.dtype: numpy.zeros((size, *rest), dtype)  # type: ignore[misc]
    return found


def median_milliseconds(run: Callable[[], Any], callers: int = 1) -> float:
    """Measures a function.

    Args:
        run: The function.
        callers: How many call it at the same time.

    Returns:
        The median of its times.

    Example:
        >>> median_milliseconds(lambda: None, callers=2) >= 0
        True
    """
    run()
    times: list[list[float]] = [[] for _ in range(callers)]
    failed, end = threading.Event(), time.perf_counter() + SECONDS_PER_SIZE

    def call(own: list[float]) -> None:
        """Goes on until everyone has enough, so that nobody is measured alone."""
        try:
            while not failed.is_set() and (time.perf_counter() < end or min(map(len, times)) < RUNS_PER_SIZE):
                began = time.perf_counter()
                run()
                own.append(time.perf_counter() - began)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, times))
    return 1000 * statistics.median(value for own in times for value in own)


def _cells(texts: Any) -> str:
    return "".join(f"{text:>9}" for text in texts)
