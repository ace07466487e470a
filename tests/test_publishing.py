"""What is shipped: recipes, cards, the results file and the README's table agree."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

import zoo
from zoo import publishing
from zoo.recipes import list_recipes, load_recipe
from zoo.registry import resolve
from zoo.specs import ModelSpec, Recipe, WeightsSpec
from zoo.weights import pretrained_card

GOALS = {"sigmoid_mlp.mnist": 0.980, "relu_mlp.mnist": 0.985, "cnn.mnist": 0.992, "cnn_bn.mnist": 0.994}


def card_of(name: str) -> zoo.Card:
    spec, weights = resolve(name)
    assert weights is not None
    return pretrained_card(spec.name, weights)


def test_every_weight_has_a_recipe_and_every_recipe_a_weight() -> None:
    assert list_recipes() == zoo.list_models(pretrained=True)


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_card_and_recipe_agree(name: str) -> None:
    card, recipe = card_of(name), load_recipe(name)
    assert card.recipe == dataclasses.replace(recipe, seed=0).to_dict(), "the recipe has changed since the weights were trained"
    assert recipe.model == name
    assert not recipe.validate
    assert card.seeds["count"] == len(card.seeds["test_accuracy"]) >= 3
    assert card.seeds["test_accuracy"][0] == card.results["test"]["accuracy"]
    assert card.results["test"]["accuracy"] >= GOALS.get(name, 0.97)


def test_the_results_file_has_a_row_per_seed() -> None:
    with publishing.RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in zoo.list_models(pretrained=True):
        accuracies = [float(row["test_accuracy"]) for row in rows if row["name"] == name]
        assert accuracies == pytest.approx(card_of(name).seeds["test_accuracy"], abs=5e-5)


def test_the_readmes_table_is_the_present_one() -> None:
    assert publishing.weights_table() in publishing.README.read_text(encoding="utf-8")


def test_publishing_ships_seed_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: dict[str, ModelSpec]) -> None:
    package = tmp_path / "shipping"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = WeightsSpec("toy", "digits", (8, 8, 1), 10, {"units": 8, "depth": 1}, package="shipping")
    own_registry["relu_mlp"] = dataclasses.replace(own_registry["relu_mlp"], pretrained=(weights,))
    monkeypatch.setattr(publishing, "load_recipe", lambda name: Recipe(name, "digits", epochs=1))
    monkeypatch.setattr(publishing, "RESULTS", tmp_path / "results.csv")
    card = publishing.publish("relu_mlp.toy", 2, tmp_path / "runs")
    assert card.seeds["count"] == 2
    model = zoo.create_model("relu_mlp.toy", pretrained=True)
    digits = zoo.load_dataset("digits", "test")
    assert zoo.evaluate(model, digits.images, digits.labels)["accuracy"] == card.seeds["test_accuracy"][0]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
