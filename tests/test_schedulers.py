"""The rules of promotion and of stopping, on trials that are written down here."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tuning.schedulers import Asha, Hyperband, Median, Scheduler, create_scheduler, promotable, rungs
from zoo.errors import UnknownNameError, UsageError


@dataclass
class Entry:
    number: int
    curve: dict[int, float] = field(default_factory=dict)
    paused: bool = True
    active: bool = False


def at(rung: int, *figures: float, first: int = 0) -> list[Entry]:
    return [Entry(first + index, {rung: figure}) for index, figure in enumerate(figures)]


def test_asha_promotes_the_best_third_from_the_top_down() -> None:
    asha = Asha(9)
    assert asha.pause(0) == 1
    assert asha.promotion(at(1, 0.5, 0.6)) is None
    assert asha.promotion(at(1, 0.5, 0.6, 0.4)) == (1, 3)
    trials = at(1, 0.5, 0.6, 0.4)
    trials[1].curve[3] = 0.7
    assert asha.promotion(trials) is None  # it waits for two more at 3
    trials += [Entry(number, {1: 0.9, 3: figure}) for number, figure in ((3, 0.8), (4, 0.6))]
    assert asha.promotion(trials) == (3, 9)


def test_asha_promotes_one_of_few_when_it_closes() -> None:
    assert Asha(9).promotion(at(1, 0.5, 0.6), closing=True) == (1, 3)
    assert Asha(9).promotion([], closing=True) is None


def test_a_trial_that_has_ended_is_not_promoted_and_equals_go_by_number() -> None:
    trials = at(1, 0.5, 0.5, 0.5)
    assert Asha(9).promotion(trials) == (0, 3)
    trials[0].paused = False
    assert Asha(9).promotion(trials) is None


def test_promotable_is_the_first_that_waits_among_the_best() -> None:
    generator = random.Random(1)
    for _ in range(300):
        trials = [
            Entry(number, {1: generator.randrange(6) / 10, **({3: 0.5} if generator.random() < 0.3 else {})}, generator.random() < 0.6)
            for number in range(generator.randrange(12))
        ]
        for at_least_one in (False, True):
            ranking = sorted(trials, key=lambda trial: (-trial.curve[1], trial.number))
            places = max(len(trials) // 3, at_least_one)
            expected = [trial.number for trial in ranking[:places] if trial.paused and 3 not in trial.curve]
            assert promotable(trials, 1, 3, at_least_one) == (expected[0] if expected else None)


def test_hyperband_waits_for_a_trial_that_is_on_its_way() -> None:
    trials = at(1, *(number / 10 for number in range(9)))
    trials[0].curve, trials[0].paused, trials[0].active = {}, False, True
    assert Hyperband(9).promotion(trials) is None
    assert Hyperband(9).promotion(trials, closing=True) is None
    trials[0].active = False  # it has failed
    assert Hyperband(9).promotion(trials) == (8, 3)


def test_hyperband_waits_for_its_bracket() -> None:
    hyperband = Hyperband(9)
    assert hyperband.brackets() == [(9, [1, 3, 9]), (5, [3, 9]), (3, [9])]
    assert [hyperband.pause(number) for number in (0, 8, 9, 13, 14, 16, 17)] == [1, 1, 3, 3, 9, 9, 1]
    trials = at(1, *(number / 10 for number in range(8)))
    assert hyperband.promotion(trials) is None
    trials = at(1, *(number / 10 for number in range(9)))
    assert hyperband.promotion(trials) == (8, 3)
    for number in (8, 7, 6):
        trials[number].curve[3] = 0.9
    assert hyperband.promotion(trials) == (6, 9)
    assert hyperband.promotion(at(1, 0.1, 0.2), closing=True) == (1, 3)


def test_the_median_rule() -> None:
    median = Median(9)
    others = [Entry(number, {1: 0.5, 2: 0.6}) for number in range(5)]
    assert median.pause(0) == 9
    assert median.stops(Entry(9, {1: 0.1, 2: 0.5}), others)
    assert not median.stops(Entry(9, {1: 0.1, 2: 0.7}), others)
    assert not median.stops(Entry(9, {1: 0.1}), others)  # too early
    assert not median.stops(Entry(9, {1: 0.1, 2: 0.5}), others[:4])  # too few


def test_without_a_scheduler_every_trial_ends() -> None:
    plain = Scheduler(9)
    assert plain.pause(0) == 9
    assert plain.promotion(at(1, 0.5, 0.6, 0.7), closing=True) is None


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (5, [1, 5]), (9, [1, 3, 9]), (10, [1, 3, 10]), (27, [1, 3, 9, 27])]
)
def test_rungs_end_with_the_trial(epochs: int, expected: list[int]) -> None:
    assert rungs(epochs, 3, 1) == expected


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("ash", 9), UnknownNameError, "Did you mean 'asha'"),
        (("asha", 9, 1), UsageError, "2 or more"),
        (("asha", 9, 3, 10), UsageError, "from 1 to 9"),
    ],
)
def test_bad_arguments(arguments: tuple[str, int], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        create_scheduler(*arguments)
