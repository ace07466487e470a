"""Image files and photographs into what a model takes: decoding, and making them look like the training images.

All but `read_image` use TensorFlow operations only, so they run eagerly, in `tf.data` and inside an export.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ImageError, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray value (ITU-R BT.601, which JPEG uses too)."""
CANVAS = 256
"""Longer side, in pixels, at which the strokes of a photograph are looked for."""
WINDOW = 85
"""What is wider than this on the canvas is ground, whatever its brightness: a third, more than any pen's stroke takes."""
EXIF_MARKER = b"Exif\0\0"
EXIF_REACH = 1 << 16
"""How many bytes into a JPEG the EXIF data may begin, and how many bytes long they may be."""
LEAST_CONTRAST = 16.0
"""Strokes are at least this much lighter than their ground; below, a sheet is blank."""


def read_image(path: str | os.PathLike[str]) -> tf.Tensor:
    """Reads an image file, turned the way up that its camera noted in it.

    Args:
        path: A PNG, JPEG, BMP, GIF or WebP file.

    Returns:
        uint8, shape `(height, width, 1 or 3)`, as of `decode_image`.

    Raises:
        ImageError: The file is missing, unreadable or not an image.
    """
    import tensorflow as tf

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"The image {path} cannot be read: {error.strerror or error}.") from None
    try:
        return decode_upright(data)
    except tf.errors.OpError:
        raise ImageError(f"{path} is not an image that can be decoded. Expected a whole PNG, JPEG, BMP, GIF or WebP file.") from None


def decode_upright(data: tf.Tensor | bytes) -> tf.Tensor:
    """Decodes the bytes of an image file as `decode_image` does, and turns it the way up that its camera noted in it."""
    return _upright(decode_image(data), exif_orientation(data))


def decode_image(data: tf.Tensor | bytes) -> tf.Tensor:
    """Decodes the bytes of a PNG, JPEG, BMP, GIF or WebP file.

    Of an animation comes the first frame; 16-bit values are cut to 8; what is transparent becomes white.

    Args:
        data: A file's bytes, as `bytes` or a scalar string tensor.

    Returns:
        uint8, shape `(height, width, 1)` for gray and `(height, width, 3)` for colour.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are no such image.

    Example:
        >>> import tensorflow as tf
        >>> half_transparent_black = tf.io.encode_png(tf.constant([[[0, 0, 0, 128]]], tf.uint8))
        >>> decode_image(half_transparent_black).numpy().tolist()
        [[[127, 127, 127]]]
    """
    import tensorflow as tf

    image = tf.ensure_shape(tf.io.decode_image(data, expand_animations=False), (None, None, None))
    channels = tf.shape(image)[-1]
    with_alpha = channels % 2 == 0
    colour = tf.cast(image[..., : channels - tf.cast(with_alpha, tf.int32)], tf.float32)
    last = tf.cast(image[..., -1:], tf.float32) / 255
    # Many a BMP has a fourth channel that nobody filled in: all zero, it means nothing.
    alpha = tf.where(with_alpha & tf.reduce_any(last > 0), last, 1.0)
    return tf.cast(tf.round(colour * alpha + 255 * (1 - alpha)), tf.uint8)


def resize_image(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes `(..., height, width, channels)` to float32 of the given size, antialiased; the aspect may change."""
    import tensorflow as tf

    return tf.image.resize(tf.cast(image, tf.float32), (height, width), antialias=True)


def prepare_image(image: Any, input_shape: Sequence[int], light_on_dark: bool = False, ink_box: float | None = None) -> tf.Tensor:
    """Makes any image look like those that a model was trained on.

    Gray becomes colour or colour gray, and the size is made to fit. For light strokes on a dark ground the image is turned
    into a negative where its border is the light part, and:

    - an image of exactly the model's size is otherwise left as it is;
    - with `ink_box`, a photograph is cleared of its ground (shadows included), its contrast is stretched, and the strokes
      are cropped, scaled and centred by their mass, which is how the makers of MNIST prepared their digits (LeCun, Bottou,
      Bengio and Haffner, Gradient-based learning applied to document recognition, 1998);
    - without, the image is padded to a square with the colour of its border.

    Args:
        image: `(height, width, 1 or 3)`, values 0..255.
        input_shape: The model's `(height, width, channels)`.
        light_on_dark: Whether the training images are light on dark; `DatasetSpec.light_on_dark`.
        ink_box: Share of the image's side that the longer side of the strokes takes; `DatasetSpec.ink_box`.

    Returns:
        float32, shape `input_shape`, values 0..255.

    Raises:
        UsageError: The image's shape or the model's is not an image's.

    Example:
        >>> import numpy
        >>> paper = numpy.full((90, 60, 3), 200, "uint8")
        >>> paper[20:70, 27:33] = 30
        >>> digit = prepare_image(paper, (28, 28, 1), light_on_dark=True, ink_box=20 / 28)
        >>> digit.shape, float(digit[0, 0, 0]), round(float(digit[14, 14, 0]))
        (TensorShape([28, 28, 1]), 0.0, 255)
    """
    import tensorflow as tf

    if len(input_shape) != 3 or input_shape[2] not in (1, 3):
        raise UsageError(
            f"Images can be prepared for models of 1 or 3 channels, input_shape (height, width, channels). Received: {tuple(input_shape)}."
        )
    height, width, channels = input_shape
    image = tf.cast(image, tf.float32)
    if image.shape.rank not in (None, 3) or image.shape[-1] not in (None, 1, 3):
        raise UsageError(f"An image has the shape (height, width, 1 or 3). Received: {tuple(image.shape)}.")
    if not light_on_dark:
        return _clip(resize_image(_with_channels(image, channels), height, width))
    gray = _with_channels(image, 1)
    gray = tf.where(_is_dark_on_light(gray), 255 - gray, gray)
    fits = tf.reduce_all(tf.shape(gray)[:2] == (height, width))
    fit = (lambda: _strokes(gray, height, width, ink_box)) if ink_box else (lambda: resize_image(_square(gray), height, width))
    prepared = tf.ensure_shape(tf.cond(fits, lambda: gray, fit), (height, width, 1))
    return _clip(_with_channels(prepared, channels))


def exif_orientation(data: tf.Tensor | bytes) -> tf.Tensor:
    """Returns how a JPEG's camera was held, 1 (upright) to 8, as its EXIF data note it; 1 where they do not.

    The numbers are those of tag 0x0112 (CIPA DC-008, Exchangeable image file format, 2.32, section 4.6.4).

    Args:
        data: A file's bytes, as `bytes` or a scalar string tensor.

    Returns:
        int32, a scalar.
    """
    import tensorflow as tf

    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, 2 * EXIF_REACH), tf.uint8), tf.int32)
    header = tf.pad(header, [[0, len(EXIF_MARKER)]])
    found = [header[place : place + EXIF_REACH] == value for place, value in enumerate(EXIF_MARKER)]
    size = tf.size(found[-1])
    found = tf.reduce_all([flags[:size] for flags in found], 0)
    present = (header[0] == 0xFF) & (header[1] == 0xD8) & tf.reduce_any(found)
    return tf.cond(present, lambda: _orientation(header[tf.argmax(found) + len(EXIF_MARKER) :]), lambda: 1)


def _orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Looks the orientation up in the TIFF structure of EXIF data, int32 `(bytes,)`; what lies beyond its end is 0."""
    import tensorflow as tf

    length = tf.size(tiff)
    little = (tiff[0] == ord("I")) & (tiff[1] == ord("I"))

    def number(at: tf.Tensor, size: int) -> tf.Tensor:
        places = tf.expand_dims(at, -1) + tf.range(size)
        inside = (places >= 0) & (places < length)
        values = tf.where(inside, tf.gather(tiff, tf.where(inside, places, 0)), 0)
        powers = tf.constant([256**place for place in range(size)])
        return tf.reduce_sum(values * tf.where(little, powers, powers[::-1]), -1)

    directory = number(tf.where(little, 4, 6), 2)  # of 4 bytes; the high two are 0 for what lies within reach
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), EXIF_REACH // 12))
    values = number(tf.boolean_mask(entries, number(entries, 2) == 0x0112) + 8, 2)
    first = tf.concat([values, [1]], 0)[0]
    return tf.where((first >= 1) & (first <= 8), first, 1)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: a turn by quarters, and for four of them a mirror."""
    import tensorflow as tf

    turned = tf.image.rot90(image, tf.gather([0, 0, 0, 2, 2, 3, 3, 1, 1], orientation))
    mirrored = tf.reduce_any(orientation == [2, 4, 5, 7])
    return tf.cond(mirrored, lambda: tf.image.flip_left_right(turned), lambda: turned)


def _with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    import tensorflow as tf

    if channels == 3:
        return tf.broadcast_to(image, tf.concat([tf.shape(image)[:2], [3]], 0))
    return tf.cond(tf.shape(image)[-1] == 1, lambda: image, lambda: tf.reduce_sum(image * LUMINANCE, -1, keepdims=True))


def _clip(image: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.clip_by_value(image, 0.0, 255.0)


def _border(gray: tf.Tensor) -> tf.Tensor:
    """The median of the outermost pixels."""
    import tensorflow as tf

    pixels = tf.sort(tf.concat([tf.reshape(edge, [-1]) for edge in (gray[0], gray[-1], gray[:, 0], gray[:, -1])], 0))
    return pixels[tf.size(pixels) // 2]


def _is_dark_on_light(gray: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return _border(gray) > (tf.reduce_min(gray) + tf.reduce_max(gray)) / 2


def _square(gray: tf.Tensor) -> tf.Tensor:
    """Pads the shorter side with the border's value."""
    import tensorflow as tf

    size = tf.shape(gray)[:2]
    missing = tf.reduce_max(size) - size
    before = missing // 2
    ground = _border(gray)
    return tf.pad(gray - ground, [[before[0], missing[0] - before[0]], [before[1], missing[1] - before[1]], [0, 0]]) + ground


def _strokes(gray: tf.Tensor, height: int, width: int, ink_box: float) -> tf.Tensor:
    """Finds light strokes on a dark ground and sets them, 0..255, in the middle of an image `(height, width, 1)`."""
    import tensorflow as tf

    ink = _ink(_scaled_to(gray, CANVAS))
    rows, columns = _extent(ink, 0), _extent(ink, 1)
    cropped = ink[rows[0] : rows[1], columns[0] : columns[1]]
    small = _scaled_to(cropped, round(ink_box * min(height, width)))
    small = tf.math.divide_no_nan(small, tf.reduce_max(small)) * 255
    size = tf.shape(small)
    top, left = _offset(small, 0, height), _offset(small, 1, width)
    return tf.pad(small, [[top, height - size[0] - top], [left, width - size[1] - left], [0, 0]])


def _ink(gray: tf.Tensor) -> tf.Tensor:
    """How surely each pixel is a stroke's, 0..1: lighter than the ground around it, which may be lit unevenly.

    The ground is the morphological opening, so the difference is the white top-hat transform (Serra, Image Analysis and
    Mathematical Morphology, 1982).
    """
    import tensorflow as tf

    eroded = -_largest(-gray)
    relief = gray - _largest(eroded)
    strongest = tf.maximum(tf.reduce_max(_mean(relief)), LEAST_CONTRAST)
    return tf.clip_by_value(2 * relief / strongest - 0.5, 0.0, 1.0)


def _largest(gray: tf.Tensor) -> tf.Tensor:
    """The largest value in the window around each pixel, one axis after the other."""
    import tensorflow as tf

    for _ in range(2):
        gray = tf.transpose(_largest_in_column(gray), [1, 0, 2])
    return gray


def _largest_in_column(gray: tf.Tensor) -> tf.Tensor:
    """The largest value in the window around each row, from windows that double: seven steps where pooling would take 85."""
    import tensorflow as tf

    values = tf.pad(gray, [[WINDOW // 2, WINDOW // 2], [0, 0], [0, 0]], constant_values=gray.dtype.min)
    width = 1
    while width < WINDOW:
        step = min(width, WINDOW - width)
        values = tf.maximum(values[:-step], values[step:])
        width += step
    return values


def _mean(gray: tf.Tensor) -> tf.Tensor:
    """The mean of each pixel and its eight neighbours, which one grain of noise does not move far."""
    import tensorflow as tf

    return tf.nn.avg_pool2d(gray[None], 3, 1, "SAME")[0]


def _extent(ink: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The first row (axis 0) or column (axis 1) with ink and the one after the last; all where there is none."""
    import tensorflow as tf

    inked = tf.reduce_any(_mean(ink)[..., 0] > 0.5, axis=1 - axis)
    inked = inked | ~tf.reduce_any(inked)
    places = tf.where(inked)[:, 0]
    return places[0], places[-1] + 1


def _scaled_to(gray: tf.Tensor, side: int) -> tf.Tensor:
    """Scales so that the longer side has `side` pixels; the aspect stays."""
    import tensorflow as tf

    size = tf.cast(tf.shape(gray)[:2], tf.float32)
    scaled = tf.maximum(tf.cast(tf.round(size * side / tf.reduce_max(size)), tf.int32), 1)
    return tf.image.resize(gray, scaled, antialias=True)


def _offset(small: tf.Tensor, axis: int, side: int) -> tf.Tensor:
    """Where to put `small` on `side` pixels so that its centre of mass is in the middle, as far as it then fits."""
    import tensorflow as tf

    profile = tf.reduce_sum(small, [1 - axis, 2])
    length = tf.shape(small)[axis]
    centre = tf.math.divide_no_nan(tf.reduce_sum(profile * (tf.range(tf.cast(length, tf.float32)) + 0.5)), tf.reduce_sum(profile))
    return tf.clip_by_value(tf.cast(tf.round(side / 2 - centre), tf.int32), 0, side - length)
