"""Search spaces: the domains of a model's and of the optimizers' records as `keras_tuner.HyperParameters`.

The names: `optimizer`; `model.<hyperparameter>`; for the chosen optimizer alone, `<optimizer>.<argument>`; and
`train.<field>` for what else a study is asked to vary. An argument that is sampled on the scale of its distance from 1,
such as momentum, stands in the space as `<optimizer>.one_minus_<argument>`, because KerasTuner's own `reverse_log` is
close to linear for such ranges.

A space has a version, which changes when the same names come to mean something else, and a hash of everything in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import keras_tuner

from zoo.errors import UsageError, unknown
from zoo.optimizers import OPTIMIZERS, list_optimizers, optimizer_info
from zoo.registry import model_info
from zoo.specs import Choice, Domain, Float, Int, Recipe

Study = Literal["optimizers", "architecture", "joint"]
STUDIES: tuple[Study, ...] = ("optimizers", "architecture", "joint")
COMPLEMENT = "one_minus_"
SPACE_VERSION = 1
Range = tuple[float, float]

# What every study can be asked to vary besides; the linear schedule comes after 5 % of warm-up.
VARIABLE: Mapping[str, Choice] = {"schedule": Choice(("constant", "cosine", "linear")), "label_smoothing": Choice((0.0, 0.1, 0.2))}
LINEAR_WARMUP = 0.05


def search_space(
    model: str,
    optimizers: Sequence[str] | None = None,
    *,
    study: Study = "joint",
    vary: Sequence[str] = (),
    ranges: Mapping[str, Range] | None = None,
    hyperparameters: keras_tuner.HyperParameters | None = None,
) -> keras_tuner.HyperParameters:
    """Declares the search space of a model.

    Args:
        model: A registered name; a tag is ignored.
        optimizers: The optimizers to choose from; all of the zoo's where None.
        study: What varies. `optimizers`: the optimizer and its arguments, for the model as it is. `architecture`: the model's
            hyperparameters and the learning rate of the first optimizer. `joint`: both.
        vary: What else varies: `"schedule"` of the learning rate, `"label_smoothing"`.
        ranges: Other ends for numbers of the space, by the name that they have in it.
        hyperparameters: Declare into these instead of new ones, as a hypermodel's `build` must.

    Returns:
        The space, in which each optimizer's arguments exist only while that optimizer is chosen.

    Raises:
        UnknownNameError: No such model, optimizer, study, or name in `vary` or `ranges`.
        UsageError: No optimizer, or a range that cannot be sampled.

    Example:
        >>> space = search_space("cnn", ["momentum"], study="optimizers")
        >>> sorted(space.values)
        ['momentum.learning_rate', 'momentum.one_minus_momentum', 'optimizer']
    """
    if study not in STUDIES:
        raise unknown("study", study, STUDIES, plural="studies")
    for name in vary:
        if name not in VARIABLE:
            raise unknown("name of what may vary", name, VARIABLE, plural="names of what may vary")
    spec = model_info(model)
    names = list_optimizers() if optimizers is None else list(dict.fromkeys(optimizers))
    for name in names:
        optimizer_info(name)
    if not names:
        raise UsageError("The space is empty: a search needs at least one optimizer to choose from. Received: none.")
    space = keras_tuner.HyperParameters() if hyperparameters is None else hyperparameters
    declare = _Declaration(space, ranges or {})
    if study != "optimizers":
        for name, domain in spec.domains.items():
            declare(f"model.{name}", domain, spec.defaults[name])
    for name in vary:
        declare(f"train.{name}", VARIABLE[name], VARIABLE[name].values[0])
    if study == "architecture":
        names = names[:1]
    space.Choice("optimizer", names)
    for name in names:
        optimizer = OPTIMIZERS[name]
        defaults = {**_keras_defaults(name), **optimizer.defaults, "learning_rate": optimizer.learning_rate}
        with space.conditional_scope("optimizer", [name]):
            for argument, domain in optimizer.domains.items():
                if study != "architecture" or argument == "learning_rate":
                    declare(f"{name}.{argument}", domain, defaults.get(argument))
    declare.finish()
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
    common = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("train.")}
    if common.get("schedule") == "linear":
        common["warmup"] = LINEAR_WARMUP
    return dataclasses.replace(
        recipe,
        **common,
        hyperparameters={**recipe.hyperparameters, **model},
        optimizer=optimizer,
        learning_rate=learning_rate,
        optimizer_arguments=arguments,
    )


def _argument(name: str, value: Any) -> tuple[str, Any]:
    if name.startswith(COMPLEMENT):
        return name.removeprefix(COMPLEMENT), round(1 - value, 12)
    return name, value


class _Declaration:
    """Declares domains under names, with other ends where these are given."""

    def __init__(self, space: keras_tuner.HyperParameters, ranges: Mapping[str, Range]) -> None:
        self.space, self.ranges, self.names = space, ranges, set[str]()

    def __call__(self, name: str, domain: Domain, default: Any) -> None:
        """Declares one domain, with its default where that lies in the domain."""
        default = default if default in domain else None
        if isinstance(domain, Choice):
            self.space.Choice(name, list(domain.values), default=default)
            return
        low, high, sampling = domain.low, domain.high, domain.sampling
        if sampling == "complement_log":
            scope, _, argument = name.rpartition(".")
            name, sampling = f"{scope}.{COMPLEMENT}{argument}", "log"
            low, high = round(1 - domain.high, 12), round(1 - domain.low, 12)
            default = None if default is None else round(1 - default, 12)
        low, high = self._ends(name, domain, low, high)
        default = None if default is None else min(max(default, low), high)
        if isinstance(domain, Int):
            step = {"step": 2, "sampling": "log"} if sampling == "log" else {"step": domain.step}
            self.space.Int(name, low, high, default=default, **step)
        else:
            self.space.Float(name, low, high, sampling=sampling, default=default)

    def _ends(self, name: str, domain: Float | Int, low: float, high: float) -> tuple[Any, Any]:
        self.names.add(name)
        if name not in self.ranges:
            return low, high
        low, high = self.ranges[name]
        if isinstance(domain, Int):
            low, high = int(low), int(high)
        if not low < high or (domain.sampling != "linear" and low <= 0) or (domain.sampling == "complement_log" and high >= 1):
            raise UsageError(f"The range of {name} must have low < high, above 0 where it is sampled by its logarithm. Received: {low:g}..{high:g}.")
        return low, high

    def finish(self) -> None:
        """Raises UnknownNameError if a range names nothing that was declared."""
        for name in self.ranges:
            if name not in self.names:
                raise unknown("number in the space", name, self.names, plural="numbers in the space")


# --- what a space is, as data -----------------------------------------------------------------------------------------


def describe(space: keras_tuner.HyperParameters) -> dict[str, str]:
    """Returns what each name of a space may be, in one line each: the same lines mean the same space.

    Example:
        >>> describe(search_space("relu_mlp", ["sgd"], study="optimizers"))
        {'optimizer': 'one of sgd', 'sgd.learning_rate': '0.001..5.0, log (optimizer = sgd)'}
    """
    return {hyperparameter.name: _line(hyperparameter) for hyperparameter in space.space}


def number_ranges(space: keras_tuner.HyperParameters) -> dict[str, tuple[float, float, bool]]:
    """Returns of each number in a space the lowest and the highest value, and whether it is sampled by its logarithm.

    Example:
        >>> number_ranges(search_space("relu_mlp", ["sgd"], study="optimizers"))
        {'sgd.learning_rate': (0.001, 5.0, True)}
    """
    return {entry.name: (entry.min_value, entry.max_value, entry.sampling == "log") for entry in space.space if hasattr(entry, "min_value")}


def space_hash(space: keras_tuner.HyperParameters) -> str:
    """Returns 12 hexadecimal digits that differ whenever anything in the space, or its version, does."""
    text = json.dumps([SPACE_VERSION, describe(space)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Says what differs between two spaces, as `describe` gives them.

    Example:
        >>> changes({"units": "8..64", "depth": "1..4"}, {"units": "8..128", "dropout": "0.0..0.5"})
        ['units: 8..64 -> 8..128', 'depth: 1..4 -> absent', 'dropout: absent -> 0.0..0.5']
    """

    def differing() -> Iterator[str]:
        for name in [*old, *(name for name in new if name not in old)]:
            before, after = old.get(name, "absent"), new.get(name, "absent")
            if before != after:
                yield f"{name}: {before} -> {after}"

    return list(differing())


def _line(hyperparameter: Any) -> str:
    if isinstance(hyperparameter, keras_tuner.engine.hyperparameters.Fixed):
        domain = repr(hyperparameter.value)
    elif hasattr(hyperparameter, "min_value"):
        kind = hyperparameter.sampling + ("" if hyperparameter.step is None else f", step {hyperparameter.step}")
        domain = f"{hyperparameter.min_value}..{hyperparameter.max_value}, {kind}"
    else:
        domain = f"one of {', '.join(str(value) for value in hyperparameter.values)}"
    conditions = ", ".join(f"{condition.name} = {' or '.join(str(value) for value in condition.values)}" for condition in hyperparameter.conditions)
    return f"{domain} ({conditions})" if conditions else domain


def _keras_defaults(name: str) -> dict[str, Any]:
    """The defaults of the optimizer's Keras class."""
    import inspect

    import keras

    signature = inspect.signature(getattr(keras.optimizers, OPTIMIZERS[name].keras_class).__init__)
    return {key: parameter.default for key, parameter in signature.parameters.items() if parameter.default is not parameter.empty}
