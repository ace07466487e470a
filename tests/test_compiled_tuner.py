"""CompiledTuner under KerasTuner's own oracles, with hypermodels of a user's own."""

from __future__ import annotations

import dataclasses
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy
import pytest
from keras import layers

import tuning
import zoo
from tuning.compiled_tuner import CompiledTuner
from zoo.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")
random = numpy.random.default_rng(0)
X = random.normal(size=(150, 6, 6, 1))
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int64") + 2 * (X[:, 0, 0, 0] > 0)
DIGITS = [zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")]
FITTED: dict[str, Any] = {"validation_data": DIGITS[1][:2], "epochs": 2, "batch_size": 128, "verbose": 0}
DATA = {"validation_data": (X[:50], Y[:50]), "epochs": 3, "batch_size": 32, "verbose": 0}


def network(*hidden: Any, optimizer: Any, loss: Any = None, **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((6, 6, 1)), *hidden, layers.Dense(4)])
    model.compile(optimizer, loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], **compiled)
    return model


def dense(hp: keras_tuner.HyperParameters) -> keras.Model:
    """Dense layers with dropout and decay of weights, and Adam with its numbers."""
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    hidden = layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(hp.Float("decay", 1e-4, 1e-2, sampling="log")))
    optimizer = keras.optimizers.Adam(rate, beta_1=hp.Float("beta_1", 0.5, 0.95), epsilon=1e-3)
    return network(layers.Flatten(), hidden, layers.Dropout(hp.Float("dropout", 0.1, 0.5)), optimizer=optimizer)


def convolutional(hp: keras_tuner.HyperParameters) -> keras.Model:
    """A convolution with batch normalization, and SGD along a schedule of Keras's."""
    rate = keras.optimizers.schedules.ExponentialDecay(hp.Float("rate", 1e-3, 1e-1, sampling="log"), 5, 0.9)
    hidden = layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()
    return network(*hidden, layers.Dropout(0.2), optimizer=keras.optimizers.SGD(rate, momentum=hp.Float("momentum", 0.5, 0.95)))


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of the user's own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return self.rate * 0.5 ** keras.ops.cast(step // 5, "float32")


def own_schedule(hp: keras_tuner.HyperParameters) -> keras.Model:
    return network(layers.Flatten(), layers.Dense(8, activation="tanh"), optimizer=keras.optimizers.RMSprop(Halving(hp.Float("rate", 1e-3, 1e-2))))


def functional(hp: keras_tuner.HyperParameters) -> keras.Model:
    """A graph that branches, with automatic names."""
    image = keras.Input((6, 6, 1))
    flat = layers.Flatten()(image)
    sides = [layers.Dense(4, activation=activation)(flat) for activation in ("relu", "tanh")]
    model = keras.Model(image, layers.Dense(4)(layers.Concatenate()(sides)))
    model.compile(
        keras.optimizers.AdamW(hp.Float("rate", 1e-3, 1e-2), weight_decay=hp.Float("decay", 1e-3, 1e-1)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def tuner(build: Any, directory: Path, trials: int = 3, **arguments: Any) -> CompiledTuner:
    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=trials, seed=3)
    return CompiledTuner(oracle, build, directory=str(directory), seed=7, **arguments)


@pytest.mark.parametrize("build", [dense, convolutional, own_schedule, functional])
def test_trials_share_one_step_and_give_what_fit_gives(build: Callable[[Any], keras.Model], tmp_path: Path) -> None:
    histories: list[dict[str, list[float]]] = []

    class Watched(CompiledTuner):
        def on_epoch_end(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
            if epoch == 0:
                histories.append({name: [] for name in logs})
            for name, value in logs.items():
                histories[-1][name].append(value)

    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=2, seed=3)
    search = Watched(oracle, build, directory=str(tmp_path), seed=7)
    search.search(X, Y, shuffle=False, **DATA)
    assert not search.plain_reasons
    assert len(search._engine.programs) == 1
    for trial_id, history in zip(oracle.start_order, histories, strict=True):
        keras.utils.set_random_seed(7)
        model = build(oracle.trials[trial_id].hyperparameters)
        expected = model.fit(X, Y, shuffle=False, **DATA).history
        assert set(history) == set(expected)
        for name in ("loss", "val_loss"):
            numpy.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
        for name in ("accuracy", "val_accuracy"):
            numpy.testing.assert_allclose(history[name], expected[name], atol=0.021)  # one sample of 50


def test_the_best_epochs_weights_are_those_of_the_best_model(tmp_path: Path) -> None:
    search = tuner(dense, tmp_path)
    search.search(X, Y, **DATA)
    best = search.oracle.get_best_trials(1)[0]
    model = search.get_best_models(1)[0]
    accuracy = model.evaluate(X[:50], Y[:50], verbose=0)[1]
    assert accuracy == pytest.approx(best.score, abs=1e-5)
    assert best.best_step in range(3)
    weights = list(tmp_path.rglob("*.npz"))
    assert len(weights) == 3
    assert all(path.stat().st_size < 100_000 for path in weights)


def test_executions_are_averaged_and_differ_by_their_seeds(tmp_path: Path) -> None:
    search = tuner(dense, tmp_path, trials=1, executions_per_trial=2)
    search.search(X, Y, **DATA)
    (trial,) = search.oracle.trials.values()
    assert trial.metrics.get_history("val_loss")
    assert len(search._engine.programs) == 1


def test_a_split_for_validation_is_the_one_that_fit_makes(tmp_path: Path) -> None:
    search = tuner(dense, tmp_path, trials=1)
    search.search(X, Y, validation_split=0.2, epochs=2, shuffle=False, verbose=0)
    (trial,) = search.oracle.trials.values()
    keras.utils.set_random_seed(7)
    expected = dense(trial.hyperparameters).fit(X, Y, validation_split=0.2, epochs=2, shuffle=False, verbose=0).history
    assert trial.score == pytest.approx(max(expected["val_accuracy"]), abs=0.04)
    assert trial.metrics.get_best_value("val_loss") == pytest.approx(min(expected["val_loss"]), rel=0.05)


@pytest.mark.parametrize("name", ["BayesianOptimizationOracle", "GridSearchOracle"])
def test_every_stock_oracle_drives_it(name: str, tmp_path: Path) -> None:
    oracle = getattr(keras_tuner.oracles, name)("val_accuracy", max_trials=4, seed=1)
    search = CompiledTuner(oracle, dense, directory=str(tmp_path))
    search.search(X, Y, **{**DATA, "epochs": 1})
    assert len(oracle.get_best_trials(100)) == 4
    assert not search.plain_reasons


def test_hyperband_goes_on_exactly_where_the_earlier_trial_stood(tmp_path: Path) -> None:
    """A chain of promoted trials ends with the bits of one that was never paused, its optimizer's slots included."""
    from tuning.engine import HyperModelEngine
    from tuning.segments import Point, Snapshot

    oracle = keras_tuner.oracles.HyperbandOracle("val_accuracy", max_epochs=4, factor=2, seed=1)
    search = CompiledTuner(oracle, dense, directory=str(tmp_path), seed=7)
    search.search(X, Y, **DATA)
    promoted = [
        trial
        for trial in oracle.trials.values()
        if trial.hyperparameters.values.get("tuner/epochs") == 4 and "tuner/trial_id" in trial.hyperparameters.values
    ]
    assert promoted
    trial = promoted[0]
    left = Snapshot.read(Path(search.get_trial_dir(trial.trial_id)) / "last-0.npz")
    whole = HyperModelEngine(dense, X, Y, *DATA["validation_data"]).run(Point(trial.hyperparameters, trial.hyperparameters.values, 4, 32, 7), until=4)
    assert whole.snapshot is not None
    assert left.epoch == 4
    for array, value in whole.snapshot.arrays.items():
        assert left.arrays[array].tobytes() == value.tobytes(), array


def test_a_diverged_trial_never_ends_the_search(tmp_path: Path) -> None:
    def explosive(hp: keras_tuner.HyperParameters) -> keras.Model:
        number = hp.Int("number", 0, 7)
        optimizer = keras.optimizers.SGD(1e20 if number < 6 else 0.01)
        return network(layers.Flatten(), layers.Dense(8, activation="relu"), optimizer=optimizer)

    oracle = keras_tuner.oracles.GridSearchOracle("val_accuracy", max_trials=8)
    search = CompiledTuner(oracle, explosive, directory=str(tmp_path))
    search.search(X, Y, **DATA)
    states = [oracle.trials[trial_id].status for trial_id in oracle.start_order]
    assert states.count("FAILED") == 6
    assert states.count("COMPLETED") == 2
    failed = next(trial for trial in oracle.trials.values() if trial.status == "FAILED")
    assert "The trial diverged: the loss became" in failed.message


# -- what cannot share a step ------------------------------------------------------------------------------------------


class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@keras.saving.register_keras_serializable("test")
class OwnLayer(layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs


def own_step(hp: keras_tuner.HyperParameters) -> keras.Model:
    image = keras.Input((6, 6, 1))
    model = OwnStep(image, layers.Dense(4)(layers.Flatten()(image)))
    model.compile(
        keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


def own_layer(hp: keras_tuner.HyperParameters) -> keras.Model:
    return network(layers.Flatten(), OwnLayer(), optimizer=keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)))


def own_loss(hp: keras_tuner.HyperParameters) -> keras.Model:
    def loss(targets: Any, logits: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)

    return network(layers.Flatten(), optimizer=keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), loss=loss)


def function_layer(hp: keras_tuner.HyperParameters) -> keras.Model:
    return network(layers.Flatten(), layers.Lambda(lambda value: value), optimizer=keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)))


def accumulating(hp: keras_tuner.HyperParameters) -> keras.Model:
    return network(layers.Flatten(), optimizer=keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1), gradient_accumulation_steps=2))


def eager(hp: keras_tuner.HyperParameters) -> keras.Model:
    return network(layers.Flatten(), optimizer=keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), run_eagerly=True)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (own_step, "the model has its own train_step"),
        (own_layer, "OwnLayer is no class of Keras's"),
        (own_loss, "it holds a Python function"),
        (function_layer, "it holds a Python function"),
        (accumulating, "counts its steps"),
        (eager, "runs eagerly"),
    ],
)
def test_what_cannot_share_a_step_is_trained_by_fit_and_said_once(build: Any, reason: str, tmp_path: Path) -> None:
    trials = 2 if build is own_step else 1
    search = tuner(build, tmp_path, trials)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.search(X, Y, **{**DATA, "epochs": 1})
    said = [str(warning.message) for warning in caught if "trained by plain fit" in str(warning.message)]
    assert len(said) == 1
    assert reason in said[0]
    assert len(search.plain_reasons) == trials
    assert all(trial.status == "COMPLETED" for trial in search.oracle.trials.values())


@pytest.mark.filterwarnings("ignore:Trial .* is trained by plain fit:UserWarning")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "ReduceLROnPlateau may look into steps"),
        ({"class_weight": {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0}}, "the argument class_weight of fit"),
    ],
)
def test_what_fit_alone_can_do_is_left_to_it(arguments: dict[str, Any], reason: str, tmp_path: Path) -> None:
    search = tuner(dense, tmp_path, trials=1)
    search.search(X, Y, **{**DATA, "epochs": 1}, **arguments)
    assert [reason in said for said in search.plain_reasons.values()] == [True]


def test_early_stopping_ends_trials(tmp_path: Path) -> None:
    search = tuner(dense, tmp_path, trials=2)
    search.search(X, Y, **{**DATA, "epochs": 50}, callbacks=[keras.callbacks.EarlyStopping("val_accuracy", patience=2)])
    assert not search.plain_reasons
    assert all(trial.best_step < 49 for trial in search.oracle.trials.values())


def test_inputs_and_targets_that_differ_in_length_are_refused(tmp_path: Path) -> None:
    search = tuner(dense, tmp_path, trials=1)
    search.search(X, Y[:-1], **DATA)
    (trial,) = search.oracle.trials.values()
    assert trial.status == "FAILED"
    assert "as many samples. Received: 149, 150." in trial.message
    with pytest.raises(UsageError, match="as many samples"):
        search._engine_for(X, Y[:-1])


def test_the_zoos_own_hypermodel_shares_steps_too(tmp_path: Path) -> None:
    training, validation = zoo.load_dataset("digits", "train_minus_validation"), zoo.load_dataset("digits", "validation")
    recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=1, label_smoothing=0.1, schedule="constant")
    hypermodel = tuning.ZooHyperModel(recipe, training, ["momentum"], study="optimizers")
    search = tuner(hypermodel, tmp_path, trials=2)
    search.at_once = 1
    search.search(training.images, training.labels, validation_data=(validation.images, validation.labels), epochs=1, batch_size=128, verbose=0)
    assert not search.plain_reasons
    assert len(search._recipe_engine[1].programs) == 1
    trial = search.oracle.get_best_trials(1)[0]
    assert search.get_best_models(1)[0].evaluate(validation.images, validation.labels, verbose=0)[1] == pytest.approx(trial.score, abs=1e-5)


# -- side by side ------------------------------------------------------------------------------------------------------


def zoos_own(oracle: keras_tuner.Oracle, directory: Path, at_once: int | None, **recipe: Any) -> CompiledTuner:
    """Searches over two optimizers of a small MLP on digits."""
    base = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2, schedule="constant")
    hypermodel = tuning.ZooHyperModel(dataclasses.replace(base, **recipe), DIGITS[0], ["sgd", "adam"], study="optimizers")
    search = CompiledTuner(oracle, hypermodel, directory=str(directory), at_once=at_once)
    search.search(*DIGITS[0][:2], **FITTED)
    return search


def test_trials_side_by_side_give_what_they_give_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.compiled_tuner.trials_at_once", lambda: 3)  # the default of random search
    names: set[str] = set()
    begin = CompiledTuner.on_trial_begin
    monkeypatch.setattr(CompiledTuner, "on_trial_begin", lambda search, trial: names.add(threading.current_thread().name) or begin(search, trial))
    found = []
    for at_once, threads in ((1, 1), (None, 3)):
        names.clear()
        oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=8, seed=1)
        search = zoos_own(oracle, tmp_path / str(at_once), at_once)
        found.append(
            [(oracle.trials[name].hyperparameters.values, oracle.trials[name].status, oracle.trials[name].score) for name in oracle.start_order]
        )
        assert search.get_best_models(1)
        assert len(names) == threads
    assert found[0] == found[1]


def test_an_oracle_that_waits_for_results_is_asked_again(tmp_path: Path) -> None:
    oracle = keras_tuner.oracles.HyperbandOracle("val_accuracy", max_epochs=4, factor=2, seed=1)
    zoos_own(oracle, tmp_path, 3)
    assert {trial.status for trial in oracle.trials.values()} <= {"COMPLETED", "FAILED"}
    assert any("tuner/trial_id" in trial.hyperparameters.values for trial in oracle.trials.values())


def test_an_interrupt_ends_all_threads_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuners: list[CompiledTuner] = []

    def interrupt(search: CompiledTuner, trial: Any) -> None:
        tuners.append(search)
        raise KeyboardInterrupt

    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=6, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(CompiledTuner, "on_trial_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            zoos_own(oracle, tmp_path, 3)
    assert not any(thread.name.startswith(str(tmp_path)) for thread in threading.enumerate())
    assert {trial.status for trial in oracle.trials.values()} <= {"RUNNING", "COMPLETED", "FAILED"}
    tuners[0].at_once = 1
    tuners[0].search(*DIGITS[0][:2], **FITTED)
    assert len(oracle.trials) == 6
    assert {trial.status for trial in oracle.trials.values()} <= {"COMPLETED", "FAILED"}
    oracle.max_trials = 8
    tuners[0].at_once = 2
    tuners[0].search(*DIGITS[0][:2], **FITTED)
    assert len(oracle.trials) == 8


def test_an_oracle_that_raises_within_a_trial_fails_that_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[str] = []
    save = keras_tuner.oracles.RandomSearchOracle._save_trial

    def full(oracle: keras_tuner.Oracle, trial: Any) -> None:
        if not raised and any(frame.name == "update_trial" for frame in traceback.extract_stack()):
            raised.append(trial.trial_id)
            raise OSError("the disk is full")
        save(oracle, trial)

    monkeypatch.setattr(keras_tuner.oracles.RandomSearchOracle, "_save_trial", full)
    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=6, seed=1)
    zoos_own(oracle, tmp_path, 3)
    assert {trial.status for trial in oracle.trials.values() if trial.trial_id not in raised} <= {"COMPLETED", "FAILED"}
    assert len(oracle.trials) == 6
    assert oracle.trials[raised[0]].status == "FAILED"
    assert "the disk is full" in oracle.trials[raised[0]].message


def test_plain_keras_has_the_process_to_itself(tmp_path: Path) -> None:
    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = zoos_own(oracle, tmp_path, 2, lookahead=5)
    assert all("lookahead" in reason for reason in search.plain_reasons.values())
    assert len(search.plain_reasons) == 2
    arguments = {name: value for name, value in FITTED.items() if name != "verbose"}
    assert search._count_at_once(DIGITS[0][:2], arguments) == 1
    logger = [keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))]
    search.hypermodel.recipe = dataclasses.replace(search.hypermodel.recipe, lookahead=None)
    assert search._count_at_once(DIGITS[0][:2], arguments) == 2
    assert search._count_at_once(DIGITS[0][:2], {**arguments, "callbacks": logger}) == 1


def test_float_images_are_searched_too(tmp_path: Path) -> None:
    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=2, seed=1)
    search = zoos_own(oracle, tmp_path, 2)
    search.oracle.max_trials = 4
    search.search(DIGITS[0].images.astype("float32"), DIGITS[0].labels, **FITTED)
    assert {trial.status for trial in oracle.trials.values()} == {"COMPLETED"}


def test_an_oracle_that_raises_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(oracle: keras_tuner.Oracle, trial_id: str) -> Any:
        raise ArithmeticError("no more")

    monkeypatch.setattr(keras_tuner.oracles.RandomSearchOracle, "populate_space", broken)
    with pytest.raises(ArithmeticError, match="no more"):
        zoos_own(keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=9, seed=1), tmp_path, 3)


def test_no_trial_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match="1 or more"):
        CompiledTuner(keras_tuner.oracles.RandomSearchOracle("val_accuracy"), dense, at_once=0)
