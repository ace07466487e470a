"""Who goes on training: none, median, ASHA and Hyperband, as rules over what the trials have shown so far.

A scheduler keeps no state. Each decision follows from the trials' records alone, so that a search which was killed decides
after its restart as it would have decided without.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo.errors import UsageError, unknown

STARTUP_TRIALS, WARMUP_EPOCHS = 5, 1  # before the median rule stops anything


class Contestant(Protocol):
    """What a scheduler needs to know of a trial."""

    @property
    def number(self) -> int: ...
    @property
    def curve(self) -> Mapping[int, float]: ...
    @property
    def paused(self) -> bool: ...
    @property
    def active(self) -> bool: ...


@dataclass(frozen=True)
class Scheduler:
    """Trains every trial to its end, and is the base of the others.

    Attributes:
        epochs: Of a whole trial.
        reduction: One in so many trials is promoted.
        first: Epochs before the first comparison.
    """

    epochs: int
    reduction: int = 3
    first: int = 1

    def pause(self, number: int) -> int:
        """Returns the epoch at which a new trial is first looked at."""
        return self.epochs

    def stops(self, trial: Contestant, trials: Sequence[Contestant]) -> bool:
        """Tells, after an epoch of a trial, whether it ends there for good."""
        return False

    def promotion(self, trials: Sequence[Contestant], closing: bool = False) -> tuple[int, int] | None:
        """Returns the number of a paused trial that goes on, and the epoch it goes on to; None for none.

        Args:
            trials: All of them.
            closing: There will be no new trials, so that the best of few go on where otherwise more would be waited for.
        """
        return None


@dataclass(frozen=True)
class Median(Scheduler):
    """Stops a trial whose best figure so far is below the median of the others' at the same epoch.

    After Golovin et al., Google Vizier: A Service for Black-Box Optimization, 2017, https://doi.org/10.1145/3097983.3098043.
    """

    def stops(self, trial: Contestant, trials: Sequence[Contestant]) -> bool:
        epoch = max(trial.curve)
        others = [other.curve[epoch] for other in trials if other.number != trial.number and epoch in other.curve]
        return epoch > WARMUP_EPOCHS and len(others) >= STARTUP_TRIALS and max(trial.curve.values()) < statistics.median(others)


@dataclass(frozen=True)
class Asha(Scheduler):
    """Asynchronous successive halving: as soon as a trial is among the best third of its rung, it goes on to the next.

    After Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, https://arxiv.org/abs/1810.05934.
    """

    def rungs(self) -> list[int]:
        """Returns the epochs of comparison, the last of them the end."""
        return rungs(self.epochs, self.reduction, self.first)

    def pause(self, number: int) -> int:
        return self.rungs()[0]

    def promotion(self, trials: Sequence[Contestant], closing: bool = False) -> tuple[int, int] | None:
        ladder = self.rungs()
        for rung, following in reversed(list(itertools.pairwise(ladder))):
            if (number := promotable(trials, rung, self.reduction, closing)) is not None:
                return number, following
        return None


@dataclass(frozen=True)
class Hyperband(Asha):
    """Brackets of successive halving, each a balance between many short trials and few long ones.

    After Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, 2018, https://arxiv.org/abs/1603.06560.
    """

    def brackets(self) -> list[tuple[int, list[int]]]:
        """Returns of each bracket how many trials it starts, and its rungs."""
        ladder = self.rungs()
        count = len(ladder)
        return [(math.ceil(count / (count - index) * self.reduction ** (count - 1 - index)), ladder[index:]) for index in range(count)]

    def pause(self, number: int) -> int:
        _, _, (_, ladder) = self._place(number)
        return ladder[0]

    def promotion(self, trials: Sequence[Contestant], closing: bool = False) -> tuple[int, int] | None:
        groups: dict[tuple[int, int], list[Contestant]] = {}
        for trial in trials:
            cycle, index, _ = self._place(trial.number)
            groups.setdefault((cycle, index), []).append(trial)
        for (_, index), group in groups.items():
            size, ladder = self.brackets()[index]
            if (len(group) < size and not closing) or any(trial.active for trial in group):
                continue
            if any(trial.curve and not trial.paused and max(trial.curve) < ladder[0] for trial in group):  # another process's
                continue
            for rung, following in itertools.pairwise(ladder):
                if (number := promotable(group, rung, self.reduction, True)) is not None:
                    return number, following
        return None

    def _place(self, number: int) -> tuple[int, int, tuple[int, list[int]]]:
        """Returns the cycle and the bracket that a trial belongs to."""
        brackets = self.brackets()
        cycle, rest = divmod(number, sum(size for size, _ in brackets))
        for index, bracket in enumerate(brackets):
            if rest < bracket[0]:
                return cycle, index, bracket
            rest -= bracket[0]
        raise AssertionError("the remainder of a division is below the divisor")


SCHEDULERS: Mapping[str, type[Scheduler]] = {"asha": Asha, "hyperband": Hyperband, "median": Median, "none": Scheduler}


def create_scheduler(name: str, epochs: int, reduction: int = 3, first: int = 1) -> Scheduler:
    """Creates a scheduler by name.

    Raises:
        UnknownNameError: No such scheduler.
        UsageError: `reduction` is below 2, or `first` is no epoch of a trial.

    Example:
        >>> create_scheduler("asha", epochs=9).rungs()
        [1, 3, 9]
    """
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, SCHEDULERS)
    if reduction < 2:
        raise UsageError(f"The reduction must be 2 or more: one in so many trials goes on. Received: {reduction!r}.")
    if not 1 <= first <= epochs:
        raise UsageError(f"The first comparison must be after an epoch from 1 to {epochs}. Received: {first!r}.")
    return SCHEDULERS[name](epochs, reduction, first)


def rungs(epochs: int, reduction: int, first: int) -> list[int]:
    """Returns `first`, `first * reduction`, ... and in the end `epochs`.

    Example:
        >>> rungs(10, 3, 1)
        [1, 3, 10]
    """
    ladder = [first]
    while ladder[-1] * reduction * math.sqrt(reduction) <= epochs:  # the last step is at least the root of the others
        ladder.append(ladder[-1] * reduction)
    if ladder[-1] < epochs:
        ladder.append(epochs)
    return ladder


def promotable(trials: Sequence[Contestant], rung: int, reduction: int, at_least_one: bool) -> int | None:
    """Returns the best trial that waits at a rung, if it is among the best `1 / reduction` of those that have come to it."""
    arrived = [trial for trial in trials if rung in trial.curve]
    places = max(1, len(arrived) // reduction) if at_least_one else len(arrived) // reduction
    if not arrived or not places:
        return None
    figures = sorted([trial.curve[rung] for trial in arrived], reverse=True)
    last = figures[places - 1]
    best = sorted([(-trial.curve[rung], trial.number, trial) for trial in arrived if trial.curve[rung] >= last])[:places]
    return next((number for _, number, trial in best if max(trial.curve) == rung and trial.paused), None)
