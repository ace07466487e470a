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
    from tuning.compiled_tuner import CompiledTuner as CompiledTuner
    from tuning.hypermodel import ZooHyperModel as ZooHyperModel
    from tuning.oracles import OptunaOracle as OptunaOracle
    from tuning.result import SearchResult as SearchResult
    from tuning.result import Trial as Trial
    from tuning.spaces import search_space as search_space
    from tuning.study import resume as resume
    from tuning.study import search as search

_HOME_OF = {
    "CompiledTuner": "compiled_tuner",
    "OptunaOracle": "oracles",
    "SearchResult": "result",
    "Trial": "result",
    "ZooHyperModel": "hypermodel",
    "resume": "study",
    "search": "study",
    "search_space": "spaces",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tuning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tuning.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
