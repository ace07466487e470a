"""A Keras model's training step as one compiled program that many trials share.

The program runs Keras's own `train_step` and `test_step`, in a loop inside the graph, over data that lies on the device.
What differs between trials comes in from outside: weights and slots are assigned, the order of the rows, the learning rate
of each step and the free numbers of optimizer and layers are arguments.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy
import tensorflow as tf

from tuning.scalars import Slots
from tuning.segments import EXPLOSION, WINDOW

VALIDATION_BATCH = 1000
SECONDS_BETWEEN_LOOKS = 0.5  # at the clock
# What XLA does as TensorFlow does. Its convolutions on a CPU are several times slower, and its random numbers are other ones
# than those of Keras's `fit`.
COMPILED_BY_XLA = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.Flatten,
    keras.layers.Rescaling,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
)


@dataclass(frozen=True)
class DeviceData:
    """Inputs and targets of training and validation, on the device once for all programs.

    Each is a tensor, samples first, or a list or dictionary of tensors.
    """

    x: Any
    y: Any
    validation: tuple[Any, Any] | None = None

    @classmethod
    def of(cls, x: Any, y: Any, validation: tuple[Any, Any] | None = None) -> DeviceData:
        """Copies arrays to the device."""
        x, y = keras.tree.map_structure(tf.constant, (x, y))
        return cls(x, y, keras.tree.map_structure(tf.constant, validation) if validation else None)

    def __len__(self) -> int:
        return samples(self.x)


def samples(data: Any) -> int:
    """Returns the number of samples in a tensor, or in a structure of tensors."""
    return int(keras.tree.flatten(data)[0].shape[0])


def gather(data: Any, rows: tf.Tensor) -> Any:
    """Returns some samples of a tensor, or of each in a structure."""
    return keras.tree.map_structure(lambda tensor: tf.gather(tensor, rows), data)


@dataclass(frozen=True)
class Progress:
    """Where a program stands within an epoch.

    Attributes:
        step: Steps done in this epoch.
        start: The loss of the trial's first batch; NaN before it.
        loss: Mean loss of the last window of steps.
        diverged: Whether it is NaN, infinite or too far above the start.
        metrics: Means over the epoch so far, by Keras's names.
    """

    step: int = 0
    start: float = math.nan
    loss: float = math.nan
    diverged: bool = False
    metrics: Mapping[str, float] | None = None


class Evaluation:
    """A model and its compiled evaluation, which the programs of several optimizers share.

    Args:
        model: Compiled with its loss and metrics; the evaluation takes it over.
        slots: The free numbers of its layers and its loss.
        data: What it is evaluated on.
        jit: Whether XLA compiles it, where `suits_xla` says so.
    """

    def __init__(self, model: keras.Model, slots: Slots, data: DeviceData, jit: bool = False) -> None:
        self.model, self.slots, self.data = model, slots, data
        self.jit = jit and suits_xla(model)
        x, y = gather((data.x, data.y), tf.constant([0]))
        model.compute_metrics(x, y, model(x), None)  # makes their variables, which cannot be made inside a loop of the graph
        model.reset_metrics()
        if data.validation is not None:
            numbers = tf.ones(len(slots.places), tf.float64)
            self._test = tf.function(self._test_steps, autograph=False, jit_compile=self.jit).get_concrete_function(numbers)
            self._test(numbers)

    def run(self, numbers: tf.Tensor) -> dict[str, float]:
        """Returns Keras's metrics over the validation data; none without any.

        Args:
            numbers: float64, as `Slots.vector` orders them.
        """
        if self.data.validation is None:
            return {}
        return {name: float(value) for name, value in self._test(numbers).items()}

    def _test_steps(self, numbers: Any) -> dict[str, Any]:
        count = samples(self.data.validation)
        size = min(VALIDATION_BATCH, count)
        with self.slots.filled(numbers):
            self.model.reset_metrics()

            def body(batch: Any) -> tuple[Any]:
                self.model.test_step(gather(self.data.validation, batch * size + tf.range(size)))
                return (batch + 1,)

            tf.while_loop(lambda batch: batch < count // size, body, (0,), parallel_iterations=1)
            if count % size:
                self.model.test_step(gather(self.data.validation, tf.range(count // size * size, count)))
            return self.model.get_metrics_result()


class Program:
    """Compiled training of one Keras model by one optimizer on one data set.

    Args:
        evaluation: The model with its evaluation.
        optimizer: The program takes it over.
        free: Which of the optimizer's arguments are free numbers.
        batch_size: Rows per step; those left over at an epoch's end make a smaller step where `remainder` is True.
        remainder: Whether an epoch ends with a smaller batch.
    """

    def __init__(self, evaluation: Evaluation, optimizer: keras.Optimizer, free: Iterable[str], batch_size: int, *, remainder: bool = False) -> None:
        self.evaluation, self.model, self.data, self.jit = evaluation, evaluation.model, evaluation.data, evaluation.jit
        self.optimizer, self.free = optimizer, Slots({name: [(optimizer, name)] for name in free})
        self.batch_size = min(batch_size, len(self.data))
        self.whole_steps = len(self.data) // self.batch_size
        self.rest = len(self.data) % self.batch_size if remainder else 0
        self.steps = self.whole_steps + (self.rest > 0)
        self.rows = self.whole_steps * self.batch_size + self.rest
        self.steps_at_once = WINDOW
        self.loss = next(metric for metric in self.model.metrics if metric.name == "loss")
        self._compile()

    def _compile(self) -> None:
        """Traces and compiles the training, training nothing."""
        self.rates = _Table()
        if not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)
        self.optimizer.learning_rate = self.rates
        self.variables = [*self.model.variables, *self.optimizer.variables]
        self.fresh_slots = [variable.numpy().copy() for variable in self.optimizer.variables]
        self.model.optimizer = self.optimizer  # while train_step is traced
        numbers = [tf.ones(len(slots.places), tf.float64) for slots in (self.evaluation.slots, self.free)]
        # Data that the graph held would never be let go of: TensorFlow keeps the graph of Keras's sum over replicas for its gradient.
        self.samples = self.data.x, self.data.y
        rows, rates = tf.zeros(self.rows, tf.int32), tf.zeros(self.steps)
        nothing = (self.samples, rows, rates, *numbers, tf.constant(0), tf.constant(0), tf.constant(math.nan))
        self._train = tf.function(self._train_steps, autograph=False, jit_compile=self.jit).get_concrete_function(*nothing)
        self._train(*nothing)

    # -- state ---------------------------------------------------------------------------------------------------------

    def load(self, values: Sequence[numpy.ndarray]) -> None:
        """Assigns all variables: the model's, then, unless they are to start anew, the optimizer's."""
        missing = len(self.variables) - len(values)
        for variable, value in zip(self.variables, [*values, *(self.fresh_slots if missing else ())], strict=True):
            variable.assign(value)

    def save(self) -> list[numpy.ndarray]:
        """Copies all variables to the host."""
        return [variable.numpy().copy() for variable in self.variables]

    def save_model(self) -> list[numpy.ndarray]:
        """Copies the model's variables alone."""
        return [variable.numpy().copy() for variable in self.model.variables]

    # -- work ----------------------------------------------------------------------------------------------------------

    def train(self, rows: tf.Tensor, rates: tf.Tensor, numbers: tuple[tf.Tensor, tf.Tensor], done: Progress) -> Progress:
        """Goes on with an epoch for about half a second, less where the trial diverges.

        Args:
            rows: int32, the epoch's rows in order.
            rates: float32 `(steps of the epoch,)`, the learning rate of each step.
            numbers: float64, of the evaluation's slots and of `free`, as `Slots.vector` orders them.
            done: Where the epoch stands.
        """
        began = time.perf_counter()
        last = min(done.step + self.steps_at_once, self.steps)
        bounds = tf.constant(done.step), tf.constant(last), tf.constant(done.start)
        step, start, loss, diverged, metrics = self._train(self.samples, rows, rates, *numbers, *bounds)
        progress = Progress(int(step), float(start), float(loss), bool(diverged), {name: float(value) for name, value in metrics.items()})
        if not progress.diverged:
            rate = (progress.step - done.step) / (time.perf_counter() - began)
            self.steps_at_once = WINDOW * max(1, int(rate * SECONDS_BETWEEN_LOOKS / WINDOW))
        return progress

    def _train_steps(self, data: Any, rows: Any, rates: Any, numbers: Any, free: Any, first: Any, last: Any, start: Any) -> tuple[Any, ...]:
        position = self.optimizer.iterations - tf.cast(first, "int64")  # of the epoch's first step
        with self.evaluation.slots.filled(numbers), self.free.filled(free), self.rates.filled(rates, position):
            tf.cond(first == 0, self._reset, lambda: 0)

            def body(step: Any, start: Any, before: Any, seen: Any, loss: Any, diverged: Any) -> tuple[Any, ...]:
                self._step(data, tf.slice(rows, [step * self.batch_size], [self.batch_size]))
                return self._look(step, start, before, seen, loss, diverged)

            # Keras's sums of the loss, as they are before the first step here.
            state = (first, start, self.loss.total.value + 0, self.loss.count.value + 0, tf.constant(math.nan), tf.constant(False))
            whole = tf.minimum(last, self.whole_steps)
            state = tf.while_loop(lambda step, *rest: (step < whole) & ~rest[-1], body, state, parallel_iterations=1)
            if self.rest:
                state = tf.cond((last > self.whole_steps) & ~state[-1], lambda: self._last_step(data, rows, state), lambda: state)
            step, start, _, _, loss, diverged = state
            return step, start, loss, diverged, self.model.get_metrics_result()

    def _last_step(self, data: Any, rows: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        self._step(data, tf.slice(rows, [self.whole_steps * self.batch_size], [self.rest]))
        return self._look(*state)

    def _reset(self) -> int:
        self.model.reset_metrics()
        return 0

    def _step(self, data: Any, rows: Any) -> None:
        self.model.train_step(gather(data, rows))

    def _look(self, step: Any, start: Any, before: Any, seen: Any, loss: Any, diverged: Any) -> tuple[Any, ...]:
        """Looks at the loss at the end of every window; `before` and `seen` are Keras's sums at its start."""
        total, count = self.loss.total.value + 0, self.loss.count.value + 0
        start = tf.where(tf.math.is_nan(start), total / count, start)
        step += 1
        ends = (step % WINDOW == 0) | (step == self.steps)
        loss = tf.where(ends, (total - before) / (count - seen), loss)
        fine = tf.math.is_finite(loss) & (loss <= EXPLOSION * start)
        return step, start, tf.where(ends, total, before), tf.where(ends, count, seen), loss, ends & ~fine


class _Table(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose values come into the graph as an argument."""

    @contextlib.contextmanager
    def filled(self, rates: Any, first: Any) -> Iterator[None]:
        """Takes the rates of the steps from `first` on, while a graph is traced."""
        self.values = rates
        self.first = first
        try:
            yield
        finally:
            del self.values, self.first

    def __call__(self, step: Any) -> Any:
        return tf.gather(self.values, tf.cast(step, "int64") - self.first)

    def get_config(self) -> dict[str, Any]:
        return {}


def learning_rates(schedule: float | Callable[[Any], Any], first: int, steps: int) -> numpy.ndarray:
    """Returns the learning rates of some steps as float32, exactly as the schedule gives them one by one."""
    if not callable(schedule):
        return numpy.full(steps, float(schedule), "float32")
    wanted = tf.range(first, first + steps, dtype=tf.int64)
    try:
        values = numpy.asarray(schedule(wanted), "float32")  # Keras's schedules are made of operations on each element
        if values.shape == (steps,) and all(values[index] == numpy.float32(schedule(first + index)) for index in (0, steps // 2, steps - 1)):
            return values
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        pass  # but for those that branch
    one_by_one = tf.function(
        lambda: tf.map_fn(lambda step: tf.cast(schedule(step), "float32"), wanted, fn_output_signature=tf.float32), autograph=False
    )
    return numpy.asarray(one_by_one())


def suits_xla(model: keras.Model) -> bool:
    """Tells whether XLA gives the same numbers as TensorFlow, and not more slowly."""
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return all(isinstance(layer, COMPILED_BY_XLA) or getattr(layer, "augmentations", None) == () for layer in layers)
