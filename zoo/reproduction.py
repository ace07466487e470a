"""Runs the recipe behind a shipped weight again and compares the result with its card."""

from __future__ import annotations

import dataclasses
import math
import shlex
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import UsageError
from zoo.factory import RUN_CARD
from zoo.progress import progress_callback
from zoo.recipes import load_recipe
from zoo.registry import resolve
from zoo.training import TrainingRun, claim, load_test_data, load_training_data
from zoo.weights import pretrained_card

if TYPE_CHECKING:
    import keras

    from zoo.specs import Recipe

DIRECTORY = Path("runs") / "reproduce"


@dataclass(frozen=True)
class Reproduction:
    """What came of running a recipe again.

    Attributes:
        name: `model.tag`.
        accuracies: Test accuracy of each seed that was run to its end, 0..1, seed 0 first.
        claimed: The card's mean test accuracy.
        low: Lower end of the card's spread; see `spread`.
        high: Its upper end.
        unfinished: `(seed, epochs done, epochs in all)` of the run that the budget cut off, or None.
        command: Goes on where this stopped, with the same budget; None where nothing is left to do, or the runs stand elsewhere
            than the command would look.
    """

    name: str
    accuracies: tuple[float, ...]
    claimed: float
    low: float
    high: float
    unfinished: tuple[int, int, int] | None
    command: str | None = None

    @property
    def within(self) -> bool | None:
        """Whether every seed lies within the spread; None before the first has ended."""
        return all(self.low <= accuracy <= self.high for accuracy in self.accuracies) if self.accuracies else None

    @property
    def difference(self) -> float | None:
        """Mean accuracy minus the card's, or None before the first seed has ended."""
        return statistics.fmean(self.accuracies) - self.claimed if self.accuracies else None


def reproduce(
    name: str, *, seeds: int = 1, budget: float | None = None, directory: Path = DIRECTORY, data_dir: str | Path | None = None
) -> Reproduction:
    """Trains a shipped weight's recipe again, seed by seed, and compares.

    Args:
        name: `model.tag`.
        seeds: How many, from seed 0 on, above 0.
        budget: Seconds after which the run pauses at the end of its epoch, so that it may last an epoch longer; None for no limit.
            The next call goes on.
        directory: Where the runs stand, one folder per seed.
        data_dir: Where TFDS keeps its data sets.

    Raises:
        UsageError: No tag, or seeds or budget not above 0.
        UnknownNameError: No such weight.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> result = reproduce("relu_mlp.digits", budget=1, directory=Path(tempfile.mkdtemp()))
        >>> result.unfinished is None or result.unfinished[2]
        100
    """
    spec, weights = resolve(name)
    if weights is None:
        tags = ", ".join(f"{name}.{tag.tag}" for tag in spec.pretrained)
        raise UsageError(f"Only a shipped weight can be reproduced. Received: the model {name!r}. Its weights: {tags}.")
    if seeds < 1 or (budget is not None and not budget > 0):
        raise UsageError(f"seeds and budget must be above 0. Received: seeds={seeds}, budget={budget}.")
    card, recipe, deadline = pretrained_card(spec.name, weights), load_recipe(name), None if budget is None else time.monotonic() + budget
    accuracies: list[float] = []
    unfinished = None
    for seed in range(seeds):
        result = _run(dataclasses.replace(recipe, seed=seed), directory / f"{name}-seed{seed}", deadline, data_dir)
        if isinstance(result, int):
            unfinished = (seed, result, recipe.epochs)
            break
        accuracies.append(result.results["test"]["accuracy"])
    low, high = spread(card.seeds["test_accuracy"], card.results["test"]["images"])
    command = _command(name, seeds, budget, data_dir) if unfinished and directory == DIRECTORY else None
    return Reproduction(name, tuple(accuracies), card.seeds["mean"], low, high, unfinished, command)


def spread(accuracies: list[float], images: int) -> tuple[float, float]:
    """Returns the interval in which one more seed's test accuracy lies with a probability of about 95 %.

    The prediction interval of Student's t for a new observation, `mean ± t(n - 1) * s * sqrt(1 + 1/n)`. `s` is the seeds'
    standard deviation, but at least half the binomial standard error of one evaluation, `sqrt(mean * (1 - mean) / images)`:
    two runs differ in which test images they miss even where their counts happen to agree. With one seed `s` is that
    standard error itself and t is the normal's 1.96.

    Args:
        accuracies: One per seed, 0..1.
        images: Test images behind each.

    Example:
        >>> low, high = spread([0.990, 0.991, 0.992], 10_000)
        >>> round(low, 4), round(high, 4)
        (0.986, 0.996)
    """
    from scipy.stats import t

    count, mean = len(accuracies), statistics.fmean(accuracies)
    noise = math.sqrt(max(mean * (1 - mean), 1 / images) / images)
    deviation = max(statistics.stdev(accuracies), noise / 2) if count > 1 else noise
    factor = float(t.ppf(0.975, count - 1)) if count > 1 else 1.96
    reach = factor * deviation * math.sqrt(1 + 1 / count)
    return mean - reach, min(1.0, mean + reach)


def _command(name: str, seeds: int, budget: float | None, data_dir: str | Path | None) -> str:
    words = ["zoo", "reproduce", name, "--seeds", str(seeds)]
    words += [] if budget is None else ["--budget", f"{budget:g}s"]
    words += [] if data_dir is None else ["--data-dir", str(data_dir)]
    return shlex.join(words)


def _run(recipe: Recipe, directory: Path, deadline: float | None, data_dir: str | Path | None) -> Card | int:
    """The finished run's card, or the number of whole epochs where the deadline came first."""
    claim(directory, recipe)
    if (directory / RUN_CARD).is_file():
        return Card.read(directory / RUN_CARD)
    training, validation = load_training_data(recipe, data_dir)
    run = TrainingRun(recipe, training, validation, directory)
    run.restore()
    if deadline is None or time.monotonic() < deadline:
        run.fit(progress_callback(recipe, run.steps, run.history), _deadline(deadline))
    return run.finish(load_test_data(recipe, data_dir)) if run.epoch == recipe.epochs else run.epoch


def _deadline(deadline: float | None) -> keras.callbacks.Callback:
    import keras

    class Deadline(keras.callbacks.Callback):
        """Stops after the epoch in which the time is used up."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if deadline is not None and time.monotonic() >= deadline:
                self.model.stop_training = True

    return Deadline()
