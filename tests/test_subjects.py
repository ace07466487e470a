"""What can be searched: what its configurations mean to an engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import keras_tuner
import numpy
import pytest

from tuning.segments import PlainEngine, Point
from tuning.settings import Settings
from tuning.subjects import ArraySubject, ZooSubject, repeats
from zoo.specs import Recipe

RECIPE = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, schedule="constant", epochs=9, validate=True)


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, True), ({"schedule": "cosine"}, False), ({"warmup": 0.1}, False), ({"augmentation_tail": 0.2}, False)], ids=str
)
def test_which_recipes_begin_alike_whatever_their_length(changes: dict[str, Any], expected: bool) -> None:
    assert repeats(dataclasses.replace(RECIPE, **changes)) is expected


def test_a_model_of_the_zoo() -> None:
    subject = ZooSubject(Settings(RECIPE, optimizers=("sgd", "adam"), study="optimizers"), None)
    sgd = {"optimizer": "sgd", "sgd.learning_rate": 0.1}
    assert (subject.job(sgd).optimizer, subject.job(sgd).learning_rate, subject.job(sgd).epochs) == ("sgd", 0.1, 9)
    assert subject.recipe(sgd, 3) == dataclasses.replace(subject.job(sgd), epochs=3)
    assert subject.recipe(sgd, 0) == subject.job(sgd)
    assert subject.signature(sgd) == subject.signature({**sgd, "sgd.learning_rate": 0.2}) != subject.signature({"optimizer": "adam"})
    assert isinstance(subject.engine("plain"), PlainEngine)
    assert subject.validation == 144


def test_a_schedule_that_ends_with_the_recipe_is_repeated_whole() -> None:
    subject = ZooSubject(Settings(dataclasses.replace(RECIPE, schedule="cosine"), optimizers=("sgd",), study="optimizers"), None)
    assert subject.recipe({"optimizer": "sgd"}, 3).epochs == 9


def build(hp: keras_tuner.HyperParameters) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Choice("units", [2, 4]), hp.Choice("activation", ["relu", "tanh"]))])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse", metrics=["accuracy"])
    return model


def test_a_hypermodel_on_arrays() -> None:
    data = (numpy.ones((8, 4)), numpy.ones(8)), (numpy.ones((3, 4)), numpy.ones(3))
    subject = ArraySubject(Settings(None, hypermodel="build", epochs=2, batch_size=4, seed=5), build, data)
    config = {"units": 2, "activation": "relu", "rate": 0.05}
    assert subject.validation == 3
    assert subject.job(config) == Point(subject.space, config, 2, 4, 5)
    assert subject.recipe(config, 2) is None
    assert subject.signature(config) == subject.signature({**config, "rate": 0.01}) != subject.signature({**config, "units": 4})
