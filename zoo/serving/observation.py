"""What others may learn of the requests that a server answers, beside the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy

    from zoo.serving.servable import Signature


@dataclass(frozen=True, slots=True)
class Run:
    """A signature ran, for one request or for several that came together.

    Attributes:
        model: The model's name.
        version: The version that answered.
        api: `Predict`, `Classify`, `Regress` or `MultiInference`.
        signature: The signature.
        arrays: One array for every input.
        outputs: The outputs that were asked for, or None where the run failed.
        seconds: How long it took.
        rows: The rows of each request, where several ran together; empty where it was one.
    """

    model: str
    version: int
    api: str
    signature: Signature
    arrays: Mapping[str, numpy.ndarray]
    outputs: Mapping[str, numpy.ndarray] | None
    seconds: float
    rows: Sequence[int] = ()


class Observer(Protocol):
    """Learns of every run. It must return at once: clients wait meanwhile."""

    def observe(self, run: Run) -> None:
        """Takes note of a run."""

    def close(self) -> None:
        """Writes down what is not written yet, and ends."""
