"""Which models share a compiled step, and which do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import pytest
from keras import layers

import zoo
from tuning.scalars import optimizer_structure
from tuning.structures import Unshareable, model_structure, recipe_structure, start_structure
from zoo.compilation import make_optimizer


def network(
    units: int = 4, dropout: float = 0.1, decay: float = 0.1, name: str | None = None, initializer: str = "zeros", **compiled: Any
) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(units, name=name, kernel_regularizer=keras.regularizers.L2(decay), kernel_initializer=initializer),
            layers.Dropout(dropout, seed=int(10 * dropout)),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compiled})
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.5},
        {"decay": 0.01},
        {"initializer": "he_normal"},
        {"optimizer": keras.optimizers.Adam(0.5, beta_1=0.3)},
    ],
)
def test_the_structure_is_the_same_however_often_it_is_built(changes: dict[str, Any]) -> None:
    structure, numbers, places = model_structure(network(**changes))
    other, others, _ = model_structure(network())
    assert structure == other
    assert set(numbers) == set(others) == set(places)
    assert len(numbers) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"units": 5},
        {"dropout": 0.0},
        {"decay": 0.0},
        {"name": "own"},
        {"loss": "mae"},
        {"metrics": ["mse"]},
    ],
)
def test_whatever_changes_the_graph_changes_the_structure(changes: dict[str, Any]) -> None:
    assert model_structure(network(**changes))[0] != model_structure(network())[0]


def test_automatic_names_are_told_apart_by_their_place() -> None:
    def branching(swapped: bool) -> keras.Model:
        image = keras.Input((3,))
        one, other = layers.Dense(2, "relu")(image), layers.Dense(2, "tanh")(image)
        model = keras.Model(image, layers.Subtract()([other, one] if swapped else [one, other]))
        model.compile("sgd", "mse")
        return model

    assert model_structure(branching(False))[0] == model_structure(branching(False))[0]
    assert model_structure(branching(False))[0] != model_structure(branching(True))[0]


def test_a_loss_that_cannot_tell_its_configuration_is_not_shared() -> None:
    class Own(keras.losses.Loss):
        def get_config(self) -> dict[str, Any]:
            raise NotImplementedError("no configuration")

    with pytest.raises(Unshareable, match="cannot be told \\(no configuration\\)"):
        model_structure(network(loss=Own()))


def test_a_model_that_is_not_compiled_is_not_shared() -> None:
    with pytest.raises(Unshareable, match="not compiled"):
        model_structure(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))


RECIPE = zoo.Recipe("cnn", "digits", optimizer="momentum", hyperparameters={"dropout": 0.1, "initializer": "he_normal"}, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("changes", "program", "start"),
    [
        ({"learning_rate": 0.5, "schedule": "one_cycle", "epochs": 3}, True, True),
        ({"optimizer_arguments": {"momentum": 0.5}}, True, True),
        ({"hyperparameters": {"dropout": 0.5, "initializer": "he_normal"}}, True, True),
        ({"hyperparameters": {"dropout": 0.1, "initializer": "lecun_normal"}}, True, False),
        ({"seed": 1}, True, False),
        ({"label_smoothing": 0.3}, True, True),
        ({"label_smoothing": 0.0}, False, True),
        ({"hyperparameters": {}}, False, False),
        ({"optimizer": "adam"}, False, True),
        ({"optimizer": "nesterov"}, False, True),
        ({"batch_size": 7}, False, True),
        ({"precision": "mixed_bfloat16"}, False, False),
        ({"augmentation": (zoo.Shift(1),)}, False, False),
        ({"initialization": ("dirac",)}, True, False),
        ({"ema": 0.9}, False, True),
    ],
)
def test_recipes_share_programs_and_starts_where_they_may(changes: dict[str, Any], program: bool, start: bool) -> None:
    other = dataclasses.replace(RECIPE, **changes)
    structures = [(recipe_structure(recipe)[0], optimizer_structure(make_optimizer(recipe, 10))[0], recipe.batch_size) for recipe in (RECIPE, other)]
    assert (structures[0] == structures[1]) is program
    assert (start_structure(RECIPE) == start_structure(other)) is start
