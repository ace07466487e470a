"""The images that a training run sees: in which order, in which batches, and what its model's answers are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.evaluation import predict
from zoo.factory import create_model
from zoo.specs import Flip, Recipe

if TYPE_CHECKING:
    import numpy

    from zoo.training import TrainingRun

VALIDATION_BATCH = 1000


def order(seed: int, epoch: int, images: int) -> numpy.ndarray:
    """Returns the order in which an epoch shows the training images: a permutation that only depends on its arguments."""
    import numpy

    return numpy.random.default_rng([seed, epoch]).permutation(images)


def targets(recipe: Recipe, images: numpy.ndarray, labels: numpy.ndarray) -> numpy.ndarray:
    """Returns what a recipe's loss compares the logits of each image with.

    Args:
        recipe: Names the teacher, if there is one.
        images: uint8 `(n, height, width, channels)`.
        labels: int64 `(n,)`.

    Returns:
        The labels; with a teacher float32 `(n, 1 + classes)`, the label followed by the teacher's logits for the image as it
        is, which stay the same however the image is augmented.

    Raises:
        UsageError: The teacher takes other images.
    """
    import numpy

    if recipe.teacher is None:
        return labels
    teacher = create_model(recipe.teacher, pretrained=True)
    if teacher.input_shape[1:] != images.shape[1:]:
        raise UsageError(
            f"The teacher {recipe.teacher} takes images of shape {teacher.input_shape[1:]}. Images of {recipe.dataset}: {images.shape[1:]}."
        )
    return numpy.concatenate([labels[:, None].astype("float32"), predict(teacher, images)], axis=1)


def batches(run: TrainingRun) -> Any:
    """The batches of the run's next epoch, one pass per iteration: a tf.data.Dataset, or a PyDataset under other backends."""
    import keras
    import numpy

    images, labels = run.training.images, run.training.labels
    count, seed, steps, batch_size = len(labels), run.recipe.seed, run.steps, run.batch_size
    alternating = any(isinstance(entry, Flip) and entry.alternating for entry in run.recipe.augmentation)
    if alternating:  # the second half mirrors the first
        images, labels = numpy.concatenate([images, images[:, :, ::-1]]), numpy.concatenate([labels, labels])
    labels = targets(run.recipe, images, labels)
    mirrored = numpy.random.default_rng(seed).integers(2, size=count)

    def drawn() -> numpy.ndarray:
        rows = run.order()[: steps * batch_size]
        rows = rows + count * ((mirrored[rows] + run.epoch) % 2) if alternating else rows
        return rows.reshape(steps, batch_size)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        all_images, all_labels = tf.constant(images), tf.constant(labels)
        epochs = tf.data.Dataset.range(1).map(lambda _: tf.ensure_shape(tf.numpy_function(drawn, [], tf.int64, stateful=True), (steps, batch_size)))
        rows = epochs.flat_map(tf.data.Dataset.from_tensor_slices)
        gathered = rows.map(lambda row: (tf.gather(all_images, row), tf.gather(all_labels, row)))
        return _untuned(gathered.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(8))

    class Batches(keras.utils.PyDataset):
        """Gathers each batch from the arrays in memory."""

        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
            if index == 0 or not hasattr(self, "rows"):
                self.rows = drawn()
            return images[self.rows[index]], labels[self.rows[index]]

    return Batches()


def validation_batches(run: TrainingRun) -> Any:
    """What a run is evaluated on after every epoch: a tf.data.Dataset of batches, or arrays under other backends; None for nothing."""
    import keras

    if run.validation is None:
        return None
    arrays = run.validation.images, targets(run.recipe, *run.validation[:2])
    if keras.backend.backend() != "tensorflow":
        return arrays
    import tensorflow as tf

    return _untuned(tf.data.Dataset.from_tensor_slices(arrays).batch(VALIDATION_BATCH))


def _untuned(dataset: Any) -> Any:
    """A `tf.data.Dataset` that tunes nothing as it goes: what tunes sleeps for seconds, and the end of an epoch waits until it wakes."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
