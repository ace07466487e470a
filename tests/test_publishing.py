"""What is shipped: recipes, cards, the results file and the README's table agree."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import h5py
import pytest

import zoo
from zoo import publishing
from zoo.errors import UsageError
from zoo.recipes import list_recipes, load_recipe, recipe_module
from zoo.registry import resolve
from zoo.specs import ModelSpec, Recipe, WeightsSpec
from zoo.weights import pretrained_card

# What a weight has to be worth to be shipped at all.
FLOORS = {
    "mnist": {"sigmoid_mlp": 0.990, "relu_mlp": 0.991, "cnn": 0.994, "cnn_bn": 0.994, "cnn_bn_tiny": 0.994, "cnn_bn_nano": 0.990},
    "fashion_mnist": {"sigmoid_mlp": 0.890, "relu_mlp": 0.900, "cnn": 0.920, "cnn_bn": 0.940},
    "cifar10": {"sigmoid_mlp": 0.500, "relu_mlp": 0.550, "cnn": 0.850, "cnn_bn": 0.930},
    "digits": {"sigmoid_mlp": 0.97, "relu_mlp": 0.97, "cnn": 0.97, "cnn_bn": 0.97},
}


def card_of(name: str) -> zoo.Card:
    spec, weights = resolve(name)
    assert weights is not None
    return pretrained_card(spec.name, weights)


def test_every_weight_has_a_recipe_and_every_recipe_a_weight() -> None:
    assert list_recipes() == zoo.list_models(pretrained=True)


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_card_and_recipe_agree(name: str) -> None:
    card, recipe = card_of(name), load_recipe(name)
    assert Recipe.from_dict(card.recipe) == dataclasses.replace(recipe, seed=0), "the recipe has changed since the weights were trained"
    assert recipe.model == name
    assert not recipe.validate
    assert card.seeds["count"] == len(card.seeds["test_accuracy"]) >= 1
    assert card.seeds["test_accuracy"][0] == card.results["test"]["accuracy"]
    assert card.results["test"]["accuracy"] >= FLOORS[card.dataset][card.model]
    assert set(card.results) >= {"test", *(["test_views"] if recipe.views else []), *(["test_exact"] if card.dataset == "cifar10" else [])}
    assert all(len(values) == recipe.epochs for values in card.history.values())
    assert set(card.latency) == {"1", "32"}


def test_a_changed_recipe_with_a_stale_card_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "load_recipe", changed)
    with pytest.raises(AssertionError, match="the recipe has changed since the weights were trained"):
        test_card_and_recipe_agree("cnn.digits")


def changed(name: str) -> Recipe:
    recipe = recipe_module(name).RECIPE
    return dataclasses.replace(recipe, epochs=recipe.epochs + 1)


def test_all_weights_together_are_small() -> None:
    files = list((Path(zoo.__file__).parent / "pretrained").glob("*.weights.h5"))
    assert {file.name.removesuffix(".weights.h5") for file in files} == set(zoo.list_models(pretrained=True))
    assert sum(file.stat().st_size for file in files) < 40e6


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_a_weight_file_is_stored_as_its_card_says(name: str) -> None:
    card, dtypes = card_of(name), set()
    path = Path(zoo.__file__).parent / "pretrained" / f"{name}.weights.h5"
    with h5py.File(path) as file:
        file.visititems(lambda key, item: dtypes.add(str(item.dtype)) if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" else None)
    assert dtypes == {card.stored_dtype}
    assert path.stat().st_size == card.file_bytes


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_a_recipe_says_what_to_expect_of_it(name: str) -> None:
    summary, _, rest = (recipe_module(name).__doc__ or "").partition("\n\n")
    assert summary.endswith(".")
    assert rest == publishing.expectation(card_of(name))
    assert f"zoo reproduce {name} --seeds" in rest


def test_the_results_file_has_a_row_per_seed() -> None:
    with publishing.RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in zoo.list_models(pretrained=True):
        accuracies = [float(row["test_accuracy"]) for row in rows if row["name"] == name]
        assert accuracies == pytest.approx(card_of(name).seeds["test_accuracy"], abs=5e-5)


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_the_results_file_and_the_card_say_the_same_of_seed_0(name: str) -> None:
    with publishing.RESULTS.open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["name"], row["seed"]) == (name, "0"))
    card = card_of(name)
    test = card.results["test"]
    views = card.results.get("test_views")
    assert float(row["negative_log_likelihood"]) == pytest.approx(test["negative_log_likelihood"], abs=5e-5)
    assert float(row["expected_calibration_error"]) == pytest.approx(test["expected_calibration_error"], abs=5e-5)
    assert row["test_accuracy_views"] == (f"{views['accuracy']:.4f}" if views else "")
    assert (int(row["parameters"]), int(row["multiply_accumulates"])) == (card.parameters, card.multiply_accumulates)
    assert int(row["epochs"]) == card.recipe["epochs"]
    assert row["commit"] == card.environment["commit"]
    for package in ("keras", card.environment["backend"], "numpy", "python"):
        assert f"{package} {card.environment[package]}" in row["versions"]


def test_every_published_figure_has_its_source_and_a_weight_to_compare() -> None:
    with publishing.ANCHORS.open(newline="", encoding="utf-8") as file:
        anchors = list(csv.DictReader(file))
    table = publishing.weights_table()
    for anchor in anchors:
        assert f"{anchor['model']}.{anchor['dataset']}" in zoo.list_models(pretrained=True)
        assert 0 < float(anchor["accuracy"]) < 100
        assert f"[{anchor['accuracy']} %]({anchor['source']}), {anchor['what']}" in table


def test_cifar10_figures_are_printed_twice() -> None:
    note = publishing.weights_table().splitlines()[-1]
    for name in zoo.list_models("*.cifar10", pretrained=True):
        assert f"`{name}` {100 * card_of(name).results['test_exact']['accuracy']:.2f} %" in note
    assert "9,979 test images" in note


def test_a_tag_without_a_card_is_left_out(monkeypatch: pytest.MonkeyPatch, own_registry: dict[str, ModelSpec]) -> None:
    weights = WeightsSpec("toy", "digits", (8, 8, 1), 10, {"units": 8, "depth": 1})
    own_registry["relu_mlp"] = dataclasses.replace(own_registry["relu_mlp"], pretrained=(*own_registry["relu_mlp"].pretrained, weights))
    assert "relu_mlp.toy" in zoo.list_models(pretrained=True)
    assert "relu_mlp.toy" not in publishing.shipped()
    assert "relu_mlp.digits" in publishing.shipped()


def test_the_readmes_table_is_the_present_one() -> None:
    assert publishing.weights_table() in publishing.README.read_text(encoding="utf-8")


def test_the_documentations_table_is_the_same() -> None:
    table = publishing.weights_table("cards")
    assert table in publishing.MODELS_PAGE.read_text(encoding="utf-8")
    assert table.replace("](cards/", "](docs/cards/") == publishing.weights_table()


def test_a_page_without_markers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "README", tmp_path / "README.md")
    publishing.README.write_text("# No table")
    with pytest.raises(UsageError, match="lacks the markers"):
        publishing.write_tables()


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
    assert all(hop.passed for hop in zoo.verify("relu_mlp.toy"))
    # A further seed is added, and what is shipped stays as it is.
    shipped, rows = (package / "relu_mlp.toy.weights.h5").read_bytes(), (tmp_path / "results.csv").read_text().splitlines()
    more = publishing.publish("relu_mlp.toy", 3, tmp_path / "more")
    assert [path.name for path in (tmp_path / "more").iterdir()] == ["relu_mlp.toy-seed2"]
    assert more.seeds["test_accuracy"][:2] == card.seeds["test_accuracy"]
    assert (more.seeds["count"], more.sha256) == (3, card.sha256)
    assert (package / "relu_mlp.toy.weights.h5").read_bytes() == shipped
    assert (tmp_path / "results.csv").read_text().splitlines()[:3] == rows
    # Another recipe starts anew.
    monkeypatch.setattr(publishing, "load_recipe", lambda name: Recipe(name, "digits", epochs=2))
    assert publishing.publish("relu_mlp.toy", 1, tmp_path / "other").seeds["count"] == 1
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_a_recipe_that_holds_images_out_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "load_recipe", lambda name: Recipe(name, "digits", validate=True))
    with pytest.raises(zoo.ZooError, match=r"trains on all training images. The recipe relu_mlp.digits has validate=True"):
        publishing.publish("relu_mlp.digits", 1)
