"""Fused batch normalization computes what Keras's computes, and leaves no trace in a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf

import zoo
from zoo import training
from zoo.batch_normalization import fuse_batch_normalization
from zoo.training import TrainingRun

SHAPE = (6, 5, 4, 3)


def normalized(dtype: str = "float32", **arguments: Any) -> tuple[keras.Model, keras.layers.BatchNormalization]:
    image = keras.Input(SHAPE[1:])
    layer = keras.layers.BatchNormalization(dtype=dtype, momentum=0.8, **arguments)
    model = keras.Model(image, layer(image))
    generator = numpy.random.default_rng(1)
    layer.set_weights([generator.uniform(0.5, 2.0, weight.shape) for weight in layer.weights])
    return model, layer


def step(model: keras.Model, **options: Any) -> list[numpy.ndarray]:
    """The outputs of one call in training, their gradient, and all variables after it."""
    generator = numpy.random.default_rng(2)
    x = tf.constant(generator.normal(3.0, 2.0, SHAPE), "float32")
    wanted = tf.constant(generator.normal(size=SHAPE), "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, **options)
        loss = tf.reduce_sum(tf.cast(y, "float32") * wanted)
    gradients = tape.gradient(loss, [x, *(weight.value for weight in model.trainable_weights)])
    return [keras.ops.convert_to_numpy(value).astype("float32") for value in (y, *gradients, *model.weights)]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}, {"epsilon": 0.1}, {"axis": 3}, {"dtype": "mixed_bfloat16"}],
    ids=str,
)
def test_outputs_gradients_and_moving_statistics_are_kerass(arguments: dict[str, Any]) -> None:
    plain, (fused, layer) = normalized(**arguments)[0], normalized(**arguments)
    assert fuse_batch_normalization(fused) == 1
    before = [weight.numpy() for weight in layer.weights]
    for expected, got in zip(step(plain, training=True), step(fused, training=True), strict=True):
        numpy.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 if arguments.get("dtype") is None else 2e-2)
    moved = [not numpy.array_equal(weight.numpy(), value) for weight, value in zip(layer.weights, before, strict=True)]
    assert moved[-2:] == [True, True]


@pytest.mark.parametrize("frozen", [False, True])
def test_at_inference_and_where_frozen_nothing_differs(frozen: bool) -> None:
    plain, fused = normalized()[0], normalized()[0]
    fuse_batch_normalization(fused)
    for model in (plain, fused):
        model.trainable = not frozen
    for expected, got in zip(step(plain, training=frozen), step(fused, training=frozen), strict=True):
        numpy.testing.assert_array_equal(got, expected)


def test_training_takes_the_fused_operation_and_its_gradient() -> None:
    model, _ = normalized()
    fuse_batch_normalization(model)

    @tf.function
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        return tape.gradient(y, x)

    kinds = {operation.type for operation in gradient.get_concrete_function(tf.TensorSpec(SHAPE)).graph.get_operations()}
    assert {"FusedBatchNormV3", "FusedBatchNormGradV3"} <= kinds


@pytest.mark.parametrize(
    ("shape", "arguments"), [((5, 4, 3), {"axis": 1}), ((7,), {}), ((5, 4, 3), {"synchronized": True}), ((5, 4, 3), {"dtype": "float64"})], ids=str
)
def test_what_the_operations_do_not_compute_is_left_to_keras(shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    image = keras.Input(shape)
    assert fuse_batch_normalization(keras.Model(image, keras.layers.BatchNormalization(**arguments)(image))) == 0


def test_models_inside_models_are_reached() -> None:
    inner = zoo.create_model("cnn_bn", filters=4, units=8)
    image = keras.Input((28, 28, 1))
    assert fuse_batch_normalization(keras.Model(image, inner(image))) == 2


def test_a_file_of_the_model_knows_nothing_of_it(tmp_path: Path) -> None:
    model = zoo.create_model("cnn_bn", filters=4, units=8)
    configuration = model.to_json()
    fuse_batch_normalization(model)
    assert model.to_json() == configuration
    model.save(tmp_path / "model.keras")
    read = keras.models.load_model(tmp_path / "model.keras")
    assert all("call" not in vars(layer) for layer in read.layers)
    images = numpy.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), "uint8")
    numpy.testing.assert_array_equal(read.predict(images, verbose=0), model.predict(images, verbose=0))


def test_a_training_run_gives_what_kerass_own_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = zoo.Recipe("cnn_bn", "digits", hyperparameters={"filters": 8, "units": 16}, learning_rate=0.01, schedule="constant", epochs=2)
    splits = [zoo.load_dataset("digits", split) for split in ("train", "test")]
    runs = [TrainingRun(recipe, *splits)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "fuse_batch_normalization", lambda model: 0)
        runs.append(TrainingRun(recipe, *splits))
    for run in runs:
        run.fit()
    assert [sum("call" in vars(layer) for layer in run.model.layers) for run in runs] == [2, 0]
    for fused, plain in zip(*(run.model.weights for run in runs), strict=True):
        numpy.testing.assert_allclose(fused.numpy(), plain.numpy(), rtol=1e-3, atol=1e-3, err_msg=plain.path)
