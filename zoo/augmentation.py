"""Random transformations of training images: batched, inside the graph, the same under every Keras backend.

All geometric transformations of a recipe are composed into one field of coordinates, so that each image is interpolated
once however many there are. What comes in from outside the image is black (0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy
from keras import ops

from zoo.specs import Affine, Augmentation, Cutout, Elastic, Flip, Shift

Tensor = Any
Coordinates = tuple[Tensor, Tensor]


class Augment(keras.layers.Layer):
    """Applies augmentations to a batch in training, and nothing at inference.

    Args:
        augmentations: Records of `zoo.specs`, applied in this order.
        seed: Seeds the layer's own generator, whose state is a variable of the model: saved and restored with it.

    Its variable `strength`, 1 at first, scales what `Affine` and `Elastic` do, 0..1.

    Call with images `(batch, height, width, channels)`, values 0..255; returns the same shape, float32 in training.

    Example:
        >>> import numpy, zoo
        >>> layer = Augment([zoo.Shift(1), zoo.Cutout(2)], seed=0)
        >>> layer(numpy.ones((4, 8, 8, 1), "float32"), training=True).shape
        TensorShape([4, 8, 8, 1])
    """

    def __init__(self, augmentations: Sequence[Augmentation], seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.augmentations = tuple(augmentations)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.strength = self.add_weight(shape=(), initializer="ones", trainable=False, name="strength")

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        return augment(images, self.augmentations, self.seed_generator, self.strength) if training else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def augment(images: Tensor, augmentations: Sequence[Augmentation], seed: keras.random.SeedGenerator, strength: Any = 1.0) -> Tensor:
    """Transforms each image of a batch at random.

    Args:
        images: `(batch, height, width, channels)`, values 0..255; height, width and channels must be static.
        augmentations: Records of `zoo.specs`, applied in this order.
        seed: Advances with every draw.
        strength: Scales what `Affine` and `Elastic` do, 0..1.

    Returns:
        Float32 images of the same shape.
    """
    images = ops.cast(images, "float32")
    geometric = [entry for entry in augmentations if not (isinstance(entry, Cutout) or (isinstance(entry, Flip) and entry.alternating))]
    if geometric:
        coordinates = _identity(images)
        for entry in reversed(geometric):  # coordinates lead from the result back to the source
            coordinates = _MOVES[type(entry)](entry, coordinates, seed, strength)
        whole = all(isinstance(entry, Shift | Flip) for entry in geometric)
        images = _nearest(images, coordinates) if whole else _bilinear(images, coordinates)
    for cutout in augmentations:
        if isinstance(cutout, Cutout):
            images = _cutout(cutout, images, seed)
    return images


def _identity(images: Tensor) -> Coordinates:
    """The coordinates of every pixel, measured from the image's centre; `(batch, height, width)` each."""
    _, height, width, _ = images.shape
    batch = ops.shape(images)[0]
    rows, columns = numpy.mgrid[:height, :width].astype("float32")
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2
    return ops.tile(rows[None], (batch, 1, 1)), ops.tile(columns[None], (batch, 1, 1))


def _per_image(coordinates: Coordinates, low: float, high: float, seed: keras.random.SeedGenerator) -> Tensor:
    """One uniform draw per image, `(batch, 1, 1)`."""
    batch = ops.shape(coordinates[0])[0]
    return keras.random.uniform((batch, 1, 1), low, high, seed=seed, dtype="float32")


def _shift(entry: Shift, coordinates: Coordinates, seed: keras.random.SeedGenerator, strength: Any) -> Coordinates:
    low, high = -float(entry.pixels), entry.pixels + 1.0
    rows, columns = (axis + ops.floor(_per_image(coordinates, low, high, seed)) for axis in coordinates)
    return (_reflect(rows, rows.shape[1]), _reflect(columns, columns.shape[2])) if entry.reflect else (rows, columns)


def _reflect(coordinates: Tensor, size: int) -> Tensor:
    """Folds coordinates, measured from the centre, back at the image's outermost pixels."""
    edge = (size - 1) / 2
    return ops.where(ops.abs(coordinates) > edge, ops.sign(coordinates) * 2 * edge - coordinates, coordinates)


def _flip(entry: Flip, coordinates: Coordinates, seed: keras.random.SeedGenerator, strength: Any) -> Coordinates:
    rows, columns = coordinates
    return rows, columns * ops.where(_per_image(coordinates, 0.0, 1.0, seed) < 0.5, -1.0, 1.0)


def _affine(entry: Affine, coordinates: Coordinates, seed: keras.random.SeedGenerator, strength: Any) -> Coordinates:
    rows, columns = coordinates
    angle, row_scale, column_scale, shear, row_move, column_move = (
        strength * _per_image(coordinates, -limit, limit, seed)
        for limit in (entry.degrees * numpy.pi / 180, entry.scale, entry.scale, entry.shear, entry.pixels, entry.pixels)
    )
    row_scale, column_scale = 1 / (1 + row_scale), 1 / (1 + column_scale)
    sine, cosine = ops.sin(angle), ops.cos(angle)
    turned_rows, turned_columns = cosine * rows - sine * columns, sine * rows + cosine * columns
    return turned_rows * row_scale + row_move, (turned_columns + shear * turned_rows) * column_scale + column_move


def _elastic(entry: Elastic, coordinates: Coordinates, seed: keras.random.SeedGenerator, strength: Any) -> Coordinates:
    rows, columns = coordinates
    batch, (height, width) = ops.shape(rows)[0], rows.shape[1:]
    nodes = strength * keras.random.normal((batch, 2, entry.grid, entry.grid), stddev=entry.pixels, seed=seed, dtype="float32")
    field = ops.matmul(ops.matmul(_cubic(entry.grid, height), nodes), _cubic(entry.grid, width).T)
    return rows + field[:, 0], columns + field[:, 1]


def _cubic(nodes: int, pixels: int) -> numpy.ndarray:
    """The matrix `(pixels, nodes)` that interpolates evenly spaced nodes by Catmull-Rom splines; the ends repeat."""
    position = (numpy.arange(pixels) + 0.5) * nodes / pixels - 0.5
    matrix = numpy.zeros((pixels, nodes), "float32")
    for offset in range(-1, 3):
        node = numpy.floor(position) + offset
        distance = numpy.abs(position - node)
        near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weight = numpy.where(distance <= 1, near, numpy.where(distance < 2, far, 0))
        numpy.add.at(matrix, (numpy.arange(pixels), numpy.clip(node, 0, nodes - 1).astype(int)), weight)
    return matrix


_MOVES: dict[type, Any] = {Shift: _shift, Flip: _flip, Affine: _affine, Elastic: _elastic}


def _sampler(images: Tensor) -> Any:
    """Returns a function from whole coordinates, counted from the top left, to pixels; outside is 0."""
    _, height, width, channels = images.shape
    batch = ops.shape(images)[0]
    flat = ops.reshape(ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), (-1, channels))
    start = ops.reshape(ops.arange(batch, dtype="int32") * ((height + 2) * (width + 2)), (-1, 1, 1))

    def sample(rows: Tensor, columns: Tensor) -> Tensor:
        row = ops.cast(ops.clip(rows, -1, height), "int32") + 1
        column = ops.cast(ops.clip(columns, -1, width), "int32") + 1
        return ops.take(flat, start + row * (width + 2) + column, axis=0)

    return sample


def _from_top_left(images: Tensor, coordinates: Coordinates) -> Coordinates:
    _, height, width, _ = images.shape
    return coordinates[0] + (height - 1) / 2, coordinates[1] + (width - 1) / 2


def _nearest(images: Tensor, coordinates: Coordinates) -> Tensor:
    rows, columns = _from_top_left(images, coordinates)
    return _sampler(images)(ops.round(rows), ops.round(columns))


def _bilinear(images: Tensor, coordinates: Coordinates) -> Tensor:
    rows, columns = _from_top_left(images, coordinates)
    sample = _sampler(images)
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = sample(top, left) * (1 - right) + sample(top, left + 1) * right
    lower = sample(top + 1, left) * (1 - right) + sample(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def _cutout(entry: Cutout, images: Tensor, seed: keras.random.SeedGenerator) -> Tensor:
    _, height, width, _ = images.shape
    batch = ops.shape(images)[0]
    corner_row = ops.floor(keras.random.uniform((batch, 1), 1 - entry.size, height, seed=seed, dtype="float32"))
    corner_column = ops.floor(keras.random.uniform((batch, 1), 1 - entry.size, width, seed=seed, dtype="float32"))
    row, column = numpy.arange(height, dtype="float32")[None], numpy.arange(width, dtype="float32")[None]
    rows = ops.logical_and(row >= corner_row, row < corner_row + entry.size)
    columns = ops.logical_and(column >= corner_column, column < corner_column + entry.size)
    blank = ops.logical_and(rows[:, :, None], columns[:, None, :])
    return ops.where(blank[..., None], 0.0, images)
