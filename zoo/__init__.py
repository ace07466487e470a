"""A Keras 3 / TensorFlow model zoo: models by name, searches over optimizers, exports for TF Serving.

Everything public is here, and loads where it is used: importing this package loads neither TensorFlow nor Keras.

Example:
    >>> import zoo
    >>> model = zoo.create_model("cnn_bn.digits", pretrained=True)
    >>> digits = zoo.load_dataset("digits", "test")
    >>> model.predict(digits.images[:2], verbose=0).shape
    (2, 10)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.cards import Card as Card
    from zoo.datasets import Dataset as Dataset
    from zoo.datasets import dataset_info as dataset_info
    from zoo.datasets import list_datasets as list_datasets
    from zoo.datasets import load_dataset as load_dataset
    from zoo.errors import ZooError as ZooError
    from zoo.evaluation import evaluate as evaluate
    from zoo.export import export_model as export_model
    from zoo.factory import create_model as create_model
    from zoo.factory import load_trained as load_trained
    from zoo.layers import feature_extractor as feature_extractor
    from zoo.layers import level_names as level_names
    from zoo.optimizers import create_optimizer as create_optimizer
    from zoo.optimizers import list_optimizers as list_optimizers
    from zoo.optimizers import optimizer_info as optimizer_info
    from zoo.registry import list_models as list_models
    from zoo.registry import model_info as model_info
    from zoo.registry import register_model as register_model
    from zoo.registry import unregister_model as unregister_model
    from zoo.reproduction import reproduce as reproduce
    from zoo.specs import Affine as Affine
    from zoo.specs import Choice as Choice
    from zoo.specs import Cutout as Cutout
    from zoo.specs import Elastic as Elastic
    from zoo.specs import Flip as Flip
    from zoo.specs import Float as Float
    from zoo.specs import Int as Int
    from zoo.specs import Recipe as Recipe
    from zoo.specs import Shift as Shift
    from zoo.specs import WeightsSpec as WeightsSpec
    from zoo.training import train as train
    from zoo.verification import verify as verify
    from zoo.weights import LoadReport as LoadReport
    from zoo.weights import load_report as load_report

_HOMES = {
    "cards": ("Card",),
    "datasets": ("Dataset", "dataset_info", "list_datasets", "load_dataset"),
    "errors": ("ZooError",),
    "evaluation": ("evaluate",),
    "export": ("export_model",),
    "factory": ("create_model", "load_trained"),
    "layers": ("feature_extractor", "level_names"),
    "optimizers": ("create_optimizer", "list_optimizers", "optimizer_info"),
    "registry": ("list_models", "model_info", "register_model", "unregister_model"),
    "reproduction": ("reproduce",),
    "specs": ("Affine", "Choice", "Cutout", "Elastic", "Flip", "Float", "Int", "Recipe", "Shift", "WeightsSpec"),
    "training": ("train",),
    "verification": ("verify",),
    "weights": ("LoadReport", "load_report"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
