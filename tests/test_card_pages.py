"""The pages of docs/cards: what they say, and that they are the present ones."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

import zoo
from zoo import publishing
from zoo.card_pages import card_page, training_curve
from zoo.recipes import load_recipe
from zoo.registry import resolve
from zoo.weights import pretrained_card

NAMES = zoo.list_models(pretrained=True)


def card_of(name: str) -> zoo.Card:
    spec, weights = resolve(name)
    assert weights is not None
    return pretrained_card(spec.name, weights)


def test_the_pages_are_the_present_ones() -> None:
    pages = publishing.card_pages()
    assert {file.name: file.read_text(encoding="utf-8") for file in publishing.CARDS.iterdir()} == pages


@pytest.mark.parametrize("name", NAMES)
def test_the_front_matter_is_a_model_index(name: str) -> None:
    card = card_of(name)
    _, front, page = card_page(card, load_recipe(name), "A summary.").split("---\n", 2)
    data = yaml.safe_load(front)
    (model,) = data["model-index"]
    assert model["name"] == name
    (result,) = model["results"]
    assert result["dataset"]["name"] == card.dataset
    assert result["metrics"][0] == {"type": "accuracy", "value": round(card.results["test"]["accuracy"], 4), "name": "Test accuracy"}
    for row in card.results["test"]["classes"]:
        assert f"| {row['name']} | {row['images']} |" in page
    assert card.sha256 in page
    assert f"{card.multiply_accumulates:,}" in page
    assert ("bit-exact" in page) == (card.dataset == "cifar10")


@pytest.mark.parametrize("name", NAMES)
def test_the_curve_has_a_point_per_epoch(name: str) -> None:
    card = card_of(name)
    lines = ElementTree.fromstring(training_curve(card)).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [card.recipe["epochs"]] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_the_test_images_were_used_for(name: str) -> None:
    card, recipe = card_of(name), load_recipe(name)
    page = card_page(card, recipe, "A summary.")
    assert ("read once more" in page) == (card.stored_dtype == "float16")
    assert ("not blind" in page) == (card.dataset == "mnist")
    assert ("use them to rank" in page) == bool(recipe.label_smoothing or recipe.teacher)
    assert f'"epochs": {recipe.epochs}' in page
    assert f'"seed": {recipe.seed}' in page
    for hyperparameter in card.hyperparameters:
        assert f"{hyperparameter} " in page.partition("The network: ")[2]


def test_a_flat_curve_and_none() -> None:
    card = card_of("cnn.digits")
    assert "polyline" in training_curve(dataclasses.replace(card, history={"loss": [1.0], "accuracy": [1.0]}))
    assert "polyline" not in training_curve(dataclasses.replace(card, history={}))
