"""A server that speaks TF Serving's REST protocol, for the same model repositories.

repository.py   which models and versions there are: folders, models.config
servable.py     one loaded SavedModel
json_codec.py   TF Serving's JSON to arrays and back
rest.py         paths, methods and statuses
server.py       start, drain, stop
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.serving.server import ServerProcess as ServerProcess
    from zoo.serving.server import serve as serve
    from zoo.serving.server import start as start

__all__ = ["ServerProcess", "serve", "start"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo.serving' has no attribute {name!r}")
    return getattr(importlib.import_module("zoo.serving.server"), name)
