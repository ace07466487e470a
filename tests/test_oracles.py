"""Proposals: Optuna's samplers behind KerasTuner's Oracle API, and KerasTuner's own oracles, as functions of what is known."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import keras_tuner
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import tuning
from tuning.oracles import (
    KERASTUNER,
    MANY,
    SHOWN,
    STARTUP,
    Memory,
    Observation,
    Proposer,
    _kept,
    derive_seed,
    distribution,
    estimates,
    propose,
)
from tuning.spaces import search_space
from zoo.errors import MissingExtraError, UnknownNameError, UsageError

SPACE = search_space("relu_mlp", ["sgd", "adam", "momentum"], study="optimizers")
AVAILABLE = ["tpe", "random", "cmaes", "qmc", *KERASTUNER]


def figure(values: dict[str, Any]) -> float:
    """The best is momentum at a learning rate of 0.01."""
    rate = values[f"{values['optimizer']}.learning_rate"]
    return 0.9 - 0.1 * abs(math.log10(rate) + 2) - 0.2 * (values["optimizer"] != "momentum")


def run(name: str, trials: int, seed: int = 0) -> list[Observation]:
    proposer, seen = Proposer(name, SPACE, seed, 9), list[Observation]()
    for number in range(trials):
        values = proposer.propose(seen, number)
        assert values is not None
        own = {key: value for key, value in values.items() if not key.startswith("tuner/")}
        seen.append(Observation(values, {1: figure(own)}, False, 1))
    return seen


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_proposer_that_starts_again_proposes_what_the_first_one_did(name: str) -> None:
    seen = run(name, 25 if name != "kerastuner_bayesian" else 6)
    for number in (number for number in (0, 1, 5, 13, 24) if number < len(seen)):
        assert Proposer(name, SPACE, 0, 9).propose(seen[:number], number) == seen[number].values


@pytest.mark.parametrize("name", ["tpe", "cmaes", "qmc", "random", "kerastuner_random", "kerastuner_bayesian"])
def test_seeds_differ_and_zero_is_one(name: str) -> None:
    first, second, third = ([entry.values for entry in run(name, 4, seed)] for seed in (0, 0, 1))
    assert first == second
    assert first != third


@pytest.mark.parametrize("name", AVAILABLE)
def test_only_what_is_active_gets_a_value_within_its_range(name: str) -> None:
    domains = {entry.name: entry for entry in SPACE.space}
    for entry in run(name, 30 if name != "kerastuner_bayesian" else 6):
        values = {key: value for key, value in entry.values.items() if not key.startswith("tuner/")}
        assert all(key == "optimizer" or key.startswith(f"{values['optimizer']}.") for key in values)
        assert len(values) == 1 + sum(key.startswith(f"{values['optimizer']}.") for key in domains)
        assert all(domains[key].min_value <= value <= domains[key].max_value for key, value in values.items() if key != "optimizer")


@pytest.mark.parametrize("name", [name for name in AVAILABLE if name != "kerastuner_grid"])
def test_trials_that_still_run_are_neither_proposed_again_nor_taken_for_bad(name: str) -> None:
    proposer, seen = Proposer(name, SPACE, 0, 9, parallel=True), list[Observation]()
    for number in range(24 if name != "kerastuner_bayesian" else 8):
        values = proposer.propose(seen, number)
        assert values is not None
        assert values not in [entry.values for entry in seen]
        seen.append(Observation(values, {}, False, 1, running=True))
        if number % 3 == 2:  # three run at a time
            for index in range(number - 2, number + 1):
                own = {key: value for key, value in seen[index].values.items() if not key.startswith("tuner/")}
                seen[index] = Observation(seen[index].values, {1: figure(own)}, False, 1)
    assert len(seen) > 7


def test_several_workers_at_once_try_different_things() -> None:
    """TPE without a lie about what runs proposes next to what it has just proposed."""
    seen = [Observation(entry.values, entry.curve, False, 1) for entry in run("tpe", 30)]
    space = search_space("relu_mlp", ["momentum"], study="optimizers")
    seen = [entry for entry in seen if entry.values["optimizer"] == "momentum"]
    rates: dict[bool, list[float]] = {False: [], True: []}
    for parallel, found in rates.items():
        running: list[Observation] = []
        for _ in range(8):
            values = propose(space.space, [*seen, *running], "tpe", 0, 40, parallel=parallel)
            assert values is not None
            running.append(Observation(values, running=True))
            found.append(math.log10(values["momentum.learning_rate"]))
    assert len(seen) > STARTUP
    assert statistics.pstdev(rates[True]) > 0
    assert rates[True] != rates[False]


def test_a_memory_changes_no_proposal() -> None:
    memory, seen = Memory(), run("tpe", 30)
    for number in range(31):
        assert propose(SPACE.space, seen[:number], "tpe", 0, number, memory=memory) == propose(SPACE.space, seen[:number], "tpe", 0, number)


def test_a_look_can_wait() -> None:
    """What has begun since counts; what has ended since does not."""
    seen, memory = run("tpe", 30), Memory()
    begun = [*seen[:20], *(Observation(entry.values, running=True) for entry in seen[20:])]
    propose(SPACE.space, seen[:20], "tpe", 0, 20, parallel=True, memory=memory)
    again = propose(SPACE.space, seen, "tpe", 0, 40, parallel=True, memory=memory, again=True)
    assert again == propose(SPACE.space, begun, "tpe", 0, 40, parallel=True)
    fresh = propose(SPACE.space, seen, "tpe", 0, 40, parallel=True, memory=memory)
    assert fresh == propose(SPACE.space, seen, "tpe", 0, 40, parallel=True) != again


def test_of_very_many_trials_a_sampler_for_many_workers_sees_the_best_and_the_latest() -> None:
    figures = [math.nan if number % 10 == 0 else (number * 37 % 1000) / 1000 for number in range(3 * SHOWN)]
    kept = _kept(figures, True)
    assert kept == sorted(set(kept))
    assert SHOWN // 2 < len(kept) <= SHOWN
    assert set(range(len(figures) - SHOWN // 2, len(figures))) < set(kept)
    known = sorted((figure for figure in figures if math.isfinite(figure)), reverse=True)
    assert sorted((figures[number] for number in kept if math.isfinite(figures[number])), reverse=True)[: SHOWN // 5] == known[: SHOWN // 5]
    assert _kept(figures[:SHOWN], True) == list(range(SHOWN))
    under_way = [*figures, *[math.nan] * MANY]
    assert SHOWN // 4 < len(_kept(under_way, True)) <= SHOWN // 2
    worst = min(figure for figure in figures if math.isfinite(figure))
    assert min(figures[number] for number in _kept(figures, False) if math.isfinite(figures[number])) == worst


def test_tpe_and_cmaes_beat_chance() -> None:
    best = {name: sorted(entry.curve[1] for entry in run(name, 60))[-10] for name in ("random", "tpe", "cmaes")}
    assert best["tpe"] > best["random"]
    assert best["cmaes"] > best["random"]


def test_infeasible_trials_are_learned_from() -> None:
    def share(infeasible: bool) -> float:
        """Of adam among the proposals: the best optimizer, or one that cannot be."""
        drawn = [values for number in range(40) if (values := propose(SPACE.space, [], "random", 3, number))]
        seen = [
            Observation(values, {}, True)
            if infeasible and values["optimizer"] == "adam"
            else Observation(values, {1: float(values["optimizer"] == "adam")})
            for values in drawn
        ]
        later = [propose(SPACE.space, seen, "tpe", 3, number) for number in range(100, 130)]
        return sum(values is not None and values["optimizer"] == "adam" for values in later) / 30

    assert share(True) < 0.2 < 0.6 < share(False)


def test_estimates_put_short_and_long_trials_on_one_scale() -> None:
    seen = [Observation({}, {1: 0.5, 3: 0.7, 9: 0.8}), Observation({}, {1: 0.6}), Observation({}, {1: 0.4, 3: 0.5}), Observation({}, infeasible=True)]
    assert estimates(seen) == pytest.approx([0.8, 0.9, 0.6, 0.6])
    assert estimates(seen, maximize=False)[3] == pytest.approx(0.9)
    assert math.isnan(estimates([Observation({})])[0])


def test_what_was_tried_is_not_proposed_again_and_an_exhausted_space_ends() -> None:
    space = keras_tuner.HyperParameters()
    space.Choice("a", ["x", "y"])
    space.Boolean("b")
    seen: list[Observation] = []
    while (values := propose(space.space, seen, "tpe", 0, len(seen))) is not None:
        seen.append(Observation(values, {1: 0.5}))
    assert {(entry.values["a"], entry.values["b"]) for entry in seen} == {("x", True), ("x", False), ("y", True), ("y", False)}
    assert len(seen) == 4


def test_every_kind_of_hyperparameter() -> None:
    space = keras_tuner.HyperParameters()
    space.Int("units", 32, 512, step=2, sampling="log")
    space.Int("depth", 1, 5, step=2)
    space.Float("momentum", 0.5, 0.99, sampling="reverse_log")
    space.Float("rate", 1e-4, 1.0, sampling="log")
    space.Fixed("fixed", 7)
    space.Boolean("flag")
    for name in ("tpe", "cmaes", "qmc"):
        seen: list[Observation] = []
        for number in range(15):
            values = propose(space.space, seen, name, 0, number)
            assert values is not None
            assert list(values) == ["units", "depth", "momentum", "rate", "fixed", "flag"]
            assert values["units"] in (32, 64, 128, 256, 512)
            assert values["depth"] in (1, 3, 5)
            assert 0.5 <= values["momentum"] <= 0.99
            assert values["fixed"] == 7
            seen.append(Observation(values, {1: values["momentum"]}))


def test_a_study_records_ranges_in_their_own_unit() -> None:
    space = keras_tuner.HyperParameters()
    space.Int("units", 32, 512, step=2, sampling="log")
    space.Float("rate", 1e-4, 1.0, sampling="log")
    space.Choice("kind", ["a", "b"])
    assert [distribution(entry) for entry in space.space] == [
        IntDistribution(32, 512, log=True),
        FloatDistribution(1e-4, 1.0, log=True),
        CategoricalDistribution(["a", "b"]),
    ]


class Tuner(keras_tuner.Tuner):
    """Scores points instead of training models; adam diverges."""

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        values = trial.hyperparameters.values
        return {"val_accuracy": math.nan if values["optimizer"] == "adam" else figure(values)}


def hypermodel(hp: keras_tuner.HyperParameters) -> None:
    search_space("relu_mlp", ["sgd", "adam", "momentum"], study="optimizers", hyperparameters=hp)


def tuner(directory: Path, trials: int, **arguments: Any) -> Tuner:
    oracle = tuning.OptunaOracle(keras_tuner.Objective("val_accuracy", "max"), trials, seed=0, **arguments)
    return Tuner(oracle, hypermodel, directory=str(directory), project_name="project")


def test_the_oracle_drives_a_stock_tuner_and_takes_it_up_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trials in (6, 12):
        parts = tuner(tmp_path / "parts", trials)
        parts.search(verbose=0)
    whole = tuner(tmp_path / "whole", 12)
    whole.search(verbose=0)

    def values(found: Tuner) -> list[dict[str, Any]]:
        return [found.oracle.trials[key].hyperparameters.values for key in sorted(found.oracle.numbers, key=found.oracle.numbers.__getitem__)]

    assert values(parts) == values(whole)
    assert len(whole.oracle.trials) == 12
    assert {trial.status for trial in whole.oracle.trials.values()} <= {"COMPLETED", "FAILED"}  # and no number of failures ends it
    assert whole.oracle.numbers == {f"{number:02d}": number for number in range(12)}
    capsys.readouterr()


def test_enqueued_configurations_come_first(tmp_path: Path) -> None:
    first = {"optimizer": "sgd", "sgd.learning_rate": 0.25}
    found = tuner(tmp_path, 2, enqueued=[first])
    found.search(verbose=0)
    assert found.oracle.trials["0"].hyperparameters.values == first


def test_bad_names_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tpe'"):
        tuning.OptunaOracle("val_accuracy", sampler="tpee")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs PyTorch: pip install 'neuron-zoo\[gp\]'"):
        tuning.OptunaOracle("val_accuracy", sampler="gp")


def test_gp_proposes() -> None:
    pytest.importorskip("torch", reason="Optuna's GP sampler is made of PyTorch")
    seen = run("gp", 20)
    assert Proposer("gp", SPACE, 0, 9).propose(seen[:15], 15) == seen[15].values


def test_an_oracle_with_another_objective_is_refused() -> None:
    with pytest.raises(UsageError, match="maximizes val_accuracy"):
        Proposer(keras_tuner.oracles.RandomSearchOracle(keras_tuner.Objective("loss", "min")), SPACE, 0, 9)


def test_optunas_verbosity_is_left_as_it_was() -> None:
    before = optuna.logging.get_verbosity()
    run("tpe", 3)
    assert optuna.logging.get_verbosity() == before


def test_derived_seeds_differ() -> None:
    assert len({derive_seed(seed, number) for seed in range(20) for number in range(20)}) == 400
