"""What the graph of a trial depends on, and what not: the keys under which compiled programs are kept.

A trial splits into its structure, which is hashable and equal for trials whose graph is the same, and its free numbers, by
name, which a program takes as arguments. `places` says where in the built model these numbers stand.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import keras

from tuning.scalars import FREE, FREE_IN_ALL, is_free, without_schedule
from zoo.optimizers import optimizer_info
from zoo.registry import resolve
from zoo.specs import Flip, Recipe

Places = dict[str, Sequence[tuple[Any, str]]]
REGULARIZERS = ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
OVERRIDES = ("train_step", "test_step", "compute_loss", "compute_metrics")


class Unshareable(Exception):
    """A trial cannot run on a shared program, for a reason that its message gives."""


# -- recipes -----------------------------------------------------------------------------------------------------------


def why_plain(recipe: Recipe) -> str:
    """Says why a recipe cannot run on a shared program; empty where it can."""
    if keras.backend.backend() != "tensorflow":
        return f"programs need the TensorFlow backend, not {keras.backend.backend()}"
    if recipe.teacher is not None:
        return "a teacher's answers are targets of the recipe's own"
    if recipe.lookahead:
        return "lookahead changes how its optimizer is built"
    if recipe.early_stopping is not None:
        return "early stopping keeps the best epoch's weights"
    if any(isinstance(entry, Flip) and entry.alternating for entry in recipe.augmentation):
        return "alternating flips need a second set of images"
    return ""


def recipe_structure(recipe: Recipe) -> tuple[Hashable, dict[str, float]]:
    """Splits a recipe's model and loss, with its free numbers by name."""
    numbers = {}
    hyperparameters = hyperparameters_of(recipe)
    hyperparameters.pop("initializer", None)
    if recipe.initial_weights is None and is_free(hyperparameters.get("dropout")):  # every Dropout layer of a zoo model has this rate
        numbers["layers.dropout"] = float(hyperparameters["dropout"])
        hyperparameters["dropout"] = "free"
    if is_free(recipe.label_smoothing):
        numbers["loss.label_smoothing"] = recipe.label_smoothing
    model = (recipe.model, recipe.initial_weights, frozen(hyperparameters), recipe.precision, recipe.augmentation)
    return (*model, bool(recipe.label_smoothing)), numbers


def recipe_places(trainer: keras.Model, loss: Any, numbers: Mapping[str, float]) -> Places:
    """Says where the numbers of `recipe_structure` stand: in the Dropout layers, and in what the loss reads of a recipe."""
    layers = [(layer, "rate") for layer in trainer._flatten_layers() if type(layer) is keras.layers.Dropout]
    places: Places = {"layers.dropout": layers, "loss.label_smoothing": [(loss, "label_smoothing")]}
    return {name: places[name] for name in numbers}


def graph_signature(recipe: Recipe) -> str:
    """Returns 12 hexadecimal digits that are the same for recipes which train on the same program, without building anything.

    Example:
        >>> first = graph_signature(Recipe("relu_mlp", "digits", optimizer="adam", optimizer_arguments={"beta_1": 0.9}))
        >>> first == graph_signature(Recipe("relu_mlp", "digits", optimizer="adam", optimizer_arguments={"beta_1": 0.8}, learning_rate=0.1))
        True
        >>> first == graph_signature(Recipe("relu_mlp", "digits", optimizer="adam", hyperparameters={"units": 8}))
        False
    """
    spec = optimizer_info(recipe.optimizer)
    names = (*FREE.get(spec.keras_class, ()), *FREE_IN_ALL)
    arguments = {**_defaults(spec.keras_class), **spec.defaults, **recipe.optimizer_arguments}
    kind = sorted((name, "free" if name in names and is_free(value) else value) for name, value in arguments.items())
    optimizer = (recipe.optimizer, kind, recipe.ema is None, recipe.batch_size, why_plain(recipe))
    return hashlib.sha256(repr((recipe_structure(recipe)[0], optimizer)).encode()).hexdigest()[:12]


@cache
def _defaults(keras_class: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(keras.optimizers, keras_class).__init__).parameters
    return {name: entry.default for name, entry in parameters.items() if name not in ("self", "learning_rate", "name", "kwargs")}


def start_structure(recipe: Recipe) -> Hashable:
    """What the values of a recipe's new model depend on: not on the rate of dropout, only on whether there is any."""
    hyperparameters = hyperparameters_of(recipe)
    if "dropout" in hyperparameters and recipe.initial_weights is None:
        hyperparameters["dropout"] = bool(hyperparameters["dropout"])
    model = (recipe.model, recipe.initial_weights, recipe.initialization, frozen(hyperparameters))
    return (*model, recipe.precision, bool(recipe.augmentation), recipe.seed)


def hyperparameters_of(recipe: Recipe) -> dict[str, Any]:
    """All hyperparameters of a recipe's model, as far as its name and the recipe give them."""
    spec, weights = resolve(recipe.model)
    return {**spec.defaults, **(weights.hyperparameters if weights else {}), **recipe.hyperparameters}


def frozen(hyperparameters: Mapping[str, Any]) -> Hashable:
    """Returns hyperparameters as a hashable."""
    return tuple(sorted(hyperparameters.items()))


# -- any Keras model ---------------------------------------------------------------------------------------------------


def model_structure(model: keras.Model) -> tuple[Hashable, dict[str, float], Places]:
    """Splits a compiled Keras model but for its optimizer, with the places of its numbers.

    Raises:
        Unshareable: The model holds something whose graph cannot be told from its configuration.
    """
    _check(model)
    numbers: dict[str, float] = {}
    places: Places = {}
    for name, holder, attribute in _free_in_layers(model):
        numbers[name] = float(getattr(holder, attribute))
        places[name] = [(holder, attribute)]
    config = _config(model)
    for entry in _entries(config):
        _check_known(entry)
    renamed = _renamed(_simplified(config), _automatic_names(config))
    return (type(model).__name__, json.dumps(renamed, sort_keys=True)), numbers, places


def _config(model: keras.Model) -> dict[str, Any]:
    """The configuration of a model and of what it is compiled with, but for its optimizer."""
    try:
        with without_schedule(model.optimizer):
            compiled = model.get_compile_config()
        return {"model": model.get_config(), **{name: compiled.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}}
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise Unshareable(f"its configuration cannot be told ({reason})") from None


def _check(model: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise Unshareable(f"programs need the TensorFlow backend, not {keras.backend.backend()}")
    if not model.compiled or model.optimizer is None:
        raise Unshareable("the model is not compiled")
    own = [name for name in OVERRIDES if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        raise Unshareable(f"the model has its own {own[0]}")
    if type(model) not in (keras.Sequential, keras.Model) and type(model).__name__ != "Functional":
        raise Unshareable(f"the class {type(model).__name__} may keep anything in Python")
    if model.run_eagerly:
        raise Unshareable("the model runs eagerly")
    if not model.built:
        raise Unshareable("the model has no input shape before it sees data; begin it with keras.Input")
    kind = type(model.optimizer)
    if not kind.__module__.startswith(("keras.", "zoo.")):
        raise Unshareable(f"the optimizer {kind.__name__} may keep anything in Python")
    if model.optimizer.gradient_accumulation_steps or getattr(model.optimizer, "inner_optimizer", None) is not None:
        raise Unshareable(f"the optimizer {kind.__name__} counts its steps in its own way")
    if getattr(model.optimizer, "_exclude_from_weight_decay", None) or getattr(model.optimizer, "_exclude_from_weight_decay_pattern", None):
        raise Unshareable("the optimizer leaves some variables out of weight decay")


def _check_known(entry: Mapping[str, Any]) -> None:
    if entry["class_name"] in ("function", "__lambda__"):
        raise Unshareable(f"it holds a Python function ({entry['config'] if isinstance(entry['config'], str) else 'a lambda'})")
    if not str(entry.get("module") or "keras").startswith("keras"):
        raise Unshareable(f"{entry['class_name']} is no class of Keras's and may keep anything in Python")


def _free_in_layers(model: keras.Model) -> Iterator[tuple[str, Any, str]]:
    """Yields name, holder and attribute of each free number of a model's layers."""
    for index, layer in enumerate(model._flatten_layers()):
        if type(layer) is keras.layers.Dropout and is_free(layer.rate):
            yield f"layers.{index}.rate", layer, "rate"
        for name in REGULARIZERS:
            regularizer = getattr(layer, name, None)
            for attribute in ("l1", "l2"):
                if type(regularizer).__module__.startswith("keras.") and is_free(getattr(regularizer, attribute, None)):
                    yield f"layers.{index}.{name}.{attribute}", regularizer, attribute


def _entries(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yields all serialized objects in a configuration, but for initializers: what they make is brought along."""
    if isinstance(config, Mapping):
        if "class_name" in config and "config" in config:
            yield config
        for name, value in config.items():
            if not str(name).endswith("_initializer"):
                yield from _entries(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _entries(value)


def _simplified(config: Any) -> Any:
    """A configuration without initializers, seeds and free numbers."""
    if isinstance(config, Mapping):
        kept = {name: value for name, value in config.items() if not str(name).endswith("_initializer") and name not in ("seed", "build_config")}
        if config.get("class_name") == "Dropout" and is_free(config["config"].get("rate")):
            kept["config"] = {**config["config"], "rate": "free"}
        if config.get("class_name") in ("L1", "L2", "L1L2"):
            kept["config"] = {name: "free" if is_free(value) else value for name, value in config["config"].items()}
        return {name: _simplified(value) for name, value in kept.items()}
    return [_simplified(value) for value in config] if isinstance(config, list | tuple) else config


def _automatic_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The names that Keras has counted up, and what to call them instead, in the order in which they occur."""
    names: dict[str, str] = {config["model"].get("name", ""): "model"}
    for entry in _entries(config["model"]):
        name = entry["config"].get("name") if isinstance(entry["config"], Mapping) else None
        if isinstance(name, str) and re.fullmatch(rf"{_snake(entry['class_name'])}(_\d+)?", name):
            names.setdefault(name, f"{entry['class_name']}:{len(names)}")
    return names


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, Mapping):
        return {name: _renamed(value, names) for name, value in config.items()}
    if isinstance(config, list):
        return [_renamed(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def _snake(name: str) -> str:
    """Keras's automatic name for a class, before it is counted up."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
