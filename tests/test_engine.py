"""The compiled engine against plain Keras: the same numbers, the same bits after a pause, and what it does about trouble."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy
import pytest

import zoo
from tuning import programs, segments, stretches
from tuning.engine import CompiledEngine, why_plain
from tuning.segments import OUT_OF_TIME, PRUNED, Engine, PlainEngine, Segment, Snapshot
from zoo.errors import TrainingError, UsageError
from zoo.specs import Affine, Cutout, Flip, Recipe, Shift
from zoo.training import TrainingRun, compile_trainer

MLP = Recipe("relu_mlp", "digits", hyperparameters={"units": 16, "depth": 1}, epochs=3, batch_size=64, schedule="constant")
CNN = Recipe("cnn_bn", "digits", hyperparameters={"filters": 4, "units": 16}, epochs=3, batch_size=64, learning_rate=0.01)
# Values unlike the defaults, so that a number left in the graph as a constant shows.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.8},
    "nesterov": {"momentum": 0.95},
    "muon": {"momentum": 0.8, "sgd_learning_rate_ratio": 0.3, "bias_learning_rate_ratio": 3.0, "sgd_momentum": 0.7},
    "adagrad": {"epsilon": 1e-3},
    "adadelta": {"rho": 0.8, "epsilon": 1e-4},
    "rmsprop": {"rho": 0.99, "momentum": 0.5, "epsilon": 1e-4},
    "adam": {"beta_1": 0.7, "beta_2": 0.9999, "epsilon": 1e-3},
    "adamax": {"beta_1": 0.7, "beta_2": 0.99, "epsilon": 1e-3},
    "adamw": {"beta_1": 0.7, "weight_decay": 0.5, "epsilon": 1e-3},
    "nadam": {"beta_1": 0.7, "beta_2": 0.99, "epsilon": 1e-3},
    "lamb": {"beta_1": 0.7, "beta_2": 0.99, "epsilon": 1e-3},
    "lion": {"beta_1": 0.7, "beta_2": 0.9, "weight_decay": 1.0},
}
FEATURES = {
    "dropout, augmentation, batch norm, smoothing, one cycle, weight decay": dataclasses.replace(
        CNN,
        hyperparameters={**CNN.hyperparameters, "dropout": 0.3},
        optimizer="adamw",
        optimizer_arguments={"weight_decay": 0.1, "epsilon": 1e-3},
        augmentation=(Shift(1), Cutout(2)),
        label_smoothing=0.1,
        schedule="one_cycle",
    ),
    "averaging, weakening augmentation, warm-up and cosine": dataclasses.replace(
        CNN, optimizer="momentum", augmentation=(Affine(pixels=0.5), Flip()), augmentation_tail=0.7, ema=0.9, warmup=0.2
    ),
    "warm-up and line, initializations": dataclasses.replace(
        CNN,
        hyperparameters={**CNN.hyperparameters, "whitening": 2, "initializer": "lecun_normal"},
        optimizer="sgd",
        initialization=("whitening", "dirac"),
        schedule="linear",
        warmup=0.1,
    ),
    "clipping, dropout in a network without convolutions": dataclasses.replace(
        MLP, hyperparameters={"units": 16, "dropout": 0.4}, optimizer="adam", optimizer_arguments={"global_clipnorm": 0.5, "epsilon": 1e-3}
    ),
    "a network to start from": Recipe(
        "relu_mlp", "digits", optimizer="sgd", learning_rate=1.0, epochs=1, label_smoothing=0.2, initial_weights="relu_mlp.digits"
    ),
}


@pytest.fixture(scope="module")
def digits() -> tuple[zoo.Dataset, zoo.Dataset]:
    return zoo.load_dataset("digits", "train_minus_validation"), zoo.load_dataset("digits", "validation")


@pytest.fixture(scope="module")
def engine(digits: tuple[zoo.Dataset, zoo.Dataset]) -> CompiledEngine:
    return CompiledEngine(*digits)


@pytest.fixture(scope="module")
def xla(digits: tuple[zoo.Dataset, zoo.Dataset]) -> CompiledEngine:
    return CompiledEngine(*digits, xla=True)


@pytest.fixture(scope="module")
def plain(digits: tuple[zoo.Dataset, zoo.Dataset]) -> PlainEngine:
    return PlainEngine(*digits)


def assert_equals_fit(recipe: Recipe, segment: Segment, digits: tuple[zoo.Dataset, zoo.Dataset], tolerance: float = 1e-4) -> None:
    """Compares every epoch's figures and all final variables of the model with those of Keras's `fit`."""
    run = TrainingRun(recipe, *digits)
    start = [variable.numpy() for variable in run.trainer.variables]
    trained: list[numpy.ndarray] = []

    def keep(epoch: int, logs: Any) -> None:  # before `fit` replaces the weights by their averages
        trained[:] = [variable.numpy() for variable in run.trainer.variables]

    run.fit(keras.callbacks.LambdaCallback(on_epoch_end=keep))
    assert segment.state == "completed", segment.message
    assert not segment.plain
    for expected, row in zip(run.history, segment.history, strict=True):
        assert set(row) == set(expected)
        for name in ("loss", "val_loss"):
            assert row[name] == pytest.approx(expected[name], rel=tolerance, abs=2e-6), name
        for name in ("accuracy", "val_accuracy"):
            assert row[name] == pytest.approx(expected[name], abs=0.008), name  # an image on the border between two classes
    assert segment.snapshot is not None
    for index, (value, variable) in enumerate(zip(trained, run.trainer.variables, strict=True)):
        numpy.testing.assert_allclose(segment.snapshot.arrays[f"variable_{index}"], value, rtol=10 * tolerance, atol=tolerance, err_msg=variable.path)
    assert any(abs(value - before).max() > 10 * tolerance for value, before in zip(trained, start, strict=True))


@pytest.mark.parametrize(
    ("which", "name"),
    [
        *(("engine", name) for name in zoo.list_optimizers()),
        *(pytest.param("xla", name, marks=() if name in ("sgd", "adam", "muon") else pytest.mark.slow) for name in zoo.list_optimizers()),
    ],
)
def test_every_optimizer_gives_what_fit_gives(which: str, name: str, digits: tuple[zoo.Dataset, zoo.Dataset], request: pytest.FixtureRequest) -> None:
    """On a program that another configuration of the optimizer has made and used."""
    engine: CompiledEngine = request.getfixturevalue(which)
    recipe = dataclasses.replace(MLP, optimizer=name)
    engine.run(recipe, until=1)
    made = len(engine.programs)
    other = dataclasses.replace(
        recipe, optimizer_arguments=ARGUMENTS.get(name, {}), learning_rate=zoo.optimizer_info(name).learning_rate / 2, schedule="cosine"
    )
    segment = engine.run(other, until=3)
    if name not in ("rmsprop", "lion"):  # whose default has no momentum or decay, and so another graph
        assert len(engine.programs) == made
    assert {program.jit for program in engine.programs.values()} == {which == "xla"}
    assert_equals_fit(other, segment, digits)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_part_of_a_recipe_gives_what_fit_gives(feature: str, engine: CompiledEngine, digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    recipe = FEATURES[feature]
    assert_equals_fit(recipe, engine.run(recipe, until=recipe.epochs), digits)


def test_programs_are_shared_between_rates_of_dropout_and_smoothing(engine: CompiledEngine, digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    recipe = dataclasses.replace(MLP, hyperparameters={"units": 16, "dropout": 0.1}, label_smoothing=0.3, seed=1)
    engine.run(recipe, until=1)
    made = len(engine.programs)
    other = dataclasses.replace(
        recipe, hyperparameters={"units": 16, "dropout": 0.5, "initializer": "lecun_normal"}, label_smoothing=0.1, seed=2, epochs=2
    )
    segment = engine.run(other, until=2)
    assert len(engine.programs) == made
    assert_equals_fit(other, segment, digits)


def test_bfloat16_gives_what_fit_gives(engine: CompiledEngine, digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    recipe = dataclasses.replace(CNN, precision="mixed_bfloat16", optimizer="momentum")
    segment = engine.run(recipe, until=3)
    run = TrainingRun(recipe, *digits)
    run.fit()
    for expected, row in zip(run.history, segment.history, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=0.05)


def test_xla_is_for_long_epochs(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    for batch_size, expected in ((64, False), (8, True)):
        engine = CompiledEngine(*digits)
        engine.run(dataclasses.replace(MLP, batch_size=batch_size), until=1)
        assert [program.jit for program in engine.programs.values()] == [expected]


def test_xla_is_left_out_where_its_numbers_or_its_speed_differ(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    def suits(recipe: Recipe) -> bool:
        return programs.suits_xla(compile_trainer(recipe, digits[0])[0])

    assert suits(MLP)
    assert not suits(CNN)
    assert not suits(dataclasses.replace(MLP, hyperparameters={"dropout": 0.1}))
    assert not suits(dataclasses.replace(MLP, augmentation=(Shift(1),)))


# -- pausing -----------------------------------------------------------------------------------------------------------

PAUSED = {
    "network with everything random": dataclasses.replace(next(iter(FEATURES.values())), epochs=9),
    "small network": dataclasses.replace(MLP, optimizer="nadam", schedule="cosine", epochs=9),
}


@pytest.mark.parametrize(("which", "kind"), [*(("engine", kind) for kind in PAUSED), ("xla", "small network"), ("plain", next(iter(PAUSED)))])
def test_a_paused_trial_ends_with_the_same_bits(which: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(which)
    rungs = (1, 2) if which == "plain" else (1, 3, 9)
    recipe = dataclasses.replace(PAUSED[kind], epochs=rungs[-1])
    whole = engine.run(recipe, until=rungs[-1])
    snapshot, rows = None, []
    for until in rungs:
        segment = engine.run(recipe, until, snapshot)
        rows += segment.history
        assert segment.snapshot is not None
        assert segment.snapshot.epoch == until
        segment.snapshot.write(tmp_path / "snapshot.npz")
        snapshot = Snapshot.read(tmp_path / "snapshot.npz")
        other = dataclasses.replace(recipe, learning_rate=0.0123, seed=until, epochs=1)
        if which != "plain":  # which shares nothing
            engine.run(other, until=1)
    assert without_seconds(rows) == without_seconds(whole.history)
    assert without_seconds(snapshot.history) == without_seconds(whole.history)
    assert whole.snapshot is not None
    assert set(snapshot.arrays) == set(whole.snapshot.arrays)
    for name, array in whole.snapshot.arrays.items():
        assert array.tobytes() == snapshot.arrays[name].tobytes(), name
    assert snapshot.start == whole.snapshot.start


def test_engines_beside_each_other_give_the_bits_that_they_give_alone(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    recipes = [*PAUSED.values(), dataclasses.replace(PAUSED["small network"], batch_size=8, optimizer="momentum")]
    alone = CompiledEngine(*digits)
    expected = [alone.run(recipe, until=3) for recipe in recipes]
    first = CompiledEngine(*digits)
    with ThreadPoolExecutor(len(recipes)) as pool:  # all build, compile and train at once
        engines = first.side_by_side(len(recipes))
        found = list(pool.map(lambda engine, recipe: engine.run(recipe, until=3), engines, recipes))
    for segment, known in zip(found, expected, strict=True):
        assert without_seconds(segment.history) == without_seconds(known.history)
        assert segment.snapshot is not None
        assert known.snapshot is not None
        for name, array in known.snapshot.arrays.items():
            assert array.tobytes() == segment.snapshot.arrays[name].tobytes(), name
    assert all(len(engine.programs) == 1 for engine in engines)


def test_a_halted_engine_stops_within_the_epoch(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    (engine,) = CompiledEngine(*digits).side_by_side(1)
    segment = engine.run(MLP, until=3, on_epoch=lambda row: engine.halt() is not None)
    assert (segment.state, segment.message, len(segment.history)) == ("stopped", OUT_OF_TIME, 1)
    later = engine.run(dataclasses.replace(MLP, optimizer="lion"), until=3, snapshot=segment.snapshot)
    assert (later.state, later.message, later.snapshot, len(engine.programs)) == ("stopped", OUT_OF_TIME, segment.snapshot, 1)
    assert later.build_seconds == 0  # it builds nothing


def without_seconds(rows: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_trial_that_is_at_its_rung_already_trains_nothing(engine: CompiledEngine) -> None:
    first = engine.run(MLP, until=1)
    again = engine.run(MLP, until=1, snapshot=first.snapshot)
    assert (again.state, again.history) == ("completed", ())
    assert again.snapshot is not None
    assert again.snapshot.epoch == 1


def test_a_snapshot_of_something_else_is_refused(engine: CompiledEngine, plain: PlainEngine, tmp_path: Path) -> None:
    snapshot = engine.run(MLP, until=1).snapshot
    for other in (engine, plain):
        with pytest.raises(TrainingError, match="another recipe or engine"):
            other.run(CNN, until=2, snapshot=snapshot)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(TrainingError, match="cannot be read"):
        Snapshot.read(tmp_path / "broken.npz")


@pytest.mark.parametrize("until", [0, 4])
def test_an_epoch_outside_the_recipe_is_refused(engine: CompiledEngine, plain: PlainEngine, until: int) -> None:
    for each in (engine, plain):
        with pytest.raises(UsageError, match=f"an epoch from 1 to the trial's 3. Received: {until}"):
            each.run(MLP, until)


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "rate", "pattern"),
    [
        ("engine", 1e30, "became (nan|inf) in epoch 1"),
        ("engine", 300.0, "rose to .* above 10 times its start"),
        ("plain", 1e30, "became (nan|inf) in epoch 1"),
    ],
)
def test_a_diverged_trial_ends_within_twenty_steps(which: str, rate: float, pattern: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(which)
    recipe = dataclasses.replace(MLP, optimizer="sgd", learning_rate=rate, batch_size=16)
    rows: list[Any] = []
    segment = engine.run(recipe, 3, on_epoch=lambda row: bool(rows.append(row)))
    assert (segment.state, segment.snapshot, rows) == ("diverged", None, [])
    assert re.search(pattern, segment.message)
    if which == "engine":
        program = next(reversed(request.getfixturevalue("engine").programs.values()))
        assert int(program.optimizer.iterations) <= 20
    after = engine.run(dataclasses.replace(recipe, learning_rate=0.05), until=1)
    assert (after.state, after.history[-1]["val_accuracy"] > 0.5) == ("completed", True)


def test_a_trial_that_diverges_after_a_while_is_noticed(engine: CompiledEngine) -> None:
    recipe = dataclasses.replace(MLP, optimizer="sgd", learning_rate=0.05, batch_size=16)
    good = engine.run(recipe, until=1)
    hot = dataclasses.replace(recipe, learning_rate=1000.0)
    segment = engine.run(hot, until=2, snapshot=good.snapshot)
    assert segment.state == "diverged"
    assert "epoch 2" in segment.message
    program = next(reversed(engine.programs.values()))
    assert int(program.optimizer.iterations) <= program.steps + 20


@pytest.mark.parametrize("which", ["engine", "plain"])
def test_a_deadline_leaves_the_last_whole_epoch(which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Engine = request.getfixturevalue(which)
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, perf_counter=time.perf_counter)
    monkeypatch.setattr(segments, "time", clock)
    monkeypatch.setattr(stretches, "time", clock)
    monkeypatch.setattr("tuning.engine.time", clock)

    def pass_time(row: Any) -> bool:
        clock.now = row["epoch"]
        return False

    recipe = dataclasses.replace(MLP, epochs=100)
    segment = engine.run(recipe, until=100, on_epoch=pass_time, deadline=2.0)
    assert (segment.state, segment.message) == ("stopped", OUT_OF_TIME)
    assert segment.snapshot is not None
    assert [row["epoch"] for row in segment.history] == [1, 2]
    assert segment.snapshot.epoch == 2
    went_on = engine.run(recipe, 3, segment.snapshot)
    assert [row["epoch"] for row in went_on.history] == [3]


def test_a_deadline_within_an_epoch_leaves_the_one_before(engine: CompiledEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, perf_counter=time.perf_counter)
    monkeypatch.setattr(stretches, "time", clock)
    monkeypatch.setattr("tuning.engine.time", clock)
    engine.run(MLP, until=1)
    program = next(reversed(engine.programs.values()))
    train = program.train

    def in_pieces(*arguments: Any) -> Any:
        program.steps_at_once = programs.WINDOW
        progress = train(*arguments)
        program.steps_at_once = programs.WINDOW
        clock.now += 1
        return progress

    monkeypatch.setattr(program, "train", in_pieces)
    pieces = math.ceil(program.steps / programs.WINDOW)
    assert pieces > 1
    segment = engine.run(MLP, until=3, deadline=pieces + 1)
    assert (segment.state, len(segment.history)) == ("stopped", 1)
    assert segment.snapshot is not None
    monkeypatch.undo()
    rest = engine.run(MLP, 3, segment.snapshot)
    whole = engine.run(MLP, 3)
    assert without_seconds([*segment.history, *rest.history]) == without_seconds(whole.history)


def test_a_deadline_within_the_first_epoch_leaves_no_snapshot(engine: CompiledEngine, plain: PlainEngine) -> None:
    for each in (engine, plain):
        segment = each.run(MLP, 3, deadline=time.monotonic())
        assert (segment.state, segment.snapshot, segment.history) == ("stopped", None, ())


@pytest.mark.parametrize("which", ["engine", "plain"])
def test_a_trial_stops_where_it_is_told_to(which: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(which)
    segment = engine.run(MLP, 3, on_epoch=lambda row: row["epoch"] == 2)
    assert (segment.state, segment.message, len(segment.history)) == ("stopped", PRUNED, 2)
    assert segment.snapshot is not None
    assert segment.snapshot.epoch == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"teacher": "cnn_bn.digits"}, "teacher"),
        ({"lookahead": 5}, "lookahead"),
        ({"early_stopping": 2, "validate": True}, "early stopping"),
        ({"augmentation": (Flip(alternating=True),)}, "alternating flips"),
    ],
)
def test_what_cannot_be_shared_is_left_to_plain_keras(changes: dict[str, Any], reason: str) -> None:
    assert not why_plain(MLP)
    assert reason in why_plain(dataclasses.replace(MLP, **changes))


def test_the_plain_path_says_why(engine: CompiledEngine, plain: PlainEngine) -> None:
    recipe = dataclasses.replace(MLP, lookahead=5)
    segment = engine.run(recipe, until=1)
    assert "lookahead" in segment.plain
    assert without_seconds(segment.history) == without_seconds(plain.run(recipe, until=1).history)


def test_a_model_that_cannot_be_built_raises_and_harms_nothing(engine: CompiledEngine) -> None:
    with pytest.raises(LookupError):
        engine.run(dataclasses.replace(MLP, hyperparameters={"unitz": 16}), until=1)
    assert engine.run(MLP, until=1).state == "completed"


def test_times_add_up(engine: CompiledEngine) -> None:
    engine.run(MLP, until=3)
    began = time.perf_counter()
    segment = engine.run(MLP, until=3)
    wall = time.perf_counter() - began
    assert 0 < segment.build_seconds + segment.step_seconds + segment.validation_seconds <= wall


def test_waiting_for_others_to_build_is_no_compiling(digits: tuple[zoo.Dataset, zoo.Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=time.monotonic, perf_counter=lambda: clock.now)

    def build(*arguments: Any) -> Any:
        clock.now += 3
        return compile_trainer(*arguments)

    class Busy(contextlib.nullcontext[None]):
        def __enter__(self) -> None:
            clock.now += 100

    monkeypatch.setattr("tuning.engine.time", clock)
    monkeypatch.setattr("tuning.engine.compile_trainer", build)
    monkeypatch.setattr("tuning.engine.BUILDING", Busy())
    engine = CompiledEngine(*digits)
    assert engine.run(MLP, until=1).compile_seconds == 3
    assert engine.run(MLP, until=1).compile_seconds == 0


def test_only_the_programs_used_last_are_kept(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    engine = CompiledEngine(*digits, programs=2)
    for batch_size in (64, 128, 64, 256):
        engine.run(dataclasses.replace(MLP, batch_size=batch_size), until=1)
    assert [program.batch_size for program in engine.programs.values()] == [64, 256]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_500_trials(digits: tuple[zoo.Dataset, zoo.Dataset]) -> None:
    engine = CompiledEngine(*digits)
    names = [name for name in zoo.list_optimizers() if name != "muon"]

    def trials(first: int, count: int) -> int:
        for number in range(first, first + count):
            recipe = dataclasses.replace(MLP, optimizer=names[number % len(names)], learning_rate=10 ** -(2 + number % 7 / 3), seed=number)
            engine.run(recipe, until=3)
        gc.collect()
        return resident()

    warm, after = trials(0, 100), trials(100, 500)
    assert (after - warm) / 2**20 < 40, f"{warm / 2**20:.0f} MiB after 100 trials, {after / 2**20:.0f} MiB after 600"


def resident() -> int:
    """Bytes of memory this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_learning_rates_are_those_of_the_schedule() -> None:
    from keras.optimizers import schedules

    branching = schedules.CosineDecay(0.01, 20, warmup_target=0.1, warmup_steps=5)
    for schedule in (branching, schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True), schedules.PiecewiseConstantDecay([3, 9], [1.0, 0.5, 0.1])):
        expected = [float(schedule(step)) for step in range(2, 27)]
        numpy.testing.assert_array_equal(programs.learning_rates(schedule, 2, 25), numpy.array(expected, "float32"))
    numpy.testing.assert_array_equal(programs.learning_rates(0.3, 7, 2), numpy.array([0.3, 0.3], "float32"))
    assert math.isclose(programs.learning_rates(branching, 5, 1)[0], 0.1, rel_tol=1e-6)
