"""What an export can be asked: TensorFlow functions with stable names for every way that an image may come in.

| signature | input | outputs |
|---|---|---|
| `serving_default` | `image` float32 `(batch, height, width, channels)`, 0..255 | `probabilities`, `class_id`, `label`, `logits` |
| `predict_uint8` | `image` uint8, likewise | the same |
| `predict_bytes` | `image_bytes` string `(batch,)`: PNG or JPEG files of any size | the same |
| `classify` | `inputs` string `(batch,)`: serialized `tf.Example` | `classes`, `scores`, the most probable first |
| `features` | `image` as of `serving_default` | the activations of every level by its name |

All are batch-polymorphic, and answer in float32, int64 and string, which are what JSON can carry.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from zoo.datasets import dataset_info, list_datasets
from zoo.images import decode_upright, prepare_image
from zoo.layers import feature_extractor

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from zoo.cards import Card

SERVING_DEFAULT = "serving_default"
PREDICT_UINT8 = "predict_uint8"
PREDICT_BYTES = "predict_bytes"
CLASSIFY = "classify"
FEATURES = "features"

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

EXAMPLE_FLOATS = "image"
EXAMPLE_INTEGERS = "image_uint8"
EXAMPLE_FILE = "image_bytes"


def signature_functions(model: keras.Model, card: Card) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Traces every signature of a model.

    A `tf.Example` for `classify` holds the image in one of three features: `image`, float_list of height * width * channels
    pixels; `image_uint8`, the same as int64_list, which is what whole numbers in a REST request become; `image_bytes`, a
    PNG or JPEG file. Image files are decoded, turned upright, resized and, for strokes, made light on dark and centred as
    by `zoo predict`.

    Args:
        model: From images to logits, under TensorFlow.
        card: Its classes, and what its training images look like.

    Returns:
        Signature -> function. A model of neither 1 nor 3 channels has no `predict_bytes`; one whose layers do not form a
        functional model has no `features`.

    Example:
        >>> import zoo
        >>> sorted(signature_functions(*zoo.load_trained("relu_mlp.digits")))
        ['classify', 'features', 'predict_bytes', 'predict_uint8', 'serving_default']
    """
    import tensorflow as tf

    shape = tuple(card.input_shape)
    image = tf.TensorSpec((None, *shape), tf.float32, name="image")
    files = tf.TensorSpec((None,), tf.string, name="image_bytes")
    examples = tf.TensorSpec((None,), tf.string, name="inputs")
    reads_files = shape[-1] in (1, 3)
    logits = _traced("logits", lambda image: tf.cast(model(image, training=False), tf.float32), image)
    prepare = _traced("prepare", preparation(card), files) if reads_files else None
    answer = _answers(logits, card)
    functions = {
        SERVING_DEFAULT: (answer, image),
        PREDICT_UINT8: (lambda image: answer(tf.cast(image, tf.float32)), tf.TensorSpec(image.shape, tf.uint8, name="image")),
        CLASSIFY: (_classification(_example_parser(shape, prepare), answer, card), examples),
    }
    if prepare:
        functions[PREDICT_BYTES] = (lambda image_bytes: answer(prepare(image_bytes)), files)
    if _is_functional(model):
        extract = feature_extractor(model)
        functions[FEATURES] = (lambda image: {level: tf.cast(values, tf.float32) for level, values in extract(image, training=False).items()}, image)
    return {name: _traced(name, function, spec) for name, (function, spec) in functions.items()}


def _traced(name: str, function: Callable[..., Any], spec: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    import tensorflow as tf

    function.__name__ = name
    return tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()


def _is_functional(model: keras.Model) -> bool:
    import keras

    return bool(model.layers) and isinstance(model.layers[0], keras.layers.InputLayer)


def _answers(logits: Callable[[tf.Tensor], tf.Tensor], card: Card) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    import tensorflow as tf

    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        values = logits(image)
        class_id = tf.argmax(values, axis=-1, output_type=tf.int64)
        label = tf.gather(tf.constant(list(card.class_names)), class_id)
        return {"probabilities": tf.nn.softmax(values), "class_id": class_id, "label": label, "logits": values}

    return answer


def preparation(card: Card) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from image files, string `(batch,)`, to images as `zoo predict` sees them, float32 `(batch, height, width, channels)`."""
    import tensorflow as tf

    ink_box = dataset_info(card.dataset).ink_box if card.dataset in list_datasets() else None
    spec = tf.TensorSpec(card.input_shape, tf.float32)

    def prepared(data: tf.Tensor) -> tf.Tensor:
        return prepare_image(decode_upright(data), card.input_shape, card.light_on_dark, ink_box)

    return lambda image_bytes: tf.map_fn(prepared, image_bytes, fn_output_signature=spec)


def _example_parser(shape: tuple[int, ...], prepare: Callable[[tf.Tensor], tf.Tensor] | None) -> Callable[[tf.Tensor], tf.Tensor]:
    """Serialized examples `(batch,)` -> images."""
    import tensorflow as tf

    keys = {EXAMPLE_FLOATS: tf.float32, EXAMPLE_INTEGERS: tf.int64, EXAMPLE_FILE: tf.string}
    wanted = f"{prod(shape)} pixels in {EXAMPLE_FLOATS} (floats) or {EXAMPLE_INTEGERS} (integers)"
    wanted += f", or a PNG or JPEG file in {EXAMPLE_FILE}" if prepare else ""

    def image_of(row: dict[str, tf.Tensor]) -> tf.Tensor:
        pixels = tf.concat([row[EXAMPLE_FLOATS], tf.cast(row[EXAMPLE_INTEGERS], tf.float32)], 0)
        received, files = tf.size(pixels), tf.size(row[EXAMPLE_FILE])
        is_whole = (received == prod(shape)) & (files == 0)
        is_file = (received == 0) & (files == 1) & (prepare is not None)
        message = [f"A tf.Example holds {wanted}. Received pixels, files:", received, files]
        with tf.control_dependencies([tf.debugging.Assert(is_whole | is_file, message)]):
            pixels = tf.identity(pixels)
        if prepare is None:
            return tf.reshape(pixels, shape)
        return tf.cond(is_file, lambda: prepare(row[EXAMPLE_FILE])[0], lambda: tf.reshape(pixels, shape))

    def parse(serialized: tf.Tensor) -> tf.Tensor:
        rows = tf.io.parse_example(serialized, {key: tf.io.RaggedFeature(dtype) for key, dtype in keys.items()})
        return tf.map_fn(image_of, rows, fn_output_signature=tf.TensorSpec(shape, tf.float32))

    return parse


def _classification(
    parse: Callable[[tf.Tensor], tf.Tensor], answer: Callable[[tf.Tensor], dict[str, tf.Tensor]], card: Card
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    import tensorflow as tf

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, order = tf.math.top_k(answer(parse(inputs))["probabilities"], card.num_classes)
        return {"classes": tf.gather(tf.constant(list(card.class_names)), order), "scores": scores}

    return classify
