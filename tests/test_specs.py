"""Specs: domains, recipes as data, and the messages for impossible ones."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.errors import UnknownNameError, UsageError
from zoo.specs import AUGMENTATIONS, PRECISIONS, SCHEDULES, Affine, Choice, Cutout, DatasetSpec, Domain, Elastic, Flip, Float, Int, Recipe, Shift

# --- domains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(0.0, 0.5), [0.0, 0, 0.25, 0.5], [-0.1, 0.51, "0.2", None]),
        (Float(1e-5, 1.0, "log"), [1e-5, 1.0], [0.0]),
        (Float(0.7, 0.995, "complement_log"), [0.9], [1.0]),
        (Int(1, 4), [1, 4], [0, 5, 2.0, "2", None]),
        (Int(8, 64, "log"), [8, 64], [7]),
        (Choice((3, 5)), [3, 5], [4, "3", None]),
        (Choice(("relu",)), ["relu"], ["Relu", None]),
    ],
    ids=str,
)
def test_a_domain_contains_its_ends_and_nothing_beyond(domain: Domain, inside: list[Any], outside: list[Any]) -> None:
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)


@pytest.mark.parametrize("arguments", [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0, "log"), (0.5, 1.0, "complement_log")], ids=str)
def test_an_impossible_float_domain(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match=r"^Not a range that can be sampled: Float\(.*\)\. Expected low < high, above 0 for log, below 1"):
        Float(*arguments)


@pytest.mark.parametrize("arguments", [(1, 1), (2, 1), (0, 4, "log"), (1, 4, "linear", 0)], ids=str)
def test_an_impossible_int_domain(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match=r"^Not a range that can be sampled: Int\(.*\)\. Expected low < high, step >= 1, above 0 for log\.$"):
        Int(*arguments)


def test_an_impossible_choice() -> None:
    with pytest.raises(UsageError, match=r"^A Choice needs at least one value\."):
        Choice(())


def test_a_data_set_counts_its_classes() -> None:
    assert DatasetSpec("toy", (8, 8, 1), ("a", "b"), {}, "nowhere").num_classes == 2


# --- recipes ----------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
arguments = st.dictionaries(st.text(max_size=8), scalars | st.lists(scalars, max_size=3), max_size=3)
shares = st.floats(0, 1, exclude_max=True)
strengths = st.floats(0, 90)
augmentations = st.one_of(
    st.builds(Shift, st.integers(0, 9)),
    st.builds(Affine, strengths, strengths, strengths, strengths),
    st.builds(Elastic, strengths, st.integers(2, 9)),
    st.just(Flip()),
    st.builds(Cutout, st.integers(1, 20)),
)
recipes = st.builds(
    Recipe,
    model=st.text(max_size=8),
    dataset=st.text(max_size=8),
    hyperparameters=arguments,
    optimizer=st.text(max_size=8),
    learning_rate=st.none() | st.floats(1e-9, 1e9),
    optimizer_arguments=arguments,
    schedule=st.sampled_from(SCHEDULES),
    warmup=shares,
    batch_size=st.integers(1, 9999),
    epochs=st.integers(1, 9999),
    label_smoothing=shares,
    augmentation=st.lists(augmentations, max_size=3).map(tuple),
    ema=st.none() | shares,
    precision=st.sampled_from(PRECISIONS),
    validate=st.booleans(),
    initial_weights=st.none() | st.text(max_size=8),
    seed=st.integers(0, 2**31 - 1),
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()


def test_the_strategy_above_covers_every_augmentation() -> None:
    assert set(AUGMENTATIONS.values()) == {Shift, Affine, Elastic, Flip, Cutout}


def test_a_recipe_as_readable_data() -> None:
    recipe = Recipe("cnn", "digits", {"units": 8}, augmentation=(Shift(1), Flip()))
    data = recipe.to_dict()
    assert data["hyperparameters"] == {"units": 8}
    assert data["augmentation"] == [{"shift": {"pixels": 1, "reflect": False}}, {"flip": {"alternating": False}}]
    assert set(data) == {field.name for field in dataclasses.fields(Recipe)} - {"image_size"}
    assert dataclasses.replace(recipe, image_size=12).to_dict() == {**data, "image_size": 12}


def test_what_json_leaves_out_takes_the_default() -> None:
    assert Recipe.from_dict({"model": "cnn", "dataset": "digits", "augmentation": [{"affine": {"degrees": 5}}]}) == Recipe(
        "cnn", "digits", augmentation=(Affine(degrees=5),)
    )


def test_a_recipe_does_not_change_with_the_dictionary_it_was_made_from() -> None:
    hyperparameters = {"units": 8}
    recipe = Recipe("cnn", "digits", hyperparameters)
    hyperparameters["units"] = 9
    assert recipe.hyperparameters == {"units": 8}


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe("cnn", "digits").epochs = 3  # type: ignore[misc]


OTHER: dict[str, Any] = {
    "model": "cnn_bn",
    "dataset": "mnist",
    "hyperparameters": {"units": 9},
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "optimizer_arguments": {"beta_1": 0.5},
    "schedule": "linear",
    "warmup": 0.1,
    "batch_size": 64,
    "epochs": 11,
    "label_smoothing": 0.1,
    "augmentation": (Shift(2), Shift(1)),
    "augmentation_tail": 0.2,
    "initialization": ("lsuv",),
    "teacher": "cnn.mnist",
    "teacher_weight": 0.5,
    "temperature": 1.0,
    "lookahead": 5,
    "views": ("flip",),
    "ema": 0.99,
    "precision": "mixed_bfloat16",
    "validate": False,
    "early_stopping": 3,
    "initial_weights": "cnn.mnist",
    "seed": 1,
    "image_size": 32,
}
BASE = Recipe("cnn", "digits", {"units": 8}, validate=True, augmentation=(Shift(1), Shift(2)))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_the_fingerprint_differs_with_every_field(name: str) -> None:
    changed = dataclasses.replace(BASE, **{name: OTHER[name]})
    assert changed != BASE
    assert changed.fingerprint() != BASE.fingerprint()


def test_the_fingerprint_is_twelve_digits_and_stays() -> None:
    assert BASE.fingerprint() == dataclasses.replace(BASE).fingerprint()
    assert len(BASE.fingerprint()) == 12
    assert int(BASE.fingerprint(), 16) >= 0


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("model", [None, 5], "a name"),
        ("dataset", [None, 5], "a name"),
        ("optimizer", [None, 5], "a name"),
        ("initial_weights", [5, True], "None or a name"),
        ("teacher", [5, True], "None or a name"),
        ("initialization", [5, (1,), "lsuv"], "a tuple of names"),
        ("views", ["flip", ("rotate",)], "a tuple of names out of flip, shift"),
        ("augmentation_tail", [-0.1, 1.0, None], "a number from 0 to below 1"),
        ("teacher_weight", [-0.1, 1.1, None], "a number from 0 to 1"),
        ("temperature", [0, None, NAN], "a finite number above 0"),
        ("lookahead", [0, 1.5, True], "None or a whole number above 0"),
        ("hyperparameters", [None, [1], "units=3"], "an object of names and values"),
        ("optimizer_arguments", [None, [1]], "an object of names and values"),
        ("augmentation", [None, 5, "shift"], "a tuple of augmentations"),
        ("validate", ["no", None, 1], "true or false"),
        ("schedule", ["cosin", None, []], "one of constant, cosine, linear, one_cycle"),
        ("precision", ["float16", None], "one of float32, mixed_bfloat16"),
        ("batch_size", [0, -1, 1.0, "8", True, None], "a whole number above 0"),
        ("epochs", [0, -1, 1.0, "8", True, None], "a whole number above 0"),
        ("warmup", [-0.1, 1, 1.0, NAN, "0", None, True], "a number from 0 to below 1"),
        ("label_smoothing", [-0.1, 1.0, NAN, None], "a number from 0 to below 1"),
        ("ema", [-0.1, 1.0, NAN, "0.9", True], "None or a number from 0 to below 1"),
        ("learning_rate", [0, -1.0, NAN, INFINITE, "0.1", True], "a finite number above 0"),
        ("seed", [-1, 2**31, 1.0, None, True], "a whole number from 0 to 2**31 - 1"),
        ("image_size", [0, -1, 1.5, True, (28, 28)], "None or a whole number above 0"),
        ("early_stopping", [0, -1, 1.5, True], "a whole number above 0"),
    ],
)
def test_an_impossible_value_is_refused(name: str, values: list[Any], expected: str) -> None:
    for value in values:
        for make in (lambda data: Recipe(**data), Recipe.from_dict):
            with pytest.raises(UsageError) as error:
                make({"model": "cnn", "dataset": "digits", "validate": True, name: value})
            assert str(error.value) == f"Recipe.{name} must be {expected}. Received: {value!r}."


def test_early_stopping_needs_a_validation_set() -> None:
    with pytest.raises(UsageError, match=r"^Recipe\.early_stopping needs validate=True"):
        Recipe("cnn", "digits", early_stopping=3)


def test_early_stopping_and_ema_exclude_each_other() -> None:
    with pytest.raises(UsageError, match=r"^Recipe\.early_stopping and Recipe\.ema both decide which weights are kept\. Choose one\.$"):
        Recipe("cnn", "digits", early_stopping=3, ema=0.99, validate=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "A recipe is a JSON object. Received: list."),
        ({}, "The recipe lacks model and dataset."),
        ({"model": "cnn"}, "The recipe lacks dataset."),
        ({"model": "cnn", "dataset": "digits", "augmentation": ["shift"]}, "An augmentation is an object with one key, such as"),
        ({"model": "cnn", "dataset": "digits", "augmentation": [{"shift": 2}]}, "An augmentation is an object with one key, such as"),
        ({"model": "cnn", "dataset": "digits", "augmentation": [{"shift": {}, "flip": {}}]}, "An augmentation is an object with one key, such as"),
        (
            {"model": "cnn", "dataset": "digits", "augmentation": [{"shift": {"pixels": "a"}}]},
            "The augmentation shift's pixels must be a number from 0 up. Received: 'a'.",
        ),
        (
            {"model": "cnn", "dataset": "digits", "augmentation": [{"cutout": {"size": -1}}]},
            "The augmentation cutout's size must be a number from 0 up. Received: -1.",
        ),
    ],
)
def test_data_that_is_no_recipe(data: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Recipe.from_dict(data)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epocs": 3}, "Unknown recipe field 'epocs'. Did you mean 'epochs'? Valid recipe fields: augmentation, augmentation_tail, batch_size, "),
        (
            {"augmentation": [{"shfit": {}}]},
            "Unknown augmentation 'shfit'. Did you mean 'shift'? Valid augmentations: affine, cutout, elastic, flip, shift.",
        ),
        (
            {"augmentation": [{"shift": {"pixel": 2}}]},
            "Unknown argument of shift 'pixel'. Did you mean 'pixels'? Valid arguments of shift: pixels, reflect.",
        ),
        ({"augmentation": [{"flip": {"pixel": 2}}]}, "Unknown argument of flip 'pixel'. Valid arguments of flip: alternating."),
    ],
)
def test_unknown_names_in_a_recipe(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        Recipe.from_dict({"model": "cnn", "dataset": "digits", **data})
    assert str(error.value).startswith(message)


def test_specs_are_public() -> None:
    assert zoo.Recipe is Recipe
    assert {zoo.Shift, zoo.Affine, zoo.Elastic, zoo.Flip, zoo.Cutout} == set(AUGMENTATIONS.values())
