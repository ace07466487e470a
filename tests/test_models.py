"""The contracts that every registered model keeps, and the rules of the families.

A new model is tested here as soon as it is registered.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf

import zoo
from zoo.cards import Card
from zoo.errors import ZooError
from zoo.specs import Choice, Domain

Hyperparameters = Callable[[str], dict[str, Any]]
MODELS = zoo.list_models()
every_model = pytest.mark.parametrize("name", MODELS)
SHAPES = [((28, 28, 1), 10), ((5, 7, 3), 2), ((32, 32, 3), 42), ((1, 3, 2), 5)]


def pixels(*shape: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, shape, "uint8")


def disturb(model: keras.Model) -> keras.Model:
    """Moves every variable off its initial value, as training does, so that nothing holds only for zeros and ones."""
    random = numpy.random.default_rng(1)
    for variable in model.weights:
        value = variable.numpy() + random.normal(0, 0.1, variable.shape)
        variable.assign(numpy.abs(value) + 0.1 if variable.name == "moving_variance" else value)
    return model


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture
def model(name: str, small: Hyperparameters) -> keras.Model:
    """A small model for images of 6 x 7 x 3 and 5 classes."""
    return disturb(zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **small(name)))


IMAGES = pixels(6, 6, 7, 3)
LABELS = numpy.array([0, 1, 2, 3, 4, 0])


def loss(model: keras.Model) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(LABELS, model(IMAGES, training=True), from_logits=True))


# --- contracts --------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize(("shape", "classes"), SHAPES, ids=str)
def test_logits_for_any_shape_and_number_of_classes(name: str, shape: tuple[int, int, int], classes: int, small: Hyperparameters) -> None:
    model = zoo.create_model(name, input_shape=shape, num_classes=classes, **small(name))
    assert model.input.name == "image"
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, classes)
    logits = model(pixels(3, *shape))
    assert logits.shape == (3, classes)
    assert logits.dtype == tf.float32
    assert numpy.isfinite(logits).all()
    assert (numpy.ptp(logits, axis=0) > 0).all(), "different images, different logits"


@every_model
def test_the_defaults_build(name: str) -> None:
    model = zoo.create_model(name)
    assert model.name == name
    assert model(pixels(1, *model.input_shape[1:])).shape == (1, *model.output_shape[1:])


@every_model
def test_uint8_and_float32_agree(model: keras.Model) -> None:
    numpy.testing.assert_array_equal(model(IMAGES), model(IMAGES.astype("float32")))
    numpy.testing.assert_allclose(model.predict(IMAGES, verbose=0), model(IMAGES), rtol=1e-5, atol=1e-5)


@every_model
def test_one_image_s_logits_do_not_depend_on_the_others(model: keras.Model) -> None:
    numpy.testing.assert_allclose(model(IMAGES)[2:3], model(IMAGES[2:3]), rtol=1e-5, atol=1e-5)


@every_model
def test_the_logits_are_no_probabilities(model: keras.Model) -> None:
    logits = model(IMAGES).numpy()
    assert (logits < 0).any()
    assert not numpy.allclose(logits.sum(axis=1), 1)
    assert model.get_layer("logits").activation is keras.activations.linear


@every_model
def test_every_trainable_variable_gets_a_gradient(model: keras.Model) -> None:
    with tf.GradientTape() as tape:
        value = loss(model)
    gradients = tape.gradient(value, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert gradient.shape == variable.shape
        assert numpy.isfinite(gradient).all(), variable.path
        assert numpy.abs(gradient).max() > 1e-7, variable.path
        assert numpy.unique(gradient).size > 1, f"{variable.path} learns the same everywhere"


@every_model
def test_one_step_lowers_the_loss_of_its_batch(name: str, small: Hyperparameters) -> None:
    model = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **small(name))
    with tf.GradientTape() as tape:
        before = loss(model)
    zoo.create_optimizer("sgd", 0.01).apply(tape.gradient(before, model.trainable_variables), model.trainable_variables)
    assert loss(model) < before


@every_model
def test_dropout_acts_in_training_only(name: str, small: Hyperparameters) -> None:
    if "dropout" not in zoo.model_info(name).defaults:
        pytest.skip(f"{name} has no dropout")
    model = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, dropout=0.5, **small(name))
    numpy.testing.assert_array_equal(model(IMAGES), model(IMAGES))
    assert (model(IMAGES, training=True).numpy() != model(IMAGES, training=True).numpy()).any()


@every_model
def test_keras_file_round_trip(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert again.name == model.name
    numpy.testing.assert_allclose(again(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


@every_model
def test_weights_file_round_trip(model: keras.Model, name: str, small: Hyperparameters, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "model.weights.h5")
    again = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **small(name))
    assert not numpy.allclose(again(IMAGES), model(IMAGES), atol=1e-3)
    again.load_weights(tmp_path / "model.weights.h5")
    numpy.testing.assert_array_equal(again(IMAGES), model(IMAGES))


@every_model
def test_saved_model_parity(model: keras.Model, name: str, tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "é")
    card = Card(f"{name}.toy", name, {}, (6, 7, 3), 5, names, "toy", False, {}, "", model.count_params())
    directory = zoo.export_model((model, card), to=tmp_path)
    served = tf.saved_model.load(str(directory)).signatures["serving_default"](image=tf.constant(IMAGES, tf.float32))
    logits = model(IMAGES).numpy()
    numpy.testing.assert_allclose(served["logits"], logits, rtol=1e-5, atol=1e-5)
    numpy.testing.assert_allclose(served["probabilities"], keras.ops.softmax(logits), rtol=1e-5, atol=1e-5)
    assert served["class_id"].numpy().tolist() == logits.argmax(axis=1).tolist()
    assert [label.decode() for label in served["label"].numpy()] == [names[index] for index in logits.argmax(axis=1)]
    assert {key: value.dtype for key, value in served.items()} == {
        "logits": tf.float32,
        "probabilities": tf.float32,
        "class_id": tf.int64,
        "label": tf.string,
    }


# --- hyperparameters --------------------------------------------------------------------------------------------------


@every_model
def test_defaults_lie_in_their_domains(name: str) -> None:
    spec = zoo.model_info(name)
    for argument, domain in spec.domains.items():
        default = spec.defaults[argument]
        assert lies_in(domain, default), f"{argument}={default!r} is neither in {domain} nor 0, for none"
    for weights in spec.pretrained:
        for argument, value in weights.hyperparameters.items():
            assert argument not in spec.domains or lies_in(spec.domains[argument], value), f"{weights.tag}: {argument}={value!r}"


def lies_in(domain: Domain, value: Any) -> bool:
    """Whether the domain holds the value; of a tuple, one number per block, the first block's; 0 stands for none."""
    first = value[0] if isinstance(value, tuple) else value
    return first in domain or first == 0


ENDS = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{value}")
    for name in MODELS
    for argument, domain in zoo.model_info(name).domains.items()
    for value in (domain.values if isinstance(domain, Choice) else (domain.low, domain.high))
]


@pytest.mark.parametrize(("name", "argument", "value"), ENDS)
def test_both_ends_of_every_domain_build(name: str, argument: str, value: Any, small: Hyperparameters) -> None:
    arguments = {**small(name), argument: value}
    model = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **arguments)
    assert numpy.isfinite(model(IMAGES)).all()
    default = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **small(name))
    if value != {**zoo.model_info(name).defaults, **small(name)}[argument] and argument != "initializer":
        assert model.get_config()["layers"] != default.get_config()["layers"], f"{argument} does nothing"


@every_model
def test_pixels_are_standardized_inside(name: str, small: Hyperparameters) -> None:
    model = zoo.create_model(name, input_shape=(2, 2, 1), num_classes=2, pixel_mean=40.0, pixel_std=20.0, **small(name))
    features = zoo.feature_extractor(model, "preprocess")(numpy.array([0, 40, 60, 255], "uint8").reshape(1, 2, 2, 1))
    numpy.testing.assert_allclose(features["preprocess"].numpy().ravel(), [-2, 0, 1, 10.75], rtol=1e-6)


# --- the rules of the families ----------------------------------------------------------------------------------------


def family(name: str) -> list[str]:
    return [model for model in MODELS if zoo.model_info(model).family == name]


def layers_of(name: str, **arguments: Any) -> list[keras.layers.Layer]:
    return zoo.create_model(name, **arguments).layers


def is_normalization(layer: keras.layers.Layer) -> bool:
    return "normalization" in type(layer).__name__.lower()


def is_convolution(layer: keras.layers.Layer) -> bool:
    return "Conv" in type(layer).__name__


def activations(layers: list[keras.layers.Layer]) -> list[str]:
    """Names of all activations, the ones inside of dense and convolutional layers included, the identity aside."""
    found = [keras.activations.serialize(layer.activation) for layer in layers if hasattr(layer, "activation")]
    return [name for name in found if name != "linear"] + ["relu" for layer in layers if isinstance(layer, keras.layers.ReLU)]


@pytest.mark.parametrize(("name", "activation"), [("sigmoid_mlp", "sigmoid"), ("relu_mlp", "relu")])
@pytest.mark.parametrize("depth", [1, 3])
def test_perceptrons_have_one_activation_and_dense_layers_only(name: str, activation: str, depth: int) -> None:
    for model in family(name):
        layers = layers_of(model, depth=depth)
        assert activations(layers) == [activation] * depth
        assert sum(isinstance(layer, keras.layers.Dense) for layer in layers) == depth + 1
        assert not any(is_convolution(layer) or is_normalization(layer) for layer in layers)


def test_cnn_has_no_normalization_layer() -> None:
    for model in family("cnn"):
        for convolutions in (1, 2):
            layers = layers_of(model, convolutions=convolutions)
            assert any(is_convolution(layer) for layer in layers)
            assert not any(is_normalization(layer) for layer in layers)
            assert all(layer.use_bias for layer in layers if is_convolution(layer))


@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize("convolutions", [1, 2, (1, 3)])
@pytest.mark.parametrize("model", family("cnn_bn"))
def test_cnn_bn_normalizes_after_every_convolution_and_before_its_rectifier(model: str, convolutions: int | tuple[int, ...], pooling: str) -> None:
    layers = layers_of(model, blocks=2, filters=4, convolutions=convolutions, pooling=pooling)
    places = [index for index, layer in enumerate(layers) if is_convolution(layer)]
    assert len(places) == (2 * convolutions if isinstance(convolutions, int) else sum(convolutions))
    for index in places:
        assert not layers[index].use_bias, "batch normalization brings its own shift"
        after = [layer for layer in layers[index + 1 : index + 4] if not isinstance(layer, keras.layers.MaxPooling2D)]
        assert isinstance(after[0], keras.layers.BatchNormalization)
        assert isinstance(after[1], keras.layers.Activation)
        assert after[1].activation is keras.activations.relu
    assert sum(is_normalization(layer) for layer in layers) == len(places)


def test_a_whitening_layer_comes_first_and_is_not_trained() -> None:
    model = zoo.create_model("cnn_bn", input_shape=(9, 9, 3), whitening=2, filters=4)
    layer = model.get_layer("whitening_conv")
    assert layer.kernel.shape == (2, 2, 3, 24)
    assert not layer.trainable_variables
    assert layer.output.shape[1:] == (8, 8, 24)


@pytest.mark.parametrize(("kind", "features"), [("none", 3 * 3 * 8), ("max", 8), ("average", 8)])
def test_global_pooling_leaves_one_number_per_map(kind: str, features: int) -> None:
    model = zoo.create_model("cnn", input_shape=(9, 9, 1), filters=4, units=0, global_pooling=kind)
    assert model.get_layer("logits").kernel.shape == (features, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": (4, 8, 8)}, r"filters must be a number above 0, or one for each of the 2 blocks. Received: \(4, 8, 8\)."),
        ({"convolutions": (1, 0)}, r"convolutions must be a number above 0, or one for each of the 2 blocks. Received: \(1, 0\)."),
        ({"pooling": "fist"}, "Unknown pooling 'fist'. Did you mean 'first'"),
        ({"global_pooling": "avg"}, "Unknown global_pooling 'avg'"),
    ],
)
def test_a_configuration_that_does_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        zoo.create_model("cnn", **arguments)


@pytest.mark.parametrize("name", [*family("cnn"), *family("cnn_bn")])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_every_block_of_convolutions_ends_in_max_pooling(name: str, blocks: int) -> None:
    layers = layers_of(name, blocks=blocks, filters=8, convolutions=1, global_pooling="none")
    pooling = [layer for layer in layers if "Pooling" in type(layer).__name__]
    assert [type(layer) for layer in pooling] == [keras.layers.MaxPooling2D] * blocks
    for block, pool in enumerate(pooling, 1):
        assert pool.name == f"block{block}_pool"
        assert pool.pool_size == (2, 2)
        members = [layer for layer in layers if layer.name.startswith(f"block{block}_") and not isinstance(layer, keras.layers.Flatten)]
        assert is_convolution(members[0])
        assert members[-1] is pool


def test_cnn_and_cnn_bn_differ_by_the_normalization_only() -> None:
    plain = [type(layer) for layer in layers_of("cnn")]
    normalized = [type(layer) for layer in layers_of("cnn_bn") if not is_normalization(layer)]
    assert plain == normalized


# --- another backend --------------------------------------------------------------------------------------------------

ON_JAX = """
import json, sys
from pathlib import Path
import keras, numpy, zoo
assert keras.backend.backend() == "jax", keras.backend.backend()
directory = Path(sys.argv[1])
for name, arguments in json.loads((directory / "models.json").read_text()).items():
    model = zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **arguments)
    model.load_weights(directory / f"{name}.weights.h5")
    features = zoo.feature_extractor(model)(numpy.load(directory / "images.npy"))
    numpy.savez(directory / f"{name}.npz", **{level: keras.ops.convert_to_numpy(value) for level, value in features.items()})
assert "tensorflow" not in sys.modules, "the jax backend needs no TensorFlow"
"""


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory: pytest.TempPathFactory, small: Hyperparameters) -> tuple[Path, dict[str, keras.Model]]:
    """All models with weights on TensorFlow, and the directory where one process on jax left what it made of the same weights."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed: pip install 'neuron-zoo[test]'")
    directory = tmp_path_factory.mktemp("jax")
    models = {name: disturb(zoo.create_model(name, input_shape=(6, 7, 3), num_classes=5, **small(name))) for name in MODELS}
    for name, model in models.items():
        model.save_weights(directory / f"{name}.weights.h5")
    numpy.save(directory / "images.npy", IMAGES)
    (directory / "models.json").write_text(json.dumps({name: small(name) for name in MODELS}))
    quick = "--xla_backend_optimization_level=0"  # compiling would take most of the time
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}
    process = subprocess.run([sys.executable, "-c", ON_JAX, str(directory)], env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    return directory, models


@every_model
def test_jax_agrees_with_tensorflow(name: str, on_jax: tuple[Path, dict[str, keras.Model]]) -> None:
    directory, models = on_jax
    features = zoo.feature_extractor(models[name])(IMAGES)
    with numpy.load(directory / f"{name}.npz") as made:
        assert set(made) == set(features)
        for level, value in features.items():
            numpy.testing.assert_allclose(made[level], value, rtol=1e-4, atol=1e-4, err_msg=level)
