"""Search spaces with real conditions, the hypermodel under stock tuners, and the search itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import keras_tuner
import pytest

import tuning
import zoo
from tuning.command import parse_duration
from tuning.spaces import COMPLEMENT, STUDIES, configure, search_space
from tuning.trials import BEST_RECIPE, TABLE, search
from zoo.errors import TrainingError, UnknownNameError, UsageError
from zoo.specs import Recipe
from zoo.training import TrainingRun, read_recipe

TINY = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, epochs=1)


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return zoo.load_dataset("digits", "train_minus_validation")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuning.SearchResult:
    return search(TINY, optimizers=["sgd", "adam"], study="optimizers", trials=3, directory=tmp_path_factory.mktemp("search"))


def draw(space: keras_tuner.HyperParameters, generator: random.Random) -> dict[str, Any]:
    """One random point: as KerasTuner draws it, only what is active gets a value."""
    point = keras_tuner.HyperParameters()
    for hyperparameter in space.space:
        if point.is_active(hyperparameter):
            point.values[hyperparameter.name] = hyperparameter.random_sample(generator.randrange(2**31))
    return point.values


@pytest.mark.parametrize("model", zoo.list_models())
def test_a_thousand_draws_hold_the_chosen_optimizers_arguments_alone(model: str) -> None:
    space, generator, seen = search_space(model), random.Random(0), set()
    for _ in range(1000):
        values = draw(space, generator)
        optimizer = values["optimizer"]
        seen.add(optimizer)
        arguments = {name.partition(".")[2].removeprefix(COMPLEMENT) for name in values if name.partition(".")[0] not in ("model", "optimizer")}
        assert all(name.partition(".")[0] in ("model", "optimizer", optimizer) for name in values)
        assert arguments == set(zoo.optimizer_info(optimizer).domains)
        for name, domain in zoo.model_info(model).domains.items():
            assert values[f"model.{name}"] in domain
    assert seen == set(zoo.list_optimizers())


def test_a_draw_becomes_a_recipe_whose_values_lie_in_the_domains() -> None:
    space, generator = search_space("cnn"), random.Random(1)
    for _ in range(200):
        recipe = configure(Recipe("cnn", "digits"), draw(space, generator))
        domains = zoo.optimizer_info(recipe.optimizer).domains
        values = {"learning_rate": recipe.learning_rate, **recipe.optimizer_arguments}
        assert values.keys() == domains.keys()
        for name, value in values.items():
            low, high = (getattr(domains[name], end, None) for end in ("low", "high"))
            assert value in domains[name] or (low is not None and low - 1e-9 <= value <= high + 1e-9)


def test_the_defaults_of_a_space_are_the_records() -> None:
    values = search_space("relu_mlp", ["momentum", "sgd"]).values
    assert values["optimizer"] == "momentum"
    assert values["momentum.learning_rate"] == zoo.optimizer_info("momentum").learning_rate
    assert values["momentum.one_minus_momentum"] == pytest.approx(0.1)
    assert values["model.units"] == zoo.model_info("relu_mlp").defaults["units"]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_varies_what_it_says(study: Any) -> None:
    names = {hyperparameter.name for hyperparameter in search_space("cnn", ["adam", "sgd"], study=study).space}
    assert any(name.startswith("model.") for name in names) == (study != "optimizers")
    assert ("sgd.learning_rate" in names) == (study != "architecture")
    assert "adam.learning_rate" in names
    assert ("adam.one_minus_beta_2" in names) == (study != "architecture")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "cn"}, "Unknown model 'cn'. Did you mean 'cnn'"),
        ({"model": "cnn", "optimizers": ["adm"]}, "Unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"model": "cnn", "study": "optimizer"}, "Unknown study 'optimizer'. Did you mean 'optimizers'"),
    ],
)
def test_unknown_names(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        search_space(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["RandomSearch", "BayesianOptimization", "Hyperband", "GridSearch"])
def test_the_hypermodel_works_with_stock_tuners(kind: str, digits: zoo.Dataset, tmp_path: Path) -> None:
    hypermodel = tuning.ZooHyperModel(TINY, digits, ["sgd", "adam"], "optimizers")
    limits = {"max_epochs": 2, "hyperband_iterations": 1} if kind == "Hyperband" else {"max_trials": 2}
    tuner = getattr(keras_tuner, kind)(hypermodel, "val_accuracy", directory=str(tmp_path), seed=1, **limits)
    tuner.search(digits.images[:256], digits.labels[:256], validation_split=0.25, epochs=1, verbose=0)
    best = tuner.get_best_hyperparameters()[0]
    recipe = hypermodel.configure(best)
    assert recipe.optimizer in ("sgd", "adam")
    assert recipe.learning_rate == best.values[f"{recipe.optimizer}.learning_rate"]


def test_a_search_starts_with_every_optimizers_defaults_and_ranks(found: tuning.SearchResult) -> None:
    assert [trial.recipe.optimizer for trial in found.trials[:2]] == ["sgd", "adam"]
    assert [trial.recipe.learning_rate for trial in found.trials[:2]] == [zoo.optimizer_info(name).learning_rate for name in ("sgd", "adam")]
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    scores = [trial.val_accuracy or 0 for trial in found.ranking]
    assert scores == sorted(scores, reverse=True)
    assert len((found.directory / TABLE).read_text().splitlines()) == 4
    assert read_recipe(found.directory / BEST_RECIPE) == found.best.recipe


def test_training_the_best_recipe_repeats_its_figure(found: tuning.SearchResult, digits: zoo.Dataset) -> None:
    run = TrainingRun(found.best.recipe, digits, zoo.load_dataset("digits", "validation"))
    run.fit()
    assert run.history[-1]["val_accuracy"] == found.best.val_accuracy


def test_a_search_goes_on_up_to_the_total(found: tuning.SearchResult) -> None:
    more = search(TINY, optimizers=["sgd", "adam"], study="optimizers", trials=4, directory=found.directory)
    assert len(more.trials) == 4
    assert [trial.config for trial in more.trials[:3]] == [trial.config for trial in found.trials]
    with pytest.raises(UsageError, match="holds a search of something else"):
        search(TINY, optimizers=["sgd"], study="optimizers", trials=4, directory=found.directory)


def test_a_trial_that_fails_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = TrainingRun.fit

    def diverge(run: TrainingRun, *callbacks: Any) -> None:
        if run.recipe.optimizer != "adam":
            raise TrainingError("The loss became nan")
        fit(run, *callbacks)

    monkeypatch.setattr(TrainingRun, "fit", diverge)
    result = search(TINY, optimizers=["sgd", "momentum", "nesterov", "rmsprop", "adam"], study="optimizers", trials=5, directory=tmp_path)
    assert [trial.state for trial in result.trials] == ["failed"] * 4 + ["completed"]
    assert result.trials[0].message == "The loss became nan"
    assert result.best.recipe.optimizer == "adam"


def test_a_budget_too_small_for_one_trial_says_so(tmp_path: Path) -> None:
    result = search(TINY, optimizers=["sgd"], study="optimizers", budget=0.001, directory=tmp_path)
    assert not result.ranking
    with pytest.raises(TrainingError, match="larger budget or fewer epochs"):
        _ = result.best


@pytest.mark.parametrize("limits", [{}, {"budget": 0}, {"trials": -1}])
def test_a_search_needs_a_limit(limits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"limit|above 0"):
        search(TINY, directory=tmp_path, **limits)


def test_the_packages_function_is_not_hidden_by_a_module() -> None:
    assert tuning.search is search


def test_durations() -> None:
    assert [parse_duration(text) for text in ("45s", "5m", "1h", "90", "1.5m")] == [45, 300, 3600, 90, 90]
    for text in ("", "0", "5d", "-3s", "soon"):
        with pytest.raises(UsageError, match="such as 45s"):
            parse_duration(text)


def test_a_trials_table_is_json_ready(found: tuning.SearchResult) -> None:
    data = json.loads(json.dumps([trial.to_dict() for trial in found.trials]))
    assert {"number", "state", "config", "epochs", "val_accuracy", "seconds"} <= data[0].keys()
    assert Recipe.from_dict(data[0]["recipe"]) == found.trials[0].recipe
