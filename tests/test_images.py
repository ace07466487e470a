"""Decoding, orientation, and photographs of strokes that end up looking like the training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import tensorflow as tf

from zoo import images
from zoo.errors import ImageError, UsageError
from zoo.images import decode_image, exif_orientation, prepare_image, read_image, resize_image

GIF = (  # two frames of one pixel, black and white
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    b"!\xf9\x04\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00"
    b"!\xf9\x04\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02L\x01\x00;"
)


def png(pixels: Any, dtype: str = "uint8") -> bytes:
    return tf.io.encode_png(numpy.asarray(pixels, dtype)).numpy()


def bmp(pixels: numpy.ndarray) -> bytes:
    """A BMP of `(height, width, 3 or 4)`; rows go from the bottom up, colours are blue, green, red."""
    height, width, channels = pixels.shape
    order = [2, 1, 0, 3][:channels]
    rows = b"".join(row[:, order].tobytes() + b"\0" * (-width * channels % 4) for row in pixels[::-1])
    numbers = [(54 + len(rows), 4), (0, 4), (54, 4), (40, 4), (width, 4), (height, 4), (1, 2), (8 * channels, 2), (0, 4), (len(rows), 4), (0, 16)]
    return b"BM" + b"".join(value.to_bytes(size, "little") for value, size in numbers) + rows


def with_orientation(jpeg: bytes, orientation: int, byteorder: str = "big") -> bytes:
    """Puts an EXIF block with two entries behind a JPEG's first marker."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, byteorder)  # type: ignore[arg-type]

    def entry(tag: int, value: int) -> bytes:
        return number(tag, 2) + number(3, 2) + number(1, 4) + number(value, 2) + b"\0\0"

    tiff = (b"MM" if byteorder == "big" else b"II") + number(42, 2) + number(8, 4) + number(2, 2) + entry(0x0100, 7) + entry(0x0112, orientation)
    block = b"Exif\0\0" + tiff + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


COLOURS = numpy.arange(2 * 5 * 3, dtype="uint8").reshape(2, 5, 3) * 8


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(COLOURS), COLOURS),
        (bmp(COLOURS), COLOURS),
        (bmp(numpy.concatenate([COLOURS, numpy.zeros((2, 5, 1), "uint8")], -1)), COLOURS),
        (png(COLOURS[..., :1]), COLOURS[..., :1]),
        (png([[[0xABCD]]], "uint16"), [[[0xAB]]]),
        (png([[[10, 20, 30, 255], [10, 20, 30, 0]]]), [[[10, 20, 30], [255, 255, 255]]]),
        (png([[[0, 51], [0, 255]]]), [[[204], [0]]]),
        (GIF, [[[0, 0, 0]]]),
    ],
    ids=["png", "bmp", "bmp with an unused fourth channel", "gray", "16 bits", "transparent", "gray and transparent", "first frame"],
)
def test_decode_image(data: bytes, expected: Any) -> None:
    image = decode_image(data)
    assert image.dtype == tf.uint8
    numpy.testing.assert_array_equal(image.numpy(), expected)


def test_decode_image_jpeg() -> None:
    gray = numpy.full((16, 8, 1), 77, "uint8")
    numpy.testing.assert_allclose(decode_image(tf.io.encode_jpeg(gray)).numpy(), gray, atol=2)
    assert decode_image(tf.io.encode_jpeg(numpy.repeat(gray, 3, -1))).shape == (16, 8, 3)


def test_decode_and_prepare_work_inside_one_graph() -> None:
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def graph(data: tf.Tensor) -> tf.Tensor:
        return prepare_image(decode_image(data), (28, 28, 1), light_on_dark=True, ink_box=20 / 28)

    assert graph.get_concrete_function().output_shapes == (28, 28, 1)
    for pixels in (sheet(), numpy.repeat(sheet(), 3, -1), 255 - sheet(), light_stroke()):
        eager = prepare_image(decode_image(png(pixels)), (28, 28, 1), light_on_dark=True, ink_box=20 / 28)
        numpy.testing.assert_allclose(graph(png(pixels)).numpy(), eager.numpy(), atol=0.01)


@pytest.mark.parametrize("byteorder", ["big", "little"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_turns_a_photograph_upright(tmp_path: Path, orientation: int, byteorder: str) -> None:
    upright = numpy.full((16, 32, 1), 20, "uint8")
    upright[:8, :16] = 220  # the top left quarter is light, and the bottom left one is gray
    upright[8:, :16] = 120
    stored = {  # how a camera that is held so stores what is upright (CIPA DC-008, figure 7)
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: numpy.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: numpy.rot90(upright, -1),
    }[orientation]
    jpeg = with_orientation(tf.io.encode_jpeg(numpy.ascontiguousarray(stored), quality=100).numpy(), orientation, byteorder)
    assert exif_orientation(jpeg) == orientation
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg)
    numpy.testing.assert_allclose(read_image(path).numpy().astype(int), upright, atol=6)


def test_exif_orientation_of_other_data_is_upright() -> None:
    jpeg = tf.io.encode_jpeg(COLOURS).numpy()
    for data in (b"", jpeg, jpeg[:2] + b"Exif\0\0", jpeg[:2] + b"Exif\0\0MM", png(COLOURS), with_orientation(jpeg, 9), with_orientation(jpeg, 0)):
        assert exif_orientation(data) == 1


@pytest.mark.parametrize("data", [b"", b"no image", png(COLOURS)[:40], tf.io.encode_jpeg(COLOURS).numpy()[:30]])
def test_read_image_says_what_is_no_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"broken\.png is not an image that can be decoded\. Expected a whole PNG, JPEG, BMP, GIF or WebP file\.$"):
        read_image(path)


def test_read_image_says_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^The image .*missing\.png cannot be read: No such file or directory\.$"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"^The image .* cannot be read: Is a directory\.$"):
        read_image(tmp_path)


def test_prepare_image_converts_between_gray_and_colour() -> None:
    gray = numpy.array([[[0], [100]], [[200], [255]]], "uint8")
    numpy.testing.assert_array_equal(prepare_image(gray, (2, 2, 3)).numpy(), numpy.repeat(gray, 3, -1))
    numpy.testing.assert_allclose(prepare_image(numpy.repeat(gray, 3, -1), (2, 2, 1)).numpy(), gray, atol=1e-3)
    numpy.testing.assert_allclose(prepare_image([[[255, 0, 0], [0, 255, 0]]], (1, 2, 1)).numpy()[0, :, 0], [76.245, 149.685], atol=1e-3)


def test_prepare_image_resizes_without_aliasing() -> None:
    stripes = numpy.tile(numpy.array([0, 255], "uint8"), 32)[None, :, None].repeat(64, 0)
    prepared = prepare_image(stripes, (8, 8, 1))
    assert prepared.dtype == tf.float32
    numpy.testing.assert_allclose(prepared.numpy(), 127.5, atol=20)
    numpy.testing.assert_array_equal(resize_image(stripes, 64, 64).numpy(), stripes)


def test_prepare_image_leaves_photographs_of_things_as_they_are() -> None:
    numpy.testing.assert_allclose(prepare_image(numpy.full((40, 30, 3), 250, "uint8"), (8, 8, 3)).numpy(), 250, atol=1e-3)


@pytest.mark.parametrize("ink_box", [None, 20 / 28])
def test_an_image_of_the_models_size_goes_through_unchanged(ink_box: float | None) -> None:
    digit = light_stroke(28, 28, slice(6, 20), slice(3, 7))  # off centre, and so it stays
    numpy.testing.assert_array_equal(prepare_image(digit, (28, 28, 1), True, ink_box).numpy(), digit)
    numpy.testing.assert_array_equal(prepare_image(255 - digit, (28, 28, 1), True, ink_box).numpy(), digit)


def test_without_an_ink_box_the_image_is_made_negative_and_square() -> None:
    thing = numpy.full((40, 80, 1), 240, "uint8")
    thing[8:28, 28:48] = 40
    prepared = prepare_image(thing, (20, 20, 1), light_on_dark=True).numpy()[..., 0]
    numpy.testing.assert_allclose(prepared[[0, -1]], 15, atol=1e-3)
    numpy.testing.assert_allclose(prepared[9:11, 9:11], 215, atol=1)
    assert (prepared > 115).sum() == 25, "20 x 20 of 80 x 80 pixels are 5 x 5 of 20 x 20"


@pytest.mark.parametrize("level", ["dark on light", "light on dark", "in a shadow", "faint", "noisy", "in colour"])
def test_strokes_are_cropped_scaled_and_centred(level: str) -> None:
    height, width = 300, 420
    paper = numpy.full((height, width), 210.0)
    if level == "in a shadow":
        paper -= numpy.linspace(0, 120, width)
    ink = numpy.zeros((height, width))
    ink[60:160, 250:270] = 1  # an L, far from the middle, 100 high and 60 wide
    ink[140:160, 250:310] = 1
    photo = paper - ink * (40 if level == "faint" else 0.7 * paper)
    if level == "noisy":
        photo += numpy.random.RandomState(0).normal(0, 5, photo.shape)
    if level == "light on dark":
        photo = 255 - photo
    pixels = numpy.repeat(photo.clip(0, 255).astype("uint8")[..., None], 3, -1)
    if level == "in colour":
        pixels[ink > 0] = (20, 20, 160)
    prepared = prepare_image(pixels, (28, 28, 1), light_on_dark=True, ink_box=20 / 28).numpy()[..., 0]
    rows, columns = numpy.flatnonzero((prepared > 127).any(1)), numpy.flatnonzero((prepared > 127).any(0))
    assert abs(rows[-1] - rows[0] + 1 - 20) <= 1
    assert abs(columns[-1] - columns[0] + 1 - 12) <= 1
    mass = prepared / prepared.sum()
    assert abs((mass.sum(1) * numpy.arange(28)).sum() - 13.5) <= 1
    assert abs((mass.sum(0) * numpy.arange(28)).sum() - 13.5) <= 1
    assert prepared.max() == 255
    assert numpy.median(prepared) == 0


def test_strokes_may_fill_the_image() -> None:
    prepared = prepare_image(sheet(), (8, 8, 1), light_on_dark=True, ink_box=1.0).numpy()[..., 0]
    assert (prepared.max(1) > 127).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_sheet_stays_blank(value: int) -> None:
    prepared = prepare_image(numpy.full((50, 40, 1), value, "uint8"), (28, 28, 1), light_on_dark=True, ink_box=20 / 28).numpy()
    assert prepared.shape == (28, 28, 1)
    assert numpy.isfinite(prepared).all()
    assert prepared.max() == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 1), (300, 1, 3), (5, 9, 3)])
def test_odd_shapes_are_prepared_all_the_same(shape: tuple[int, int, int]) -> None:
    pixels = numpy.random.RandomState(0).randint(0, 256, shape).astype("uint8")
    for ink_box in (None, 20 / 28, 1.0):
        prepared = prepare_image(pixels, (28, 28, 3), True, ink_box).numpy()
        assert prepared.shape == (28, 28, 3)
        assert prepared.min() >= 0
        assert prepared.max() <= 255


def test_prepare_image_says_which_shape_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"models of 1 or 3 channels, input_shape \(height, width, channels\)\. Received: \(8, 8, 2\)\."):
        prepare_image(sheet(), (8, 8, 2))
    with pytest.raises(UsageError, match=r"shape \(height, width, 1 or 3\)\. Received: \(1, 8, 8, 1\)\."):
        prepare_image(numpy.zeros((1, 8, 8, 1)), (8, 8, 1))


def sheet() -> numpy.ndarray:
    """Dark ink on light paper."""
    return 255 - light_stroke(90, 60, slice(20, 70), slice(27, 33)) // 2 - 20


def light_stroke(height: int = 90, width: int = 60, rows: slice = slice(20, 70), columns: slice = slice(27, 33)) -> numpy.ndarray:
    pixels = numpy.zeros((height, width, 1), "uint8")
    pixels[rows, columns] = 255
    return pixels


@pytest.mark.parametrize("shape", [(1, 1, 1), (256, 30, 1), (100, 256, 1)])
def test_the_largest_in_a_window_is_what_pooling_finds(shape: tuple[int, int, int]) -> None:
    gray = numpy.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    pooled = tf.nn.max_pool2d(gray[None], images.WINDOW, 1, "SAME")[0]
    numpy.testing.assert_array_equal(images._largest(tf.constant(gray)), pooled)
