"""Which trial goes to which worker, so that as little as possible is compiled.

Trials with the same graph share a compiled program, but each worker compiles its own. The cost of giving a trial to a worker is
nothing where the worker has its program; it cannot be helped where no worker has it; and it is what compiling took elsewhere
where another worker has it. A worker gets the first trial that costs nothing or cannot be helped; while there is none, a few
more trials are thought of; and then it gets the one that compiles quickest. No trial is passed over more than a few times, and no
worker waits for a trial that would suit it better: a program that is compiled twice serves two workers from then on.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tuning.segments import Segment

LOOKAHEAD = 4  # trials that are thought of beyond the one that is needed
PATIENCE = 4  # times that a trial is passed over


KEPT = 48  # programs in one process


def kept(engines: int) -> int:
    """Returns how many programs each of several engines in one process keeps.

    Example:
        >>> kept(1), kept(2), kept(8)
        (48, 24, 8)
    """
    return max(KEPT // engines, 8)


class Candidate(Protocol):
    """What the choice needs to know of a trial."""

    signature: str
    passed: int


class Programs(OrderedDict[str, None]):
    """The signatures of the programs that a worker has, what was used last at the end.

    Args:
        kept: How many its engine keeps.
    """

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def use(self, signature: str) -> bool:
        """Notes that a program is used; returns whether the worker had it."""
        known = signature in self
        self[signature] = None
        self.move_to_end(signature)
        if len(self) > self.kept:
            self.popitem(last=False)
        return known


@dataclass(frozen=True)
class Compilation:
    """What compiling took in one call of a search, and what it did not take.

    Attributes:
        programs: Different ones.
        times: Compilations of them.
        seconds: That these took.
        reused: Stretches of training that ran on a program which was there.
        saved: Seconds that these would have taken to compile.
        workers: Among whom.
        in_order: Compilations, had each worker been given the trials in their order; as many as `times` with one worker.
        grouped: Seconds that giving trials to the workers that had their programs saved of this.
    """

    programs: int
    times: int
    seconds: float
    reused: int
    saved: float
    workers: int = 1
    in_order: int = 0
    grouped: float = 0.0


@dataclass
class Dispatcher:
    """Knows what each worker has compiled, and what that took.

    Attributes:
        kept: How many programs a worker keeps.
    """

    kept: int = KEPT
    workers: dict[int, Programs] = field(default_factory=dict)
    in_order: dict[int, Programs] = field(default_factory=dict)  # what they would have, had they been given the trials in order
    line: list[str] = field(default_factory=list)  # signatures of the trials that are ready, in order
    took: dict[str, list[float]] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    ordered: list[str] = field(default_factory=list)  # signatures of the compilations that order would have needed
    missed: dict[int, str] = field(default_factory=dict)  # of those, the ones in place of what a worker is at

    def add(self, candidate: Candidate) -> None:
        """Notes that a trial is ready."""
        self.line.append(candidate.signature)

    def choose(self, worker: int, ready: Sequence[Candidate]) -> tuple[int, bool]:
        """Returns the index of the trial for a worker, and whether it fits: it costs nothing, or cannot be helped."""
        if ready[0].passed >= PATIENCE:
            return 0, True
        own = self.workers.get(worker, ())
        fitting = next((index for index, entry in enumerate(ready) if entry.signature in own or not self._held(entry.signature)), None)
        if fitting is not None:
            return fitting, True
        return min(range(len(ready)), key=lambda index: (self.cost(ready[index].signature), index)), False

    def _held(self, signature: str) -> bool:
        """Tells whether any worker has a program."""
        return any(signature in programs for programs in self.workers.values())

    def cost(self, signature: str) -> float:
        """Returns the seconds that compiling is expected to take."""
        known = self.took.get(signature) or [seconds for found in self.took.values() for seconds in found]
        return statistics.fmean(known) if known else 0.0

    def give(self, worker: int, candidate: Candidate) -> None:
        """Notes that a worker is given a trial, and thereby what it would have been given in order."""
        self.workers.setdefault(worker, Programs(self.kept)).use(candidate.signature)
        self.missed.pop(worker, None)
        if self.line:
            first = self.line.pop(0)
            if not self.in_order.setdefault(worker, Programs(self.kept)).use(first):
                self.missed[worker] = first

    def settle(self, worker: int, candidate: Candidate, segment: Segment) -> None:
        """Notes what a stretch of training needed; nothing where time was up before it could build."""
        missed = self.missed.pop(worker, None)
        if not segment.build_seconds:
            return
        if missed is not None:
            self.ordered.append(missed)
        if segment.compile_seconds:
            self.took.setdefault(candidate.signature, []).append(segment.compile_seconds)
        elif not segment.plain:
            self.reused.append(candidate.signature)

    def forget(self, worker: int) -> None:
        """Notes that a worker has died, and its programs with it."""
        self.workers.pop(worker, None)
        self.in_order.pop(worker, None)

    def summary(self, workers: int) -> Compilation:
        """Returns what compiling took so far."""
        seconds = [second for found in self.took.values() for second in found]
        in_order = len(self.ordered) if workers > 1 else len(seconds)
        grouped = sum(map(self.cost, self.ordered)) - sum(seconds) if workers > 1 else 0.0
        saved = sum(self.cost(signature) for signature in self.reused if signature in self.took)
        return Compilation(len(self.took), len(seconds), sum(seconds), len(self.reused), saved, workers, in_order, grouped)
