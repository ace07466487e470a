"""What every test shares: a quiet TensorFlow, small models, and pretrained weights that are made here."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest
from ready_zoo import ready_zoo

import zoo
from zoo import registry
from zoo.cards import Card
from zoo.files import sha256
from zoo.specs import ModelSpec, WeightsSpec

if TYPE_CHECKING:
    import keras

pytest.register_assert_rewrite("scripted_search")  # its checks say what they found
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # its handlers end about one in a hundred processes that are forked and become another

# Properties draw the same examples in every run of the suite; `make test-all` draws new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

# What takes longest begins first, so that at the end no processor waits for another; with `--no-loadscope-reorder` it stays so.
LONGEST = ("docs", "readme", "study", "training", "verification", "workers", "examples", "lab", "docstrings", "evaluation", "serving_playground")
SMALL = {"filters": 4, "convolutions": 1, "units": 8}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def small() -> Callable[[str], dict[str, Any]]:
    """Gives the hyperparameters that make a model small, as far as it has them."""

    def hyperparameters(name: str) -> dict[str, Any]:
        defaults = zoo.model_info(name).defaults
        return {key: value for key, value in SMALL.items() if defaults.get(key)}

    return hyperparameters


@pytest.fixture(scope="session")
def commands() -> Iterator[Path]:
    """The directory of a `zoo` that answers without loading first."""
    with ready_zoo() as directory:
        yield directory


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelSpec]:
    """The registry as a copy, so that what a test registers is gone afterwards."""
    zoo.list_models()
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    return registry._models


class Shipped(NamedTuple):
    """Pretrained weights in a package of their own."""

    name: str
    model: keras.Model
    weights: Path
    card: Path

    def rewrite_card(self, **changes: Any) -> None:
        """Changes the card; `sha256` becomes the present file's unless given."""
        changes.setdefault("sha256", sha256(self.weights))
        dataclasses.replace(Card.read(self.card), **changes).write(self.card)


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: dict[str, ModelSpec]) -> Iterator[Callable[..., Shipped]]:
    """Gives `ship(model, input_shape=, num_classes=, **hyperparameters)`: random weights, importable by name as `model.toy`."""
    package = f"toy_weights_{tmp_path.name}"
    directory = tmp_path / package
    directory.mkdir()
    (directory / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def make(model: str, input_shape: tuple[int, int, int] = (8, 8, 1), num_classes: int = 4, **hyperparameters: Any) -> Shipped:
        import numpy

        spec = own_registry[model]
        network = zoo.create_model(model, input_shape=input_shape, num_classes=num_classes, **hyperparameters)
        random = numpy.random.default_rng(7)
        for variable in network.weights:  # what a trained model has: nothing at its initial value, variances above 0
            variable.assign(numpy.abs(variable.numpy()) + random.uniform(0.05, 0.3, variable.shape) * random.choice((-1, 1), variable.shape))
            if variable.name == "moving_variance":
                variable.assign(numpy.abs(variable.numpy()) + 0.5)
        weights, card = directory / f"{model}.toy.weights.h5", directory / f"{model}.toy.json"
        network.save_weights(weights)
        Card(
            name=f"{model}.toy",
            model=model,
            hyperparameters={**spec.defaults, **hyperparameters},
            input_shape=input_shape,
            num_classes=num_classes,
            class_names=tuple(f"class {index}" for index in range(num_classes)),
            dataset="toy",
            light_on_dark=True,
            recipe=zoo.Recipe(f"{model}.toy", "toy").to_dict(),
            sha256=sha256(weights),
            parameters=network.count_params(),
            results={"test": {"accuracy": 0.75}},
        ).write(card)
        tag = WeightsSpec("toy", "toy", input_shape, num_classes, hyperparameters, package=package)
        own_registry[model] = dataclasses.replace(spec, pretrained=(*spec.pretrained, tag))
        return Shipped(f"{model}.toy", network, weights, card)

    yield make
    sys.modules.pop(package, None)
