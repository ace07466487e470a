"""Initializations: dirac filters pass signals, whitening decorrelates patches, LSUV gives unit variance."""

from __future__ import annotations

from typing import Any

import keras
import numpy
import pytest

import zoo
from zoo.errors import UnknownNameError, UsageError
from zoo.initialization import INITIALIZATIONS, initialize


@pytest.fixture(scope="module")
def images() -> numpy.ndarray:
    return zoo.load_dataset("digits", "train").images


def network(name: str = "cnn", **hyperparameters: Any) -> keras.Model:
    return zoo.create_model(name, input_shape=(8, 8, 1), **{"filters": 4, "units": 16, "pixel_mean": 78.0, "pixel_std": 96.0, **hyperparameters})


def test_dirac_filters_pass_their_inputs_through(images: numpy.ndarray) -> None:
    model = network(convolutions=2)
    initialize(model, ("dirac",), images)
    layer = model.get_layer("block2_conv1")  # 4 maps to 8
    features = numpy.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype("float32")
    result = keras.ops.convert_to_numpy(layer(features))
    numpy.testing.assert_allclose(result[..., :4], features, atol=1e-6)
    assert numpy.abs(result[..., 4:] - features).mean() > 0.1


def test_whitening_decorrelates_patches(images: numpy.ndarray) -> None:
    model = network(whitening=2)
    initialize(model, ("whitening",), images)
    responses = keras.Model(model.input, model.get_layer("whitening_conv").output).predict(images, verbose=0)[..., :4].reshape(-1, 4)
    numpy.testing.assert_allclose(responses.T @ responses / len(responses), numpy.eye(4), atol=0.02)
    kernel = keras.ops.convert_to_numpy(model.get_layer("whitening_conv").kernel)
    numpy.testing.assert_array_equal(kernel[..., :4], -kernel[..., 4:])


@pytest.mark.parametrize(("name", "hyperparameters"), [("cnn", {"convolutions": 2}), ("relu_mlp", {"depth": 3})])
def test_lsuv_gives_every_hidden_layer_unit_variance(name: str, hyperparameters: dict[str, Any], images: numpy.ndarray) -> None:
    model = zoo.create_model(name, input_shape=(8, 8, 1), units=32, **hyperparameters) if name == "relu_mlp" else network(name, **hyperparameters)
    initialize(model, ("lsuv",), images)
    hidden = [layer for layer in model.layers if layer.weights and layer.name != "logits"]
    assert len(hidden) >= 3
    for layer in hidden:
        assert keras.Model(model.input, layer.output).predict(images[:512], verbose=0).std() == pytest.approx(1.0, abs=0.02)


def test_what_does_not_fit(images: numpy.ndarray) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown initialization 'whitenin'. Did you mean 'whitening'"):
        initialize(network(), ("whitenin",), images)
    with pytest.raises(UsageError, match="set its hyperparameter whitening above 0"):
        initialize(network(), ("whitening",), images)
    with pytest.raises(UsageError, match="dirac needs a trainable convolution"):
        initialize(zoo.create_model("relu_mlp", input_shape=(8, 8, 1)), ("dirac",), images)
    assert sorted(INITIALIZATIONS) == ["dirac", "lsuv", "whitening"]
