"""The search: what it tries, who goes on, what it writes down, and that a kill loses nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy
import optuna
import pytest
from processes import forking
from scripted_search import OPTIMIZERS, RECIPE, ScriptedEngine, scripted

import tuning
import zoo
from tuning import storage
from tuning.history import read_history
from tuning.oracles import Proposer
from tuning.report import compiling
from tuning.result import TABLE
from tuning.study import BEST_RECIPE, Status, resume, search
from tuning.subjects import ZooSubject
from zoo.errors import StudyError, TrainingError, UnknownNameError, UsageError
from zoo.specs import Recipe
from zoo.training import TrainingRun, read_recipe

TINY = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, schedule="constant", epochs=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuning.SearchResult:
    """A real search of three short trials."""
    return search(TINY, optimizers=["sgd", "adam"], study="optimizers", trials=3, priors=True, directory=tmp_path_factory.mktemp("search"))


def configurations(result: tuning.SearchResult) -> list[str]:
    return [json.dumps(trial.config, sort_keys=True) for trial in result.trials]


def outcomes(result: tuning.SearchResult) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.config, trial.state, trial.epochs, trial.curve, trial.message) for trial in result.trials]


# --- real trials ------------------------------------------------------------------------------------------------------


def test_a_search_tries_every_optimizer_first_and_ranks(found: tuning.SearchResult) -> None:
    assert {trial.optimizer for trial in found.trials[:2]} == {"sgd", "adam"}
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    scores = [trial.val_accuracy or 0 for trial in found.ranking]
    assert scores == sorted(scores, reverse=True)
    assert len((found.directory / TABLE).read_text().splitlines()) == 4
    assert read_recipe(found.directory / BEST_RECIPE) == found.best.recipe


def test_what_compiling_took_and_what_sharing_saved_is_known(found: tuning.SearchResult) -> None:
    compilation = found.compilation
    assert compilation is not None
    assert (compilation.programs, compilation.times, compilation.reused) == (2, 2, 1)
    assert 0 < compilation.saved <= compilation.seconds <= sum(trial.seconds for trial in found.trials)
    assert "about" in compiling(compilation)


def test_training_the_best_recipe_repeats_its_figure(found: tuning.SearchResult) -> None:
    assert found.best.recipe is not None
    run = TrainingRun(found.best.recipe, *(zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")))
    run.fit()
    assert run.history[-1]["val_accuracy"] == pytest.approx(found.best.val_accuracy, abs=1 / 144 + 1e-6)  # one image may tip


def test_a_search_goes_on_up_to_the_total(found: tuning.SearchResult) -> None:
    more = resume(found.directory, trials=4)
    assert configurations(more)[:3] == configurations(found)
    assert len(more.trials) == 4


def test_the_best_is_trained_again(found: tuning.SearchResult, tmp_path: Path) -> None:
    card = found.retrain(tmp_path / "run", progress=False, validate=False, epochs=2)
    assert card.recipe["epochs"] == 2
    assert card.recipe["optimizer"] == found.best.optimizer


class Hypermodel(keras_tuner.HyperModel):
    """A user's own: cannot be built with three layers."""

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        layers = hp.Int("layers", 1, 3)
        if layers == 3:
            raise ValueError("three layers are too many")
        model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(16, "relu") for _ in range(layers)), keras.layers.Dense(10)])
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return model


@pytest.fixture(scope="module")
def arrays() -> Any:
    splits = [zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")]
    return tuple((split.images.reshape(len(split.images), 64) / 16.0, split.labels) for split in splits)


@pytest.mark.parametrize("engine", ["compiled", pytest.param("plain", marks=pytest.mark.slow)])
def test_any_hypermodel_is_searched_and_failures_are_results(engine: str, arrays: Any, tmp_path: Path) -> None:
    result = search(hypermodel=Hypermodel(), data=arrays, trials=5 if engine == "compiled" else 3, epochs=3, batch_size=64, engine=engine,
                    sampler="random", seed=4, directory=tmp_path)  # fmt: skip
    assert {trial.state for trial in result.trials} <= {"completed", "pruned", "failed"}
    assert all(("three layers" in trial.message) == (trial.config["layers"] == 3) for trial in result.trials)
    assert result.best.recipe is None
    assert set(result.trials[0].config) == {"layers", "learning_rate"}
    assert (result.best.val_accuracy or 0) > 0.2
    with pytest.raises(UsageError, match="Only a search over the zoo's models"):
        result.retrain()


def test_a_hypermodel_without_accuracy_or_hyperparameters_is_told_so(arrays: Any, tmp_path: Path) -> None:
    def silent(hp: keras_tuner.HyperParameters) -> keras.Model:
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    with pytest.raises(UsageError, match=r"compile the model with metrics=\['accuracy'\]"):
        search(hypermodel=silent, data=arrays, trials=1, directory=tmp_path / "a")
    with pytest.raises(UsageError, match="the hypermodel declares no hyperparameters"):
        search(hypermodel=lambda hp: None, data=arrays, trials=1, directory=tmp_path / "b")


@pytest.mark.parametrize("engine", ["compiled", pytest.param("plain", marks=pytest.mark.slow)])
def test_a_promoted_trial_is_bit_identical_to_one_that_never_paused(engine: str, tmp_path: Path) -> None:
    space: dict[str, Any] = {"optimizers": ["momentum", "adam"], "study": "optimizers", "trials": 3, "engine": engine}
    recipe = dataclasses.replace(TINY, epochs=3)
    rungs = search(recipe, scheduler="asha", directory=tmp_path / "rungs", **space)
    whole = search(recipe, scheduler="none", directory=tmp_path / "whole", **space)
    promoted = [trial for trial in rungs.trials if trial.state == "completed"]
    assert promoted
    rows = {(row["trial"], row["epoch"]): (row["loss"], row["val_loss"], row["val_accuracy"]) for row in whole.history()}
    for row in rungs.history():
        assert (row["loss"], row["val_loss"], row["val_accuracy"]) == rows[row["trial"], row["epoch"]]
    assert {trial.epochs for trial in rungs.trials} == {1, 3}


# --- what it tries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["none", "median", "asha", "hyperband"])
def test_schedulers(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path, monkeypatch.setattr, trials=20, scheduler=scheduler, sampler="random")
    epochs = [trial.epochs for trial in result.trials if trial.state in ("completed", "pruned")]
    assert len(result.trials) == 20
    assert {trial.state for trial in result.trials} <= {"completed", "pruned", "diverged", "failed"}
    if scheduler == "none":
        assert set(epochs) == {9}
    elif scheduler == "median":
        assert len(set(epochs)) > 1
    else:
        assert set(epochs) <= {1, 3, 9}
        assert epochs.count(9) < len(epochs) / 2
        best_at_first = max((trial for trial in result.trials if 1 in trial.curve), key=lambda trial: trial.curve[1])
        assert best_at_first.epochs == 9


def test_diverged_and_failed_trials_never_end_a_search_and_are_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_chance, learned = (
        scripted(tmp_path / sampler, monkeypatch.setattr, trials=40, scheduler="none", sampler=sampler, priors=False) for sampler in ("random", "tpe")
    )
    states = [[trial.state for trial in result.trials] for result in (by_chance, learned)]
    assert min(states[0].count("diverged"), states[0].count("failed")) >= 2
    assert states[1].count("completed") > states[0].count("completed")
    assert {trial.message for trial in by_chance.trials if trial.state == "failed"} == {"out of memory: the script says so"}
    assert (learned.best.val_accuracy or 0) > 0.93


def test_the_same_seed_tries_the_same_and_another_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (scripted(tmp_path / name, monkeypatch.setattr, trials=15) for name in ("a", "b"))
    assert outcomes(first) == outcomes(second)
    monkeypatch.setattr("scripted_search.RECIPE", Recipe("relu_mlp", "digits", schedule="constant", epochs=9, seed=1))
    assert configurations(scripted(tmp_path / "c", monkeypatch.setattr, trials=15)) != configurations(first)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc", "kerastuner_bayesian", "kerastuner_grid", "kerastuner_hyperband"])
def test_a_search_in_parts_is_the_search_in_one(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = "none" if sampler.startswith("kerastuner") else "median"
    whole = scripted(tmp_path / "whole", monkeypatch.setattr, trials=16, sampler=sampler, scheduler=scheduler, priors=False)
    for trials in (5, 6, 16):
        parts = scripted(tmp_path / "parts", monkeypatch.setattr, trials=trials, sampler=sampler, scheduler=scheduler, priors=False)
    assert outcomes(parts) == outcomes(whole)


def test_kerastuners_hyperband_goes_on_from_its_own_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: engine)
    oracle = keras_tuner.oracles.HyperbandOracle(keras_tuner.Objective("val_accuracy", "max"), max_epochs=9, seed=3)
    result = search(RECIPE, optimizers=["sgd"], study="optimizers", sampler=oracle, scheduler="none", priors=False, trials=20, directory=tmp_path)
    continued = [trial for trial in result.trials if trial.config.get("tuner/trial_id")]
    assert continued
    assert all(start > 0 for start, _ in (engine.calls[trial.number] for trial in continued))


def test_an_exhausted_space_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path, monkeypatch.setattr, trials=200, optimizers=["sgd", "adadelta"], study="optimizers", sampler="kerastuner_grid")
    tried = configurations(result)
    assert len({json.dumps(config, sort_keys=True) for config in tried}) == len(tried)
    # Of each number ten points and the default; and what is known to be good, which lies between the points.
    assert Counter(trial.optimizer for trial in result.trials) == {"sgd": 12, "adadelta": 11 * 11 + 1}
    assert "was tried" in result.ended


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_budget_ends_the_search_and_what_waits_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    part = scripted(tmp_path, monkeypatch.setattr, budget=1.5, seconds=0.05)
    assert part.ended == "the budget ended"
    assert {"paused"} < {trial.state for trial in part.trials}
    assert time.monotonic() - began < 60
    whole = scripted(tmp_path, monkeypatch.setattr, trials=len(part.trials))
    assert configurations(whole) == configurations(part)
    assert {trial.state for trial in whole.trials} <= {"completed", "pruned", "diverged", "failed"}


def test_the_clock_alone_has_trials_train_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.study, "trials_at_once", lambda: 3)
    seen: list[Status] = []
    result = scripted(tmp_path, monkeypatch.setattr, budget=2.0, seconds=0.05, watch=seen.append)
    assert max(len(status.running) for status in seen) == 3
    numbers = [trial.number for trial in result.trials]
    assert numbers == sorted(set(numbers))
    assert len({str(trial.config) for trial in result.trials}) == len(numbers)
    seen.clear()
    scripted(tmp_path, monkeypatch.setattr, trials=len(numbers) + 9, watch=seen.append)  # this is to be repeatable
    assert max(len(status.running) for status in seen) == 1
    seen.clear()
    monkeypatch.setattr(tuning.study, "why_plain", lambda recipe: "the test says so")
    scripted(tmp_path / "plain", monkeypatch.setattr, budget=2.0, seconds=0.05, watch=seen.append)
    assert max(len(status.running) for status in seen) == 1


def test_a_budget_too_small_for_one_trial_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path, monkeypatch.setattr, budget=0.001)
    assert not result.ranking
    with pytest.raises(TrainingError, match="larger budget, or fewer epochs"):
        _ = result.best


@pytest.mark.parametrize("limits", [{}, {"budget": 0}, {"trials": -1}])
def test_a_search_needs_a_limit(limits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"limit|above 0"):
        search(TINY, directory=tmp_path, **limits)


# --- the record -------------------------------------------------------------------------------------------------------


def test_history_has_a_row_per_trial_and_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path, monkeypatch.setattr, trials=12)
    rows = result.history()
    assert {(row["trial"], row["epoch"]): row["val_accuracy"] for row in rows} == {
        (trial.number, epoch): value for trial in result.trials for epoch, value in trial.curve.items()
    }
    walls = [row["wall_seconds"] for row in rows]
    assert walls == sorted(walls)
    with (tmp_path / "history.csv").open() as file:
        assert next(csv.reader(file))[:4] == ["wall_seconds", "trial", "epoch", "val_accuracy"]


def test_the_study_is_optunas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path, monkeypatch.setattr, trials=12)
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = {"completed": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
    assert [trial.state.name for trial in study.trials] == [states[trial.state] for trial in result.trials]
    assert [trial.params for trial in study.trials] == [dict(trial.config) for trial in result.trials]
    assert study.best_value == max(trial.val_accuracy or 0 for trial in result.trials if trial.state == "completed")
    assert study.trials[0].intermediate_values == dict(result.trials[0].curve)


def test_a_trial_takes_less_than_a_hundred_kilobytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    scripted(tmp_path, monkeypatch.setattr, trials=5)
    before = size()
    scripted(tmp_path, monkeypatch.setattr, trials=25)
    assert (size() - before) / 20 < 100_000


def test_checkpoints_let_a_promotion_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [ScriptedEngine(0.02), ScriptedEngine()]
    for engine, limit in zip(engines, ({"budget": 1.0}, {"trials": 30}), strict=True):
        monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind, engine=engine: engine)
        result = search(RECIPE, optimizers=["sgd"], study="optimizers", checkpoints=True, directory=tmp_path, **limit)
    assert any(start > 0 for start, _ in engines[1].calls[:12])
    assert not list((tmp_path / "checkpoints").glob("*.npz"))
    assert {trial.state for trial in result.trials} <= {"completed", "pruned"}


def test_a_watcher_sees_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Status] = []
    result = scripted(tmp_path, monkeypatch.setattr, trials=6, watch=seen.append)
    epochs = sum(trial.epochs for trial in result.trials)
    assert sum(status.current is not None for status in seen) >= epochs
    assert seen[-1].total == 6


# --- kills ------------------------------------------------------------------------------------------------------------


def killed(directory: Path, kills: int, trials: int, scheduler: str, generator: random.Random) -> int:
    """Starts a search again and again, kills each at a random moment but lets the last run; returns how many were killed."""
    context = forking()
    count = 0
    while True:
        process = context.Process(target=scripted, args=(directory,), kwargs={"trials": trials, "scheduler": scheduler, "seconds": 0.01})
        process.start()
        if count < kills:
            wait_for_the_study(directory)
            time.sleep(generator.uniform(0.0, 0.5))
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            count += process.exitcode == -signal.SIGKILL
        else:
            process.join()
            assert process.exitcode == 0
            return count


def wait_for_the_study(directory: Path) -> None:
    while not (directory / "study.db").is_file():
        time.sleep(0.01)


@pytest.mark.parametrize("scheduler", ["asha", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_a_killed_search_ends_with_the_trials_of_one_that_was_not(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(scheduler)
    count = killed(tmp_path / "killed", 10, 30, scheduler, generator)
    assert count == 10
    whole = scripted(tmp_path / "whole", monkeypatch.setattr, trials=30, scheduler=scheduler)
    last = scripted(tmp_path / "killed", monkeypatch.setattr, trials=30, scheduler=scheduler)
    assert outcomes(last) == outcomes(whole)  # none lost, none doubled, none left running
    assert len(set(configurations(last))) == 30
    assert sorted((row["trial"], row["epoch"]) for row in read_history(tmp_path / "killed")) == sorted(
        (row["trial"], row["epoch"]) for row in read_history(tmp_path / "whole")
    )


def test_ray_does_not_take_the_place_of_who_handles_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(number: int, frame: Any) -> None:
        pass

    monkeypatch.setattr("tuning.ray_workers.RayWorkers", lambda *arguments: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    before = signal.signal(signal.SIGTERM, handle)
    try:
        tuning.study._executor(None, "ray", None, 1, None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_killed_command_ends_with_the_trials_of_one_that_was_not(checkpoints: bool, tmp_path: Path) -> None:
    """Real trials, by the command: killed ten times at random moments, and never."""
    options = "--dataset digits --study optimizers --optimizers sgd,adam --trials 24 --no-report --no-priors"
    command = [sys.executable, "-m", "zoo.cli", "tune", "relu_mlp", *options.split(), *(["--checkpoints"] if checkpoints else [])]
    generator = random.Random(7)
    for _ in range(10):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for_the_study(tmp_path / "killed")
        time.sleep(generator.uniform(0.0, 4.0))
        process.kill()
        process.wait()
    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", str(tmp_path / name)], check=True, capture_output=True)
    tables = [(tmp_path / name / TABLE).read_text().splitlines() for name in ("killed", "whole")]
    rows = [[(row["number"], row["state"], row["val_accuracy"], row["epochs"], row["config"]) for row in csv.DictReader(table)] for table in tables]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 24


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_changed_search_says_what_changed_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path, monkeypatch.setattr, trials=3)
    with pytest.raises(UsageError) as caught:
        scripted(tmp_path, monkeypatch.setattr, trials=6, ranges={"sgd.learning_rate": (1e-4, 10.0)})
    assert "sgd.learning_rate: 0.001..5.0, log (optimizer = sgd) -> 0.0001..10.0, log (optimizer = sgd)" in str(caught.value)
    assert f"zoo tune --resume {tmp_path}" in str(caught.value)
    assert "--accept-changes" in str(caught.value)
    result = scripted(tmp_path, monkeypatch.setattr, trials=6, ranges={"sgd.learning_rate": (1e-4, 10.0)}, accept_changes=True)
    assert len(result.trials) == 6
    assert result.ranges["sgd.learning_rate"] == (1e-4, 10.0, True)


def test_a_changed_search_may_choose_among_other_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path, monkeypatch.setattr, trials=4)
    result = scripted(tmp_path, monkeypatch.setattr, trials=12, optimizers=["sgd", "nesterov"], accept_changes=True)
    assert {trial.optimizer for trial in result.trials[4:]} == {"sgd", "nesterov"}
    assert outcomes(resume(tmp_path, trials=12)) == outcomes(result)


def test_a_search_of_something_else_is_never_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path, monkeypatch.setattr, trials=2)
    monkeypatch.setattr("scripted_search.RECIPE", Recipe("relu_mlp", "digits", schedule="constant", epochs=5))
    with pytest.raises(UsageError, match=r"holds a search of something else \(recipe: epochs 9 -> 5; epochs: 9 -> 5\)"):
        scripted(tmp_path, monkeypatch.setattr, trials=2, accept_changes=True)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"optimizers": ["adm"]}, UnknownNameError, "Unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"optimizers": []}, UsageError, "The space is empty"),
        ({"sampler": "tpee"}, UnknownNameError, "Unknown sampler 'tpee'. Did you mean 'tpe'"),
        ({"scheduler": "ash"}, UnknownNameError, "Unknown scheduler 'ash'. Did you mean 'asha'"),
        ({"engine": "fast"}, UnknownNameError, "Unknown engine 'fast'"),
        ({"vary": ["shedule"]}, UnknownNameError, "Did you mean 'schedule'"),
        ({"ranges": {"sgd.learning_rat": (0.1, 1.0)}}, UnknownNameError, "Did you mean 'sgd.learning_rate'"),
        ({"ranges": {"sgd.learning_rate": (1.0, 0.1)}}, UsageError, "low < high"),
        ({"reduction": 1}, UsageError, "2 or more"),
        ({"storage": "nonsense"}, StudyError, "such as sqlite:///study.db"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(kind) as caught:
        scripted(tmp_path, monkeypatch.setattr, trials=2, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_is_over_a_recipe_or_a_hypermodel() -> None:
    with pytest.raises(UsageError, match="the one or the other"):
        search(trials=1)
    with pytest.raises(UsageError, match="the one or the other"):
        search(TINY, data=((numpy.zeros(1),) * 2,) * 2, trials=1)  # type: ignore[arg-type]


def test_a_directory_is_searched_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuning.storage import DirectoryLock

    lock = DirectoryLock(tmp_path)
    with pytest.raises(StudyError, match=rf"is being searched by another process \(process {os.getpid()}\)"):
        scripted(tmp_path, monkeypatch.setattr, trials=2)
    lock.release()
    assert len(scripted(tmp_path, monkeypatch.setattr, trials=2).trials) == 2


def test_two_searches_share_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    scripted(tmp_path / "one", monkeypatch.setattr, trials=6, storage=url)
    both = scripted(tmp_path / "two", monkeypatch.setattr, trials=12, storage=url)
    assert len(both.trials) == 12
    assert len(set(configurations(both))) == 12
    with pytest.raises(UsageError, match="keeps its study in"):
        scripted(tmp_path / "one", monkeypatch.setattr, trials=12, storage="sqlite:///elsewhere.db")


@pytest.mark.parametrize("shared", [True, False])
def test_a_resumed_search_knows_whether_others_are_at_work(shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parallel, real = list[bool](), Proposer.propose

    def propose(proposer: Proposer, *arguments: Any) -> Any:
        parallel.append(proposer.parallel)
        return real(proposer, *arguments)

    monkeypatch.setattr(Proposer, "propose", propose)
    storage = f"sqlite:///{tmp_path / 'shared.db'}" if shared else None
    scripted(tmp_path / "search", monkeypatch.setattr, trials=2, priors=False, storage=storage)
    resume(tmp_path / "search", trials=4)
    assert parallel == [shared] * 4


def test_a_database_that_another_search_has_just_created_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    real, others = storage.RDBStorage, []

    def slow(*arguments: Any, **settings: Any) -> Any:
        if not others:  # while the first search prepares its file, another one begins and ends
            others.append(url)
            optuna.create_study(storage=url, study_name="other")
        return real(*arguments, **settings)

    monkeypatch.setattr(storage, "RDBStorage", slow)
    storage.open_storage(url).engine.dispose()
    assert others
    assert optuna.get_all_study_names(url) == ["other"]


def test_foreign_and_damaged_storages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute("create table addresses (street text)")
    (tmp_path / "noise.db").write_bytes(b"no database" * 1000)
    for name, message in (("foreign.db", "a database of something else (it has addresses)"), ("noise.db", "is no database, or a damaged one")):
        with pytest.raises(StudyError) as caught:
            scripted(tmp_path / f"of {name}", monkeypatch.setattr, trials=2, storage=f"sqlite:///{tmp_path / name}")
        assert message in str(caught.value)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "search.json").write_text("{}")
    with pytest.raises(StudyError, match="cannot be read as a search's settings"):
        scripted(tmp_path / "damaged", monkeypatch.setattr, trials=2)


def test_a_locked_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path, monkeypatch.setattr, trials=2)
    monkeypatch.setattr("tuning.storage.LOCK_SECONDS", 0.2)
    connection = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    connection.execute("begin exclusive")
    with pytest.raises(StudyError, match="has been locked by another process"):
        scripted(tmp_path, monkeypatch.setattr, trials=4)
    connection.close()
    assert len(scripted(tmp_path, monkeypatch.setattr, trials=4).trials) == 4


def test_a_full_disk_ends_the_search_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    scripted(tmp_path, monkeypatch.setattr, trials=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "study.db").stat().st_size + 8192, limits[1]))
    try:
        with pytest.raises(StudyError, match=r"cannot be written: .*What was finished is kept; make room, then go on"):
            scripted(tmp_path, monkeypatch.setattr, trials=400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    result = scripted(tmp_path, monkeypatch.setattr, trials=20)
    whole = scripted(tmp_path.with_name("whole"), monkeypatch.setattr, trials=len(result.trials))
    assert configurations(result) == configurations(whole)


def test_resume_needs_a_search(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no search to go on with: it has no search.json"):
        resume(tmp_path, trials=1)


def test_the_packages_function_is_not_hidden_by_a_module() -> None:
    assert tuning.search is search
    assert tuning.resume is resume
    assert set(OPTIMIZERS) < set(zoo.list_optimizers())
