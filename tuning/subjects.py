"""What can be searched: a model of the zoo on one of its data sets, or a user's own hypermodel on arrays.

A subject knows the space and how one of its points is trained. It is sent to every worker, which loads the data itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import keras_tuner

from tuning.hypermodel import discover_space
from tuning.segments import Engine, PlainEngine, Point
from tuning.settings import Settings
from tuning.spaces import configure, search_space
from tuning.structures import graph_signature
from zoo.specs import Recipe
from zoo.training import load_training_data

if TYPE_CHECKING:
    import keras
    import numpy

    from tuning.engine import HyperModelEngine
    from tuning.plain_models import PlainHyperModelEngine

Arrays = tuple["numpy.ndarray", "numpy.ndarray"]
HyperModel: TypeAlias = keras_tuner.HyperModel | Callable[[keras_tuner.HyperParameters], "keras.Model"]


class Subject(Protocol):
    """What is searched: a space, and how one of its points is trained."""

    space: keras_tuner.HyperParameters
    validation: int

    def job(self, config: Mapping[str, Any]) -> Any:
        """Returns what the engine takes for a configuration."""

    def signature(self, config: Mapping[str, Any]) -> str:
        """Returns what is the same for configurations that can share a compiled program."""

    def recipe(self, config: Mapping[str, Any], epochs: int) -> Recipe | None:
        """Returns the recipe that repeats a trial of so many epochs, if there is one."""

    def engine(self, kind: str) -> Any:
        """Loads the data and creates the engine, an `Engine` for such jobs."""


class ZooSubject:
    """A model of the zoo on one of its data sets."""

    def __init__(self, settings: Settings, data_dir: str | Path | None) -> None:
        assert settings.recipe is not None
        self.base, self.data_dir, self.validation = settings.recipe, data_dir, 0
        self.space = search_space(self.base.model, settings.optimizers, study=settings.study, vary=settings.vary, ranges=settings.ranges)

    def job(self, config: Mapping[str, Any]) -> Recipe:
        return configure(self.base, config)

    def signature(self, config: Mapping[str, Any]) -> str:
        return graph_signature(configure(self.base, config))

    def recipe(self, config: Mapping[str, Any], epochs: int) -> Recipe:
        recipe = configure(self.base, config)
        return dataclasses.replace(recipe, epochs=epochs) if epochs and repeats(recipe) else recipe

    def engine(self, kind: str) -> Engine:
        training, validation = load_training_data(self.base, self.data_dir)
        assert validation is not None
        self.validation = len(validation.labels)
        if kind == "plain":
            return PlainEngine(training, validation)
        from tuning.engine import CompiledEngine

        return CompiledEngine(training, validation)


class ArraySubject:
    """A user's own hypermodel on arrays."""

    def __init__(self, settings: Settings, hypermodel: HyperModel, data: tuple[Arrays, Arrays]) -> None:
        self.settings, self.hypermodel, self.data, self.validation = settings, hypermodel, data, len(data[1][1])
        self.space = discover_space(hypermodel)

    def job(self, config: Mapping[str, Any]) -> Point:
        return Point(self.space, config, self.settings.epochs, self.settings.batch_size, self.settings.seed)

    def signature(self, config: Mapping[str, Any]) -> str:
        return repr(sorted((name, value) for name, value in config.items() if not isinstance(value, float)))

    def recipe(self, config: Mapping[str, Any], epochs: int) -> None:
        return None

    def engine(self, kind: str) -> PlainHyperModelEngine | HyperModelEngine:
        (x, y), (validation_x, validation_y) = self.data
        if kind == "plain":
            from tuning.plain_models import PlainHyperModelEngine

            return PlainHyperModelEngine(self.hypermodel, x, y, validation_x, validation_y)
        from tuning.engine import HyperModelEngine

        return HyperModelEngine(self.hypermodel, x, y, validation_x, validation_y)


def repeats(recipe: Recipe) -> bool:
    """Tells whether a shorter run of a recipe is the beginning of a longer one."""
    return recipe.schedule == "constant" and not recipe.warmup and not recipe.augmentation_tail
