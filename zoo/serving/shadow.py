"""Shadowing: a new version answers a copy of the traffic, nobody waits for it, and what is kept is how it differs.

Between two versions there are two *directions*: what one of them answered is given to the other. While the new version is a shadow,
the old one answers; after the promotion it is the other way round, and the comparison goes on, so that it can be taken back.

The figures lie in the model's folder, `BASE_PATH/shadow/VERSION-WORKER.json`, for `zoo promote` to read; a server that
starts goes on with those of the one before it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from zoo.errors import UsageError
from zoo.files import write_text
from zoo.serving.metrics import heading, labelled
from zoo.serving.observation import Run
from zoo.serving.status import StatusError

if TYPE_CHECKING:
    from zoo.serving.manager import Manager

logger = logging.getLogger(__name__)
FOLDER = "shadow"
MOST_WAITING = 64
"""Batches that wait to be copied. What comes when as many wait is dropped, and counted."""
MOST_TIMES = 1000
"""The latencies that are kept: the latest."""
WRITE_SECONDS = 5.0
SAY_SECONDS = 60.0
PROBABILITIES = ("probabilities", "scores")
LABELS = ("label", "class_id")
COUNTS = {
    "requests": "Requests that both versions answered.",
    "rows": "Their rows.",
    "disagreements": "The rows among them with another label.",
    "distance": "The sum of the rows' distances.",
    "errors": "Requests that only the copy failed at.",
    "failures": "Requests that only the version that answers failed at.",
    "dropped": "Requests that were not copied.",
}
"""What is counted for Prometheus; see `Drift`."""
_NOTHING: tuple[()] = ()


@dataclass
class Drift:
    """How a version differs from the one that answered, as far as it was tried.

    Attributes:
        requests: Requests that both versions answered.
        rows: Their rows.
        labelled: The rows among them that have a label.
        disagreements: The rows among these with another label.
        distance: The sum of the rows' distances: half the sum of absolute differences of the probabilities, which is 0 for
            the same and 1 for certainty of different classes; for other outputs the largest absolute difference.
        greatest: The greatest distance.
        errors: Requests that the copy failed at, and the version that answered did not; or that it answered in another form, as with
            numbers that are not finite.
        failures: Requests that the version that answered failed at, and the copy did not.
        dropped: Requests that were not copied, because too many waited.
        answered: Milliseconds that the version that answers took for a run; the latest.
        copied: The same for the copy.

    Example:
        >>> drift = Drift()
        >>> drift.compare({"scores": numpy.array([[0.9, 0.1]])}, {"scores": numpy.array([[0.4, 0.6]])})
        >>> drift.disagreement, drift.greatest
        (1.0, 0.5)
    """

    requests: int = 0
    rows: int = 0
    labelled: int = 0
    disagreements: int = 0
    distance: float = 0.0
    greatest: float = 0.0
    errors: int = 0
    failures: int = 0
    dropped: int = 0
    answered: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))
    copied: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))

    @property
    def disagreement(self) -> float | None:
        """The share of rows with another label; None where no row has one."""
        return self.disagreements / self.labelled if self.labelled else None

    @property
    def mean_distance(self) -> float | None:
        """The rows' mean distance; None before the first row."""
        return self.distance / self.rows if self.rows else None

    @property
    def latency_ratio(self) -> float | None:
        """The copy's median time over that of the version that answers; None before the first run."""
        return float(numpy.median(self.copied) / numpy.median(self.answered)) if self.copied and self.answered else None

    def compare(self, answered: Mapping[str, numpy.ndarray], copied: Mapping[str, numpy.ndarray], requests: int = 1) -> None:
        """Takes the outputs of both versions into account.

        Args:
            answered: Output -> array, of the version that answered.
            copied: The same of the copy.
            requests: How many requests it was.
        """
        if not _same_form(answered, copied):
            self.errors += requests
            return
        self.requests += requests
        distances, labels = _distances(answered, copied), _labels(answered, copied)
        self.rows += len(distances)
        self.distance += float(distances.sum())
        self.greatest = max(self.greatest, float(distances.max(initial=0.0)))
        if labels is not None:
            self.labelled += len(labels)
            self.disagreements += int(labels.sum())

    def join(self, other: Drift) -> None:
        """Adds the figures of another process."""
        for name in ("requests", "rows", "labelled", "disagreements", "distance", "errors", "failures", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.greatest = max(self.greatest, other.greatest)
        self.answered.extend(other.answered)
        self.copied.extend(other.copied)

    def figures(self) -> dict[str, Any]:
        """Returns what there is to say, ready for JSON."""
        return {
            **{name: getattr(self, name) for name in ("requests", "rows", "disagreements", "errors", "failures", "dropped")},
            "disagreement": self.disagreement,
            "mean_distance": self.mean_distance,
            "greatest_distance": self.greatest if self.rows else None,
            "latency_ratio": self.latency_ratio,
            "answered_ms": _median(self.answered),
            "copied_ms": _median(self.copied),
        }


def _median(values: Sequence[float]) -> float | None:
    return round(float(numpy.median(values)), 4) if values else None


def _same_form(answered: Mapping[str, numpy.ndarray], copied: Mapping[str, numpy.ndarray]) -> bool:
    """Whether outputs have the same names and shapes, and are finite in the same places."""
    if {name: array.shape for name, array in answered.items()} != {name: array.shape for name, array in copied.items()}:
        return False
    pairs = [(array, copied[name]) for name, array in answered.items() if array.dtype.kind == "f" and copied[name].dtype.kind == "f"]
    return all(numpy.array_equal(numpy.isfinite(one), numpy.isfinite(other)) for one, other in pairs)


def _distances(answered: Mapping[str, numpy.ndarray], copied: Mapping[str, numpy.ndarray]) -> numpy.ndarray:
    """One distance per row; of the probabilities, where there are any, else of all outputs that are numbers with a fraction."""
    names = [name for name in PROBABILITIES if name in answered][:1] or [name for name, array in answered.items() if array.dtype.kind == "f"]
    share = 0.5 if names and names[0] in PROBABILITIES else None
    found: numpy.ndarray = numpy.zeros(max((len(array) for array in answered.values() if array.ndim), default=1))
    for name in names:
        one, other = (_rows(outputs[name].astype("float64")) for outputs in (answered, copied))
        finite = numpy.isfinite(one)
        differences = numpy.abs(numpy.where(finite, one, 0.0) - numpy.where(finite, other, 0.0))
        distances = share * differences.sum(axis=1) if share else differences.max(axis=1, initial=0.0)
        if len(distances) == len(found):
            found = numpy.maximum(found, distances)
    return found


def _labels(answered: Mapping[str, numpy.ndarray], copied: Mapping[str, numpy.ndarray]) -> numpy.ndarray | None:
    """Whether each row has another label: as an output says, or the class with the greatest probability; None where there are none."""
    for name in LABELS:
        if name in answered:
            return (_rows(answered[name]) != _rows(copied[name])).any(axis=1)
    for name in PROBABILITIES:
        if name in answered and answered[name].ndim == 2 and answered[name].shape[1] > 1:
            return _best(answered, name) != _best(copied, name)
    return None


def _best(outputs: Mapping[str, numpy.ndarray], name: str) -> numpy.ndarray:
    best = outputs[name].argmax(axis=1)
    classes = outputs.get("classes")
    return best if classes is None or classes.shape != outputs[name].shape else classes[numpy.arange(len(best)), best]


def _rows(array: numpy.ndarray) -> numpy.ndarray:
    return array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim else array.reshape(1, 1)


@dataclass(frozen=True)
class Target:
    """A version that gets a copy of its model's traffic.

    Attributes:
        model: The model's name.
        version: The version.
    """

    model: str
    version: int

    @classmethod
    def of(cls, text: str) -> Target:
        """Reads `NAME:VERSION`.

        Raises:
            UsageError: It is not of this form.

        Example:
            >>> Target.of("cnn_bn.mnist:2")
            Target(model='cnn_bn.mnist', version=2)
        """
        match = re.fullmatch(r"([^/:]+):([0-9]{1,18})", text)
        if match is None:
            raise UsageError(f"A shadow is a model's name and a version's number, as cnn_bn.mnist:2. Received: {text!r}.")
        return cls(match[1], int(match[2]))


class Shadow:
    """Gives versions a copy of what other versions of the model answer, in a thread of its own.

    Args:
        manager: The models.
        targets: The versions; one for a model.
        fraction: Of the traffic, above 0 and up to 1.
        worker: The number of this process among those that share the traffic.

    Raises:
        UsageError: Two targets are of one model, or the fraction is none.
    """

    def __init__(self, manager: Manager, targets: Sequence[Target], fraction: float = 1.0, worker: int = 0) -> None:
        if not 0 < fraction <= 1:
            raise UsageError(f"A fraction of the traffic lies above 0 and is at most 1. Received: {fraction:g}.")
        self._manager, self._fraction, self._worker = manager, fraction, worker
        self._targets = {target.model: target.version for target in targets}
        if len(self._targets) < len(targets):
            raise UsageError(f"A model has one shadow. Received: {', '.join(f'{target.model}:{target.version}' for target in targets)}.")
        self._due, self._said = 0.0, time.monotonic()
        self._lock = threading.Lock()
        self._drifts: dict[tuple[str, int, int], Drift] = {}
        self._runs: queue.Queue[tuple[Run, int] | tuple[()] | None] = queue.Queue(MOST_WAITING)
        self._changed: set[str] = set()
        for model, version in self._targets.items():
            if (path := self._path(model)) is not None:
                self._drifts |= {(model, *pair): drift for pair, drift in _read(path).items() if version in pair}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def observe(self, run: Run) -> None:
        """Copies a run, where its model has a shadow."""
        version = self._targets.get(run.model)
        if version is None:
            return
        self._due += self._fraction
        if self._due < 1:
            return
        self._due -= 1
        loaded = self._manager.loaded(run.model)
        other = version if run.version != version else max((number for number in loaded if number != version), default=None)
        if other is None or other not in loaded:
            return
        try:
            self._runs.put_nowait((run, other))
        except queue.Full:
            with self._lock:
                self._drift(run, other).dropped += len(run.rows) or 1

    def close(self) -> None:
        """Compares what waits, writes the figures down, and ends."""
        self._runs.put(None)
        self._thread.join()

    def report(self) -> list[dict[str, Any]]:
        """Returns the figures of every target, of all processes together, ready for JSON."""
        self._write()
        return [
            {
                "model": model,
                "version": version,
                "comparisons": [] if (path := self._path(model)) is None else comparisons(path.parent.parent, version),
            }
            for model, version in self._targets.items()
        ]

    def page(self) -> str:
        """Returns this process's counts as a Prometheus page."""
        lines = []
        with self._lock:
            for name, text in COUNTS.items():
                lines += heading(f"zoo_shadow_{name}_total", "counter", text)
                for (model, answered, copied), drift in sorted(self._drifts.items()):
                    labels = labelled(model=model, answered_by=str(answered), copied_to=str(copied))
                    lines.append(f"zoo_shadow_{name}_total{{{labels}}} {getattr(drift, name):.17g}")
        return "\n".join(lines) + "\n"

    def _drift(self, run: Run, other: int) -> Drift:
        self._changed.add(run.model)
        return self._drifts.setdefault((run.model, run.version, other), Drift())

    def _work(self) -> None:
        written = time.monotonic()
        task: tuple[Run, int] | tuple[()] | None = _NOTHING
        while task is not None:
            try:
                task = self._runs.get(timeout=WRITE_SECONDS)
            except queue.Empty:
                task = _NOTHING
            try:
                if task:
                    self._copy(*task)
                if task is None or time.monotonic() - written > WRITE_SECONDS:
                    self._write()
                    written = time.monotonic()
            except Exception:  # the requests are answered, and the next one is copied
                logger.exception("Shadowing failed")

    def _copy(self, run: Run, other: int) -> None:
        requests, outputs, seconds = len(run.rows) or 1, None, 0.0
        try:
            _, servable = self._manager.acquire(run.model, other)
        except StatusError:  # it was unloaded meanwhile, which is no fault of its answers
            return
        try:
            signature = servable.signature(run.signature.name)
            if signature is not None and signature.inputs.keys() == run.arrays.keys():
                began = time.perf_counter()
                outputs = signature.run(run.arrays, tuple(run.outputs or ()))
                seconds = time.perf_counter() - began
        except StatusError:
            outputs = None
        except Exception:  # ours; the client has its answer
            logger.exception("Version %d of %s failed at a copy", other, run.model)
        finally:
            servable.release()
        with self._lock:
            drift = self._drift(run, other)
            if run.outputs is None:
                drift.failures += requests if outputs is not None else 0
            elif outputs is None:
                drift.errors += requests
            else:
                drift.compare(run.outputs, outputs, requests)
                drift.answered.append(run.seconds * 1000)
                drift.copied.append(seconds * 1000)

    def _path(self, model: str) -> Path | None:
        source = next((source for source in self._manager.sources if source.name == model), None)
        return None if source is None else source.base_path / FOLDER / f"{self._targets[model]}-{self._worker}.json"

    def _write(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, set()
            texts = {model: self._text(model) for model in changed}
        for model, text in texts.items():
            if (path := self._path(model)) is None:
                continue
            try:
                write_text(path, text)
            except OSError as error:
                logger.warning("%s cannot be written: %s", path, error.strerror or error)
        if texts and time.monotonic() - self._said > SAY_SECONDS:
            self._said = time.monotonic()
            self._say()

    def _say(self) -> None:
        with self._lock:
            said = [(name, copied, answered, drift.figures()) for (name, answered, copied), drift in self._drifts.items()]
        for name, copied, answered, figures in said:
            logger.info("shadow of %s: version %d gets what %d answers: %s", name, copied, answered, json.dumps(figures))

    def _text(self, model: str) -> str:
        drifts = [
            {
                "answered_by": answered,
                "copied_to": copied,
                **dataclasses.asdict(drift),
                "answered": list(drift.answered),
                "copied": list(drift.copied),
            }
            for (name, answered, copied), drift in self._drifts.items()
            if name == model
        ]
        return json.dumps(drifts)


def read_drifts(base_path: Path, version: int) -> dict[tuple[int, int], Drift]:
    """Returns what servers found out about a version: the version that answered and the one that got copies -> how they differ.

    Args:
        base_path: The model's folder.
        version: The version that is or was a shadow.
    """
    found: dict[tuple[int, int], Drift] = {}
    for path in sorted((base_path / FOLDER).glob(f"{version}-*.json")):
        for pair, drift in _read(path).items():
            found.setdefault(pair, Drift()).join(drift)
    return found


def comparisons(base_path: Path, version: int) -> list[dict[str, Any]]:
    """Returns the same ready for JSON."""
    drifts: Iterable[tuple[tuple[int, int], Drift]] = sorted(read_drifts(base_path, version).items())
    return [{"answered_by": answered, "copied_to": copied, **drift.figures()} for (answered, copied), drift in drifts]


def _read(path: Path) -> dict[tuple[int, int], Drift]:
    """The figures of one process; none where it has written none, or a file is damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for entry in entries:
            pair = (int(entry.pop("answered_by")), int(entry.pop("copied_to")))
            times: dict[str, Any] = {name: deque(map(float, entry.pop(name)), maxlen=MOST_TIMES) for name in ("answered", "copied")}
            found[pair] = dataclasses.replace(Drift(**entry), **times)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is passed over: %s", path, error)
        return {}
    return found
