"""Hyperparameter searches over the zoo's models and optimizers, in KerasTuner's terms.

Example:
    >>> import tuning
    >>> space = tuning.search_space("relu_mlp", optimizers=["sgd", "adam"])
    >>> space.get("optimizer")
    'sgd'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.hypermodel import ZooHyperModel as ZooHyperModel
    from tuning.search import SearchResult as SearchResult
    from tuning.search import search as search
    from tuning.spaces import search_space as search_space

_HOME_OF = {"SearchResult": "search", "ZooHyperModel": "hypermodel", "search": "search", "search_space": "spaces"}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tuning' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tuning.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the function `search` takes the place of the submodule of the same name
    return value


def __dir__() -> list[str]:
    return __all__
