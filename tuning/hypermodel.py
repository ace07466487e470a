"""The zoo's models as a KerasTuner hypermodel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import keras_tuner

from tuning.spaces import Range, Study, configure, search_space
from zoo.specs import Recipe
from zoo.training import compile_trainer

if TYPE_CHECKING:
    import keras

    from zoo.datasets import Dataset


BUILDS = 60  # at most, to find what a hypermodel declares


class ZooHyperModel(keras_tuner.HyperModel):
    """Builds and compiles a zoo model from a point of its search space, for any KerasTuner tuner.

    Args:
        recipe: The model, and everything that the search does not vary: epochs, batch size, augmentation, schedule.
        training: The images to train on; they give the input shape, the number of classes and the length of the schedule.
        optimizers: The optimizers to choose from; all of the zoo's where None.
        study: What varies: `"optimizers"`, `"architecture"` or `"joint"`; see `tuning.search_space`.
        vary: What else varies: `"schedule"`, `"label_smoothing"`.
        ranges: Other ends for numbers of the space, by the name that they have in it.

    Example:
        >>> import keras_tuner, tempfile, tuning, zoo
        >>> digits = zoo.load_dataset("digits", "train_minus_validation")
        >>> hypermodel = tuning.ZooHyperModel(zoo.Recipe("relu_mlp", "digits", epochs=1), digits, ["momentum", "adam"])
        >>> tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=1, directory=tempfile.mkdtemp())
        >>> tuner.search(digits.images, digits.labels, validation_split=0.1, epochs=1, verbose=0)
        >>> len(tuner.get_best_hyperparameters())
        1
    """

    def __init__(
        self,
        recipe: Recipe,
        training: Dataset,
        optimizers: Sequence[str] | None = None,
        study: Study = "joint",
        *,
        vary: Sequence[str] = (),
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        super().__init__(name=recipe.model)
        self.recipe, self.training, self.optimizers, self.study = recipe, training, optimizers, study
        self.vary, self.ranges = vary, ranges

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Declares the whole search space; nothing has to be built for it."""
        search_space(self.recipe.model, self.optimizers, study=self.study, vary=self.vary, ranges=self.ranges, hyperparameters=hp)

    def configure(self, hp: keras_tuner.HyperParameters) -> Recipe:
        """Returns the recipe that `hp` stands for; `zoo.train` runs it."""
        self.declare_hyperparameters(hp)
        active = {name: value for name, value in hp.values.items() if hp.is_active(name)}
        return configure(self.recipe, active)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns the compiled model for `hp`: augmentation, if the recipe has any, and the network."""
        return compile_trainer(self.configure(hp), self.training)[0]


def discover_space(hypermodel: keras_tuner.HyperModel | Callable[[keras_tuner.HyperParameters], keras.Model]) -> keras_tuner.HyperParameters:
    """Returns every hyperparameter that a hypermodel declares, found by building it with each choice, and each condition, once.

    A build that raises counts with what it had declared by then, so that one bad configuration hides nothing but what it
    would have declared afterwards.

    Args:
        hypermodel: Any of KerasTuner's, or a function of its hyperparameters.

    Example:
        >>> class Hypermodel(keras_tuner.HyperModel):
        ...     def build(self, hp):
        ...         deep = hp.Boolean("deep")
        ...         with hp.conditional_scope("deep", [True]):
        ...             if deep:
        ...                 hp.Int("depth", 2, 4)
        >>> [hyperparameter.name for hyperparameter in discover_space(Hypermodel()).space]
        ['deep', 'depth']
    """
    known = keras_tuner.HyperParameters()
    if isinstance(hypermodel, keras_tuner.HyperModel):
        hypermodel.declare_hyperparameters(known)
    build = getattr(hypermodel, "build", hypermodel)
    waiting: list[dict[str, object]] = [{}]
    tried: list[dict[str, object]] = []
    while waiting and len(tried) < BUILDS:
        values = waiting.pop(0)
        tried.append(values)
        hp = known.copy()
        hp.values.update(values)
        hp.ensure_active_values()
        with contextlib.suppress(Exception):
            build(hp)
        known.merge([entry for entry in hp.space if not known._exists(entry.name, entry.conditions)])
        scopes = [{condition.name: condition.values[0] for condition in scope} for scope in hp.inactive_scopes]
        choices = [{**_parents(entry), entry.name: value} for entry in known.space if not hasattr(entry, "min_value") for value in _values(entry)]
        waiting += [found for found in (*scopes, *choices) if found not in tried and found not in waiting]
    return known


def _parents(entry: keras_tuner.engine.hyperparameters.HyperParameter) -> dict[str, object]:
    """Returns values under which a hyperparameter is active."""
    return {condition.name: condition.values[0] for condition in entry.conditions}


def _values(entry: keras_tuner.engine.hyperparameters.HyperParameter) -> list[object]:
    """Returns the choices that are not the default."""
    return [value for value in getattr(entry, "values", ()) if value != entry.default]
