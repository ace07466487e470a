"""Names to models: configurations, what is refused, and trained models from a directory."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import zoo
from zoo.cards import Card
from zoo.errors import UnknownNameError, UsageError, WeightsError
from zoo.factory import RUN_CARD, RUN_WEIGHTS

Ship = Callable[..., Any]
IMAGES = numpy.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), "uint8")


# --- configurations ---------------------------------------------------------------------------------------------------


def test_a_bare_name_takes_the_builder_s_defaults() -> None:
    model = zoo.create_model("relu_mlp")
    assert model.name == "relu_mlp"
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 1), (None, 10))
    assert model.get_layer("hidden1_dense").units == zoo.model_info("relu_mlp").defaults["units"]


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_a_tag_gives_the_configuration_even_without_its_weights(name: str) -> None:
    spec, weights = zoo.registry.resolve(name)
    model = zoo.create_model(name)
    assert model.input_shape == (None, *weights.input_shape)
    assert model.output_shape == (None, weights.num_classes)
    configured = zoo.create_model(spec.name, input_shape=weights.input_shape, num_classes=weights.num_classes, **weights.hyperparameters)
    assert [variable.shape for variable in model.weights] == [variable.shape for variable in configured.weights]
    with pytest.raises(WeightsError, match=f"The model '{spec.name}' was not created with pretrained weights"):
        zoo.load_report(model)


def test_arguments_come_before_the_tag_s() -> None:
    model = zoo.create_model("relu_mlp.digits", num_classes=3, units=16, depth=1)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 3))
    assert zoo.create_model("relu_mlp.digits", input_shape=(4, 5, 3)).input_shape == (None, 4, 5, 3)
    assert model.get_layer("hidden1_dense").units == 16


def test_a_variant_has_its_own_name_and_values() -> None:
    model = zoo.create_model("cnn_bn_tiny", input_shape=(8, 8, 1))
    assert model.name == "cnn_bn_tiny"
    assert model.get_layer("block1_conv1").filters == 8
    assert "hidden1" not in zoo.level_names(model)


def test_numpy_s_whole_numbers_are_numbers() -> None:
    model = zoo.create_model("relu_mlp", input_shape=tuple(numpy.array([8, 8, 1])), num_classes=numpy.int64(3), units=4)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 3))


def test_two_models_share_nothing() -> None:
    first, second = (zoo.create_model("relu_mlp", input_shape=(4, 4, 1), units=4) for _ in range(2))
    assert not {id(variable) for variable in first.weights} & {id(variable) for variable in second.weights}
    assert (first.get_layer("hidden1_dense").kernel.numpy() != second.get_layer("hidden1_dense").kernel.numpy()).any()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1, 1), (0, 8, 1), (-8, 8, 1), (8.0, 8, 1), (None, 8, 1), (True, 8, 1), 8, "8,8,1", ()])
def test_an_impossible_shape(shape: Any) -> None:
    with pytest.raises(UsageError) as error:
        zoo.create_model("cnn", input_shape=shape)
    assert str(error.value) == f"input_shape must be (height, width, channels), each a whole number above 0. Received: {shape!r}."


@pytest.mark.parametrize("classes", [1, 0, -3, 2.0, "10", True])
def test_an_impossible_number_of_classes(classes: Any) -> None:
    with pytest.raises(UsageError) as error:
        zoo.create_model("cnn", num_classes=classes)
    assert str(error.value) == f"num_classes must be a whole number above 1. Received: {classes!r}."


@pytest.mark.parametrize("name", ["cnn", "cnn.digits"])
def test_an_unknown_hyperparameter(name: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        zoo.create_model(name, unit=3)
    assert str(error.value).startswith(
        "Unknown hyperparameter of cnn 'unit'. Did you mean 'units'? Valid hyperparameters of cnn: activation, blocks, convolutions, "
    )


@pytest.mark.parametrize("value", [{"units": -1}, {"units": "many"}, {"dropout": 2}, {"kernel_size": 0}, {"blocks": 1.5}, {"filters": None}])
def test_an_impossible_hyperparameter_is_named_in_one_line(value: dict[str, Any]) -> None:
    (name, received), *_ = value.items()
    with pytest.raises(UsageError) as error:
        zoo.create_model("cnn", **value)
    assert str(error.value).startswith(f"cnn cannot be built with {name}={received!r}: ")
    assert "\n" not in str(error.value)


# --- trained models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(ship: Ship, tmp_path: Path) -> tuple[Any, Path]:
    """Weights, and a finished run's directory that holds them."""
    toy = ship("cnn_bn", filters=4, units=8)
    directory = tmp_path / "runs" / "mine"
    directory.mkdir(parents=True)
    shutil.copy(toy.weights, directory / RUN_WEIGHTS)
    dataclasses.replace(Card.read(toy.card), name="mine").write(directory / RUN_CARD)
    return toy, directory


@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_s_directory_is_a_trained_model(run: tuple[Any, Path], kind: type) -> None:
    toy, directory = run
    model, card = zoo.load_trained(kind(directory))
    assert card.name == "mine"
    numpy.testing.assert_array_equal(model(IMAGES), toy.model(IMAGES))


def test_a_name_is_a_trained_model(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    model, card = zoo.load_trained("relu_mlp.toy")
    assert card == Card.read(toy.card)
    numpy.testing.assert_array_equal(model(IMAGES), toy.model(IMAGES))


def test_a_directory_without_a_card_is_an_unfinished_run(run: tuple[Any, Path]) -> None:
    _, directory = run
    (directory / RUN_CARD).unlink()
    with pytest.raises(
        WeightsError, match=r"mine holds no finished training run: it has no card\.json\. `zoo train --out .*mine` makes or resumes one\.$"
    ):
        zoo.load_trained(directory)


def test_a_run_with_damaged_weights_is_refused(run: tuple[Any, Path]) -> None:
    _, directory = run
    data = bytearray((directory / RUN_WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / RUN_WEIGHTS).write_bytes(data)
    with pytest.raises(WeightsError, match=r"are damaged: their SHA-256 is .*, the card of mine says"):
        zoo.load_trained(directory)


def test_a_directory_that_happens_to_have_a_model_s_name_does_not_hide_it(ship: Ship, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship("relu_mlp", units=8)
    monkeypatch.chdir(tmp_path)
    Path("relu_mlp.toy").mkdir()
    assert zoo.load_trained("relu_mlp.toy")[1].name == "relu_mlp.toy"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "runs" / "v1.0")
    with pytest.raises(UnknownNameError) as error:
        zoo.load_trained(missing)
    assert str(error.value).startswith(f"Unknown model {missing!r}.")
    assert str(error.value).endswith(f"There is no directory {missing!r} either.")
    with pytest.raises(UnknownNameError, match=r"Valid tags of cnn: [^.]*\.$"):
        zoo.load_trained("cnn.mnits")
