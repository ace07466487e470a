"""Evaluation: the figures, against ones worked out by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest

import zoo
from zoo.errors import DatasetError, UnknownNameError, UsageError
from zoo.evaluation import evaluate, expected_calibration_error, latency, multiply_accumulates, predict, softmax, view_logits

DATA = os.environ.get("TFDS_DATA_DIR") or str(Path(__file__).parents[2] / "shared" / "tensorflow_datasets")
SOME = 1000


@pytest.fixture(scope="module")
def reader() -> keras.Model:
    """A model whose logits are its image's pixels."""
    image = keras.Input((1, 3, 1), name="image")
    return keras.Model(image, keras.layers.Reshape((3,))(image))


def test_the_figures_of_a_known_classifier(reader: keras.Model) -> None:
    logits = numpy.log([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]).astype("float32")
    labels = numpy.array([0, 1, 1, 2])
    result = evaluate(reader, logits.reshape(4, 1, 3, 1), labels, ["a", "b", "c"], batch_size=3)
    assert result["images"] == 4
    assert result["accuracy"] == 0.75
    assert result["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert [row["recall"] for row in result["classes"]] == [1.0, 0.5, 1.0]
    assert [row["precision"] for row in result["classes"]] == [0.5, 1.0, 1.0]
    assert [row["name"] for row in result["classes"]] == ["a", "b", "c"]
    assert result["negative_log_likelihood"] == pytest.approx(-numpy.log([0.7, 0.3, 0.8, 0.6]).mean(), rel=1e-5)
    assert result["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)  # Wilson's interval for 3 of 4
    assert result["images_per_second"] > 0


def test_calibration_error_of_a_known_classifier() -> None:
    probabilities = numpy.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = numpy.array([0] * 9 + [1] + [1] * 5 + [0] * 5)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.05)


def test_softmax_survives_large_logits() -> None:
    numpy.testing.assert_allclose(softmax(numpy.array([[1000.0, 0.0], [0.0, 0.0]])), [[1, 0], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (numpy.zeros((2, 1, 3, 1)), numpy.zeros(3, int), "2 images, 3 labels"),
        (numpy.zeros((0, 1, 3, 1)), numpy.zeros(0, int), "at least one"),
        (numpy.zeros((2, 1, 3, 1)), numpy.array([0, 3]), "has 3 classes, but the labels run from 0 to 3"),
    ],
)
def test_bad_input_is_named(reader: keras.Model, images: numpy.ndarray, labels: numpy.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(reader, images, labels)


def shipped() -> list[Any]:
    """Every weight with how many test images it sees: all, and of the larger networks some only, unless slow tests run too."""
    found = []
    for name in zoo.list_models(pretrained=True):
        large = name.startswith("cnn") and name.endswith(("cifar10", "fashion_mnist"))
        found += [pytest.param(name, SOME, id=f"{name}-{SOME}")] if large else []
        found.append(pytest.param(name, None, id=f"{name}-all", marks=[pytest.mark.slow] if large else []))
    return found


@pytest.mark.parametrize(("name", "images"), shipped())
def test_every_shipped_weight_is_as_good_as_its_card(name: str, images: int | None) -> None:
    model, card = zoo.load_trained(name)
    try:
        data = zoo.load_dataset(card.dataset, "test", data_dir=DATA, download=False)
    except DatasetError as error:
        if card.dataset == "digits":
            raise
        pytest.skip(str(error))
    claimed = card.results["test"]["accuracy"]
    chance = 3 * math.sqrt(claimed * (1 - claimed) / images) if images else 0.001  # what the first images differ by from all
    accuracy = evaluate(model, data.images[:images], data.labels[:images], batch_size=500)["accuracy"]
    assert accuracy == pytest.approx(claimed, abs=chance)


def test_views_average_logits_over_mirror_images_and_shifts() -> None:
    image = keras.Input((3, 3, 1), name="image")
    model = keras.Model(image, keras.layers.Flatten()(image))  # the logits are the pixels, left to right
    images = numpy.arange(9, dtype="float32").reshape(1, 3, 3, 1)
    plain = images.reshape(1, 9)
    mirrored = images[:, :, ::-1].reshape(1, 9)
    numpy.testing.assert_allclose(view_logits(model, images, ["flip"]), (plain + mirrored) / 2)
    padded = numpy.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    corners = [padded[:, :3, :3].reshape(1, 9), padded[:, 2:, 2:].reshape(1, 9)]
    numpy.testing.assert_allclose(view_logits(model, images, ["shift"]), (2 * plain + corners[0] + corners[1]) / 4)
    with pytest.raises(UnknownNameError, match="Unknown view 'turn'"):
        view_logits(model, images, ["turn"])


def test_multiply_accumulates_of_known_networks() -> None:
    model = zoo.create_model("cnn", input_shape=(8, 8, 3), filters=4, blocks=1, kernel_size=3, units=10, num_classes=5)
    assert multiply_accumulates(model) == 8 * 8 * 3 * 3 * 3 * 4 + 4 * 4 * 4 * 10 + 10 * 5
    assert multiply_accumulates(zoo.create_model("relu_mlp", input_shape=(8, 8, 1), units=16, depth=2)) == 64 * 16 + 16 * 16 + 16 * 10


def test_multiply_accumulates_of_strides_groups_and_nested_models() -> None:
    image = keras.Input((9, 9, 4))
    strided = keras.layers.Conv2D(6, 3, strides=2)(image)  # 4 x 4 positions
    grouped = keras.layers.Conv2D(6, 3, padding="same", groups=2)(strided)  # each filter sees 3 channels
    inner = keras.Model(image, keras.layers.DepthwiseConv2D(2)(grouped))  # 3 x 3 positions
    assert multiply_accumulates(inner) == 16 * 9 * 4 * 6 + 16 * 9 * 3 * 6 + 9 * 4 * 6
    other = keras.Input((9, 9, 4))
    outer = keras.Model(other, keras.layers.Dense(5)(keras.layers.Flatten()(inner(other))))
    assert multiply_accumulates(outer) == multiply_accumulates(inner) + 54 * 5


def test_multiply_accumulates_of_an_unknown_layer_are_not_guessed() -> None:
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, keras.layers.Conv2DTranspose(2, 3, name="up")(image))
    with pytest.raises(UsageError, match="multiply-accumulates of up, a Conv2DTranspose, are not known"):
        multiply_accumulates(model)


def test_multiply_accumulates_of_the_network_for_cifar10() -> None:
    whitening = 31 * 31 * 2 * 2 * 3 * 24
    blocks = 31 * 31 * 9 * 24 * 64 + 16 * 16 * 9 * 64 * 64
    blocks += 16 * 16 * 9 * 64 * 256 + 8 * 8 * 9 * 256 * 256
    blocks += 8 * 8 * 9 * 256 * 256 + 4 * 4 * 9 * 256 * 256
    model = zoo.create_model("cnn_bn.cifar10")
    assert multiply_accumulates(model) == whitening + blocks + 256 * 10


def test_latency_is_a_time(reader: keras.Model) -> None:
    assert latency(reader, 2, repeats=3) > 0


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_predictions_are_those_of_keras(count: int) -> None:
    model = zoo.create_model("cnn.digits", pretrained=True)
    images = zoo.load_dataset("digits", "test").images[:count]
    numpy.testing.assert_array_equal(predict(model, images, 8), model.predict(images, batch_size=8, verbose=0))
    levels = zoo.feature_extractor(model)
    expected = levels.predict(images, batch_size=8, verbose=0)
    got = predict(levels, images, 8)
    assert list(got) == list(expected)
    for name, values in got.items():
        numpy.testing.assert_array_equal(values, expected[name])


def test_a_prediction_needs_an_image(reader: keras.Model) -> None:
    with pytest.raises(UsageError, match=r"at least one image\. Received: none"):
        predict(reader, numpy.zeros((0, 1, 3, 1), "float32"))
