"""Plain Keras `fit` for the models of a user's hypermodel: the reference of the compiled engine, and its way out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy

from tuning.segments import Improved, OnEpoch, Point, Segment, Snapshot, check_until, train_plainly
from zoo.pipeline import order

if TYPE_CHECKING:
    import keras_tuner


def at_point(hypermodel: keras_tuner.HyperModel | Callable[[Any], keras.Model], point: Point) -> keras.Model:
    """Builds a hypermodel's model at a point, from the point's seed."""
    hyperparameters = point.space.copy()
    hyperparameters.values = dict(point.values)
    keras.utils.set_random_seed(point.seed)
    return hypermodel.build(hyperparameters) if hasattr(hypermodel, "build") else hypermodel(hyperparameters)


def shuffled(seed: int | None, samples: int, epoch: int) -> numpy.ndarray:
    """Returns the order of an epoch's samples; as they are without a seed."""
    return numpy.arange(samples) if seed is None else order(seed, epoch, samples)


class PlainHyperModelEngine:
    """Trains the models that a hypermodel builds by plain Keras `fit`.

    Args:
        hypermodel: Builds compiled models.
        x: Training inputs, samples first; an array, or a list or dictionary of arrays.
        y: Their targets.
        validation_x: Inputs to evaluate on after every epoch; None for none.
        validation_y: Their targets.
        shuffle: Whether each epoch has an order of its own.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable[[Any], keras.Model],
        x: Any,
        y: Any,
        validation_x: Any = None,
        validation_y: Any = None,
        *,
        shuffle: bool = True,
    ) -> None:
        self.hypermodel, self.x, self.y, self.shuffle = hypermodel, _floats(x), _floats(y), shuffle
        self.validation = None if validation_x is None else (_floats(validation_x), _floats(validation_y))

    def run(self, point: Point, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf) -> Segment:
        """Trains the model of a point up to an epoch; see `tuning.segments.Engine.run`."""
        check_until(point, until)
        began = time.perf_counter()
        model = at_point(self.hypermodel, point)
        return self.train(model, point, until, snapshot, on_epoch, deadline, time.perf_counter() - began)

    def train(
        self,
        model: keras.Model,
        point: Point,
        until: int,
        snapshot: Snapshot | None = None,
        on_epoch: OnEpoch | None = None,
        deadline: float = math.inf,
        built: float = 0.0,
        reason: str = "plain Keras was asked for",
        improved: Improved | None = None,
    ) -> Segment:
        """Trains a model that has been built, for a reason; see `tuning.engine.HyperModelEngine.train`."""
        segment = train_plainly(_ModelRun(model, self, point), until, snapshot, on_epoch, deadline, built, reason, improved)
        gc.collect()  # a Keras model is a ring of references
        return segment


class _ModelRun:
    """A model in training, with what `train_plainly` asks of it."""

    def __init__(self, model: keras.Model, engine: PlainHyperModelEngine, point: Point) -> None:
        self.trainer, self.engine, self.point = model, engine, point
        self.samples = len(keras.tree.flatten(engine.x)[0])
        self.batch_size = min(point.batch_size, self.samples)
        self.steps = math.ceil(self.samples / self.batch_size)
        self.epoch, self.history, self.best = 0, [], []  # type: ignore[var-annotated]
        if not model.built:
            model(keras.tree.map_structure(lambda array: array[:1], engine.x))
        model.optimizer.build(model.trainable_variables)  # before its state is restored

    def variables(self) -> list[Any]:
        return [*self.trainer.variables, *self.trainer.optimizer.variables]

    def fit(self, watch: keras.callbacks.Callback) -> None:
        run = self

        class Record(keras.callbacks.Callback):
            """Writes down every epoch."""

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.began = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                run.epoch = epoch + 1
                measured = {name: round(float(value), 6) for name, value in sorted((logs or {}).items())}
                run.history.append({"epoch": run.epoch, **measured, "seconds": round(time.perf_counter() - self.began, 3)})

        validation = self.engine.validation
        self.trainer.fit(
            _Batches(self),
            epochs=self.point.epochs,
            initial_epoch=self.epoch,
            validation_data=validation,
            validation_batch_size=None if validation is None else 1000,
            shuffle=False,
            callbacks=[Record(), watch],
            verbose=0,
        )


class _Batches(keras.utils.PyDataset):
    """The batches of a run's next epoch, the last one with what is left."""

    def __init__(self, run: _ModelRun) -> None:
        super().__init__()
        self.run = run

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        run = self.run
        if index == 0 or not hasattr(self, "rows"):
            self.rows = shuffled(run.point.seed if run.engine.shuffle else None, run.samples, run.epoch)
        rows = self.rows[index * run.batch_size : (index + 1) * run.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], run.engine.x), keras.tree.map_structure(lambda array: array[rows], run.engine.y)


def _floats(arrays: Any) -> Any:
    """Converts real numbers to Keras's float type, as `fit` does."""

    def convert(array: Any) -> numpy.ndarray:
        array = numpy.asarray(array)
        return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array

    return keras.tree.map_structure(convert, arrays)
