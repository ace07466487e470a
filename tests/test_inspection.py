"""Looking inside models."""

from __future__ import annotations

import keras
import numpy
import pytest

import zoo
from zoo.errors import UsageError
from zoo.evaluation import multiply_accumulates
from zoo.inspection import gradient_norms, inspect, receptive_fields, saliency

IMAGES = numpy.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype("uint8")
LABELS = numpy.arange(6)


@pytest.mark.parametrize("name", ["sigmoid_mlp.digits", "relu_mlp.digits", "cnn.digits", "cnn_bn.digits"])
def test_every_layer_is_reported(name: str) -> None:
    model = zoo.create_model(name, pretrained=True)
    reports = {report.name: report for report in inspect(model, IMAGES, LABELS)}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout):
            assert layer.name not in reports
            continue
        report = reports[layer.name]
        assert report.shape == tuple(layer.output.shape[1:])
        assert report.parameters == layer.count_params()
        assert (report.gradient_norm is not None) == bool(layer.trainable_weights)
        assert (report.saturated is not None) == layer.name.endswith("_sigmoid")
        assert (report.dead is not None) == ("_relu" in layer.name)
    assert sum(report.parameters for report in reports.values()) == model.count_params()
    assert sum(report.multiply_accumulates for report in reports.values()) == multiply_accumulates(model)


def test_statistics_are_those_of_the_activations() -> None:
    model = zoo.create_model("relu_mlp.digits", pretrained=True)
    report = next(report for report in inspect(model, IMAGES, LABELS) if report.name == "hidden1_relu")
    values = zoo.feature_extractor(model, "hidden1")(IMAGES)["hidden1"].numpy()
    assert report.mean == pytest.approx(values.mean(), rel=1e-5)
    assert report.standard_deviation == pytest.approx(values.std(), rel=1e-5)
    assert report.zero == pytest.approx((values == 0).mean())
    assert report.dead == pytest.approx((values == 0).all(axis=0).mean())


def test_saturated_sigmoids() -> None:
    image = keras.Input((1, 3, 1), name="image")
    model = keras.Model(image, keras.layers.Flatten()(keras.layers.Activation("sigmoid", name="hidden1_sigmoid")(image)))
    report = inspect(model, numpy.array([[[[-9.0], [0.0], [9.0]]]], "float32"), numpy.array([0]))[0]
    assert report.saturated == pytest.approx(2 / 3)


def test_receptive_field_is_what_gradients_reach() -> None:
    import tensorflow as tf

    model = zoo.create_model("cnn", input_shape=(40, 40, 1), blocks=2, convolutions=2, filters=2, units=0)
    for level, field in receptive_fields(model).items():
        if field is None or field == 1:
            continue
        images = tf.Variable(numpy.random.default_rng(0).uniform(0, 255, (32, 40, 40, 1)).astype("float32"))
        with tf.GradientTape() as tape:
            maps = keras.Model(model.input, model.get_layer(level).output)(images)
            middle = tf.reduce_sum(maps[:, maps.shape[1] // 2, maps.shape[2] // 2])
        touched = abs(tape.gradient(middle, images).numpy()).sum(axis=(0, 3)) > 0
        rows = touched.any(axis=1).nonzero()[0]
        assert rows.max() - rows.min() + 1 <= field, level
        if not level.endswith("pool"):  # a maximum does not pass on everything
            assert rows.max() - rows.min() + 1 >= field - 1, level


def test_gradient_norms_are_those_of_the_loss() -> None:
    model = zoo.create_model("relu_mlp", input_shape=(8, 8, 1), units=4, depth=1)
    norms = gradient_norms(model, IMAGES, LABELS)
    assert list(norms) == ["hidden1_dense", "logits"]
    probabilities = keras.ops.softmax(model(IMAGES)).numpy()
    error = (probabilities - numpy.eye(10)[LABELS]) / len(LABELS)
    hidden = zoo.feature_extractor(model, "hidden1")(IMAGES)["hidden1"].numpy()
    expected = numpy.sqrt((((hidden.T @ error) ** 2).sum()) + (error.sum(axis=0) ** 2).sum())
    assert norms["logits"] == pytest.approx(expected, rel=1e-4)


def test_saliency_of_a_linear_model_is_its_weights() -> None:
    image = keras.Input((2, 2, 1), name="image")
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False, name="logits")(keras.layers.Flatten()(image)))
    model.get_layer("logits").set_weights([numpy.array([[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [0.0, 5.0]])])
    picture = numpy.array([[[1.0], [0.0]], [[1.0], [0.0]]])
    numpy.testing.assert_allclose(saliency(model, picture, 0), [[1, 2], [3, 0]])
    numpy.testing.assert_allclose(saliency(model, picture), [[1, 2], [3, 0]])
    numpy.testing.assert_allclose(saliency(model, picture, 1), [[0, 0], [0, 5]])


def test_labels_that_do_not_fit() -> None:
    model = zoo.create_model("relu_mlp", input_shape=(8, 8, 1), units=4)
    with pytest.raises(UsageError, match="Received: 6 images, 5 labels"):
        inspect(model, IMAGES, LABELS[:5])
