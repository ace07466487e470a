"""What was measured in a comparison of optimizers, and the figures that follow from it by `RULES`.

Nothing here trains: cells are read from a study's directory, and a row of figures is computed for each.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.optimizer_plan import SAMPLER, SCHEDULE, SCHEDULER, SEED, Cell, Plan
from tuning.priors import Prior, prior_row
from tuning.report import learning_rate_of
from tuning.result import TABLE, SearchResult, Trial, TrialTable
from tuning.spaces import number_ranges, search_space
from zoo.errors import StudyError
from zoo.lab.claim import Interval
from zoo.lab.report import write_table
from zoo.specs import Recipe

STUDY, SEEDS, PORTFOLIO = "study.csv", "seeds.csv", "portfolio.csv"

TARGET_SHARE = 0.99
WITHIN = 0.01
RULES: Mapping[str, str] = {
    "selection": "The configuration of a cell is its trial with the highest validation accuracy after the last epoch, of equals the earlier one.",
    "accuracy": "Mean over the final trainings with Student's 95 % interval; a final training that diverged counts as 0 %.",
    "difference": "Test accuracy less that of the optimizer with the highest mean final validation accuracy, paired by seed, with its 95 % interval: "
    "where the interval holds zero, no difference is shown.",
    "steps": "Updates until the validation accuracy first reaches the target, counted in whole epochs: the median over the final trainings, none "
    "where that is not reached. A training that diverged never reaches it. The target of a data set and family is "
    f"{TARGET_SHARE:.0%} of the highest median, over the optimizers, of the final validation accuracy.",
    "sensitivity": f"Decades between the lowest and the highest learning rate among the cell's trials whose validation accuracy is at most "
    f"{100 * WITHIN:.0f} point below the cell's best; besides it, the share of the cell's trials that are.",
    "diverged": "Share of a cell's trials whose loss became infinite or no number.",
}


@dataclass(frozen=True)
class Final:
    """One training of a cell's best configuration.

    Attributes:
        seed: Of the training.
        val_accuracy: After the last epoch, 0..1; 0 where it diverged.
        test_accuracy: The same on the test images.
        curve: Validation accuracy after each epoch.
        steps_per_epoch: Updates in one epoch.
        diverged: The loss became infinite or no number.
        seconds: Wall time, building included.
    """

    seed: int
    val_accuracy: float
    test_accuracy: float
    curve: tuple[float, ...]
    steps_per_epoch: int
    diverged: bool
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What came of a cell.

    Attributes:
        cell: The cell.
        search: Its trials, with the ranges that they were drawn from.
        finals: One per seed; none where no trial came to its end.
    """

    cell: Cell
    search: SearchResult
    finals: tuple[Final, ...]

    @property
    def best(self) -> Trial | None:
        """The trial that was chosen, by its validation accuracy; None where none came to its end."""
        return best_trial(self.search)


def read_cell(plan: Plan, directory: Path, cell: Cell) -> Measured | None:
    """Returns what came of a cell; None before it is finished.

    Raises:
        StudyError: What it left cannot be read.
    """
    place = cell.directory(directory)
    if not (place / TABLE).is_file():
        return None
    found = read_search(plan.recipe(cell.dataset, cell.family), place, cell)
    if best_trial(found) is None:
        return Measured(cell, found, ())
    files = [place / f"seed-{seed}.json" for seed in plan.seeds_of(cell.dataset)]
    return Measured(cell, found, tuple(_read_final(file) for file in files)) if all(file.is_file() for file in files) else None


def read_search(base: Recipe, place: Path, cell: Cell) -> SearchResult:
    """Returns a cell's trials, with the ranges that they were drawn from.

    Raises:
        StudyError: They cannot be read.
    """
    ranges = number_ranges(search_space(base.model, [cell.optimizer], study="optimizers"))
    try:
        trials = TrialTable.from_csv(place / TABLE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{place / TABLE} cannot be read ({error}). Remove it, and run the study again.") from None
    return SearchResult(trials, place, seconds=math.nan, ranges=ranges, epochs=base.epochs)


def _read_final(path: Path) -> Final:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Final(**{**data, "curve": tuple(data["curve"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} cannot be read ({error}). Remove it, and run the study again.") from None


def best_trial(found: SearchResult) -> Trial | None:
    """Returns the completed trial with the highest validation accuracy, of equals the earlier; None without one."""
    return next((trial for trial in found.ranking if trial.state == "completed"), None)


def seconds_of(measured: Measured) -> float:
    """Returns the wall time of a cell's trials and final trainings."""
    return sum(trial.seconds for trial in measured.search.trials) + sum(final.seconds for final in measured.finals)


def steps_to(final: Final, target: float) -> float:
    """Returns the updates until the validation accuracy first reached a target, in whole epochs; infinite if it never did, or diverged.

    Example:
        >>> final = Final(1, 0.9, 0.9, (0.5, 0.9, 0.8), 40, False, 1.0)
        >>> steps_to(final, 0.8), steps_to(final, 0.95)
        (80, inf)
    """
    if final.diverged:
        return math.inf
    return next((epoch * final.steps_per_epoch for epoch, accuracy in enumerate(final.curve, start=1) if accuracy >= target), math.inf)


def target_of(cells: Sequence[Measured]) -> float | None:
    """Returns the validation accuracy that counts as reached, among the optimizers of one data set and family; see `RULES`.

    Example:
        >>> def cell(*accuracies):
        ...     finals = tuple(Final(seed, value, 0.0, (value,), 1, False, 1.0) for seed, value in enumerate(accuracies))
        ...     return Measured(Cell("digits", "cnn", "sgd"), None, finals)
        >>> round(target_of([cell(0.9, 0.8, 0.1), cell(0.7, 0.7, 1.0)]), 3)
        0.792
    """
    medians = [statistics.median(final.val_accuracy for final in cell.finals) for cell in cells if cell.finals]
    return TARGET_SHARE * max(medians) if medians else None


def near_best(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the completed trials whose validation accuracy is at most `WITHIN` below the best."""
    known = [trial for trial in trials if trial.state == "completed" and trial.val_accuracy is not None]
    best = max((trial.val_accuracy or 0.0 for trial in known), default=0.0)
    return [trial for trial in known if (trial.val_accuracy or 0.0) >= best - WITHIN - 1e-9]


def sensitivity(trials: Sequence[Trial]) -> tuple[float, float] | None:
    """Returns the lowest and the highest learning rate among the trials that are near the best; None where there are none.

    Example:
        >>> rates = {0.001: 0.5, 0.01: 0.92, 0.1: 0.925, 1.0: 0.9}
        >>> config = lambda rate: {"optimizer": "sgd", "sgd.learning_rate": rate}
        >>> sensitivity([Trial(0, "completed", config(rate), None, accuracy, 1, 1.0) for rate, accuracy in rates.items()])
        (0.01, 0.1)
    """
    rates = [rate for trial in near_best(trials) if (rate := learning_rate_of(trial)) is not None]
    return (min(rates), max(rates)) if rates else None


def groups_of(plan: Plan, directory: Path) -> Iterator[list[Measured]]:
    """Yields, for each data set and family, its finished cells in the plan's order of optimizers."""
    for dataset in plan.datasets:
        for family in plan.families:
            found = (read_cell(plan, directory, Cell(dataset, family, optimizer)) for optimizer in plan.optimizers)
            yield [measured for measured in found if measured is not None]


def summarize(group: Sequence[Measured]) -> list[dict[str, Any]]:
    """Returns a row of figures per optimizer of one data set and family, by the rules in `RULES`; None where there is no figure."""
    target = target_of(group)
    known = [measured for measured in group if measured.finals]
    leader = max(known, key=lambda measured: statistics.mean(final.val_accuracy for final in measured.finals), default=None)
    return [_row(measured, leader, target) for measured in group]


def _row(measured: Measured, leader: Measured | None, target: float | None) -> dict[str, Any]:
    trials, finals, best = measured.search.trials, measured.finals, measured.best
    states = [trial.state for trial in trials]
    test, other = [final.test_accuracy for final in finals], [final.test_accuracy for final in leader.finals] if leader else []
    reached = [steps_to(final, target) for final in finals] if target is not None else []
    steps = statistics.median(reached) if reached else math.inf
    rates = sensitivity(trials)
    low, high, _ = measured.search.ranges[f"{measured.cell.optimizer}.learning_rate"]
    return {
        **dataclasses.asdict(measured.cell),
        "trials": len(trials),
        "trained_epochs": sum(trial.epochs for trial in trials),
        "seeds": len(finals),
        **_interval("val", [final.val_accuracy for final in finals]),
        **_interval("test", test),
        **_interval("difference", [value - reference for value, reference in zip(test, other, strict=True)] if finals else []),
        "diverged_seeds": sum(final.diverged for final in finals),
        "target": None if target is None else round(target, 6),
        "steps_to_target": int(steps) if math.isfinite(steps) else None,
        "seeds_at_target": sum(math.isfinite(value) for value in reached),
        "learning_rate": None if best is None else learning_rate_of(best),
        "learning_rate_low": rates and rates[0],
        "learning_rate_high": rates and rates[1],
        "decades": rates and round(math.log10(rates[1] / rates[0]), 4),
        "decades_searched": round(math.log10(high / low), 4),
        "near_best": round(len(near_best(trials)) / len(trials), 4),
        "diverged": round(states.count("diverged") / len(trials), 4),
        "failed": round(states.count("failed") / len(trials), 4),
        "on_the_edge": " ".join(name for name, _, _ in measured.search.on_the_edge()),
        "seconds": round(seconds_of(measured), 1),
        "config": json.dumps(dict(best.config)) if best else "",
    }


def _interval(name: str, values: Sequence[float]) -> dict[str, float | None]:
    found = Interval.of(values) if values else None
    return {f"{name}_{end}": None if found is None else round(getattr(found, end), 6) for end in ("mean", "low", "high")}


def write_tables(plan: Plan, directory: Path) -> list[dict[str, Any]]:
    """Writes `study.csv`, `seeds.csv` and `portfolio.csv` of the cells that are finished.

    Returns:
        The rows of `study.csv`.
    """
    groups = [group for group in groups_of(plan, directory) if group]
    rows = [row for group in groups for row in summarize(group)]
    cells = [(measured, target_of(group)) for group in groups for measured in group]
    seeds = [_seed_row(measured.cell, final, target) for measured, target in cells if target is not None for final in measured.finals]
    priors = [{"family": measured.cell.family, **prior_row(prior)} for measured, _ in cells if (prior := portfolio(plan, measured))]
    for name, found in ((STUDY, rows), (SEEDS, seeds), (PORTFOLIO, priors)):
        if found:
            write_table(directory / name, found)
    return rows


def _seed_row(cell: Cell, final: Final, target: float) -> dict[str, Any]:
    row = dataclasses.asdict(final)
    del row["curve"]
    steps = steps_to(final, target)
    return {**dataclasses.asdict(cell), **row, "steps_to_target": int(steps) if math.isfinite(steps) else None}


def portfolio(plan: Plan, measured: Measured) -> Prior | None:
    """Returns a cell's best configuration as searches begin with it, with the command that finds it; None where there is none."""
    best, cell = measured.best, measured.cell
    if best is None or best.val_accuracy is None:
        return None
    recipe = plan.recipe(cell.dataset, cell.family)
    command = f"zoo tune {cell.family} --dataset {cell.dataset} --study optimizers --optimizers {cell.optimizer} --trials {plan.trials}"
    command += f" --epochs {recipe.epochs} --batch-size {recipe.batch_size} --sampler {SAMPLER} --scheduler {SCHEDULER} --schedule {SCHEDULE}"
    return Prior(cell.optimizer, cell.dataset, round(best.val_accuracy, 6), best.epochs, SEED, dict(best.config), f"{command} --no-priors")
