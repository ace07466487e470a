"""The shared layers, their mathematics, and the way to look into a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf

import zoo
from zoo.errors import UnknownNameError, UsageError
from zoo.layers import hidden_layer, kernel_initializer, preprocess

Hyperparameters = Callable[[str], dict[str, Any]]
LEVELS = {
    "sigmoid_mlp": ["preprocess", "hidden1", "hidden2", "logits"],
    "relu_mlp": ["preprocess", "hidden1", "hidden2", "logits"],
    "cnn": ["preprocess", "block1", "block2", "hidden1", "logits"],
    "cnn_bn": ["preprocess", "block1", "block2", "hidden1", "logits"],
    "cnn_bn_tiny": ["preprocess", "block1", "block2", "block3", "logits"],
}


def pixels(*shape: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 256, shape, "uint8")


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sigmoid", "relu"])
def activation(request: pytest.FixtureRequest) -> tuple[str, keras.layers.Layer]:
    """An activation as the models have it."""
    image = keras.Input((3,))
    model = keras.Model(image, hidden_layer(image, "hidden1", 4, request.param, "he_normal", 0.0))
    return request.param, model.get_layer(f"hidden1_{request.param}")


def slope(layer: keras.layers.Layer, at: list[float]) -> numpy.ndarray:
    x = tf.constant(at)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    return tape.gradient(y, x).numpy()


def test_values(activation: tuple[str, keras.layers.Layer]) -> None:
    name, layer = activation
    x = numpy.array([-1e4, -3.0, -1e-3, 0.0, 1e-3, 0.5, 3.0, 1e4], "float32")
    expected = numpy.maximum(0, x) if name == "relu" else [1 / (1 + math.exp(-min(max(value, -700), 700))) for value in x.tolist()]
    numpy.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-6, atol=1e-12)


def test_slopes(activation: tuple[str, keras.layers.Layer]) -> None:
    name, layer = activation
    if name == "relu":
        assert slope(layer, [-1e6, -1.0, -1e-6]).tolist() == [0, 0, 0]
        assert slope(layer, [1e-6, 1.0, 1e6]).tolist() == [1, 1, 1]
    else:
        s = layer(tf.constant([-4.0, -1.0, 0.0, 1.0, 4.0])).numpy()
        numpy.testing.assert_allclose(slope(layer, [-4.0, -1.0, 0.0, 1.0, 4.0]), s * (1 - s), rtol=1e-4)
        assert slope(layer, [0.0]).tolist() == [0.25]


def test_a_sigmoid_unit_stays_between_0_and_1_and_a_rectified_one_does_not() -> None:
    images = pixels(32, 8, 8, 1)
    for name, bounded in (("sigmoid_mlp", True), ("relu_mlp", False)):
        model = zoo.create_model(name, input_shape=(8, 8, 1), units=64, depth=1)
        model.get_layer("hidden1_dense").kernel.assign(model.get_layer("hidden1_dense").kernel * 3)
        hidden = zoo.feature_extractor(model, "hidden1")(images)["hidden1"].numpy()
        assert hidden.min() >= 0
        assert (hidden.max() <= 1) == bounded


@pytest.mark.parametrize("name", ["cnn", "cnn_bn"])
def test_the_networks_rectifiers_are_rectifiers(name: str) -> None:
    model = zoo.create_model(name, input_shape=(8, 8, 1), filters=4, units=8)
    before = "block1_batchnorm1" if name == "cnn_bn" else "block1_conv1"
    features = zoo.feature_extractor(model, [before, "block1_relu1", "hidden1_dense", "hidden1_relu"])(pixels(4, 8, 8, 1))
    for x, y in ((before, "block1_relu1"), ("hidden1_dense", "hidden1_relu")):
        assert (features[x].numpy() < 0).any()
        numpy.testing.assert_array_equal(features[y], numpy.maximum(0, features[x]))


@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_pooling_takes_the_maximum_of_every_two_by_two(shape: tuple[int, int]) -> None:
    model = zoo.create_model("cnn", input_shape=(*shape, 1), filters=4, units=0, blocks=1)
    features = zoo.feature_extractor(model, ["block1_relu1", "block1_pool"])(pixels(2, *shape, 1))
    x, pooled = features["block1_relu1"].numpy(), features["block1_pool"].numpy()
    assert pooled.shape == (2, -(-shape[0] // 2), -(-shape[1] // 2), 4)
    for row in range(pooled.shape[1]):
        for column in range(pooled.shape[2]):
            block = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            numpy.testing.assert_array_equal(pooled[:, row, column], block.max(axis=(1, 2)))


# --- preprocessing and initialization ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "float64"])
def test_preprocess(dtype: str) -> None:
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, preprocess(image, 33.0, 78.0))
    x = numpy.array([0, 33, 111, 255], dtype).reshape(1, 2, 2, 1)
    y = model(x)
    assert y.dtype == tf.float32
    numpy.testing.assert_allclose(y.numpy(), (x.astype("float64") - 33) / 78, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_an_impossible_scale(std: float) -> None:
    with pytest.raises(UsageError, match=rf"^pixel_std must be above 0\. Received: {std!r}\.$"):
        zoo.create_model("cnn", pixel_std=std)


def test_glorot_uniform_x4_is_four_times_as_wide_as_glorot_s() -> None:
    fan_in, fan_out = 300, 500
    keras.utils.set_random_seed(0)
    kernel = keras.ops.convert_to_numpy(kernel_initializer("glorot_uniform_x4")((fan_in, fan_out)))
    limit = 4 * math.sqrt(6 / (fan_in + fan_out))
    assert numpy.abs(kernel).max() == pytest.approx(limit, rel=1e-3)
    assert numpy.abs(kernel).max() <= limit
    assert kernel.var() == pytest.approx(16 * 2 / (fan_in + fan_out), rel=0.01)
    assert kernel.mean() == pytest.approx(0, abs=limit / 100)


def test_the_default_initializations() -> None:
    keras.utils.set_random_seed(0)
    for name, variance in (("sigmoid_mlp", 16 * 2 / (784 + 256)), ("relu_mlp", 2 / 784)):
        kernel = zoo.create_model(name).get_layer("hidden1_dense").kernel
        assert numpy.var(kernel.numpy()) == pytest.approx(variance, rel=0.02), name


@pytest.mark.parametrize("name", ["he", 5])
def test_an_unknown_initializer(name: Any) -> None:
    with pytest.raises(UnknownNameError) as error:
        zoo.create_model("relu_mlp", initializer=name)
    assert str(error.value).startswith(f"Unknown initializer {name!r}.")
    assert "Valid initializers: glorot_normal, glorot_uniform, glorot_uniform_x4, he_normal" in str(error.value)


# --- looking into a model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEVELS)
def test_levels(name: str) -> None:
    assert zoo.level_names(zoo.create_model(name, dropout=0.2)) == LEVELS[name]


def test_depth_adds_levels() -> None:
    assert zoo.level_names(zoo.create_model("relu_mlp", depth=3))[1:-1] == ["hidden1", "hidden2", "hidden3"]
    assert zoo.level_names(zoo.create_model("cnn", blocks=3))[1:-2] == ["block1", "block2", "block3"]


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_s_levels_in_one_call(name: str, small: Hyperparameters, tmp_path: Path) -> None:
    model, images = zoo.create_model(name, input_shape=(6, 5, 3), num_classes=4, **small(name)), pixels(3, 6, 5, 3)
    extract = zoo.feature_extractor(model)
    features = extract(images)
    assert list(features) == zoo.level_names(model)
    assert all(value.shape[0] == 3 and value.dtype == tf.float32 for value in features.values())
    numpy.testing.assert_array_equal(features["logits"], model(images))
    assert extract.name == f"{name}_features"
    assert {id(weight) for weight in extract.weights} == {id(weight) for weight in model.weights}, "the layers are shared"

    model.save(tmp_path / "model.keras")
    again = zoo.feature_extractor(keras.models.load_model(tmp_path / "model.keras"))(images)
    assert list(again) == list(features)
    for level, value in features.items():
        numpy.testing.assert_allclose(again[level], value, rtol=1e-5, atol=1e-5)


def test_the_levels_shapes() -> None:
    model = zoo.create_model("cnn_bn", input_shape=(9, 7, 3), num_classes=5, filters=4, units=6, dropout=0.5)
    shapes = {name: tuple(value.shape) for name, value in zoo.feature_extractor(model)(pixels(2, 9, 7, 3)).items()}
    assert shapes == {"preprocess": (2, 9, 7, 3), "block1": (2, 5, 4, 4), "block2": (2, 3, 2, 8), "hidden1": (2, 6), "logits": (2, 5)}


def test_some_levels_and_single_layers_in_the_given_order() -> None:
    model, images = zoo.create_model("cnn", input_shape=(8, 8, 1), filters=4, units=6), pixels(2, 8, 8, 1)
    features = zoo.feature_extractor(model, ["hidden1", "block1_conv1"])(images)
    assert {name: tuple(value.shape) for name, value in features.items()} == {"hidden1": (2, 6), "block1_conv1": (2, 8, 8, 4)}
    everything = zoo.feature_extractor(model)(images)
    numpy.testing.assert_array_equal(features["hidden1"], everything["hidden1"])
    assert list(zoo.feature_extractor(model, "block2")(images)) == ["block2"], "one name needs no list"


def test_hidden_features_are_what_the_head_reads() -> None:
    model, images = zoo.create_model("relu_mlp", input_shape=(4, 4, 1), units=8, dropout=0.5), pixels(2, 4, 4, 1)
    features, head = zoo.feature_extractor(model)(images), model.get_layer("logits")
    expected = features["hidden2"].numpy() @ head.kernel.numpy() + head.bias.numpy()
    numpy.testing.assert_allclose(features["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("levels", "kind", "message"),
    [
        (["blok1"], UnknownNameError, "Unknown level 'blok1'. Did you mean 'block1'"),
        (["block1_con1"], UnknownNameError, "Unknown level 'block1_con1'. Did you mean 'block1_conv1'"),
        (["logits", "conv"], UnknownNameError, "Unknown level 'conv'. Did you mean 'block2_conv1' or 'block1_conv1'? Valid levels: block1"),
        ([], UsageError, "levels must name at least one level. Received: none. Levels of cnn: preprocess, block1, block2, hidden1, logits."),
    ],
)
def test_unknown_levels(levels: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        zoo.feature_extractor(zoo.create_model("cnn", filters=4, units=6), levels)
    assert str(error.value).startswith(message)
