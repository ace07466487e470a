"""A comparison of optimizers, each tuned with the same budget: the experiment behind `zoo study optimizers`.

A cell is a data set, a family of models and an optimizer. In every cell as many trials are drawn from the optimizer's own
ranges, each is trained to its end, and the one with the best validation accuracy is trained again from seeds that the search has
not used. The test images are looked at after that, and decide nothing.

A study's directory holds

    study.json              what is compared, and with which budget
    cells/<data set>/<family>/<optimizer>/
        search/             the cell's search, as `tuning.search` keeps it
        trials.csv          its trials: present once the search has ended
        seed-<n>.json       one final training: present once it has ended
    study.csv, seeds.csv    a row per cell, and per final training
    portfolio.csv           the best configuration of each cell, as `tuning.priors` reads them
    report.md, report/      tables and figures

A study that was killed at any moment goes on when it is started again, and trains nothing twice but what was under way. It may be given
more data sets, families and optimizers later: a cell does not depend on the others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.priors import Prior, prior_row
from tuning.report import learning_rate_of
from tuning.result import TABLE, SearchResult, Trial, TrialTable
from tuning.spaces import configure, number_ranges, search_space
from tuning.storage import DirectoryLock
from tuning.study import Status, search
from zoo.datasets import dataset_info
from zoo.errors import StudyError, TrainingError, UsageError, unknown
from zoo.evaluation import evaluate
from zoo.files import write_text
from zoo.lab.claim import Interval
from zoo.lab.report import write_table
from zoo.optimizers import optimizer_info
from zoo.registry import list_models, model_info
from zoo.specs import Recipe, ScheduleName
from zoo.training import TrainingRun, load_test_data, load_training_data

if TYPE_CHECKING:
    from zoo.datasets import Dataset

PLAN, VERSION = "study.json", 1
CELLS, SEARCH = "cells", "search"
STUDY, SEEDS, PORTFOLIO = "study.csv", "seeds.csv", "portfolio.csv"
FAMILIES = ("sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn")
DATASETS = ("digits", "fashion_mnist")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion", "muon")
NAMES = ("datasets", "families", "optimizers")
SMALL = 2000  # training images, below which a data set has smaller batches, and more epochs and seeds
SEED = 0  # of the searches; the final trainings begin from the seeds after it
SAMPLER, SCHEDULER = "qmc", "none"  # the same for all: ranges are covered evenly, and each trial is trained to its end
SCHEDULE: ScheduleName = "constant"

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
class Plan:
    """What is compared, and with which budget; the budget is the same for every optimizer.

    Attributes:
        datasets: Names of data sets.
        families: Names of models, each with its default architecture.
        optimizers: Names of optimizers.
        trials: Per cell.
        epochs: Of each trial and of each final training; where None 20 on a small data set, otherwise 10.
        seeds: Final trainings per cell; where None 5 on a small data set, otherwise 3.
        batch_size: Images per step; where None 32 on a small data set, otherwise 128.

    Raises:
        UnknownNameError: No such data set, family or optimizer.
        UsageError: Nothing to compare, or a budget that is none.

    Example:
        >>> plan = Plan(("digits",), ("cnn",), ("sgd", "adam"))
        >>> len(plan.cells()), plan.recipe("digits", "cnn").epochs, plan.seeds_of("digits")
        (2, 20, (1, 2, 3, 4, 5))
    """

    datasets: tuple[str, ...] = DATASETS
    families: tuple[str, ...] = FAMILIES
    optimizers: tuple[str, ...] = OPTIMIZERS
    trials: int = 20
    epochs: int | None = None
    seeds: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
            if not getattr(self, name):
                raise UsageError(f"A study needs at least one name in {name}. Received: none.")
        families = [name for name in list_models() if model_info(name).family == name]
        for name in self.families:
            if name not in families:
                raise unknown("family", name, families, plural="families")
        for name in self.optimizers:
            optimizer_info(name)
        for name in self.datasets:
            dataset_info(name)
        for name, least in (("trials", 1), ("epochs", 1), ("seeds", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be {least} or more. Received: {value!r}.")

    def cells(self) -> list[Cell]:
        """Returns all cells in the order of work: per data set, every family with one optimizer, then with the next."""
        return [Cell(dataset, family, optimizer) for dataset in self.datasets for optimizer in self.optimizers for family in self.families]

    def recipe(self, dataset: str, family: str) -> Recipe:
        """Returns what all trials on a data set and family have in common."""
        small = _small(dataset)
        epochs = self.epochs or (20 if small else 10)
        batch_size = self.batch_size or (32 if small else 128)
        return Recipe(family, dataset, schedule=SCHEDULE, epochs=epochs, batch_size=batch_size, validate=True, seed=SEED)

    def seeds_of(self, dataset: str) -> tuple[int, ...]:
        """Returns the seeds of the final trainings on a data set."""
        count = self.seeds or (5 if _small(dataset) else 3)
        return tuple(range(SEED + 1, SEED + 1 + count))

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON-ready data; `Plan.from_dict` is its inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Builds a plan from `to_dict`'s data."""
        return cls(**{**data, **{name: tuple(data[name]) for name in NAMES}})


@dataclass(frozen=True)
class Cell:
    """One optimizer on one data set and family."""

    dataset: str
    family: str
    optimizer: str

    def directory(self, study: Path) -> Path:
        """Returns where the cell keeps its work."""
        return study / CELLS / self.dataset.strip("/").replace("/", "_") / self.family / self.optimizer


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


@dataclass(frozen=True)
class Progress:
    """How a study stands, for whoever watches.

    Attributes:
        number: Of the cell under way, from 1.
        cells: How many there are.
        cell: The cell under way.
        doing: What it is at, in words.
        left: Seconds until the end of the study, judged by the cells that are finished; infinite before there is one.
        ended: The cell has just been finished; None while it is under way.
    """

    number: int
    cells: int
    cell: Cell
    doing: str
    left: float
    ended: Measured | None = None


Watch = Callable[[Progress], None]


def run_study(plan: Plan, directory: str | Path, *, data_dir: str | Path | None = None, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Runs a study, or goes on with it, and writes its tables.

    Args:
        plan: What is compared.
        directory: Where everything of the study is kept.
        data_dir: Where TFDS keeps its data sets.
        watch: Called with a `Progress` after each epoch of a trial and each final training, and as cells end.

    Returns:
        A row per cell, as in `study.csv`.

    Raises:
        UsageError: The directory holds another study; the message says what differs.
        StudyError: What the directory holds cannot be read, or another process is at work in it.
        DatasetError: A data set cannot be loaded.

    Example:
        >>> import tempfile
        >>> plan = Plan(("digits",), ("relu_mlp",), ("sgd",), trials=1, epochs=1, seeds=2)
        >>> rows = run_study(plan, tempfile.mkdtemp())
        >>> rows[0]["optimizer"], rows[0]["trials"], rows[0]["seeds"]
        ('sgd', 1, 2)
    """
    directory = Path(directory)
    claim(directory, plan)
    lock = DirectoryLock(directory)
    try:
        write_plan(plan, directory)
        worker = _Worker(plan, directory, data_dir, watch)
        for number, cell in enumerate(plan.cells(), start=1):
            worker.finish(number, cell)
        return write_tables(plan, directory)
    finally:
        lock.release()


def claim(directory: Path, plan: Plan) -> None:
    """Makes a directory this study's, or finds that it is already; more data sets, families or optimizers than it had are no other study.

    Raises:
        UsageError: It holds another study, or something else.
        StudyError: What it holds cannot be read.
    """
    if not (directory / PLAN).is_file():
        if directory.is_dir() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty and holds no study: it has no {PLAN}. Choose another directory.")
        write_plan(plan, directory)
        return
    old, new = read_plan(directory).to_dict(), plan.to_dict()
    changed = [name for name in new if (set(old[name]) - set(new[name]) if name in NAMES else old[name] != new[name])]
    if changed:
        differences = "; ".join(f"{name}: {_short(old[name])} -> {_short(new[name])}" for name in changed)
        raise UsageError(
            f"{directory} holds another study ({differences}). Go on with it as it was by --resume, without other options, or with more "
            "names beside those that it has; or choose another directory."
        )


def write_plan(plan: Plan, directory: Path) -> None:
    """Writes what a directory's study compares."""
    write_text(directory / PLAN, json.dumps({"version": VERSION, **plan.to_dict()}, indent=2) + "\n")


def read_plan(directory: str | Path) -> Plan:
    """Reads what a directory's study compares.

    Raises:
        UsageError: There is no study.
        StudyError: What is there cannot be read.
    """
    path = Path(directory) / PLAN
    if not path.is_file():
        raise UsageError(f"{directory} holds no study to go on with: it has no {PLAN}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("version")
        if version != VERSION:
            raise ValueError(f"its version is {version!r}, not {VERSION}")
        return Plan.from_dict(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} cannot be read as a study ({error}). Choose another directory.") from None


def _short(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _small(dataset: str) -> bool:
    return dataset_info(dataset).splits["train"] < SMALL


# --- the work ---------------------------------------------------------------------------------------------------------


class _Worker:
    """Does what is left of each cell in turn."""

    def __init__(self, plan: Plan, directory: Path, data_dir: str | Path | None, watch: Watch | None) -> None:
        self.plan, self.directory, self.data_dir, self.watch = plan, directory, data_dir, watch
        self.images = lru_cache(maxsize=1)(self._images)
        self.spent: dict[Cell, float] = {}
        for cell in plan.cells():
            if (measured := read_cell(plan, directory, cell)) is not None:
                self.spent[cell] = seconds_of(measured)

    def finish(self, number: int, cell: Cell) -> None:
        """Searches, then trains from the seeds that are missing."""
        import keras

        self.number, self.cell, self.done = number, cell, 0
        if cell in self.spent:
            return
        place, base = cell.directory(self.directory), self.plan.recipe(cell.dataset, cell.family)
        if not (place / TABLE).is_file():
            search(
                base,
                optimizers=[cell.optimizer],
                study="optimizers",
                sampler=SAMPLER,
                scheduler=SCHEDULER,
                priors=False,
                trials=self.plan.trials,
                tensorboard=False,
                data_dir=self.data_dir,
                directory=place / SEARCH,
                watch=self._watch_trials,
            ).trials.to_csv(place / TABLE)
        best = best_trial(_read_search(base, place, cell))
        if best is not None:
            self._train(configure(base, best.config), place)
        measured = read_cell(self.plan, self.directory, cell)
        assert measured is not None
        self.spent[cell] = seconds_of(measured)
        keras.utils.clear_session(free_memory=False)  # a study has many cells, and the graphs of each are its own
        self._tell("finished", measured)

    def _images(self, dataset: str) -> tuple[Dataset, Dataset | None, Dataset]:
        recipe = self.plan.recipe(dataset, self.plan.families[0])
        return *load_training_data(recipe, self.data_dir), load_test_data(recipe, self.data_dir)

    def _train(self, recipe: Recipe, place: Path) -> None:
        """Trains from each seed that has no file yet; what is compiled is shared among them."""
        run = None
        seeds = self.plan.seeds_of(recipe.dataset)
        for index, seed in enumerate(seeds):
            path = place / f"seed-{seed}.json"
            self.done = self.plan.trials + index
            if path.is_file():
                continue
            self._tell(f"final training {index + 1} of {len(seeds)}")
            training, validation, test = self.images(recipe.dataset)
            started, seeded, diverged = time.perf_counter(), dataclasses.replace(recipe, seed=seed), False
            if run is None:
                run = TrainingRun(seeded, training, validation)
            else:
                run.restart(seeded)
            try:
                run.fit()
            except TrainingError:
                diverged = True
            accuracy = 0.0 if diverged else float(evaluate(run.trained_model(), test.images, test.labels)["accuracy"])
            curve = tuple(row["val_accuracy"] for row in run.history)
            seconds = round(time.perf_counter() - started, 3)
            final = Final(seed, 0.0 if diverged else curve[-1], accuracy, curve, run.steps, diverged, seconds)
            write_text(path, json.dumps(dataclasses.asdict(final), indent=2) + "\n")

    # -- what is told --------------------------------------------------------------------------------------------------

    def _watch_trials(self, status: Status) -> None:
        self.done = sum(record.state != "running" for record in status.records)
        self._tell(f"trial {min(self.done + 1, self.plan.trials)} of {self.plan.trials}")

    def _tell(self, doing: str, ended: Measured | None = None) -> None:
        if self.watch is not None:
            self.watch(Progress(self.number, len(self.plan.cells()), self.cell, doing, self._left(), ended))

    def _left(self) -> float:
        """Returns the seconds that the rest takes, at the rate of the finished cells that are most like each one."""
        missing = [cell for cell in self.plan.cells() if cell not in self.spent]
        if missing and not self.spent:
            return math.inf
        left = sum(self._expected(cell) for cell in missing)
        if self.cell in missing:
            left -= self._expected(self.cell) * self.done / self._runs(self.cell)
        return left

    def _expected(self, cell: Cell) -> float:
        for alike in ((cell.dataset, cell.family), ("", cell.family), ("", "")):
            rates = [
                seconds / self._work(other)
                for other, seconds in self.spent.items()
                if (other.dataset if alike[0] else "", other.family if alike[1] else "") == alike
            ]
            if rates:
                break
        return statistics.median(rates) * self._work(cell)

    def _runs(self, cell: Cell) -> int:
        return self.plan.trials + len(self.plan.seeds_of(cell.dataset))

    def _work(self, cell: Cell) -> int:
        """Returns how many images a cell shows to its models."""
        return self._runs(cell) * self.plan.recipe(cell.dataset, cell.family).epochs * dataset_info(cell.dataset).splits["train"]


# --- what was measured ------------------------------------------------------------------------------------------------


def read_cell(plan: Plan, directory: Path, cell: Cell) -> Measured | None:
    """Returns what came of a cell; None before it is finished.

    Raises:
        StudyError: What it left cannot be read.
    """
    place = cell.directory(directory)
    if not (place / TABLE).is_file():
        return None
    found = _read_search(plan.recipe(cell.dataset, cell.family), place, cell)
    if best_trial(found) is None:
        return Measured(cell, found, ())
    files = [place / f"seed-{seed}.json" for seed in plan.seeds_of(cell.dataset)]
    return Measured(cell, found, tuple(_read_final(file) for file in files)) if all(file.is_file() for file in files) else None


def _read_search(base: Recipe, place: Path, cell: Cell) -> SearchResult:
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
