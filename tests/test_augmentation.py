"""Augmentations: exact where they can be exact, black outside, alike under one seed, and only in training."""

from __future__ import annotations

import keras
import numpy
import pytest

from zoo.augmentation import Augment, augment
from zoo.specs import AUGMENTATIONS, Affine, Augmentation, Cutout, Elastic, Flip, Shift


def apply(images: numpy.ndarray, *augmentations: Augmentation, seed: int = 0) -> numpy.ndarray:
    return keras.ops.convert_to_numpy(augment(images, augmentations, keras.random.SeedGenerator(seed)))


@pytest.fixture
def images() -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 256, (16, 12, 10, 3)).astype("uint8")


def test_shift_moves_by_whole_pixels_and_lets_black_in(images: numpy.ndarray) -> None:
    padded = numpy.pad(images.astype("float32"), ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for before, after in zip(padded, apply(images, Shift(2)), strict=True):
        places = [(row, column) for row in range(5) for column in range(5) if numpy.array_equal(before[row : row + 12, column : column + 10], after)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 4


def test_a_reflecting_shift_lets_the_mirror_image_in(images: numpy.ndarray) -> None:
    padded = numpy.pad(images.astype("float32"), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    seen = set()
    for before, after in zip(padded, apply(images, Shift(2, reflect=True)), strict=True):
        places = [(row, column) for row in range(5) for column in range(5) if numpy.array_equal(before[row : row + 12, column : column + 10], after)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 4


def test_strength_scales_the_continuous_moves(images: numpy.ndarray) -> None:
    layer = Augment((Affine(), Elastic()), 0)
    strong = numpy.abs(keras.ops.convert_to_numpy(layer(images, training=True)) - images).mean()
    layer.strength.assign(0.1)
    weak = numpy.abs(keras.ops.convert_to_numpy(layer(images, training=True)) - images).mean()
    layer.strength.assign(0.0)
    numpy.testing.assert_allclose(layer(images, training=True), images, atol=1e-3)
    assert 0 < weak < strong / 2


def test_flip_mirrors_some_images_and_leaves_the_others(images: numpy.ndarray) -> None:
    result = apply(images, Flip())
    flipped = [numpy.array_equal(after, before[:, ::-1]) for before, after in zip(images, result, strict=True)]
    kept = [numpy.array_equal(after, before) for before, after in zip(images, result, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert any(flipped)
    assert any(kept)


def test_cutout_blanks_one_square_at_most(images: numpy.ndarray) -> None:
    result = apply(numpy.maximum(images, 1), Cutout(4))
    for after in result:
        rows, columns = numpy.nonzero((after == 0).all(axis=-1))
        assert 0 < len(rows) <= 16
        assert len(rows) == (numpy.ptp(rows) + 1) * (numpy.ptp(columns) + 1)


def test_nothing_moves_where_every_range_is_zero(images: numpy.ndarray) -> None:
    result = apply(images, Affine(0, 0, 0, 0), Elastic(0.0))
    numpy.testing.assert_allclose(result, images, atol=1e-3)


def test_rotation_turns_a_bar_by_its_angle() -> None:
    bar = numpy.zeros((200, 21, 21, 1), "float32")
    bar[:, 10] = 255
    angles = []
    for image in apply(bar, Affine(degrees=30, scale=0, shear=0, pixels=0))[..., 0]:
        rows, columns = numpy.nonzero(image > 100)
        angles.append(numpy.degrees(numpy.arctan(numpy.polyfit(columns, rows, 1)[0])))
    assert 25 < max(angles) < 32
    assert -32 < min(angles) < -25


def test_elastic_displacement_has_the_asked_size() -> None:
    ramp = numpy.broadcast_to(numpy.arange(64, dtype="float32")[None, None, :, None], (200, 64, 64, 1))
    moved = apply(ramp, Elastic(pixels=2.0, grid=4))[:, 16:48, 16:48]
    assert 1.0 < (moved - ramp[:, 16:48, 16:48]).std() < 2.2


@pytest.mark.parametrize("kind", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_same_seed_gives_the_same_images(kind: type[Augmentation], images: numpy.ndarray) -> None:
    numpy.testing.assert_array_equal(apply(images, kind(), seed=3), apply(images, kind(), seed=3))
    assert not numpy.array_equal(apply(images, kind(), seed=3), apply(images, kind(), seed=4))
    assert apply(images, kind()).shape == images.shape


def test_the_layer_acts_in_training_only(images: numpy.ndarray) -> None:
    layer = Augment([Shift(1), Cutout(3)], seed=0)
    numpy.testing.assert_array_equal(layer(images, training=False), images)
    assert not numpy.array_equal(layer(images, training=True), images)
