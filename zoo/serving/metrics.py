"""Counts and times of requests, in the words and the format of TF Serving's Prometheus page."""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PATH = "/monitoring/prometheus/metrics"
_BOUNDS = tuple(10 * 1.8**power for power in range(33))
"""Upper bounds of the buckets, in microseconds."""


ROWS = tuple(2**power for power in range(11))
"""The same for rows of batches."""
MOST_NAMES, OTHER = 1000, "(others)"
"""How many names that no model has are told apart, and the name of all others."""


@dataclass
class _Histogram:
    bounds: tuple[float, ...] = _BOUNDS
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def join(self, other: _Histogram) -> None:
        self.buckets = [ours + theirs for ours, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total

    def lines(self, name: str, labels: str, unit: float = 1.0) -> list[str]:
        lines, count = [], 0
        for bound, size in zip((*self.bounds, None), self.buckets, strict=False):
            count += size
            lines.append(f'{name}_bucket{{{labels},le="{"+Inf" if bound is None else f"{bound / unit:g}"}"}} {count}')
        return [*lines, f"{name}_sum{{{labels}}} {self.total / unit:g}", f"{name}_count{{{labels}}} {count}"]


class Facts(NamedTuple):
    """What a request turned out to be.

    Attributes:
        model: The model's name.
        version: The version that answered, or 0.
        signature: The signature that it asked for.
        engine: What answered: `tf`, `litert` or `onnx`; empty where none did.
    """

    model: str
    version: int = 0
    signature: str = ""
    engine: str = ""


class Metrics:
    """What a server has done so far.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request(Facts("m", 1, "serving_default", "tf"), "Predict", "REST", "OK", seconds=0.001)
        >>> metrics.page().splitlines()[:2]
        ['# TYPE :tensorflow:serving:request_count counter', ':tensorflow:serving:request_count{model_name="m",status="OK"} 1']
        >>> metrics.own_page().splitlines()[1]
        '# TYPE zoo_requests_total counter'
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[Facts, str, str, str], int] = defaultdict(int)
        self._latencies: dict[tuple[Facts, str, str], _Histogram] = defaultdict(_Histogram)
        self._runtimes: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        self._rows: dict[str, _Histogram] = defaultdict(functools.partial(_Histogram, ROWS))
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def request(self, facts: Facts, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Records a request.

        Args:
            facts: What it was.
            api: `Predict`, `Classify`, `Regress` or `MultiInference`.
            entrypoint: `REST` or `GRPC`.
            status: The code's name; time is recorded where it is `OK`.
            seconds: How long it took.
        """
        with self._lock:
            if not facts.version:
                facts = Facts(self._bounded(facts.model))
            self._counts[facts, api, entrypoint, status] += 1
            if status == "OK":
                self._latencies[facts, api, entrypoint].add(seconds * 1e6)

    def runtime(self, model: str, api: str, runtime: str, seconds: float, rows: int = 0) -> None:
        """Records how long a runtime ran: `TF1`, as TF Serving calls a session, `LiteRT` or `ONNX`; and on how many rows."""
        with self._lock:
            self._runtimes[model, api, runtime].add(seconds * 1e6)
            if rows:
                self._rows[model].add(rows)

    def _bounded(self, name: str) -> str:
        """A name that a client came up with. Whoever makes up many of them must not fill the memory."""
        if name not in self._names and len(self._names) >= MOST_NAMES:
            return OTHER
        self._names.add(name)
        return name

    def page(self) -> str:
        """Returns everything that TF Serving has a name for as a Prometheus page."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        latencies: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        with self._lock:
            for (facts, _, _, status), count in self._counts.items():
                counts[facts.model, status] += count
            for (facts, api, entrypoint), histogram in self._latencies.items():
                latencies[facts.model, api, entrypoint].join(histogram)
            lines = ["# TYPE :tensorflow:serving:request_count counter"]
            for (model, status), count in sorted(counts.items()):
                lines.append(f":tensorflow:serving:request_count{{{labelled(model_name=model, status=status)}}} {count}")
            lines.append("# TYPE :tensorflow:serving:request_latency histogram")
            for (model, api, entrypoint), histogram in sorted(latencies.items(), key=_first):
                lines += histogram.lines(":tensorflow:serving:request_latency", labelled(model_name=model, API=api, entrypoint=entrypoint))
            lines.append("# TYPE :tensorflow:serving:runtime_latency histogram")
            for (model, api, runtime), histogram in sorted(self._runtimes.items(), key=_first):
                lines += histogram.lines(":tensorflow:serving:runtime_latency", labelled(model_name=model, API=api, runtime=runtime))
        return "\n".join(lines) + "\n"

    def own_page(self, gauges: Mapping[str, float] | None = None, versions: Sequence[tuple[str, int, str]] = ()) -> str:
        """Returns everything by model, version, signature and engine, in seconds, as a Prometheus page.

        Args:
            gauges: What else there is to say of this moment, by name.
            versions: The model, number and engine of every version that answers.
        """
        lines = heading("zoo_requests_total", "counter", "Requests answered.")
        with self._lock:
            for (facts, api, protocol, status), count in sorted(self._counts.items()):
                lines.append(f"zoo_requests_total{{{_own(facts, api, protocol)},{labelled(status=status)}}} {count}")
            lines += heading("zoo_request_seconds", "histogram", "Time from a request to its answer.")
            for (facts, api, protocol), histogram in sorted(self._latencies.items(), key=_first):
                lines += histogram.lines("zoo_request_seconds", _own(facts, api, protocol), unit=1e6)
            lines += heading("zoo_batch_rows", "histogram", "Rows that ran through a model together.")
            for model, histogram in sorted(self._rows.items(), key=_first):
                lines += histogram.lines("zoo_batch_rows", labelled(model=model))
        lines += heading("zoo_model_version", "gauge", "Processes in which a version answers.")
        lines += [f"zoo_model_version{{{labelled(model=model, version=str(version), engine=engine)}}} 1" for model, version, engine in versions]
        for name, value in (gauges or {}).items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:.17g}"]
        return "\n".join(lines) + "\n"


def process_gauges() -> dict[str, float]:
    """Returns the memory and the open descriptors of this process, where the system tells."""
    found = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        found["process_resident_memory_bytes"] = float(pages * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError):
        found["process_open_fds"] = float(len(os.listdir("/proc/self/fd")))
    return found


def merged(pages: Sequence[str]) -> str:
    """Returns the Prometheus page of several processes: every sample is the sum of theirs.

    Example:
        >>> print(merged(["# TYPE a counter\\na{b=\\"c\\"} 1", "# TYPE a counter\\na{b=\\"c\\"} 2\\na{b=\\"d\\"} 3"]), end="")
        # TYPE a counter
        a{b="c"} 3
        a{b="d"} 3
    """
    blocks: dict[str, dict[str, float]] = {}
    for page in pages:
        block: dict[str, float] = {}
        for line in page.splitlines():
            if line.startswith("#"):  # HELP stands before TYPE, and what follows is of both
                block = blocks.setdefault(line, {})
            elif line:
                sample, _, value = line.rpartition(" ")
                block[sample] = block.get(sample, 0) + float(value)
    lines = []
    for about, block in blocks.items():
        lines += [about, *(f"{sample} {value:.17g}" for sample, value in block.items())]
    return "\n".join(lines) + "\n"


def labelled(**labels: str) -> str:
    """Returns labels as they stand in a Prometheus page.

    Example:
        >>> labelled(model="m", status="OK")
        'model="m",status="OK"'
    """
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


def _own(facts: Facts, api: str, protocol: str) -> str:
    version = str(facts.version) if facts.version else ""
    return labelled(model=facts.model, version=version, signature=facts.signature, engine=facts.engine, api=api, protocol=protocol)


def heading(name: str, kind: str, text: str) -> list[str]:
    """Returns the lines ahead of a metric's samples."""
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _first(item: tuple[Any, _Histogram]) -> Any:
    return item[0]
