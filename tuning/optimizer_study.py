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
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.optimizer_plan import SAMPLER, SCHEDULER, Cell, Plan, claim, write_plan
from tuning.optimizer_results import Final, Measured, best_trial, read_cell, read_search, seconds_of, write_tables
from tuning.result import TABLE
from tuning.spaces import configure
from tuning.storage import DirectoryLock
from tuning.study import Status, search
from zoo.datasets import dataset_info
from zoo.errors import TrainingError
from zoo.evaluation import evaluate
from zoo.files import write_text
from zoo.training import TrainingRun, load_test_data, load_training_data

if TYPE_CHECKING:
    from zoo.datasets import Dataset
    from zoo.specs import Recipe

SEARCH = "search"


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
        best = best_trial(read_search(base, place, cell))
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
