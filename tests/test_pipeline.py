"""The images that a training run sees: their order, their batches, and a teacher's answers."""

from __future__ import annotations

import dataclasses

import numpy
import pytest

import zoo
from zoo.errors import UsageError
from zoo.pipeline import batches, order, targets, validation_batches
from zoo.specs import Flip, Recipe
from zoo.training import TrainingRun

SMALL = Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2, learning_rate=0.005)


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return zoo.load_dataset("digits", "train_minus_validation")


def test_the_order_of_images_depends_on_seed_and_epoch_alone() -> None:
    assert numpy.array_equal(order(1, 2, 50), order(1, 2, 50))
    assert sorted(order(1, 2, 50)) == list(range(50))
    assert not numpy.array_equal(order(1, 2, 50), order(1, 3, 50))
    assert not numpy.array_equal(order(1, 2, 50), order(2, 2, 50))


def test_a_student_learns_its_teachers_answers(digits: zoo.Dataset) -> None:
    recipe = dataclasses.replace(SMALL, epochs=12, teacher="cnn_bn.digits", teacher_weight=1.0)
    wrong = digits._replace(labels=(digits.labels + 1) % 10)  # only the teacher knows what is right
    rows = targets(recipe, wrong.images, wrong.labels)
    assert rows.shape == (len(wrong.labels), 11)
    assert (rows[:, 0] == wrong.labels).all()
    run = TrainingRun(recipe, wrong, None)
    run.fit()
    assert zoo.evaluate(run.trained_model(), digits.images, digits.labels)["accuracy"] > 0.8


def test_a_teacher_of_other_images(digits: zoo.Dataset) -> None:
    with pytest.raises(UsageError, match=r"The teacher cnn_bn.mnist takes images of shape \(28, 28, 1\). Images of digits: \(8, 8, 1\)."):
        TrainingRun(dataclasses.replace(SMALL, teacher="cnn_bn.mnist"), digits, None).fit()


def test_the_pipeline_does_not_tune_itself(digits: zoo.Dataset) -> None:
    run = TrainingRun(dataclasses.replace(SMALL, epochs=1), digits, digits)
    for pipeline in (batches(run), validation_batches(run)):
        assert pipeline.options().autotune.enabled is False, "its thread sleeps for seconds, and the end of an epoch waits for it"


def test_alternating_flips_mirror_every_image_in_every_second_epoch(digits: zoo.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[numpy.ndarray] = []
    few = digits._replace(images=digits.images[:6], labels=digits.labels[:6])
    run = TrainingRun(dataclasses.replace(SMALL, epochs=3, batch_size=6, augmentation=(Flip(alternating=True),)), few, None)
    pipeline = batches(run)
    for run.epoch in range(3):
        shown += [images.numpy()[numpy.argsort(order(0, run.epoch, 6))] for images, _ in pipeline]
    for index, image in enumerate(few.images):
        first, second, third = (epoch[index] for epoch in shown)
        assert numpy.array_equal(first, third)
        assert numpy.array_equal(first, second[:, ::-1])
        assert numpy.array_equal(first, image) or numpy.array_equal(second, image)
