"""Muon: orthogonal steps for kernels, Nesterov steps for the rest."""

from __future__ import annotations

import keras
import numpy
import pytest

import zoo
from zoo.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(6, 6), (40, 8), (8, 40)])
def test_orthogonalize_brings_all_singular_values_near_one_and_keeps_the_vectors(shape: tuple[int, int]) -> None:
    matrix = numpy.random.default_rng(0).normal(size=shape).astype("float32")
    result = keras.ops.convert_to_numpy(orthogonalize(matrix, 10))
    assert numpy.linalg.svd(result, compute_uv=False) == pytest.approx(1.0, abs=0.35)
    left, _, right = numpy.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ result @ right.T
    assert numpy.abs(inner - numpy.diag(numpy.diag(inner))).max() < 1e-3
    assert numpy.diag(inner).min() > 0


def test_only_kernels_but_the_logits_take_orthogonal_steps() -> None:
    optimizer = zoo.create_optimizer("muon")
    model = zoo.create_model("cnn_bn", input_shape=(8, 8, 1), num_classes=3, filters=4, units=8, blocks=1)
    orthogonal = {variable.path for variable in model.trainable_variables if optimizer.is_orthogonal(variable)}
    assert orthogonal == {"block1_conv1/kernel", "hidden1_dense/kernel"}


def test_a_step_moves_every_direction_of_a_filter_bank_by_the_learning_rate() -> None:
    kernel = keras.Variable(numpy.zeros((3, 3, 2, 5), "float32"), name="kernel")
    gradient = numpy.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype("float32")
    Muon(0.1, iterations=10).apply([keras.ops.convert_to_tensor(gradient)], [kernel])
    moved = keras.ops.convert_to_numpy(kernel).reshape(18, 5)
    assert numpy.linalg.svd(moved, compute_uv=False) == pytest.approx(0.1, rel=0.35)
    assert (moved * gradient.reshape(18, 5)).sum() < 0


def test_normalize_keeps_the_norm_of_a_kernel() -> None:
    kernel = keras.Variable(numpy.full((4, 9), 7.0, "float32"), name="kernel")
    Muon(1e-6, normalize=True).apply([keras.ops.ones((4, 9))], [kernel])
    assert numpy.linalg.norm(keras.ops.convert_to_numpy(kernel)) == pytest.approx(3.0, rel=1e-3)


def test_vectors_take_nesterov_steps_of_their_own_rate() -> None:
    bias = keras.Variable(numpy.zeros(1, "float32"), name="bias")
    optimizer = Muon(0.1, bias_learning_rate_ratio=2.0, sgd_momentum=0.5)
    optimizer.apply([keras.ops.ones(1)], [bias])
    assert float(bias[0]) == pytest.approx(-0.2 * 1.5)
    optimizer.apply([keras.ops.ones(1)], [bias])
    assert float(bias[0]) == pytest.approx(-0.2 * (1.5 + 1.75))


def test_it_survives_its_configuration() -> None:
    optimizer = Muon(0.1, momentum=0.6, iterations=3, normalize=True, exclude_layers=("head",))
    assert Muon.from_config(optimizer.get_config()).get_config() == optimizer.get_config()
