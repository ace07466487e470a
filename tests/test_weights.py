"""Weights load whole or not at all, and the report says what became of each variable."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest

import zoo
from zoo import weights as weights_module
from zoo.errors import UnknownNameError, WeightsError
from zoo.files import sha256
from zoo.registry import resolve
from zoo.specs import Recipe
from zoo.weights import pretrained_card, pretrained_file

Ship = Callable[..., Any]
IMAGES = numpy.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), "uint8")


def create(name: str, **arguments: Any) -> keras.Model:
    return zoo.create_model(name, pretrained=True, **arguments)


def refusal(name: str, **arguments: Any) -> str:
    with pytest.raises(WeightsError) as error:
        create(name, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", zoo.list_models())
def test_what_was_saved_is_what_loads(ship: Ship, small: Any, model: str, caplog: pytest.LogCaptureFixture) -> None:
    toy = ship(model, **small(model))
    loaded = create(toy.name)
    numpy.testing.assert_array_equal(loaded(IMAGES), toy.model(IMAGES))
    for one, other in zip(loaded.weights, toy.model.weights, strict=True):
        numpy.testing.assert_array_equal(one, other)
    report = zoo.load_report(loaded)
    assert report.source == toy.name
    assert report.loaded == tuple(variable.path for variable in loaded.weights)
    assert (report.adapted, report.reinitialised) == ((), ())
    assert str(report) == f"{toy.name}: {len(loaded.weights)} variables loaded"
    assert not caplog.records, "a load without remarks is silent"


def test_the_default_tag_needs_no_spelling_out(ship: Ship, own_registry: Any) -> None:
    toy = ship("cnn_bn_tiny", filters=4)
    spec = own_registry["cnn_bn_tiny"]
    own_registry["cnn_bn_tiny"] = dataclasses.replace(spec, pretrained=spec.pretrained[-1:])
    numpy.testing.assert_array_equal(create("cnn_bn_tiny")(IMAGES), toy.model(IMAGES))


def test_a_loaded_model_is_a_copy_of_its_own(ship: Ship) -> None:
    ship("relu_mlp", units=8)
    first, second = create("relu_mlp.toy"), create("relu_mlp.toy")
    first.get_layer("logits").bias.assign(first.get_layer("logits").bias + 1)
    assert (first.get_layer("logits").bias.numpy() != second.get_layer("logits").bias.numpy()).all()


def test_hyperparameters_that_leave_the_network_alone_may_differ(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    model = create("relu_mlp.toy", dropout=0.5, initializer="glorot_uniform")
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]
    numpy.testing.assert_array_equal(model(IMAGES), toy.model(IMAGES))


# --- damaged and missing files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
def test_a_flipped_bit_is_found(ship: Ship, place: float) -> None:
    toy = ship("relu_mlp", units=8)
    data = bytearray(toy.weights.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    toy.weights.write_bytes(data)
    message = refusal(toy.name)
    assert message.startswith(
        f"The weights {toy.weights} are damaged: their SHA-256 is {sha256(toy.weights)[:12]}..., the card of relu_mlp.toy says "
    )
    assert message.endswith("Nothing was loaded. Install the package again, or train the weights anew.")


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_file_is_found(ship: Ship, keep: int) -> None:
    toy = ship("cnn", filters=4, units=8)
    toy.weights.write_bytes(toy.weights.read_bytes()[:keep])
    assert "are damaged: their SHA-256" in refusal(toy.name)


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_file_whose_card_agrees_is_found_too(ship: Ship, keep: int) -> None:
    toy = ship("cnn", filters=4, units=8)
    toy.weights.write_bytes(toy.weights.read_bytes()[:keep])
    toy.rewrite_card()
    assert refusal(toy.name).startswith(f"The weights {toy.weights} do not fit the model cnn as the card of cnn.toy describes it: ")


@pytest.mark.parametrize(
    ("one", "other", "misfit"),
    [
        ({"units": 8}, {"units": 9}, "hidden1_dense are [(64, 8), (8,)] in the file and [(64, 9), (9,)] in the model"),
        ({"units": 8, "depth": 2}, {"units": 8, "depth": 3}, "hidden3_dense are none in the file and [(8, 8), (8,)] in the model"),
        ({"units": 8, "depth": 3}, {"units": 8, "depth": 1}, "hidden2_dense are [(8, 8), (8,)] in the file and none in the model"),
        (
            {"units": 4, "depth": 3},
            {"units": 4, "depth": 2},
            "hidden3_dense are [(4, 4), (4,)] in the file and none in the model",
        ),
    ],
    ids=str,
)
def test_a_file_of_another_shape_is_found_though_it_is_whole(ship: Ship, one: dict[str, Any], other: dict[str, Any], misfit: str) -> None:
    toy = ship("relu_mlp", **one)
    toy.rewrite_card(hyperparameters={**zoo.model_info("relu_mlp").defaults, **other})
    reason = f"The weights {toy.weights} do not fit the model relu_mlp as the card of relu_mlp.toy describes it: the variables of {misfit}."
    assert refusal(toy.name) == reason


def test_a_file_of_another_family_is_found_though_it_is_whole(ship: Ship) -> None:
    toy, other = ship("cnn", filters=4, units=8), ship("cnn_bn", filters=4, units=8)
    toy.weights.write_bytes(other.weights.read_bytes())
    toy.rewrite_card()
    assert "the variables of block1_conv1 are [(3, 3, 1, 4)] in the file and [(3, 3, 1, 4), (4,)] in the model." in refusal(toy.name)


def nested(input_shape: Any = (8, 8, 1), num_classes: int = 4, *, units: int = 6) -> keras.Model:
    """A model with a model inside, as other packages may register."""
    image = keras.Input(input_shape, name="image")
    inside = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(units, name="narrow"), keras.layers.Dropout(0.1)], name="stem")
    return keras.Model(image, keras.layers.Dense(num_classes, name="logits")(inside(image)))


def test_layers_inside_layers_load_too(ship: Ship, own_registry: Any) -> None:
    zoo.register_model()(nested)
    toy = ship("nested")
    numpy.testing.assert_array_equal(create("nested.toy")(IMAGES), toy.model(IMAGES))
    assert zoo.load_report(create("nested.toy", num_classes=3)).reinitialised == ("logits/kernel", "logits/bias")
    toy.rewrite_card(hyperparameters={"units": 7})
    assert "do not fit the model nested as the card of nested.toy describes it: " in refusal(toy.name)


def test_a_missing_file(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    toy.weights.unlink()
    assert refusal(toy.name) == f"The weights {toy.weights} cannot be read: No such file or directory."


def test_a_missing_card(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    toy.card.unlink()
    assert refusal(toy.name) == f"The card {toy.card} cannot be read: No such file or directory."


def test_a_damaged_card(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    toy.card.write_text(toy.card.read_text()[:200])
    assert refusal(toy.name).startswith(f"The card {toy.card} is damaged: ")


def test_a_card_of_other_weights(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    toy.rewrite_card(name="sigmoid_mlp.toy", model="sigmoid_mlp")
    expected = f"The card {toy.card} describes sigmoid_mlp.toy of the model sigmoid_mlp, not relu_mlp.toy. Install the package again."
    assert refusal(toy.name) == expected


def test_a_missing_package(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ship("relu_mlp", units=8)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(toy.card.parent.parent)])
    package = toy.card.parent.name
    assert refusal(toy.name) == f"The weights of relu_mlp.toy should lie in the package '{package}', which is not installed."


# --- another head, another input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["relu_mlp", "cnn_bn"])
def test_other_classes_replace_the_head_and_nothing_else(ship: Ship, small: Any, model: str, caplog: pytest.LogCaptureFixture) -> None:
    toy = ship(model, num_classes=4, **small(model))
    loaded = create(toy.name, num_classes=7)
    report = zoo.load_report(loaded)
    assert report.reinitialised == ("logits/kernel", "logits/bias")
    assert report.adapted == ()
    assert set(report.loaded) == {variable.path for variable in toy.model.weights if not variable.path.startswith("logits/")}
    assert loaded.output_shape == (None, 7)
    before = {variable.path: variable.numpy() for variable in toy.model.weights}
    for variable in loaded.weights:
        if variable.path in report.loaded:
            numpy.testing.assert_array_equal(variable, before[variable.path])
    assert not loaded.get_layer("logits").bias.numpy().any(), "a fresh bias is zero"
    assert loaded.get_layer("logits").kernel.numpy().std() > 0
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("zoo", logging.WARNING)
    expected = "variables loaded; reinitialised logits/kernel: train it before use; reinitialised logits/bias: train it before use"
    assert record.getMessage() == str(report) == f"{toy.name}: {len(report.loaded)} {expected}"


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 4), (1, 2)])
@pytest.mark.parametrize("model", ["cnn", "cnn_bn", "relu_mlp", "sigmoid_mlp"])
def test_gray_images_look_the_same_over_any_number_of_channels(ship: Ship, small: Any, model: str, before: int, after: int) -> None:
    toy = ship(model, input_shape=(8, 8, before), **small(model))
    loaded = create(toy.name, input_shape=(8, 8, after))
    numpy.testing.assert_allclose(loaded(IMAGES.repeat(after, 3)), toy.model(IMAGES.repeat(before, 3)), rtol=1e-4, atol=1e-4)
    (entry,) = zoo.load_report(loaded).adapted
    kernel = "block1_conv1/kernel" if model.startswith("cnn") else "hidden1_dense/kernel"
    shapes = [tuple(network.get_layer(kernel.partition("/")[0]).kernel.shape) for network in (toy.model, loaded)]
    assert entry == f"{kernel} {shapes[0]} -> {shapes[1]} (summed over the channels, shared by the new ones)"


def test_the_first_convolution_answers_gray_the_same(ship: Ship) -> None:
    toy = ship("cnn", filters=4, units=8)
    loaded = create(toy.name, input_shape=(8, 8, 3))
    first, second = (zoo.feature_extractor(network, "block1_conv1") for network in (toy.model, loaded))
    numpy.testing.assert_allclose(second(IMAGES.repeat(3, 3))["block1_conv1"], first(IMAGES)["block1_conv1"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 1), (4, 4, 1), (11, 5, 1), (16, 12, 3)])
@pytest.mark.parametrize("model", ["relu_mlp", "sigmoid_mlp"])
def test_another_size_resamples_the_first_kernel(ship: Ship, model: str, shape: tuple[int, int, int], caplog: pytest.LogCaptureFixture) -> None:
    toy = ship(model, units=8)
    loaded = create(toy.name, input_shape=shape)
    for value in (0, 90, 255):
        constant = numpy.full((1, 8, 8, 1), value, "uint8"), numpy.full((1, *shape), value, "uint8")
        first, second = (
            zoo.feature_extractor(network, "hidden1_dense")(images)["hidden1_dense"]
            for network, images in zip((toy.model, loaded), constant, strict=True)
        )
        numpy.testing.assert_allclose(second, first, rtol=0.1, atol=0.1 * numpy.abs(first).max())
    report = zoo.load_report(loaded)
    (entry,) = report.adapted
    assert entry.startswith(f"hidden1_dense/kernel (64, 8) -> ({numpy.prod(shape)}, 8) (")
    assert "resampled over the plane" in entry
    assert ("summed over the channels" in entry) == (shape[2] == 3)
    assert report.reinitialised == ()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [str(report)]


def test_a_doubled_image_means_the_same_to_a_resampled_kernel(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8, depth=1)
    smooth = numpy.add.outer(numpy.linspace(0, 120, 8), numpy.linspace(0, 120, 8))[None, :, :, None].astype("uint8")
    loaded = create(toy.name, input_shape=(16, 16, 1))
    doubled = smooth.repeat(2, 1).repeat(2, 2)
    first, second = toy.model(smooth).numpy(), loaded(doubled).numpy()
    numpy.testing.assert_allclose(second, first, atol=0.1 * numpy.abs(first).max())


def test_a_network_of_convolutions_takes_another_size(ship: Ship) -> None:
    toy = ship("cnn_bn", filters=4, units=8)
    loaded = create(toy.name, input_shape=(16, 12, 3), num_classes=9)
    report = zoo.load_report(loaded)
    assert [entry.partition(" ")[0] for entry in report.adapted] == ["block1_conv1/kernel", "hidden1_dense/kernel"]
    assert report.reinitialised == ("logits/kernel", "logits/bias")
    assert len(report.loaded) + 2 + 2 == len(loaded.weights)
    assert loaded(numpy.zeros((1, 16, 12, 3), "uint8")).shape == (1, 9)


def test_a_head_right_behind_the_flattening_is_resampled(ship: Ship) -> None:
    toy = ship("cnn", filters=4, units=0)
    loaded = create(toy.name, input_shape=(16, 16, 1))
    (entry,) = zoo.load_report(loaded).adapted
    assert entry == "logits/kernel (32, 4) -> (128, 4) (resampled over the plane)"
    dark = [network(numpy.zeros((1, size, size, 1), "uint8")).numpy() for network, size in ((toy.model, 8), (loaded, 16))]
    numpy.testing.assert_allclose(dark[1], dark[0], atol=0.35 * numpy.abs(dark[0]).max())


@pytest.mark.parametrize(
    ("model", "change", "misfit"),
    [
        ("relu_mlp", {"units": 9}, "hidden1_dense/kernel (64, 9) (the weights have (64, 8))"),
        ("relu_mlp", {"depth": 3}, "hidden3_dense/kernel (8, 8)"),
        ("relu_mlp", {"depth": 1}, "hidden2_dense/kernel (in the weights only)"),
        ("cnn", {"filters": 5}, "block1_conv1/kernel (3, 3, 1, 5) (the weights have (3, 3, 1, 4))"),
        ("cnn", {"kernel_size": 5}, "block1_conv1/kernel (5, 5, 1, 4) (the weights have (3, 3, 1, 4))"),
        ("cnn", {"blocks": 3}, "block3_conv1/kernel (3, 3, 8, 16)"),
        ("cnn", {"blocks": 1}, "block2_conv1/kernel (in the weights only)"),
        ("cnn", {"convolutions": 2}, "block1_conv2/kernel (3, 3, 4, 4)"),
        ("cnn", {"units": 0}, "hidden1_dense/kernel (in the weights only)"),
        ("cnn_bn", {"units": 9}, "hidden1_dense/kernel (32, 9) (the weights have (32, 8))"),
    ],
    ids=str,
)
def test_a_hyperparameter_that_changes_the_network_is_refused(ship: Ship, small: Any, model: str, change: dict[str, Any], misfit: str) -> None:
    toy = ship(model, **small(model))
    message = refusal(toy.name, **change)
    expected = f"The weights of {toy.name} do not fit the model as configured; only the head may differ. Nothing was loaded. Drop the hyperparameters"
    assert message.startswith(expected)
    assert misfit in message


def test_a_refusal_leaves_the_target_as_it_was(ship: Ship) -> None:
    toy = ship("relu_mlp", units=8)
    target = zoo.create_model("relu_mlp", input_shape=(8, 8, 1), num_classes=4, units=8, depth=3)
    before = [variable.numpy().copy() for variable in target.weights]
    with pytest.raises(WeightsError, match="Nothing was loaded"):
        weights_module.transfer(toy.model, target, toy.name)
    for variable, value in zip(target.weights, before, strict=True):
        numpy.testing.assert_array_equal(variable, value)
    with pytest.raises(WeightsError, match="was not created with pretrained weights"):
        zoo.load_report(target)


# --- the shipped weights ----------------------------------------------------------------------------------------------

SHIPPED = zoo.list_models(pretrained=True)


def test_every_shipped_file_belongs_to_a_name() -> None:
    directory = Path(weights_module.__file__).parent / "pretrained"
    assert {path.name for path in directory.iterdir() if path.suffix in (".h5", ".json")} == {
        f"{name}{suffix}" for name in SHIPPED for suffix in (".json", ".weights.h5")
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_what_their_card_says(name: str) -> None:
    spec, weights = resolve(name)
    assert weights is not None
    card = pretrained_card(spec.name, weights)
    assert sha256(str(pretrained_file(spec.name, weights, ".weights.h5"))) == card.sha256
    assert (card.name, card.model, card.dataset) == (name, spec.name, weights.dataset)
    assert (card.input_shape, card.num_classes) == (weights.input_shape, weights.num_classes)
    assert card.hyperparameters == {**spec.defaults, **weights.hyperparameters, **card.recipe["hyperparameters"]}
    assert len(card.class_names) == card.num_classes == len(set(card.class_names))
    assert card.light_on_dark == zoo.dataset_info(card.dataset).light_on_dark
    assert card.seconds > 0
    assert card.license
    assert {"neuron-zoo", "keras", "tensorflow", "backend", "python", "processor", "cores", "commit"} <= set(card.environment)

    model = create(name)
    assert model.count_params() == card.parameters
    assert len(zoo.load_report(model).loaded) == len(model.weights)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_results_are_complete_and_consistent(name: str) -> None:
    spec, weights = resolve(name)
    assert weights is not None
    card = pretrained_card(spec.name, weights)
    test, seeds = card.results["test"], card.seeds
    low, high = test["accuracy_interval"]
    assert 0.5 < low < test["accuracy"] <= high <= 1
    confusion = numpy.array(test["confusion"])
    assert confusion.shape == (card.num_classes, card.num_classes)
    assert confusion.sum() == test["images"]
    assert numpy.trace(confusion) / confusion.sum() == pytest.approx(test["accuracy"], abs=1e-6)
    assert [row["name"] for row in test["classes"]] == list(card.class_names)
    assert [row["images"] for row in test["classes"]] == confusion.sum(axis=1).tolist()
    assert {"precision", "recall"} <= set(test["classes"][0])
    assert 0 <= test["expected_calibration_error"] < 0.2
    assert test["negative_log_likelihood"] > 0
    assert seeds["count"] == len(seeds["test_accuracy"]) >= 1
    assert seeds["test_accuracy"][0] == pytest.approx(test["accuracy"]), "seed 0 is shipped, not the best"
    assert seeds["mean"] == pytest.approx(statistics.fmean(seeds["test_accuracy"]))
    deviation = statistics.stdev(seeds["test_accuracy"]) if seeds["count"] > 1 else 0.0
    assert seeds["standard_deviation"] == pytest.approx(deviation)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_can_be_run_again(name: str) -> None:
    spec, weights = resolve(name)
    assert weights is not None
    card = pretrained_card(spec.name, weights)
    recipe = Recipe.from_dict(card.recipe)
    assert recipe.to_dict() == card.recipe
    assert (recipe.model, recipe.dataset, recipe.seed) == (name, card.dataset, 0)
    assert recipe.validate is False, "the final run trains on all training images"
    assert zoo.optimizer_info(recipe.optimizer)


def test_there_is_no_tag_without_a_file() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown tag of cnn 'emnist'\. Did you mean 'mnist' or 'fashion_mnist'\?"):
        zoo.create_model("cnn.emnist", pretrained=True)
