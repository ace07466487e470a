"""Configurations that are known to be good: what earlier searches found for each family and optimizer, with the evidence.

`tuning/priors/<family>.csv` has a row per configuration: optimizer, dataset, val_accuracy, epochs, seed, config (JSON, in the names
of the search space) and the command that found it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import keras_tuner

from zoo.registry import model_info

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


def read_priors(model: str) -> list[Prior]:
    """Returns the rows of a model's family, the most accurate of each data set first; none for a family without a file.

    Example:
        >>> all(0 < prior.val_accuracy <= 1 for prior in read_priors("relu_mlp"))
        True
    """
    file = resources.files("tuning") / "priors" / f"{model_info(model).family}.csv"
    if not file.is_file():
        return []
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    priors = [
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
    ]
    return sorted(priors, key=lambda prior: (prior.dataset, -prior.val_accuracy))


def first_configurations(space: keras_tuner.HyperParameters, model: str | None = None, dataset: str = "") -> list[dict[str, Any]]:
    """Returns what a search begins with: a `config` each, and as `source` whether it is a `prior` or a `default`.

    First what is known to be good for each optimizer, on the same data set where there is such a row, the better before the worse;
    then the defaults of the optimizers without a row. What a row leaves open takes the space's default, and a row with a value that
    the space does not have is passed over.

    Args:
        space: The search space.
        model: Of the zoo; None for another hypermodel, whose defaults come first.
        dataset: The search's.
    """
    found: list[dict[str, Any]] = []
    for prior in sorted(read_priors(model) if model else [], key=lambda prior: prior.dataset != dataset):
        config = complete(space, prior.config)
        if config is not None and prior.optimizer not in [entry["config"].get("optimizer") for entry in found]:
            found.append({"source": "prior", "config": config})
    choices = next((list(entry.values) for entry in space.space if entry.name == "optimizer" and not entry.conditions), None)
    known = {entry["config"].get("optimizer") for entry in found}
    starts = [{}] if choices is None else [{"optimizer": name} for name in choices if name not in known]
    return [*found, *({"source": "default", "config": config} for start in starts if (config := complete(space, start)) is not None)]


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
