"""Counts and times of requests, in the words and the format of TF Serving's Prometheus page."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

PATH = "/monitoring/prometheus/metrics"
_BOUNDS = tuple(10 * 1.8**power for power in range(33))
"""Upper bounds of the buckets, in microseconds."""


@dataclass
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect.bisect_right(_BOUNDS, value)] += 1
        self.total += value


class Metrics:
    """What a server has done so far.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request("m", "Predict", "REST", "OK", seconds=0.001)
        >>> metrics.page().splitlines()[:2]
        ['# TYPE :tensorflow:serving:request_count counter', ':tensorflow:serving:request_count{model_name="m",status="OK"} 1']
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._latencies: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        self._runtimes: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        self._lock = threading.Lock()

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Records a request.

        Args:
            model: The model's name.
            api: `Predict`, `Classify`, `Regress` or `MultiInference`.
            entrypoint: `REST` or `GRPC`.
            status: The code's name; time is recorded where it is `OK`.
            seconds: How long it took.
        """
        with self._lock:
            self._counts[model, status] += 1
            if status == "OK":
                self._latencies[model, api, entrypoint].add(seconds * 1e6)

    def runtime(self, model: str, api: str, runtime: str, seconds: float) -> None:
        """Records how long a runtime ran for a request: `TF1`, as TF Serving calls a session, `LiteRT` or `ONNX`."""
        with self._lock:
            self._runtimes[model, api, runtime].add(seconds * 1e6)

    def page(self) -> str:
        """Returns everything as a Prometheus page."""
        with self._lock:
            lines = ["# TYPE :tensorflow:serving:request_count counter"]
            for (model, status), count in sorted(self._counts.items()):
                lines.append(f":tensorflow:serving:request_count{{{_labels(model_name=model, status=status)}}} {count}")
            lines.append("# TYPE :tensorflow:serving:request_latency histogram")
            for (model, api, entrypoint), histogram in sorted(self._latencies.items()):
                lines += _histogram(":tensorflow:serving:request_latency", _labels(model_name=model, API=api, entrypoint=entrypoint), histogram)
            lines.append("# TYPE :tensorflow:serving:runtime_latency histogram")
            for (model, api, runtime), histogram in sorted(self._runtimes.items()):
                lines += _histogram(":tensorflow:serving:runtime_latency", _labels(model_name=model, API=api, runtime=runtime), histogram)
        return "\n".join(lines) + "\n"


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
            if line.startswith("#"):
                block = blocks.setdefault(line, {})
            elif line:
                sample, _, value = line.rpartition(" ")
                block[sample] = block.get(sample, 0) + float(value)
    lines = []
    for about, block in blocks.items():
        lines += [about, *(f"{sample} {value:.17g}" for sample, value in block.items())]
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


def _histogram(name: str, labels: str, histogram: _Histogram) -> list[str]:
    lines, count = [], 0
    for bound, size in zip((*_BOUNDS, None), histogram.buckets, strict=True):
        count += size
        lines.append(f'{name}_bucket{{{labels},le="{"+Inf" if bound is None else f"{bound:g}"}"}} {count}')
    return [*lines, f"{name}_sum{{{labels}}} {histogram.total:g}", f"{name}_count{{{labels}}} {count}"]
