"""What a comparison of optimizers compares, and with which budget: `Plan`, as a study's directory keeps it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.datasets import dataset_info
from zoo.errors import StudyError, UsageError, unknown
from zoo.files import write_text
from zoo.optimizers import optimizer_info
from zoo.registry import list_models, model_info
from zoo.specs import Recipe, ScheduleName

PLAN, VERSION = "study.json", 1
CELLS = "cells"
FAMILIES = ("sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn")
DATASETS = ("digits", "fashion_mnist")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion", "muon")
NAMES = ("datasets", "families", "optimizers")
SMALL = 2000  # training images, below which a data set has smaller batches, and more epochs and seeds
SEED = 0  # of the searches; the final trainings begin from the seeds after it
SAMPLER, SCHEDULER = "qmc", "none"  # the same for all: ranges are covered evenly, and each trial is trained to its end
SCHEDULE: ScheduleName = "constant"


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
