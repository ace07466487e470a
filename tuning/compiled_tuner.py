"""A KerasTuner tuner for any oracle and any hypermodel whose trials share compiled steps."""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner import errors
from keras_tuner.src.distribute.utils import has_chief_oracle
from keras_tuner.src.engine.oracle import LOCKS, THREADS

from tuning.engine import CompiledEngine, HyperModelEngine
from tuning.executors import trials_at_once
from tuning.hypermodel import ZooHyperModel
from tuning.segments import OUT_OF_TIME, Point, Row, Segment, Snapshot
from tuning.structures import why_plain
from zoo.errors import UsageError
from zoo.specs import Recipe

EPOCHS, EARLIER = "tuner/epochs", "tuner/trial_id"  # what Hyperband's oracle adds to a trial
BEST, LAST = "best.npz", "last-{}.npz"
ARGUMENTS = {"validation_data", "validation_split", "epochs", "batch_size", "shuffle", "callbacks", "verbose"}
IDLE_SECONDS = 0.05  # until an oracle that waits for other trials is asked again
# Callbacks that need no more than epochs, and change nothing of the step.
CALLBACKS = (keras.callbacks.EarlyStopping, keras.callbacks.CSVLogger, keras.callbacks.TerminateOnNaN)


class CompiledTuner(keras_tuner.Tuner):
    """Searches like KerasTuner's tuners, many times as fast where the step is small.

    Trials whose models have the same structure (layers, loss, metrics, optimizer and its switches) share one compiled step,
    which takes learning rates, momenta, dropout rates and the like as arguments. What a trial gives is what `fit` gives. A
    model that cannot share a step (its own `train_step`, layers of its own, Python functions as losses ...) is trained by plain
    `fit`, and a warning says why, once for each reason.

    Unlike the stock tuner, a diverged trial (NaN, infinite, or a loss above ten times its start) ends at once, and is never
    a reason to end the search; and Hyperband goes on with the whole state of a trial, its optimizer's included.

    Args:
        oracle: Any KerasTuner oracle; a stock tuner's is its `.oracle`.
        hypermodel: Any hypermodel or function that builds a compiled model.
        seed: Seeds every trial's initialization, order of samples and random layers.
        at_once: How many trials of the zoo's own hypermodel train side by side, each on a thread; where None, one on each of up to
            eight processors under random search, whose proposals do not depend on results, and otherwise one, which makes the
            search repeatable. Other hypermodels are built by code that may not be made for threads, and train one by one.
        **arguments: Of `keras_tuner.Tuner`, such as `directory`, `project_name`, `overwrite`, `executions_per_trial`.

    Attributes:
        plain_reasons: Trial id -> why plain `fit` trained it.

    Raises:
        UsageError: `at_once` is below 1.

    Example:
        >>> import keras, keras_tuner, numpy, tempfile, tuning
        >>> def build(hp):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        ...     model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), "mse")
        ...     return model
        >>> oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=3)
        >>> tuner = tuning.CompiledTuner(oracle, build, directory=tempfile.mkdtemp())
        >>> x, y = numpy.random.rand(64, 4), numpy.random.rand(64, 2)
        >>> tuner.search(x, y, validation_data=(x, y), epochs=2, batch_size=16, verbose=0)
        >>> len(tuner.oracle.get_best_trials(3))
        3
    """

    def __init__(self, oracle: keras_tuner.Oracle, hypermodel: Any, *, seed: int = 0, at_once: int | None = None, **arguments: Any) -> None:
        if at_once is not None and at_once < 1:
            raise UsageError(f"at_once must be 1 or more. Received: {at_once!r}.")
        super().__init__(oracle, hypermodel, **arguments)
        self.seed, self.at_once = seed, at_once
        self.plain_reasons: dict[str, str] = {}
        self._engine: HyperModelEngine | None = None
        self._data: list[Any] = []
        self._recipe_engine: tuple[HyperModelEngine, CompiledEngine] | None = None
        self._thread = threading.local()  # a thread's own engine of recipes
        self._turn = threading.Lock()

    def search(self, x: Any = None, y: Any = None, **arguments: Any) -> None:
        """Searches.

        Args:
            x: Training inputs, samples first: an array, or a list or dictionary of arrays. Other kinds of data, such as a
                `tf.data.Dataset`, are trained on by plain `fit`.
            y: Their targets.
            **arguments: Of `fit`: `validation_data` or `validation_split`, `epochs`, `batch_size`, `shuffle`, `callbacks`,
                `verbose`. Others, and callbacks that look into steps, have every trial trained by plain `fit`.

        Raises:
            UsageError: The inputs and targets differ in length.
        """
        data = tuple(array for array in (x, y) if array is not None)
        for tuner_id in [name for name in self.oracle.ongoing_trials if name.startswith(f"{self.tuner_id}_")]:  # of an interrupted search
            self.oracle._retry_queue.append(self.oracle.ongoing_trials.pop(tuner_id).trial_id)
        count = self._count_at_once(data, arguments)
        if count == 1:
            super().search(*data, **arguments)
            return
        self.oracle.verbose = arguments.get("verbose", self.oracle.verbose)
        engines = self._recipes(self._engine_for(*data, **arguments)).side_by_side(count)
        self.on_search_begin()
        with ThreadPoolExecutor(count, thread_name_prefix=self.project_dir) as pool:
            threads = [pool.submit(self._search, index, engine, data, arguments) for index, engine in enumerate(engines)]
            try:
                for thread in as_completed(threads):
                    thread.result()
            finally:
                for engine in engines:
                    engine.halt()
        self.on_search_end()

    def _count_at_once(self, data: tuple[Any, ...], arguments: Mapping[str, Any]) -> int:
        """Returns how many trials train side by side."""
        validated = arguments.get("validation_data") is not None or arguments.get("validation_split")
        if type(self.hypermodel) is not ZooHyperModel or not validated or self._why_stock(data, arguments) or self.max_model_size:
            return 1
        one_file = any(isinstance(callback, keras.callbacks.CSVLogger) for callback in arguments.get("callbacks") or ())
        if why_plain(self.hypermodel.recipe) or one_file or has_chief_oracle():
            return 1
        if self.at_once is not None:
            return self.at_once
        return trials_at_once() if type(self.oracle) is keras_tuner.oracles.RandomSearchOracle else 1

    def _search(self, index: int, engine: CompiledEngine, data: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
        """One thread's part of a search: KerasTuner's own loop, as a tuner with a number."""
        self._thread.engine = engine
        try:
            self._take_trials(f"{self.tuner_id}_{index}" if index else self.tuner_id, engine, data, arguments)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        """Opens KerasTuner's lock, which stays closed where what it guards has raised."""
        if THREADS[self.oracle] == threading.current_thread().name:
            THREADS[self.oracle] = None
            LOCKS[self.oracle].release()

    def _take_trials(self, tuner_id: str, engine: CompiledEngine, data: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
        while not engine.halted:
            with self._turn:
                self.pre_create_trial()
                trial = self.oracle.create_trial(tuner_id)
                if trial.status == "RUNNING":
                    self.on_trial_begin(trial)
            if trial.status == "STOPPED":
                return
            if trial.status == "IDLE":
                time.sleep(IDLE_SECONDS)
                continue
            trial = copy.deepcopy(trial)  # of one with the state "COMPLETED" the oracle expects a score, which it gives in the end
            self._try_run_and_update_trial(trial, *data, **arguments)
            self._unlock()
            with self._turn:
                self.on_trial_end(trial)

    def run_trial(self, trial: Any, *data: Any, **arguments: Any) -> Any:
        """Trains one trial, as often as `executions_per_trial` says."""
        if reason := self._why_stock(data, arguments):
            self._say(trial, reason)
            return super().run_trial(trial, *data, **arguments)
        engine = self._engine_for(*data, **arguments)
        best = _Best(self.oracle.objective)
        return [self._execute(trial, engine, execution, best, arguments) for execution in range(self.executions_per_trial)]

    def load_model(self, trial: Any) -> keras.Model:
        """Returns a trial's model with the weights of its best epoch."""
        path = self._file(trial.trial_id, BEST)
        if not path.is_file():
            return super().load_model(trial)
        model = self._try_build(trial.hyperparameters)
        arrays = Snapshot.read(path).arrays
        for index, variable in enumerate(model.variables):
            variable.assign(arrays[f"best_{index}"])
        return model

    # -- one execution -------------------------------------------------------------------------------------------------

    def _execute(self, trial: Any, engine: HyperModelEngine, execution: int, best: _Best, arguments: Mapping[str, Any]) -> keras.callbacks.History:
        hyperparameters = trial.hyperparameters
        epochs = hyperparameters.values.get(EPOCHS, arguments.get("epochs", 1))
        point = Point(hyperparameters, hyperparameters.values, epochs, arguments.get("batch_size") or 32, self.seed + execution)
        watched = _Watched(self, trial, self._deepcopy_callbacks(list(arguments.get("callbacks") or [])))
        earlier = self._earlier(point.values, execution)
        recipe = self._recipe(point)
        if recipe is not None and engine.plain.validation is not None:
            segment = getattr(self._thread, "engine", self._recipes(engine)).run(recipe, epochs, earlier, watched.on_epoch, improved=best.improved)
        else:
            began = time.perf_counter()
            keras.utils.set_random_seed(point.seed)
            model = self._build_hypermodel(hyperparameters)
            self._check_size(model)
            built = time.perf_counter() - began
            segment = engine.train(model, point, epochs, earlier, watched.on_epoch, built=built, improved=best.improved)
        watched.end()
        if segment.message == OUT_OF_TIME:  # halted; the trial stays as one that was under way
            raise KeyboardInterrupt
        if segment.plain:
            self._say(trial, segment.plain)
        if segment.state == "diverged":
            self.oracle.max_consecutive_failed_trials += 1  # a result, no reason to end the search
            raise errors.FailedTrialError(f"The trial diverged: {segment.message}.")
        self._keep(trial, execution, segment)
        return _history(segment.history)

    def _recipe(self, point: Point) -> Recipe | None:
        """The recipe of a point of the zoo's own hypermodel, whose model then need not be built; None for any other."""
        if not isinstance(self.hypermodel, ZooHyperModel):
            return None
        recipe = self.hypermodel.configure(point.space)
        return dataclasses.replace(recipe, epochs=max(recipe.epochs, point.epochs), batch_size=point.batch_size, seed=point.seed)

    def _recipes(self, engine: HyperModelEngine) -> CompiledEngine:
        """The engine of recipes on the data of the other one."""
        if self._recipe_engine is None or self._recipe_engine[0] is not engine:
            assert engine.plain.validation is not None
            pairs = (engine.plain.x, engine.plain.y), engine.plain.validation
            sets = [self.hypermodel.training._replace(images=x, labels=y) for x, y in pairs]
            self._recipe_engine = engine, CompiledEngine(*sets)
        return self._recipe_engine[1]

    def _check_size(self, model: keras.Model) -> None:
        if self.max_model_size and model.count_params() > self.max_model_size:
            raise errors.FailedTrialError(f"Oversized model: {model.count_params()} parameters. Skip model.")

    def _earlier(self, values: Mapping[str, Any], execution: int) -> Snapshot | None:
        """What the trial left that this one goes on with, where the oracle says so."""
        path = self._file(values[EARLIER], LAST.format(execution)) if EARLIER in values else None
        return Snapshot.read(path) if path and path.is_file() else None

    def _keep(self, trial: Any, execution: int, segment: Segment) -> None:
        """Writes the weights of the best epoch, and under Hyperband all that is needed to go on."""
        assert segment.snapshot is not None
        best = {name: array for name, array in segment.snapshot.arrays.items() if name.startswith("best_")}
        if best:  # none where an earlier execution was better
            dataclasses.replace(segment.snapshot, arrays=best).write(self._file(trial.trial_id, BEST))
        if EPOCHS in trial.hyperparameters.values:
            segment.snapshot.write(self._file(trial.trial_id, LAST.format(execution)))

    def _file(self, trial_id: str, name: str) -> Path:
        return Path(self.get_trial_dir(trial_id)) / name

    # -- what can be compiled ------------------------------------------------------------------------------------------

    def _why_stock(self, data: tuple[Any, ...], arguments: Mapping[str, Any]) -> str:
        """Says why `fit` has to be called with the arguments as they are; empty where it has not."""
        if len(data) != 2 or not all(hasattr(leaf, "shape") for part in data for leaf in keras.tree.flatten(part)):
            return "the data are not arrays of inputs and targets"
        validation = arguments.get("validation_data")
        if validation is not None and not (isinstance(validation, tuple | list) and len(validation) == 2):
            return "validation_data is no pair of inputs and targets"
        if unknown := sorted(set(arguments) - ARGUMENTS):
            return f"the argument {unknown[0]} of fit"
        for callback in arguments.get("callbacks") or ():
            if type(callback) not in CALLBACKS:
                return f"the callback {type(callback).__name__} may look into steps"
        if type(self.hypermodel).fit is not keras_tuner.HyperModel.fit:
            return "the hypermodel has its own fit"
        return "a distribution strategy" if self.distribution_strategy is not None else ""

    def _engine_for(
        self, x: Any, y: Any, validation_data: Any = None, validation_split: float = 0.0, shuffle: bool = True, **_: Any
    ) -> HyperModelEngine:
        """Returns the engine of the data, kept from trial to trial."""
        key = [*keras.tree.flatten((x, y)), validation_split, shuffle, *keras.tree.flatten(validation_data or ())]
        if self._engine is None or len(key) != len(self._data) or any(one is not other for one, other in zip(key, self._data, strict=True)):
            lengths = {len(leaf) for leaf in keras.tree.flatten((x, y))}
            if len(lengths) > 1:
                raise UsageError(f"Inputs and targets must have as many samples. Received: {', '.join(map(str, sorted(lengths)))}.")
            if validation_data is None and validation_split:
                split = math.floor(min(lengths) * (1 - validation_split))  # the last ones, as in fit
                x, y, *validation_data = (_cut(part, ends) for ends in ((0, split), (split, None)) for part in (x, y))
            self._engine, self._data = HyperModelEngine(self.hypermodel, x, y, *(validation_data or ()), shuffle=shuffle), key
        return self._engine

    def _say(self, trial: Any, reason: str) -> None:
        if reason not in self.plain_reasons.values():
            warnings.warn(f"Trial {trial.trial_id} is trained by plain fit: {reason}.", stacklevel=2)
        self.plain_reasons[trial.trial_id] = reason


class _Best:
    """Remembers the best value of an objective."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.value = objective, math.nan

    def improved(self, row: Row) -> bool:
        """Tells whether an epoch is the best so far; an objective of several values counts as one sum."""
        if not self.objective.has_value(row):
            return False
        value = self.objective.get_value(row)
        if math.isnan(self.value) or self.objective.better_than(value, self.value):
            self.value = value
            return True
        return False


class _Watched:
    """Calls the tuner's and the user's callbacks after epochs, with a model that they may stop but not look into."""

    def __init__(self, tuner: CompiledTuner, trial: Any, callbacks: list[keras.callbacks.Callback]) -> None:
        self.tuner, self.trial, self.model = tuner, trial, keras.Model()
        self.callbacks = keras.callbacks.CallbackList(callbacks, model=self.model)
        self.model.stop_training = False
        self.callbacks.on_train_begin()

    def on_epoch(self, row: Row) -> bool:
        logs = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
        self.tuner.on_epoch_end(self.trial, self.model, int(row["epoch"]) - 1, logs)
        self.callbacks.on_epoch_end(int(row["epoch"]) - 1, logs)
        return bool(self.model.stop_training)

    def end(self) -> None:
        self.callbacks.on_train_end()


def _cut(data: Any, ends: tuple[int, int | None]) -> Any:
    return keras.tree.map_structure(lambda array: array[slice(*ends)], data)


def _history(rows: Sequence[Row]) -> keras.callbacks.History:
    """Returns what `fit` would have."""
    history = keras.callbacks.History()
    history.epoch = [int(row["epoch"]) - 1 for row in rows]
    history.history = {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if name not in ("epoch", "seconds")}
    return history
