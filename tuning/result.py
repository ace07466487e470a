"""What a search found: its trials as a table, the best of them, what mattered, and the best one trained again."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.dispatch import Compilation
from zoo.errors import TrainingError, UsageError, unknown
from zoo.files import write_text
from zoo.specs import Recipe

if TYPE_CHECKING:
    from zoo.cards import Card

TABLE = "trials.csv"
COLUMNS = ("number", "state", "val_accuracy", "epochs", "seconds", "source", "config", "message")


@dataclass(frozen=True)
class Trial:
    """One configuration and what came of it.

    Attributes:
        number: In the order of the search, from 0.
        state: `completed`; `pruned`, because others did better by the same epoch; `paused`, where the search ended before that was
            decided; `stopped`, where it ended within an epoch; `diverged`; or `failed`.
        config: The point of the search space: what is active of it.
        recipe: What `zoo.train` needs to repeat it, for as many epochs as it was trained where the schedule allows that; None
            for another hypermodel than the zoo's.
        val_accuracy: After its last epoch, 0..1; None without one, and where it diverged or failed.
        epochs: Whole epochs trained.
        seconds: Wall time, building included.
        message: Why it diverged, failed or was pruned.
        curve: Epoch -> validation accuracy.
        source: `prior`, `default`, or the sampler that proposed it.
        step_seconds: Of `seconds`, those inside training steps.
        plain: Why it was trained by plain Keras in place of a compiled step; empty where it was not.
    """

    number: int
    state: str
    config: Mapping[str, Any]
    recipe: Recipe | None
    val_accuracy: float | None
    epochs: int
    seconds: float
    message: str = ""
    curve: Mapping[int, float] = field(default_factory=dict)
    source: str = ""
    step_seconds: float = 0.0
    plain: str = ""

    @property
    def optimizer(self) -> str:
        """The optimizer's name; empty where the space has none."""
        return str(self.config.get("optimizer", ""))

    def to_dict(self) -> dict[str, Any]:
        """Returns the trial as JSON-ready data."""
        data = {**dataclasses.asdict(dataclasses.replace(self, recipe=None)), "recipe": self.recipe and self.recipe.to_dict()}
        return {**data, "curve": {str(epoch): value for epoch, value in self.curve.items()}}


class TrialTable(tuple[Trial, ...]):
    """All trials of a search, in their order: a tuple that can be written as CSV and as JSON.

    Example:
        >>> trial = Trial(0, "completed", {"optimizer": "sgd"}, None, 0.5, 1, 0.25)
        >>> TrialTable([trial]).to_csv().splitlines()[1]
        '0,completed,0.5,1,0.25,,"{""optimizer"": ""sgd""}",'
        >>> TrialTable([trial]).rows()[0]["optimizer"]
        'sgd'
    """

    def rows(self) -> list[dict[str, Any]]:
        """Returns one flat dictionary per trial, a key per hyperparameter: what `pandas.DataFrame` takes."""
        columns = [column for column in COLUMNS if column != "config"]
        return [{**{column: getattr(trial, column) for column in columns}, **trial.config} for trial in self]

    def to_csv(self, path: str | Path | None = None) -> str:
        """Returns the table as CSV, the configuration as JSON in one column; writes it too where a path is given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**trial.to_dict(), "config": json.dumps(dict(trial.config))} for trial in self)
        return self._written(text.getvalue(), path)

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns the table as a JSON list of objects; writes it too where a path is given."""
        return self._written(json.dumps([trial.to_dict() for trial in self], indent=2) + "\n", path)

    @classmethod
    def from_csv(cls, path: str | Path, history: Sequence[Mapping[str, float]] = ()) -> TrialTable:
        """Reads what `to_csv` wrote, without recipes; the curves are those of a search's history.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp(), "trials.csv")
            >>> text = TrialTable([Trial(0, "completed", {"optimizer": "sgd"}, None, 0.5, 1, 0.25)]).to_csv(path)
            >>> TrialTable.from_csv(path, [{"trial": 0, "epoch": 1, "val_accuracy": 0.5}])[0].curve
            {1: 0.5}
        """
        curves: dict[int, dict[int, float]] = {}
        for row in history:
            if "val_accuracy" in row:
                curves.setdefault(int(row["trial"]), {})[int(row["epoch"])] = row["val_accuracy"]
        return cls(
            Trial(
                number=int(row["number"]),
                state=row["state"],
                config=json.loads(row["config"]),
                recipe=None,
                val_accuracy=float(row["val_accuracy"]) if row["val_accuracy"] else None,
                epochs=int(row["epochs"]),
                seconds=float(row["seconds"]),
                message=row["message"],
                curve=curves.get(int(row["number"]), {}),
                source=row["source"],
            )
            for row in csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8")))
        )

    def _written(self, text: str, path: str | Path | None) -> str:
        if path is not None:
            write_text(path, text)
        return text


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        trials: All trials, in the order of the search.
        directory: Holds `trials.csv`, `history.csv`, `best_recipe.json`, the study's database and the TensorBoard logs.
        seconds: Wall time of this call.
        overhead: Share of it that was not spent in training steps, 0..1.
        space: What each name of the space may be; see `tuning.spaces.describe`.
        ranges: The lowest and the highest value of every number in the space, and whether it is sampled by its logarithm.
        epochs: Of a whole trial.
        whole_only: Figures of shorter trials cannot be repeated by shorter training, because the learning rate follows a schedule.
        elapsed: Wall time of all calls on the directory.
        ended: Why the search ended.
        validation: How many samples the trials were validated on.
        compilation: What compiling took in this call, and what sharing programs saved; None where that is not known.
    """

    trials: TrialTable
    directory: Path
    seconds: float
    overhead: float = math.nan
    space: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float, bool]] = field(default_factory=dict)
    epochs: int = 0
    whole_only: bool = False
    elapsed: float = 0.0
    ended: str = ""
    validation: int = 0
    compilation: Compilation | None = None

    @property
    def ranking(self) -> list[Trial]:
        """The trials with a figure, the best first; of equals the earlier. With a schedule, whole trials come before others."""
        measured = [trial for trial in self.trials if trial.val_accuracy is not None]
        return sorted(measured, key=lambda trial: (self.whole_only and trial.state != "completed", -(trial.val_accuracy or 0), trial.number))

    @property
    def best(self) -> Trial:
        """The trial with the highest validation accuracy after its last epoch.

        Raises:
            TrainingError: No trial came to the end of an epoch.
        """
        ranking = self.ranking
        if not ranking:
            reasons = sorted({trial.message for trial in self.trials if trial.message})
            detail = f" The reasons: {'; '.join(reasons)}." if reasons else ""
            raise TrainingError(
                f"No trial came to the end of an epoch in {self.seconds:.0f} s. Give the search a larger budget, or fewer epochs per trial.{detail}"
            )
        return ranking[0]

    def interval(self) -> tuple[float, float] | None:
        """Returns the 95 % Wilson score interval of the best trial's validation accuracy; None where there is none to give."""
        from scipy.stats import binomtest

        accuracy = self.best.val_accuracy
        if not self.validation or accuracy is None:
            return None
        found = binomtest(round(accuracy * self.validation), self.validation).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def history(self) -> list[dict[str, float]]:
        """Returns a row per trial and epoch, in the order in which they ended: wall_seconds, trial, epoch, val_accuracy and others."""
        from tuning.history import read_history

        return read_history(self.directory)

    def importances(self, optimizer: str | None = None) -> dict[str, float]:
        """Returns how much of the variance of the validation accuracy each hyperparameter accounts for.

        By functional ANOVA over a random forest (Hutter, Hoos, Leyton-Brown, 2014, https://proceedings.mlr.press/v32/hutter14).

        Args:
            optimizer: Among its trials, so that its own arguments count too; among all where None, for what all have in common.

        Returns:
            Name -> share, 0..1, the largest first; shares sum to 1.

        Raises:
            UsageError: There are too few trials, or they all have the same figure.
            UnknownNameError: No trial has that optimizer.
        """
        from tuning.importances import importances

        trials: Sequence[Trial] = self.trials
        if optimizer is not None:
            trials = [trial for trial in trials if trial.optimizer == optimizer]
            if not trials:
                raise unknown("optimizer of the search", optimizer, {trial.optimizer for trial in self.trials}, plural="optimizers of the search")
        return importances(trials, self.ranges)

    def retrain(self, directory: str | Path | None = None, *, data_dir: str | Path | None = None, progress: bool = True, **changes: Any) -> Card:
        """Trains the best configuration anew, by `zoo.train`.

        Args:
            directory: The run directory; see `zoo.train`.
            data_dir: Where TFDS keeps its data sets.
            progress: Shows a progress bar.
            **changes: Fields of the recipe to change, such as `epochs=30`, or `validate=False` to train on all training images.

        Returns:
            The card of the trained model.

        Raises:
            UsageError: The search was not over a model of the zoo's.
        """
        from zoo.training import train

        if self.best.recipe is None:
            raise UsageError("Only a search over the zoo's models has recipes to train. Build the best configuration with your hypermodel.")
        return train(dataclasses.replace(self.best.recipe, **changes), directory, data_dir=data_dir, progress=progress)

    def on_the_edge(self) -> list[tuple[str, float, tuple[float, float]]]:
        """Returns the best trial's numbers that lie on the edge of their range: name, value, and a wider range to search.

        On the edge is within a twentieth of the range, on its own scale. The wider range reaches a factor of 10 further where
        the logarithm is sampled, otherwise half of the range; the 0 of a share, and the 1 of a count, are no edge.
        """
        return list(self._edges()) if self.ranking else []

    def _edges(self) -> Iterator[tuple[str, float, tuple[float, float]]]:
        for name, value in self.best.config.items():
            if name not in self.ranges:
                continue
            low, high, log = self.ranges[name]
            share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
            whole = isinstance(low, int)
            natural = low == whole and not log
            if share >= 0.95:
                factor = 2 if whole else 10
                yield name, value, (low, high * factor if log else high + (max(1, (high - low) // 2) if whole else (high - low) / 2))
            elif share <= 0.05 and not natural:
                yield name, value, (max(1, low // 2) if whole else low / 10 if log else low - (high - low) / 2, high)
