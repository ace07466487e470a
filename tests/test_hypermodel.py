"""The zoo's hypermodel under KerasTuner's own tuners, and the space that any hypermodel declares."""

from __future__ import annotations

from pathlib import Path

import keras_tuner
import pytest

import tuning
import zoo
from tuning.hypermodel import discover_space
from zoo.specs import Recipe

TINY = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, epochs=1)


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return zoo.load_dataset("digits", "train_minus_validation")


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


class Conditional(keras_tuner.HyperModel):
    """Has conditions within conditions, and cannot be built with its default."""

    def build(self, hp: keras_tuner.HyperParameters) -> None:
        kind = hp.Choice("kind", ["broken", "shallow", "deep"])
        if kind == "broken":
            raise ValueError("cannot be built")
        with hp.conditional_scope("kind", ["deep"]):
            if kind == "deep":
                more = hp.Boolean("more")
                with hp.conditional_scope("more", [True]):
                    if more:
                        hp.Int("depth", 2, 9)
        with hp.conditional_scope("kind", ["shallow"]):
            if kind == "shallow":
                hp.Float("width", 0.1, 1.0)


def test_a_space_with_conditions_is_found() -> None:
    class Working(Conditional):
        def build(self, hp: keras_tuner.HyperParameters) -> None:
            if hp.Choice("kind", ["shallow", "deep", "broken"]) != "broken":
                super().build(hp)

    assert [entry.name for entry in discover_space(Working()).space] == ["kind", "width", "more", "depth"]


def test_a_build_that_raises_hides_no_more_than_it_must() -> None:
    assert [entry.name for entry in discover_space(Conditional()).space] == ["kind", "width", "more", "depth"]


def test_what_stands_behind_a_plain_if_is_found() -> None:
    def build(hp: keras_tuner.HyperParameters) -> None:
        if hp.Choice("kind", ["shallow", "deep"]) == "deep":
            hp.Int("depth", 2, 9)

    assert [entry.name for entry in discover_space(build).space] == ["kind", "depth"]
