"""A search: trials of recipes under a budget, ranked by validation accuracy, with the best as a recipe."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

from tuning.hypermodel import ZooHyperModel
from tuning.spaces import Study, search_space
from zoo.errors import TrainingError, UsageError
from zoo.files import write_text
from zoo.specs import Recipe
from zoo.training import TrainingRun, load_training_data, write_recipe

if TYPE_CHECKING:
    from zoo.datasets import Dataset

BEST_RECIPE, SETTINGS, TABLE, PROJECT = "best_recipe.json", "search.json", "trials.csv", "keras_tuner"
OBJECTIVE = "val_accuracy"


@dataclass(frozen=True)
class Trial:
    """One configuration and what came of it.

    Attributes:
        number: In the order of the search, from 0.
        state: `completed`; `failed`, with the reason in `message`; or `stopped`, when the budget ended before the trial did.
        config: The point of the search space.
        recipe: What `zoo.train` needs to repeat it.
        val_accuracy: After the last epoch, 0..1; None unless completed.
        epochs: Whole epochs trained.
        seconds: Wall time, building included.
        message: Why the trial failed.
    """

    number: int
    state: str
    config: Mapping[str, Any]
    recipe: Recipe
    val_accuracy: float | None
    epochs: int
    seconds: float
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the trial as JSON-ready data."""
        return {**dataclasses.asdict(dataclasses.replace(self, recipe=None)), "recipe": self.recipe.to_dict()}  # type: ignore[arg-type]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        trials: All trials, in the order of the search.
        directory: Holds `trials.csv`, `best_recipe.json` and KerasTuner's own project.
        seconds: Wall time of this call.
    """

    trials: tuple[Trial, ...]
    directory: Path
    seconds: float

    @property
    def ranking(self) -> list[Trial]:
        """The completed trials, the best first; of equals the earlier."""
        return sorted(
            (trial for trial in self.trials if trial.val_accuracy is not None), key=lambda trial: (-(trial.val_accuracy or 0), trial.number)
        )

    @property
    def best(self) -> Trial:
        """The completed trial with the highest validation accuracy.

        Raises:
            TrainingError: No trial was completed.
        """
        if not self.ranking:
            reasons = {trial.message for trial in self.trials if trial.message}
            detail = f" The reasons: {'; '.join(sorted(reasons))}." if reasons else ""
            raise TrainingError(f"No trial was completed in {self.seconds:.0f} s. Give the search a larger budget or fewer epochs per trial.{detail}")
        return self.ranking[0]


def search(
    recipe: Recipe,
    *,
    optimizers: Sequence[str] | None = None,
    study: Study = "joint",
    budget: float | None = None,
    trials: int | None = None,
    directory: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Searches for the configuration with the best validation accuracy.

    Every optimizer gets its first trial with its default arguments; then KerasTuner's random search draws from the whole
    space. Each trial trains with `zoo.train`'s own code on the training images less the validation split, and is judged
    by its last epoch, so that training the best recipe repeats its figure. The test images are not touched.

    Args:
        recipe: The model, the data set, and everything the search does not vary.
        optimizers: The optimizers to choose from; all of the zoo's where None.
        study: What varies: `"optimizers"`, `"architecture"` or `"joint"`; see `tuning.search_space`.
        budget: Seconds, from this call on; a trial that would outlast it is stopped.
        trials: Total number of trials, those of an earlier call on the same directory included.
        directory: Where the search keeps its state; `runs/search-<model>-<dataset>-<fingerprint>` where None. A search that
            stands there already goes on.
        data_dir: Where TFDS keeps its data sets.
        on_trial: Called with each trial as it ends.

    Returns:
        All trials; also written to `trials.csv`, and the best one's recipe to `best_recipe.json`.

    Raises:
        UsageError: Neither budget nor trials, or one that is not above 0; or the directory holds a search of something else.
        UnknownNameError: No such model, optimizer or study.

    Example:
        >>> import tempfile, tuning, zoo
        >>> recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 32}, epochs=1)
        >>> result = tuning.search(recipe, optimizers=["sgd", "adam"], study="optimizers", trials=2, directory=tempfile.mkdtemp())
        >>> [trial.recipe.optimizer for trial in result.trials]
        ['sgd', 'adam']
    """
    started = time.monotonic()
    _check_limit("budget", budget)
    _check_limit("trials", trials)
    if budget is None and trials is None:
        raise UsageError("A search needs a limit: budget, in seconds, or trials.")
    recipe = dataclasses.replace(recipe, validate=True)
    space = search_space(recipe.model, optimizers, study=study)
    names = space._hps["optimizer"][0].values
    directory = Path(directory) if directory is not None else default_directory(recipe, names, study)
    _claim(directory, {"recipe": recipe.to_dict(), "optimizers": list(names), "study": study})
    training, validation = load_training_data(recipe, data_dir)
    assert validation is not None
    deadline = math.inf if budget is None else started + budget
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "currentThread", DeprecationWarning)
        warnings.filterwarnings("ignore", "All-NaN axis", RuntimeWarning)  # a trial without a figure
        oracle = _Oracle(names, deadline, objective=keras_tuner.Objective(OBJECTIVE, "max"), max_trials=trials, seed=recipe.seed + 1)
        hypermodel = ZooHyperModel(recipe, training, names, study)
        tuner = _Tuner(hypermodel, oracle, directory, training, validation, deadline, on_trial)
        try:
            with _quiet():
                tuner.search(verbose=0)
        finally:
            result = SearchResult(tuner.finished(), directory, time.monotonic() - started)
            _write(result)
    return result


def default_directory(recipe: Recipe, optimizers: Sequence[str], study: Study) -> Path:
    """Returns the directory that belongs to a search: another recipe, optimizer or study gives another."""
    import hashlib

    digest = hashlib.sha256(json.dumps([recipe.to_dict(), list(optimizers), study]).encode()).hexdigest()[:12]
    return Path("runs") / f"search-{recipe.model}-{Path(recipe.dataset).name}-{digest}"


def _check_limit(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise UsageError(f"{name} must be above 0. Received: {value!r}.")


def _claim(directory: Path, settings: Mapping[str, Any]) -> None:
    """Makes the directory this search's, or raises if it is another's."""
    path = directory / SETTINGS
    if not path.is_file():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != settings:
        changes = ", ".join(f"{key} {found.get(key)!r} -> {value!r}" for key, value in settings.items() if found.get(key) != value)
        raise UsageError(f"{directory} holds a search of something else ({changes}). Choose another directory.")


def _write(result: SearchResult) -> None:
    """Writes the table of trials, and the best recipe, atomically."""
    table = io.StringIO()
    columns = ("number", "state", "val_accuracy", "epochs", "seconds", "config", "message")
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**trial.to_dict(), "config": json.dumps(trial.config)} for trial in result.trials)
    write_text(result.directory / TABLE, table.getvalue())
    if result.ranking:
        write_recipe(result.best.recipe, result.directory / BEST_RECIPE)


class _Oracle(keras_tuner.oracles.RandomSearchOracle):
    """KerasTuner's random search, after one trial with the defaults of each optimizer, until the deadline."""

    def __init__(self, optimizers: Sequence[str], deadline: float, **kwargs: Any) -> None:
        super().__init__(max_consecutive_failed_trials=10**9, **kwargs)  # a failed trial is a result, no reason to end
        self.optimizers, self.deadline = optimizers, deadline

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if time.monotonic() >= self.deadline:
            return {"status": "STOPPED", "values": None}
        first = len(self.start_order)
        if first >= len(self.optimizers):
            return super().populate_space(trial_id)
        defaults = keras_tuner.HyperParameters()
        for hyperparameter in self.get_space().space:
            if defaults.is_active(hyperparameter):
                defaults.values[hyperparameter.name] = hyperparameter.default
            if hyperparameter.name == "optimizer":
                defaults.values["optimizer"] = self.optimizers[first]
        return {"status": "RUNNING", "values": defaults.values}


class _Tuner(keras_tuner.Tuner):
    """Runs each trial as `zoo.train` would, and keeps what came of it in the trial's record."""

    def __init__(
        self,
        hypermodel: ZooHyperModel,
        oracle: _Oracle,
        directory: Path,
        training: Dataset,
        validation: Dataset,
        deadline: float,
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self.training, self.validation, self.deadline, self.on_trial = training, validation, deadline, on_trial
        with _quiet():
            super().__init__(oracle, hypermodel, directory=str(directory), project_name=PROJECT)

    def run_trial(self, trial: keras_tuner.engine.trial.Trial, *args: Any, **kwargs: Any) -> dict[str, float]:
        recipe = self.hypermodel.configure(trial.hyperparameters)
        started = time.monotonic()
        kept = {"number": len(self.oracle.start_order) - 1, "state": "completed", "message": "", "epochs": 0}
        run = None
        try:
            run = TrainingRun(recipe, self.training, self.validation)
            run.fit(_Deadline(self.deadline))
            return {OBJECTIVE: run.history[-1]["val_accuracy"]}
        except _OutOfTime:
            kept |= {"state": "stopped", "message": "the budget ended"}
        except Exception as error:
            kept |= {"state": "failed", "message": str(error).strip().partition("\n")[0] or type(error).__name__}
        finally:
            kept |= {"epochs": 0 if run is None else run.epoch, "seconds": round(time.monotonic() - started, 3), "recipe": recipe.to_dict()}
            trial.kept = kept
            self._keep(trial)
            keras.backend.clear_session()
        return {OBJECTIVE: math.nan}  # KerasTuner takes this for a failed trial, and goes on

    def on_trial_end(self, trial: keras_tuner.engine.trial.Trial) -> None:
        super().on_trial_end(trial)
        if self.on_trial:
            self.on_trial(self.finished()[-1])

    def finished(self) -> tuple[Trial, ...]:
        """All trials that have ended, in order, those of earlier calls included."""
        return tuple(
            sorted((self._read(trial) for trial in self.oracle.trials.values() if self._kept(trial).is_file()), key=lambda trial: trial.number)
        )

    def _kept(self, trial: keras_tuner.engine.trial.Trial) -> Path:
        return Path(self.get_trial_dir(trial.trial_id)) / "result.json"

    def _keep(self, trial: keras_tuner.engine.trial.Trial) -> None:
        write_text(self._kept(trial), json.dumps(trial.kept))

    def _read(self, trial: keras_tuner.engine.trial.Trial) -> Trial:
        kept = json.loads(self._kept(trial).read_text(encoding="utf-8"))
        active = {name: value for name, value in trial.hyperparameters.values.items() if trial.hyperparameters.is_active(name)}
        recipe = Recipe.from_dict(kept.pop("recipe"))
        return Trial(config=active, recipe=recipe, val_accuracy=trial.score if kept["state"] == "completed" else None, **kept)


class _OutOfTime(Exception):
    """The budget ended while a trial was running."""


class _Deadline(keras.callbacks.Callback):
    """Ends a trial at the deadline."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() >= self.deadline:
            raise _OutOfTime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what KerasTuner prints: that it takes up a project again, and the traceback of every trial that was stopped."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
