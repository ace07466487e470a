"""The figures of a comparison of optimizers follow from the measurements by their rules, on data on both sides of each."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from tuning.optimizer_plan import Cell
from tuning.optimizer_report import envelope
from tuning.optimizer_results import WITHIN, Final, Measured, best_trial, sensitivity, steps_to, summarize, target_of
from tuning.result import SearchResult, Trial, TrialTable


def final(*curve: float, seed: int = 1, test: float = 0.9, diverged: bool = False) -> Final:
    return Final(seed, 0.0 if diverged else curve[-1], test, curve, 40, diverged, 1.0)


def trial(rate: float, accuracy: float | None, number: int = 0, state: str = "completed") -> Trial:
    return Trial(number, state, {"optimizer": "sgd", "sgd.learning_rate": rate}, None, accuracy, 1, 1.0)


def measured(optimizer: str, *finals: Final, trials: tuple[Trial, ...] = (trial(0.1, 0.9),)) -> Measured:
    result = SearchResult(TrialTable(trials), Path(), math.nan, ranges={f"{optimizer}.learning_rate": (1e-3, 1.0, True)})
    return Measured(Cell("digits", "cnn", optimizer), result, finals)


def test_steps_to_a_target_count_whole_epochs() -> None:
    run = final(0.5, 0.8, 0.9, 0.7)
    assert steps_to(run, 0.8) == 80
    assert steps_to(run, 0.8 + 1e-6) == 120
    assert math.isinf(steps_to(run, 0.9 + 1e-6))
    assert math.isinf(steps_to(dataclasses.replace(run, diverged=True), 0.8))


def test_the_target_is_a_share_of_the_best_optimizers_median() -> None:
    good = measured("sgd", final(0.9), final(0.8), final(0.2))
    bad = measured("adam", final(0.7), final(0.7), final(1.0))
    assert target_of([bad, good]) == pytest.approx(0.99 * 0.8)
    assert target_of([measured("sgd")]) is None


def test_steps_are_the_median_over_seeds_and_none_where_too_few_get_there() -> None:
    group = [
        measured("sgd", final(0.5, 0.9), final(0.9, 0.9), final(0.5, 0.9)),
        measured("adam", final(0.9, 0.8), final(0.5, 0.8), final(0.5, 0.8)),
    ]
    rows = summarize(group)
    assert [(row["steps_to_target"], row["seeds_at_target"]) for row in rows] == [(80, 3), (None, 1)]


def test_differences_are_to_the_best_by_validation_not_by_test() -> None:
    group = [
        measured("sgd", final(0.8, test=0.99), final(0.8, test=0.97)),
        measured("adam", final(0.9, test=0.95), final(0.9, test=0.93)),
    ]
    rows = summarize(group)
    assert rows[1]["difference_mean"] == 0
    assert rows[0]["difference_mean"] == pytest.approx(0.04)
    assert (rows[0]["difference_low"], rows[0]["difference_high"]) == pytest.approx((0.04, 0.04))


def test_sensitivity_is_the_width_of_the_rates_within_a_point_of_the_best() -> None:
    trials = [
        trial(1e-3, 0.9 - 2 * WITHIN),
        trial(1e-2, 0.9 - WITHIN),
        trial(0.1, 0.9),
        trial(1.0, 0.9 - WITHIN - 1e-6),
        trial(5.0, None, 4, "diverged"),
    ]
    assert sensitivity(trials) == (1e-2, 0.1)
    assert sensitivity(trials[2:]) == (0.1, 0.1)
    assert sensitivity(trials[4:]) is None
    row = summarize([measured("sgd", final(0.9), trials=tuple(trials))])[0]
    assert (row["decades"], row["decades_searched"], row["near_best"], row["diverged"]) == (1.0, 3.0, 0.4, 0.2)


def test_of_equal_trials_the_earlier_is_chosen_and_none_that_did_not_end() -> None:
    trials = (trial(0.1, 0.95, 0, "stopped"), trial(0.2, 0.9, 1), trial(0.3, 0.9, 2))
    best = best_trial(measured("sgd", trials=trials).search)
    assert best is not None
    assert best.number == 1


def test_a_final_training_that_diverged_counts_as_zero() -> None:
    row = summarize([measured("sgd", final(0.9), final(0.5, diverged=True, test=0.0))])[0]
    assert (row["val_mean"], row["test_mean"], row["diverged_seeds"]) == (0.45, 0.45, 1)


def test_the_curve_over_learning_rates_is_the_best_of_each_half_decade() -> None:
    assert envelope([trial(0.01, 0.8), trial(0.02, 0.7), trial(0.04, 0.9), trial(0.05, 0.6), trial(1.0, None, 4, "diverged")]) == [
        (0.01, 0.8),
        (0.04, 0.9),
    ]
