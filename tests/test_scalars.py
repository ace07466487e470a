"""Numbers that a graph takes as arguments behave among Python numbers and tensors as Python floats do."""

from __future__ import annotations

import math

import keras
import numpy
import pytest
import tensorflow as tf

import zoo
from tuning.scalars import FREE, Scalar, Slots, is_free, optimizer_structure
from zoo.optimizers import OPTIMIZERS, optimizer_class


def scalar(value: float) -> Scalar:
    return Scalar(tf.constant(value, tf.float64))


@pytest.mark.parametrize("value", [0.9, 0.9999, 1e-10, 3.7])
def test_it_gives_what_a_python_float_gives(value: float) -> None:
    def results(number: float | Scalar, x: tf.Tensor) -> list[tf.Tensor]:
        return [
            number * x,
            x * (1 - number),
            x - number,
            number - x,
            x / (1 + number),
            1 / number * x,
            number / 3 + x,
            keras.ops.multiply(x, 1 - number),
            keras.ops.add(number, x),
            keras.ops.cast(number, "float32"),
            tf.cast(number, "float32"),
        ]

    x = tf.constant([0.3, -2.0, 1e5])
    expected = tf.function(lambda: results(value, x), autograph=False)()
    traced = tf.function(lambda number: results(Scalar(number), x), autograph=False)(tf.constant(value, tf.float64))
    for got, wanted in zip(traced, expected, strict=True):
        assert got.dtype == tf.float32
        numpy.testing.assert_array_max_ulp(got, wanted)  # the division by a constant is a multiplication


def test_keras_is_told_that_it_is_not_zero() -> None:
    free = scalar(0.5)
    assert free
    assert free > 0
    assert free != 0
    assert not free == 0  # noqa: SIM201
    assert not free < 0
    assert not free >= 1
    with pytest.raises(TypeError, match=r"compared with 0 only\. Received: 0\.3"):
        assert free > 0.3


def test_what_is_not_foreseen_is_no_number() -> None:
    assert math.isnan(float(scalar(0.5)))
    assert math.isnan(scalar(0.5) ** 2)


@pytest.mark.parametrize(("value", "free"), [(0.1, True), (1, True), (0.0, False), (None, False), (True, False), ("adam", False)])
def test_zero_belongs_to_another_graph(value: object, free: bool) -> None:
    assert is_free(value) is free


def test_places_are_as_before_when_the_graph_is_traced() -> None:
    optimizer = keras.optimizers.Adam(beta_1=0.8)
    slots = Slots({"b": [(optimizer, "beta_1")], "a": [(optimizer, "epsilon")]})
    assert slots.vector({"a": 1.0, "b": 2.0}) == [1.0, 2.0]
    with slots.filled(tf.constant([1.0, 2.0], tf.float64)):
        assert isinstance(optimizer.beta_1, Scalar)
    assert optimizer.beta_1 == 0.8


def test_the_learning_rate_and_free_numbers_are_no_part_of_an_optimizers_structure() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    one, free = optimizer_structure(keras.optimizers.AdamW(0.1, beta_1=0.8, weight_decay=0.1))
    other, others = optimizer_structure(keras.optimizers.AdamW(schedule, beta_1=0.7, weight_decay=0.2))
    assert one == other
    assert free["beta_1"] == 0.8
    assert set(others) >= {"beta_1", "beta_2", "epsilon", "weight_decay"}
    assert optimizer_structure(keras.optimizers.AdamW(amsgrad=True))[0] != one
    assert optimizer_structure(keras.optimizers.SGD(0.1))[0] != optimizer_structure(keras.optimizers.SGD(0.1, momentum=0.9))[0]


def test_an_optimizer_of_a_users_own_has_no_free_numbers() -> None:
    class Own(keras.optimizers.Adam):
        pass

    assert optimizer_structure(Own())[1] == {}


@pytest.mark.parametrize("name", zoo.list_optimizers())
def test_what_a_search_draws_compiles_nothing(name: str) -> None:
    """Every real number in an optimizer's domains is free."""
    free = {"learning_rate", "weight_decay", *FREE[optimizer_class(OPTIMIZERS[name]).__name__]}
    assert {argument for argument, domain in OPTIMIZERS[name].domains.items() if isinstance(domain, zoo.Float)} <= free
