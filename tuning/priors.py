"""Configurations that are known to be good: what earlier searches found for each family and optimizer, with the evidence.

`tuning/priors/<family>.csv` has a row per configuration: optimizer, dataset, val_accuracy, epochs, seed, config (JSON, in the names
of the search space) and the command that found it. The rows of a data set are written anew by

    python -m tuning.priors relu_mlp --dataset digits --trials 20

which searches among each optimizer's arguments alone, so that no optimizer is starved by another, and keeps its best whole trial;
or all at once from a comparison that `zoo study optimizers` has made:

    python -m tuning.priors --study study-optimizers
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner

from zoo.datasets import dataset_info
from zoo.files import write_text
from zoo.optimizers import list_optimizers
from zoo.registry import model_info
from zoo.specs import Recipe

if TYPE_CHECKING:
    from keras_tuner.engine.hyperparameters import HyperParameter


@dataclass(frozen=True)
class Prior:
    """One configuration and its evidence.

    Attributes:
        optimizer: Its optimizer.
        dataset: What it was found on.
        val_accuracy: What it reached there, 0..1.
        epochs: After so many.
        seed: Of the search.
        config: In the names of the search space.
        command: What was run.
    """

    optimizer: str
    dataset: str
    val_accuracy: float
    epochs: int
    seed: int
    config: Mapping[str, Any]
    command: str


def read_priors(model: str, path: Path | None = None) -> list[Prior]:
    """Returns the rows of a model's family in the order of the file; none for a family without one.

    Args:
        model: Of the family.
        path: Another file than the shipped one; one with a column `family` may hold several.

    Example:
        >>> all(0 < prior.val_accuracy <= 1 for prior in read_priors("relu_mlp"))
        True
    """
    family = model_info(model).family
    file = path or resources.files("tuning") / "priors" / f"{family}.csv"
    if not file.is_file():
        return []
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return [
        Prior(
            row["optimizer"],
            row["dataset"],
            float(row["val_accuracy"]),
            int(row["epochs"]),
            int(row["seed"]),
            json.loads(row["config"]),
            row["command"],
        )
        for row in rows
        if row.get("family", family) == family
    ]


def first_configurations(
    space: keras_tuner.HyperParameters, model: str | None = None, dataset: str = "", data_dir: str | Path | None = None
) -> list[dict[str, Any]]:
    """Returns what a search begins with: a `config` each, and as `source` whether it is a `prior` or a `default`.

    First what is known to be good for each optimizer, the better before the worse; then the defaults of the optimizers without a
    row. The rows are those of the search's data set, or else of the one nearest in size: a learning rate that is right on one data
    set need not be on another. What a row leaves open takes the space's default, and a row with a value that the space does not have
    is passed over.

    Args:
        space: The search space.
        model: Of the zoo; None for another hypermodel, whose defaults come first.
        dataset: The search's.
        data_dir: Where TFDS keeps its data sets.
    """
    found: list[dict[str, Any]] = []
    priors = read_priors(model) if model else []
    source = nearest(dataset, dict.fromkeys(prior.dataset for prior in priors), data_dir)
    for prior in priors:
        config = complete(space, prior.config) if prior.dataset == source else None
        if config is not None and prior.optimizer not in [entry["config"].get("optimizer") for entry in found]:
            found.append({"source": "prior", "config": config})
    choices = next((list(entry.values) for entry in space.space if entry.name == "optimizer" and not entry.conditions), None)
    known = {entry["config"].get("optimizer") for entry in found}
    starts = [{}] if choices is None else [{"optimizer": name} for name in choices if name not in known]
    return [*found, *({"source": "default", "config": config} for start in starts if (config := complete(space, start)) is not None)]


def nearest(dataset: str, others: Iterable[str], data_dir: str | Path | None = None) -> str | None:
    """Returns which of some data sets has the most similar number of training images, of equals the first; itself where it is one of them.

    Example:
        >>> nearest("mnist", ["digits", "fashion_mnist"]), nearest("digits", ["mnist", "digits"]), nearest("digits", [])
        ('fashion_mnist', 'digits', None)
    """

    def size(name: str) -> float:
        return math.log(dataset_info(name, data_dir=data_dir).splits["train"])

    return min(others, key=lambda other: 0.0 if other == dataset else 1e-9 + abs(size(other) - size(dataset)), default=None)


def complete(space: keras_tuner.HyperParameters, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a configuration with the space's defaults where it has no value; None if one of its values is not in the space."""
    point = keras_tuner.HyperParameters()
    for hyperparameter in space.space:
        if not point.is_active(hyperparameter):
            continue
        value = config.get(hyperparameter.name, hyperparameter.default)
        if not _contains(hyperparameter, value):
            return None
        point.values[hyperparameter.name] = value
    return dict(point.values)


def _contains(hyperparameter: HyperParameter, value: Any) -> bool:
    if hasattr(hyperparameter, "min_value"):
        return bool(hyperparameter.min_value <= value <= hyperparameter.max_value)
    return value == hyperparameter.value if hasattr(hyperparameter, "value") else value in hyperparameter.values


# --- the command that writes them -------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the rows of one family and data set by searching for each optimizer's best configuration, or those that a study found."""
    parser = argparse.ArgumentParser(prog="python -m tuning.priors", description="Write the configurations that searches begin with.")
    parser.add_argument("family", nargs="?", help="a model's name")
    parser.add_argument("--dataset")
    parser.add_argument("--study", type=Path, metavar="DIR", help="of `zoo study optimizers`: takes its best configurations, of all its families")
    parser.add_argument("--trials", type=int, default=20, help="per optimizer (default: 20)")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--optimizers", type=lambda text: text.split(","), help="comma-separated names (default: all); the rows of others stay")
    parser.add_argument("--directory", type=Path, default=Path(str(resources.files("tuning"))) / "priors", help="where the CSV files lie")
    options = parser.parse_args(arguments)
    if options.study is not None:
        adopt_study(options.study, options.directory)
        return
    if options.family is None or options.dataset is None:
        parser.error("a family and --dataset are needed, or --study")
    for optimizer in options.optimizers or list_optimizers():
        prior = find_prior(options.family, options.dataset, optimizer, options.trials, options.epochs, options.batch_size)
        if prior is None:
            print(f"{optimizer}: no trial came to its end")
            continue
        print(f"{optimizer}: {prior.val_accuracy:.4f} by {json.dumps(prior.config)}", flush=True)
        write_prior(options.directory / f"{options.family}.csv", prior)


def adopt_study(study: Path, directory: Path) -> None:
    """Puts the best configurations that a study of optimizers found into the families' files."""
    portfolio = study / "portfolio.csv"
    if not portfolio.is_file():
        raise SystemExit(f"{study} holds no finished part of a study of optimizers: it has no {portfolio.name}.")
    with portfolio.open(newline="", encoding="utf-8") as file:
        families = list(dict.fromkeys(row["family"] for row in csv.DictReader(file)))
    for family in families:
        priors = read_priors(family, portfolio)
        for prior in priors:
            write_prior(directory / f"{family}.csv", prior)
        print(f"{family}: {len(priors)} rows")


def find_prior(family: str, dataset: str, optimizer: str, trials: int, epochs: int, batch_size: int) -> Prior | None:
    """Returns the best whole trial of a search among one optimizer's arguments; None if none came to its end."""
    from tuning.study import search

    recipe = Recipe(family, dataset, schedule="constant", epochs=epochs, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as directory:
        result = search(recipe, optimizers=[optimizer], study="optimizers", trials=trials, priors=False, tensorboard=False, directory=directory)
    best = next((trial for trial in result.ranking if trial.state == "completed"), None)
    if best is None or best.val_accuracy is None:
        return None
    command = f"zoo tune {family} --dataset {dataset} --study optimizers --optimizers {optimizer} --trials {trials}"
    command += f" --epochs {epochs} --batch-size {batch_size} --no-priors"
    return Prior(optimizer, dataset, round(best.val_accuracy, 6), best.epochs, recipe.seed, dict(best.config), command)


def prior_row(prior: Prior) -> dict[str, Any]:
    """Returns a prior as a row of its file, the configuration as JSON."""
    return {field.name: getattr(prior, field.name) for field in fields(Prior)} | {"config": json.dumps(dict(prior.config))}


def write_prior(path: Path, prior: Prior) -> None:
    """Puts a row into a family's file in the place of the one for the same data set and optimizer; the best of a data set comes first."""
    rows = [row for row in read_priors(path.stem, path) if (row.dataset, row.optimizer) != (prior.dataset, prior.optimizer)]
    datasets = list(dict.fromkeys([*(row.dataset for row in rows), prior.dataset]))
    rows = sorted([*rows, prior], key=lambda row: (datasets.index(row.dataset), -row.val_accuracy))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Prior))
    writer.writerows(prior_row(row).values() for row in rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
