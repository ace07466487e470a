"""Signatures: what an export can be asked, by the TensorFlow 2 loader and in a session as TF Serving asks."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf
from test_export import card_of
from test_images import with_orientation

import zoo
from zoo.cards import Card
from zoo.evaluation import softmax
from zoo.export import export_model, versions
from zoo.images import decode_upright, prepare_image
from zoo.signatures import CLASSIFY, FEATURES, PREDICT_BYTES, PREDICT_UINT8, SERVING_DEFAULT, signature_functions

SAVED_MODELS = Path(__file__).parents[1] / "saved_models"
SNAPSHOT = Path(__file__).parent / "snapshots" / "signatures.txt"
ALL = {SERVING_DEFAULT, PREDICT_UINT8, PREDICT_BYTES, CLASSIFY, FEATURES}
SHAPES = {"gray": (12, 10, 1), "colour": (12, 10, 3)}

Ask = Callable[..., dict[str, Any]]


class Exported:
    """An exported model, and both ways to ask it."""

    def __init__(self, model: keras.Model, card: Card, folder: Path) -> None:
        self.model, self.card = model, card
        self.path = export_model((model, card), folder)
        self._loaded = tf.saved_model.load(str(self.path))
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self.graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(self.path))

    def by_signature_function(self, signature: str, **inputs: Any) -> dict[str, Any]:
        answer = self._loaded.signatures[signature](**{alias: tf.constant(values) for alias, values in inputs.items()})
        return {alias: values.numpy() for alias, values in answer.items()}

    def by_session(self, signature: str, **inputs: Any) -> dict[str, Any]:
        definition = self.graph.signature_def[signature]
        fetches = {alias: info.name for alias, info in definition.outputs.items()}
        return self._session.run(fetches, {definition.inputs[alias].name: values for alias, values in inputs.items()})

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    keras.utils.set_random_seed(1)
    model = zoo.create_model("cnn_bn", input_shape=SHAPES[request.param], num_classes=7, filters=4, units=8)
    found = Exported(model, card_of(model, request.param), tmp_path_factory.mktemp(request.param))
    yield found
    found.close()


@pytest.fixture(params=["by_signature_function", "by_session"])
def ask(request: pytest.FixtureRequest, exported: Exported) -> Ask:
    return getattr(exported, request.param)


def pixels(exported: Exported, count: int = 3) -> numpy.ndarray:
    return numpy.random.default_rng(5).integers(0, 256, (count, *exported.card.input_shape)).astype("uint8")


def example(**features: Any) -> bytes:
    kinds = {
        "image": lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=numpy.ravel(values))),
        "image_uint8": lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=numpy.ravel(values))),
        "image_bytes": lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=numpy.ravel(values).tolist())),
        "label": lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=[values])),
    }
    return tf.train.Example(features=tf.train.Features(feature={key: kinds[key](values) for key, values in features.items()})).SerializeToString()


def check_answer(answer: dict[str, Any], logits: numpy.ndarray, card: Card) -> None:
    assert answer.keys() == {"probabilities", "class_id", "label", "logits"}
    numpy.testing.assert_allclose(answer["logits"], logits, atol=1e-5)
    numpy.testing.assert_allclose(answer["probabilities"], softmax(logits), atol=1e-5)
    assert answer["class_id"].tolist() == logits.argmax(axis=1).tolist()
    assert [label.decode() for label in answer["label"]] == [card.class_names[index] for index in logits.argmax(axis=1)]
    assert {alias: values.dtype.name for alias, values in answer.items() if alias != "label"} == {
        "probabilities": "float32",
        "class_id": "int64",
        "logits": "float32",
    }


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("signature", "dtype"), [(SERVING_DEFAULT, "float32"), (PREDICT_UINT8, "uint8")])
def test_tensors_of_any_number_of_images(signature: str, dtype: str, count: int, exported: Exported, ask: Ask) -> None:
    images = pixels(exported, count)
    check_answer(ask(signature, image=images.astype(dtype)), exported.model.predict(images, verbose=0), exported.card)


def test_classify_takes_an_example_in_three_forms_and_sorts_its_answer(exported: Exported, ask: Ask) -> None:
    images = pixels(exported)
    png = tf.io.encode_png(images[2]).numpy()
    examples = [example(image=images[0]), example(image_uint8=images[1], label=b"ignored"), example(image_bytes=[png])]
    answer = ask(CLASSIFY, inputs=numpy.array(examples, object))
    prepared = prepare_image(images[2], exported.card.input_shape, True, 1.0)
    probabilities = softmax(exported.model.predict(numpy.stack([images[0], images[1], prepared]).astype("float32"), verbose=0))
    assert answer.keys() == {"classes", "scores"}
    numpy.testing.assert_allclose(answer["scores"], -numpy.sort(-probabilities, axis=1), atol=1e-5)
    names = numpy.array([name.encode() for name in exported.card.class_names], object)
    assert answer["classes"].tolist() == names[numpy.argsort(-probabilities, axis=1, kind="stable")].tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "pixels in image"),
        ({"image": [1.0, 2.0]}, "pixels in image"),
        ({"image_uint8": [1] * 1000}, "pixels in image"),
        ({"image_bytes": [b"", b""]}, "pixels in image"),
        ({"image": [1.0], "image_bytes": [b"x"]}, "pixels in image"),
        ({"image_bytes": [b"no image"]}, "Unknown image file format"),
    ],
)
def test_an_example_without_an_image_is_refused(wrong: dict[str, Any], message: str, ask: Ask) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ask(CLASSIFY, inputs=numpy.array([example(**wrong)], object))


def test_what_is_no_example_is_refused(ask: Ask) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        ask(CLASSIFY, inputs=numpy.array([b"no example"], object))


def test_features_are_those_of_the_feature_extractor(exported: Exported, ask: Ask) -> None:
    images = pixels(exported)
    expected = zoo.feature_extractor(exported.model)(images, training=False)
    answer = ask(FEATURES, image=images.astype("float32"))
    assert answer.keys() == set(zoo.level_names(exported.model)) == {"preprocess", "block1", "block2", "hidden1", "logits"}
    for level, values in expected.items():
        assert answer[level].dtype == "float32"
        numpy.testing.assert_allclose(answer[level], values, atol=1e-4, err_msg=level)


def drawing(height: int, width: int, channels: int, dark_on_light: bool) -> numpy.ndarray:
    """A stroke with a hook on uneven paper, `(height, width, channels)`."""
    rows, columns = numpy.mgrid[:height, :width] / numpy.array([[[height]], [[width]]])
    stroke = (abs(columns - 0.5) < 0.08) & (rows > 0.15) & (rows < 0.85) | (abs(rows - 0.2) < 0.07) & (columns > 0.3) & (columns < 0.5)
    gray = numpy.where(stroke, 225, 20 + 25 * rows)
    image = numpy.repeat((255 - gray if dark_on_light else gray)[..., None], channels, -1)
    return (image * numpy.linspace(1, 0.8, channels)).astype("uint8")


SIZES = [(1, 1), (3, 2), (5, 40), (12, 10), (60, 33), (33, 200), (257, 300)]


def files() -> Iterator[bytes]:
    for index, (size, channels) in enumerate(itertools.product(SIZES, (1, 3))):
        yield tf.io.encode_png(drawing(*size, channels, index % 4 in (0, 3))).numpy()
        yield tf.io.encode_jpeg(drawing(*size, channels, index % 4 in (1, 2)), quality=95).numpy()
    photograph = tf.io.encode_jpeg(drawing(60, 33, 3, True), quality=95).numpy()
    yield from (with_orientation(photograph, orientation, "big" if orientation % 2 else "little") for orientation in range(2, 9))
    for channels, dtype in ((2, "uint8"), (4, "uint8"), (1, "uint16")):
        yield tf.io.encode_png(numpy.full((20, 9, channels), 90, dtype)).numpy()


@pytest.fixture(scope="module")
def photographs(exported: Exported) -> tuple[list[bytes], numpy.ndarray]:
    """Files, and what `zoo predict` makes of them."""
    data = list(files())
    return data, numpy.stack([prepare_image(decode_upright(item), exported.card.input_shape, True, 1.0) for item in data])


def test_files_are_seen_as_zoo_predict_sees_them(exported: Exported, ask: Ask, photographs: tuple[list[bytes], numpy.ndarray]) -> None:
    """38 files of seven sizes, gray and colour, dark on light and light on dark, turned and transparent: to 1e-4 the same answer."""
    data, images = photographs
    answer = ask(PREDICT_BYTES, image_bytes=numpy.array(data, object))
    logits = exported.model.predict(images, verbose=0)
    assert len(data) == 38
    assert len(set(logits.argmax(axis=1))) > 1, "labels that are all alike would prove little"
    numpy.testing.assert_allclose(answer["logits"], logits, atol=1e-4, rtol=1e-4)
    assert [label.decode() for label in answer["label"]] == [exported.card.class_names[index] for index in logits.argmax(axis=1)]


def test_a_broken_file_among_whole_ones_is_refused(ask: Ask) -> None:
    whole = tf.io.encode_png(numpy.zeros((4, 4, 1), "uint8")).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError):
        ask(PREDICT_BYTES, image_bytes=numpy.array([whole, whole[:20]], object))


@pytest.mark.parametrize(("dataset", "light_on_dark"), [("mnist", True), ("cifar10", False), ("/a/folder/of/my/own", True)])
def test_polarity_and_place_follow_the_data_set(dataset: str, light_on_dark: bool) -> None:
    model = zoo.create_model("relu_mlp", input_shape=(9, 9, 1), num_classes=3, units=4)
    card = dataclasses.replace(card_of(model), dataset=dataset, light_on_dark=light_on_dark)
    data = tf.io.encode_png(drawing(60, 40, 3, True)).numpy()
    ink_box = zoo.dataset_info(dataset).ink_box if dataset in zoo.list_datasets() else None
    image = prepare_image(decode_upright(data), card.input_shape, light_on_dark, ink_box)
    answer = signature_functions(model, card)[PREDICT_BYTES](tf.constant([data]))
    numpy.testing.assert_allclose(answer["logits"], model.predict(image[None], verbose=0), atol=1e-4)


def test_images_that_no_file_can_hold_come_as_tensors_only(tmp_path: Path) -> None:
    model = zoo.create_model("relu_mlp", input_shape=(3, 4, 2), num_classes=2, units=4)
    found = Exported(model, card_of(model), tmp_path)
    assert set(found.graph.signature_def) - {"__saved_model_init_op"} == ALL - {PREDICT_BYTES}
    image = numpy.arange(24).reshape(1, 3, 4, 2)
    probabilities = softmax(model.predict(image, verbose=0))
    answer = found.by_session(CLASSIFY, inputs=numpy.array([example(image_uint8=image)], object))
    numpy.testing.assert_allclose(answer["scores"], -numpy.sort(-probabilities), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="24 pixels in image"):
        found.by_session(CLASSIFY, inputs=numpy.array([example(image_bytes=[b""])], object))
    found.close()


def test_half_precision_inside_is_float32_outside() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = zoo.create_model("cnn_bn", input_shape=(8, 8, 1), num_classes=3, filters=4, units=8)
    finally:
        keras.config.set_dtype_policy("float32")
    assert zoo.feature_extractor(model)(numpy.zeros((1, 8, 8, 1)))["block1"].dtype == "bfloat16"
    functions = signature_functions(model, card_of(model))
    assert functions.keys() == ALL
    assert {spec.dtype.name for function in functions.values() for spec in function.structured_outputs.values()} == {"float32", "int64", "string"}
    assert functions[FEATURES](tf.zeros((2, 8, 8, 1)))["block1"].dtype == "float32"


def test_the_method_of_classify_is_what_tf_serving_asks_for(exported: Exported) -> None:
    methods = {name: exported.graph.signature_def[name].method_name for name in ALL}
    assert methods == {**dict.fromkeys(ALL, "tensorflow/serving/predict"), CLASSIFY: "tensorflow/serving/classify"}


def describe(path: Path) -> Iterator[str]:
    """Every signature of a version, one tensor a line."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    definitions = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].signature_def
    for name in sorted(set(definitions) - {"__saved_model_init_op"}):
        yield f"  {name} ({definitions[name].method_name})"
        for kind, tensors in (("in ", definitions[name].inputs), ("out", definitions[name].outputs)):
            for alias in sorted(tensors):
                shape = [size if size >= 0 else None for size in (dim.size for dim in tensors[alias].tensor_shape.dim)]
                yield f"    {kind} {alias}: {tf.as_dtype(tensors[alias].dtype).name} {shape}"


def snapshot() -> str:
    lines = []
    for name in sorted(path.name for path in SAVED_MODELS.iterdir() if path.is_dir()):
        lines += [name, *describe(SAVED_MODELS / name / str(versions(SAVED_MODELS / name)[-1]))]
    return "\n".join(lines) + "\n"


def test_the_signatures_of_the_shipped_exports_are_those_of_the_snapshot() -> None:
    """Clients depend on every name: where one is to change, `python tests/test_signatures.py` writes the snapshot anew."""
    before, now = SNAPSHOT.read_text().splitlines(), snapshot().splitlines()
    assert not list(difflib.unified_diff(before, now, "snapshot", "now", lineterm=""))


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
