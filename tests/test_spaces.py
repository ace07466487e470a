"""Search spaces: real conditions, what a study varies, other ranges, and how a space is told from another."""

from __future__ import annotations

import random
from typing import Any

import keras_tuner
import pytest

import zoo
from tuning.priors import complete
from tuning.spaces import COMPLEMENT, STUDIES, changes, configure, describe, search_space, space_hash
from zoo.errors import UnknownNameError, UsageError
from zoo.specs import Recipe


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


def test_what_else_varies_becomes_part_of_the_recipe() -> None:
    space, generator = search_space("relu_mlp", ["sgd"], study="optimizers", vary=["schedule", "label_smoothing"]), random.Random(2)
    recipes = [configure(Recipe("relu_mlp", "digits"), draw(space, generator)) for _ in range(100)]
    assert {recipe.schedule for recipe in recipes} == {"constant", "cosine", "linear"}
    assert {recipe.label_smoothing for recipe in recipes} == {0.0, 0.1, 0.2}
    assert {recipe.warmup for recipe in recipes if recipe.schedule == "linear"} == {0.05}


def test_ranges_can_be_widened_and_keep_their_scale() -> None:
    ranges = {"adam.learning_rate": (1e-6, 1.0), "model.units": (8, 2048), "adam.one_minus_beta_1": (1e-3, 0.9)}
    lines = describe(search_space("relu_mlp", ["adam"], ranges=ranges))
    assert lines["adam.learning_rate"].startswith("1e-06..1.0, log")
    assert lines["model.units"] == "8..2048, log, step 2"
    assert lines["adam.one_minus_beta_1"].startswith("0.001..0.9, log")


@pytest.mark.parametrize(
    ("ranges", "kind", "message"),
    [
        ({"adam.learning_rates": (1e-6, 1.0)}, UnknownNameError, "Did you mean 'adam.learning_rate'"),
        ({"adam.learning_rate": (0.0, 1.0)}, UsageError, "above 0 where it is sampled by its logarithm. Received: 0..1"),
        ({"model.dropout": (0.5, 0.1)}, UsageError, "low < high"),
        ({"optimizer": (0.0, 1.0)}, UnknownNameError, "Unknown number in the space 'optimizer'"),
    ],
)
def test_ranges_that_cannot_be(ranges: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        search_space("relu_mlp", ["adam"], ranges=ranges)
    assert message in str(caught.value)


def test_a_search_without_an_optimizer_has_an_empty_space() -> None:
    with pytest.raises(UsageError, match="The space is empty"):
        search_space("cnn", [])


def test_the_hash_tells_spaces_apart() -> None:
    spaces = [search_space("cnn"), search_space("cnn", ["adam"]), search_space("cnn", study="optimizers"), search_space("cnn", vary=["schedule"])]
    assert len({space_hash(space) for space in spaces}) == len(spaces)
    assert space_hash(search_space("cnn")) == space_hash(search_space("cnn"))


def test_changes_name_every_difference() -> None:
    old, new = (describe(search_space("relu_mlp", names, study="optimizers")) for names in (["sgd", "momentum"], ["sgd", "adagrad"]))
    found = changes(old, new)
    assert found[0] == "optimizer: one of sgd, momentum -> one of sgd, adagrad"
    assert any(line.startswith("momentum.learning_rate: 0.001..3.0, log (optimizer = momentum) -> absent") for line in found)
    assert not any(line.startswith("sgd") for line in found)
    assert changes(old, old) == []


def test_a_configuration_is_completed_by_the_defaults_or_refused() -> None:
    space = search_space("relu_mlp", ["sgd", "adam"], study="optimizers")
    assert complete(space, {"optimizer": "adam"}) == {**search_space("relu_mlp", ["adam"], study="optimizers").values}
    assert complete(space, {"optimizer": "lion"}) is None
    assert complete(space, {"optimizer": "sgd", "sgd.learning_rate": 100.0}) is None
