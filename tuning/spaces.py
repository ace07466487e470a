"""Search spaces: the domains of a model's and of the optimizers' records as `keras_tuner.HyperParameters`.

The names: `optimizer`; `model.<hyperparameter>`; and for the chosen optimizer alone, `<optimizer>.<argument>`. An argument
that is sampled on the scale of its distance from 1, such as momentum, stands in the space as
`<optimizer>.one_minus_<argument>`, because KerasTuner's own `reverse_log` is close to linear for such ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras_tuner

from zoo.errors import unknown
from zoo.optimizers import OPTIMIZERS, list_optimizers, optimizer_info
from zoo.registry import model_info
from zoo.specs import Choice, Domain, Float, Int, Recipe

Study = Literal["optimizers", "architecture", "joint"]
STUDIES: tuple[Study, ...] = ("optimizers", "architecture", "joint")
COMPLEMENT = "one_minus_"


def search_space(
    model: str,
    optimizers: Sequence[str] | None = None,
    *,
    study: Study = "joint",
    hyperparameters: keras_tuner.HyperParameters | None = None,
) -> keras_tuner.HyperParameters:
    """Declares the search space of a model.

    Args:
        model: A registered name; a tag is ignored.
        optimizers: The optimizers to choose from; all of the zoo's where None.
        study: What varies. `optimizers`: the optimizer and its arguments, for the model as it is. `architecture`: the model's
            hyperparameters and the learning rate of the first optimizer. `joint`: both.
        hyperparameters: Declare into these instead of new ones, as a hypermodel's `build` must.

    Returns:
        The space, in which each optimizer's arguments exist only while that optimizer is chosen.

    Raises:
        UnknownNameError: No such model, optimizer or study.

    Example:
        >>> space = search_space("cnn", ["momentum"], study="optimizers")
        >>> sorted(space.values)
        ['momentum.learning_rate', 'momentum.one_minus_momentum', 'optimizer']
    """
    if study not in STUDIES:
        raise unknown("study", study, STUDIES, plural="studies")
    spec = model_info(model)
    names = list(optimizers) if optimizers else list_optimizers()
    for name in names:
        optimizer_info(name)
    space = keras_tuner.HyperParameters() if hyperparameters is None else hyperparameters
    if study != "optimizers":
        for name, domain in spec.domains.items():
            _declare(space, f"model.{name}", domain, spec.defaults[name])
    if study == "architecture":
        names = names[:1]
    space.Choice("optimizer", names)
    for name in names:
        optimizer = OPTIMIZERS[name]
        defaults = {**_keras_defaults(name), **optimizer.defaults, "learning_rate": optimizer.learning_rate}
        with space.conditional_scope("optimizer", [name]):
            for argument, domain in optimizer.domains.items():
                if study != "architecture" or argument == "learning_rate":
                    _declare(space, f"{name}.{argument}", domain, defaults.get(argument))
    return space


def configure(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Returns the recipe that a point of the search space stands for.

    Args:
        recipe: Everything that the space does not vary.
        values: `HyperParameters.values`: names as `search_space` gives them.

    Example:
        >>> recipe = configure(Recipe("cnn", "digits"), {"optimizer": "momentum", "momentum.one_minus_momentum": 0.05})
        >>> recipe.optimizer, recipe.optimizer_arguments
        ('momentum', {'momentum': 0.95})
    """
    import dataclasses

    optimizer = values["optimizer"]
    arguments = dict(_argument(name.partition(".")[2], value) for name, value in values.items() if name.startswith(f"{optimizer}."))
    learning_rate = arguments.pop("learning_rate", None)
    model = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("model.")}
    return dataclasses.replace(
        recipe,
        hyperparameters={**recipe.hyperparameters, **model},
        optimizer=optimizer,
        learning_rate=learning_rate,
        optimizer_arguments=arguments,
    )


def _argument(name: str, value: Any) -> tuple[str, Any]:
    if name.startswith(COMPLEMENT):
        return name.removeprefix(COMPLEMENT), round(1 - value, 12)
    return name, value


def _declare(space: keras_tuner.HyperParameters, name: str, domain: Domain, default: Any) -> None:
    """Declares one domain under a name, with its default where that lies in the domain."""
    default = default if default in domain else None
    if isinstance(domain, Choice):
        space.Choice(name, list(domain.values), default=default)
    elif isinstance(domain, Int):
        step = {"step": 2, "sampling": "log"} if domain.sampling == "log" else {"step": domain.step}
        space.Int(name, domain.low, domain.high, default=default, **step)
    elif isinstance(domain, Float) and domain.sampling == "complement_log":
        scope, _, argument = name.rpartition(".")
        complement = None if default is None else round(1 - default, 12)
        space.Float(f"{scope}.{COMPLEMENT}{argument}", round(1 - domain.high, 12), round(1 - domain.low, 12), sampling="log", default=complement)
    else:
        space.Float(name, domain.low, domain.high, sampling=domain.sampling, default=default)


def _keras_defaults(name: str) -> dict[str, Any]:
    """The defaults of the optimizer's Keras class."""
    import inspect

    import keras

    signature = inspect.signature(getattr(keras.optimizers, OPTIMIZERS[name].keras_class).__init__)
    return {key: parameter.default for key, parameter in signature.parameters.items() if parameter.default is not parameter.empty}
