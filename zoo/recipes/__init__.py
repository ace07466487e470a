"""The training runs behind the shipped weights, one file per weight: `RECIPE`, and a docstring with what to expect of it.

`zoo train NAME` runs one, and `python -m zoo.publishing NAME` runs it for several seeds and ships seed 0.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from zoo.errors import unknown
from zoo.specs import Recipe


def list_recipes() -> list[str]:
    """Lists the names of all recipes: `model.tag`, as the weights they make.

    Example:
        >>> "cnn_bn.mnist" in list_recipes()
        True
    """
    return sorted(_modules())


def load_recipe(name: str) -> Recipe:
    """Returns the recipe of `model.tag`.

    Raises:
        UnknownNameError: There is no such recipe.

    Example:
        >>> load_recipe("cnn_bn.mnist").dataset
        'mnist'
    """
    recipe = recipe_module(name).RECIPE
    assert isinstance(recipe, Recipe)
    return recipe


def recipe_module(name: str) -> ModuleType:
    """Returns the module that holds the recipe of `model.tag`; its docstring says what to expect.

    Raises:
        UnknownNameError: There is no such recipe.
    """
    modules = _modules()
    if name not in modules:
        raise unknown("recipe", name, modules)
    return importlib.import_module(f"zoo.recipes.{modules[name]}")


def _modules() -> dict[str, str]:
    """`model.tag` -> the module `model__tag`."""
    return {module.name.replace("__", "."): module.name for module in pkgutil.iter_modules(__path__)}
