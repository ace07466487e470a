"""The compiled trial engines: trials that share a graph share one compiled program.

Building, tracing and compiling take most of a short trial's time. Here the first trial of a kind pays for it: its program is
kept under all that the graph depends on (model, optimizer, batch size, precision, augmentation ...), and later trials bring
what differs along as arguments: initial weights, order of the data, learning rates, momenta, dropout rate. What such a trial
gives is what plain Keras `fit` gives, to the tolerance of float32.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakValueDictionary

import keras
import numpy

from tuning.dispatch import KEPT, kept
from tuning.plain_models import PlainHyperModelEngine, at_point, shuffled
from tuning.programs import DeviceData, Evaluation, Program, learning_rates
from tuning.scalars import Slots, optimizer_structure
from tuning.segments import OUT_OF_TIME, Improved, OnEpoch, PlainEngine, Point, Segment, Snapshot, check_until
from tuning.stretches import Stretch
from tuning.structures import Unshareable, model_structure, recipe_places, recipe_structure, start_structure, why_plain
from zoo.compilation import accuracy, loss, make_optimizer
from zoo.pipeline import order
from zoo.specs import Recipe
from zoo.training import compile_trainer, steps_per_epoch

if TYPE_CHECKING:
    import keras_tuner

    from zoo.datasets import Dataset

T = TypeVar("T")
STARTS = 16  # how many are kept
XLA_STEPS = 100  # of an epoch, from which on compiling by XLA pays: some 0.5 s for each program, against 0.3 ms and more in each step
BUILDING = threading.RLock()  # building a model seeds the whole process, so that one thread at a time may


class Recent(OrderedDict[Hashable, T]):
    """A dictionary that keeps what was used last.

    Args:
        limit: How many entries it keeps.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def find(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns the entry of a key, made where there is none."""
        if key not in self:
            self[key] = make()
            if len(self) > self.limit:
                self.popitem(last=False)
                gc.collect()  # models and graphs are rings of references
        self.move_to_end(key)
        return self[key]


def compiled(programs: Recent[Program], key: Hashable, make: Callable[[], Program]) -> tuple[Program, float]:
    """Returns the program of a key, and the seconds that compiling it took; 0 where it was there."""
    known, began = key in programs, time.perf_counter()
    program = programs.find(key, make)
    return program, 0.0 if known else time.perf_counter() - began


class _Late(Exception):
    """There is no time left to begin."""


class CompiledEngine:
    """Trains recipes by programs that they share.

    Args:
        training: The images to train on.
        validation: Evaluated after every epoch.
        programs: How many compiled programs are kept; the one unused for longest goes first.
        xla: Whether XLA compiles networks without convolutions and random layers; where None, whether their epochs are long
            enough for it to pay.

    Example:
        >>> import zoo
        >>> digits = [zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")]
        >>> engine = CompiledEngine(*digits)
        >>> for rate in (0.001, 0.01):  # the second one compiles nothing
        ...     recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2, learning_rate=rate)
        ...     segment = engine.run(recipe, until=2)
        >>> segment.state, segment.plain, len(engine.programs)
        ('completed', '', 1)
    """

    def __init__(self, training: Dataset, validation: Dataset, programs: int = KEPT, xla: bool | None = None) -> None:
        self.training, self.validation, self.xla = training, validation, xla
        self.halted = False
        self.waited = 0.0  # seconds, for its turn to build
        self.programs: Recent[Program] = Recent(programs)
        self._starts: Recent[list[numpy.ndarray]] = Recent(STARTS)
        self._evaluations: WeakValueDictionary[Hashable, Evaluation] = WeakValueDictionary()  # kept by their programs

    def side_by_side(self, count: int) -> list[CompiledEngine]:
        """Returns engines for so many threads: each with programs of its own, all on the same data, and one that takes no part."""
        self._data  # noqa: B018 -- on the device before it is shared
        engines = [copy.copy(self) for _ in range(count)]
        for engine in engines:
            engine.programs, engine._evaluations = Recent(kept(count)), WeakValueDictionary()
            engine.halted = False
        return engines

    def halt(self) -> None:
        """Has the trial that another thread trains here stop within about a second, as at its deadline; building takes longer."""
        self.halted = True

    def run(
        self,
        recipe: Recipe,
        until: int,
        snapshot: Snapshot | None = None,
        on_epoch: OnEpoch | None = None,
        deadline: float = math.inf,
        improved: Improved | None = None,
    ) -> Segment:
        """Trains a recipe up to an epoch; see `tuning.segments.Engine.run`, and for `improved` `HyperModelEngine.train`."""
        check_until(recipe, until)
        try:
            return self._run(recipe, until, snapshot, on_epoch, deadline, improved)
        except _Late:
            return Segment("stopped", (), snapshot, OUT_OF_TIME)

    def _run(
        self, recipe: Recipe, until: int, snapshot: Snapshot | None, on_epoch: OnEpoch | None, deadline: float, improved: Improved | None
    ) -> Segment:
        if reason := why_plain(recipe):
            with self._turn(deadline):
                return PlainEngine(self.training, self.validation, reason).run(recipe, until, snapshot, on_epoch, deadline, improved)
        began = time.perf_counter()
        steps, first = steps_per_epoch(recipe, self.training), 0 if snapshot is None else snapshot.epoch
        optimizer = make_optimizer(recipe, steps * recipe.epochs)
        schedule = optimizer._learning_rate
        kind, free = optimizer_structure(optimizer)
        structure, numbers = recipe_structure(recipe)
        xla = steps >= XLA_STEPS if self.xla is None else self.xla

        def build() -> Program:
            evaluation = self._evaluations.get((structure, xla)) or self._evaluation(recipe, numbers, xla, deadline)
            self._evaluations[structure, xla] = evaluation
            self._look(deadline)
            return Program(evaluation, optimizer, free, recipe.batch_size)

        waited = self.waited
        program, compile_seconds = compiled(self.programs, (structure, kind, recipe.batch_size), build)
        compile_seconds -= self.waited - waited
        rates = learning_rates(schedule, first * steps, max(0, until - first) * steps)
        rows = partial(order, recipe.seed, images=len(self.training.labels))
        stretch = Stretch(program, numbers, free, rates, rows, first, until, snapshot, deadline, partial(_weaken, recipe, program), improved)
        stretch.halted = lambda: self.halted
        stretch.load(lambda: self._start(recipe, deadline))
        stretch.build_seconds, stretch.compile_seconds = time.perf_counter() - began, compile_seconds
        return stretch.run(on_epoch)

    def _look(self, deadline: float) -> None:
        """Raises if the trial is to stop."""
        if self.halted or time.monotonic() >= deadline:
            raise _Late

    @contextlib.contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        """Waits until no other thread builds a model, and looks at the clock then."""
        began = time.perf_counter()
        with BUILDING:
            self.waited += time.perf_counter() - began
            self._look(deadline)
            yield

    def _evaluation(self, recipe: Recipe, numbers: Mapping[str, float], xla: bool, deadline: float) -> Evaluation:
        """Builds the model that a recipe and its like train."""
        with self._turn(deadline):
            trainer, _, _ = compile_trainer(recipe, self.training)
            self._starts.find(start_structure(recipe), lambda: [variable.numpy().copy() for variable in trainer.variables])
        smoothing = SimpleNamespace(label_smoothing=recipe.label_smoothing, teacher=None)  # all that the loss reads of a recipe
        trainer.compile(trainer.optimizer, loss(cast(Recipe, smoothing)), metrics=[accuracy(recipe)])
        return Evaluation(trainer, Slots(recipe_places(trainer, smoothing, numbers)), self._data, xla)

    def _start(self, recipe: Recipe, deadline: float) -> list[numpy.ndarray]:
        """The values of a new model's variables."""

        def build() -> list[numpy.ndarray]:
            return [variable.numpy().copy() for variable in compile_trainer(recipe, self.training)[0].variables]

        with self._turn(deadline):
            return self._starts.find(start_structure(recipe), build)

    @cached_property
    def _data(self) -> DeviceData:
        return DeviceData.of(*self.training[:2], self.validation[:2])


def _weaken(recipe: Recipe, program: Program, epoch: int) -> None:
    """Sets how strong the augmentation is in an epoch, as a training run does."""
    tail = recipe.augmentation_tail * recipe.epochs
    if tail:
        program.model.get_layer("augment").strength.assign(min(1.0, (recipe.epochs - epoch) / tail))


class HyperModelEngine:
    """Trains the models that a hypermodel builds, by programs that they share.

    A model is built for every trial, because only the hypermodel knows its initial weights; what is shared is the trace and
    the compilation. A model that cannot share is trained by plain Keras `fit`, and the segment says why.

    Args:
        hypermodel: Builds compiled models.
        x: Training inputs, samples first.
        y: Their targets.
        validation_x: Inputs to evaluate on after every epoch; None for none.
        validation_y: Their targets.
        shuffle: Whether each epoch has an order of its own.
        programs: How many compiled programs are kept.

    Example:
        >>> import keras, keras_tuner, numpy
        >>> def build(hp):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        ...     model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
        ...     return model
        >>> engine = HyperModelEngine(build, numpy.ones((40, 4)), numpy.ones((40, 2)))
        >>> space = keras_tuner.HyperParameters()
        >>> segments = [engine.run(Point(space, {"rate": rate}, epochs=1, batch_size=8, seed=0), until=1) for rate in (0.01, 0.1)]
        >>> len(engine.programs)
        1
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
        programs: int = KEPT,
    ) -> None:
        self.plain = PlainHyperModelEngine(hypermodel, x, y, validation_x, validation_y, shuffle=shuffle)
        self.programs: Recent[Program] = Recent(programs)

    def run(self, point: Point, until: int, snapshot: Snapshot | None = None, on_epoch: OnEpoch | None = None, deadline: float = math.inf) -> Segment:
        """Trains the model of a point up to an epoch; see `tuning.segments.Engine.run`."""
        check_until(point, until)
        began = time.perf_counter()
        model = at_point(self.plain.hypermodel, point)
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
        improved: Improved | None = None,
    ) -> Segment:
        """Trains a model that has been built; as `run`.

        Args:
            model: The model itself may or may not be trained; the segment's snapshot tells its variables' values, in their order.
            point: Its epochs, batch size and seed.
            until: See `run`.
            snapshot: See `run`.
            on_epoch: See `run`.
            deadline: See `run`.
            built: Seconds that building took.
            improved: Called with each epoch's row; where it returns True, the snapshot keeps that epoch's variables too, as
                `best_0`, `best_1` ...
        """
        began = time.perf_counter()
        try:
            structure, numbers, places = model_structure(model)
        except Unshareable as reason:
            return self.plain.train(model, point, until, snapshot, on_epoch, deadline, built, str(reason), improved)
        kind, free = optimizer_structure(model.optimizer)
        values, schedule = [variable.numpy().copy() for variable in model.variables], model.optimizer._learning_rate

        def build() -> Program:
            return Program(Evaluation(model, Slots(places), self._data), model.optimizer, free, point.batch_size, remainder=True)

        program, compile_seconds = compiled(self.programs, (structure, kind, point.batch_size), build)
        first = 0 if snapshot is None else snapshot.epoch
        rates = learning_rates(schedule, first * program.steps, max(0, until - first) * program.steps)
        rows = partial(shuffled, point.seed if self.plain.shuffle else None, len(self._data))
        stretch = Stretch(program, numbers, free, rates, rows, first, until, snapshot, deadline, improved=improved)
        stretch.load(lambda: values)
        stretch.build_seconds, stretch.compile_seconds = built + time.perf_counter() - began, compile_seconds
        return stretch.run(on_epoch)

    @cached_property
    def _data(self) -> DeviceData:
        return DeviceData.of(self.plain.x, self.plain.y, self.plain.validation)
