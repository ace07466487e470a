"""Names to builders, and what is refused."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import zoo
from zoo import registry
from zoo.errors import UnknownNameError, UsageError, ZooError
from zoo.registry import resolve
from zoo.specs import Int, ModelSpec, WeightsSpec

pytestmark = pytest.mark.usefixtures("own_registry")

FAMILIES = ("cnn", "cnn_bn", "relu_mlp", "sigmoid_mlp")


def linear(input_shape: tuple[int, int, int] = (2, 2, 1), num_classes: int = 2, *, units: int = 4, bias: bool = True) -> Any:
    """A line.

    More lines.
    """
    import keras

    image = keras.Input(input_shape, name="image")
    return keras.Model(image, keras.layers.Dense(num_classes, use_bias=bias, name="logits")(keras.layers.Flatten()(image)))


def message(kind: type[ZooError], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    return str(error.value)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_the_families_are_there_in_order() -> None:
    assert set(FAMILIES) <= set(zoo.list_models())
    assert zoo.list_models() == sorted(zoo.list_models())


@pytest.mark.parametrize("tag", ["mnist", "fashion_mnist", "cifar10", "digits"])
def test_every_family_is_pretrained(tag: str) -> None:
    assert {f"{family}.{tag}" for family in FAMILIES} <= set(zoo.list_models(f"*.{tag}", pretrained=True))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("cnn*", ["cnn", "cnn_bn", "cnn_bn_nano", "cnn_bn_tiny"]),
        ("*_mlp", ["relu_mlp", "sigmoid_mlp"]),
        ("cnn", ["cnn"]),
        ("CNN", []),
        ("cnn_b?", ["cnn_bn"]),
        ("[rs]*", ["relu_mlp", "sigmoid_mlp"]),
        ("cnn.mnist", []),
        ("nothing", []),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert zoo.list_models(pattern) == expected


def test_pretrained_true_lists_weights_and_false_what_has_none() -> None:
    zoo.register_model("bare")(linear)
    with_weights = {name.partition(".")[0] for name in zoo.list_models(pretrained=True)}
    without = set(zoo.list_models(pretrained=False))
    assert "bare" in without
    assert not with_weights & without
    assert with_weights | without == set(zoo.list_models())
    assert zoo.list_models("cnn_bn.*", pretrained=True) == ["cnn_bn.cifar10", "cnn_bn.digits", "cnn_bn.fashion_mnist", "cnn_bn.mnist"]
    assert zoo.list_models("b*", pretrained=False) == ["bare"]


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_is_described(name: str) -> None:
    spec = zoo.model_info(name)
    assert spec.name == name
    assert name == spec.family or name.startswith(f"{spec.family}_")
    assert spec.description.endswith(".")
    assert spec.references
    assert all(reference.count(",") >= 2 for reference in spec.references), "author, title, year"
    assert spec.domains


# --- looking up -------------------------------------------------------------------------------------------------------


def test_a_tag_is_resolved() -> None:
    spec, weights = resolve("cnn_bn.digits")
    assert spec is zoo.model_info("cnn_bn") is zoo.model_info("cnn_bn.digits")
    assert weights is not None
    assert (weights.tag, weights.dataset, weights.input_shape, weights.num_classes) == ("digits", "digits", (8, 8, 1), 10)
    assert resolve("cnn_bn") == (spec, None)


def test_the_default_tag_is_the_first() -> None:
    spec = zoo.model_info("cnn_bn")
    assert spec.weights() is spec.pretrained[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnm", "Unknown model 'cnm'. Did you mean 'cnn'? Valid models: cnn, cnn_bn, "),
        ("cnm.mnist", "Unknown model 'cnm'. Did you mean 'cnn'? Valid models: cnn, cnn_bn, "),
        ("relu", "Unknown model 'relu'. Did you mean 'relu_mlp'? Valid models: "),
        ("CNN_BN", "Unknown model 'CNN_BN'. Did you mean 'cnn_bn' or 'cnn_bn_nano' or 'cnn_bn_tiny'? Valid models: "),
        ("", "Unknown model ''. Valid models: "),
        ("./runs/v1.0", "Unknown model './runs/v1.0'. Valid models: "),
        ("cnn.minst", "Unknown tag of cnn 'minst'. Did you mean 'mnist'? Valid tags of cnn: cifar10, digits, fashion_mnist, mnist."),
        ("cnn.", "Unknown tag of cnn ''. Valid tags of cnn: cifar10, digits, fashion_mnist, mnist."),
        ("cnn.mnist.v2", "Unknown tag of cnn 'mnist.v2'. Did you mean 'mnist'? Valid tags of cnn: cifar10, digits, fashion_mnist, mnist."),
    ],
)
def test_unknown_names(name: str, expected: str) -> None:
    for look_up in (zoo.model_info, resolve, zoo.create_model, *([zoo.load_trained] if name else [])):
        assert message(UnknownNameError, lambda look_up=look_up: look_up(name)).startswith(expected)


@pytest.mark.parametrize("name", [None, 5, ["cnn"]])
def test_a_name_is_a_string(name: Any) -> None:
    assert message(UsageError, lambda: zoo.model_info(name)) == f"A model's name is a string such as 'cnn_bn.mnist'. Received: {name!r}."


def test_a_model_without_weights_says_so() -> None:
    zoo.register_model("bare")(linear)
    expected = "The model bare has no pretrained weights."
    assert message(UnknownNameError, lambda: zoo.create_model("bare", pretrained=True)) == expected
    assert message(UnknownNameError, lambda: zoo.load_trained("bare")) == expected
    assert message(UnknownNameError, lambda: zoo.model_info("bare.mnist")) == "Unknown tag of bare 'mnist'. There are no tags of bare."


# --- registering ------------------------------------------------------------------------------------------------------


def test_registering_returns_the_builder_unchanged() -> None:
    assert zoo.register_model(references=("A, B, 2000",), domains={"units": Int(2, 8)})(linear) is linear
    spec = zoo.model_info("linear")
    assert spec == ModelSpec("linear", "linear", linear, {"units": 4, "bias": True}, {"units": Int(2, 8)}, (), "A line.", ("A, B, 2000",))


def test_variants_have_the_family_s_builder_and_their_own_defaults() -> None:
    tag = WeightsSpec("toy", "toy", (2, 2, 1), 2)
    zoo.register_model(variants={"wide": {"units": 9}, "plain": {"bias": False}}, pretrained={"linear_wide": [tag]})(linear)
    assert zoo.list_models("linear*") == ["linear", "linear_plain", "linear_wide"]
    wide = zoo.model_info("linear_wide")
    assert (wide.family, wide.defaults, wide.pretrained) == ("linear", {"units": 9, "bias": True}, (tag,))
    assert zoo.model_info("linear").pretrained == ()
    assert len(zoo.create_model("linear_plain").weights) == 1, "the variant's values reach the builder"
    assert len(zoo.create_model("linear").weights) == 2


def test_a_taken_name_is_refused() -> None:
    before = zoo.list_models()
    expected = "A model named 'cnn_bn' is registered already, by zoo.models.cnn.cnn_bn. Choose another name."
    assert message(UsageError, lambda: zoo.register_model("cnn_bn")(linear)) == expected
    assert zoo.list_models() == before


def test_a_taken_variant_is_refused_and_nothing_of_the_family_stays() -> None:
    zoo.unregister_model("cnn")
    expected = "A model named 'cnn_bn' is registered already, by zoo.models.cnn.cnn_bn. Choose another name."
    assert message(UsageError, lambda: zoo.register_model("cnn", variants={"bn": {}})(linear)) == expected
    assert "cnn" not in zoo.list_models()


def test_a_name_can_be_freed() -> None:
    zoo.register_model("twice")(linear)
    zoo.unregister_model("twice")
    zoo.register_model("twice")(linear)
    assert zoo.list_models("twice") == ["twice"]
    assert message(UnknownNameError, lambda: zoo.unregister_model("twcie")).startswith("Unknown model 'twcie'. Did you mean 'twice'?")


def test_a_taken_name_is_refused_at_once_even_before_the_first_look_up() -> None:
    code = """
import zoo
try:
    @zoo.register_model()
    def cnn(input_shape=(1, 1, 1), num_classes=2): ...
except ZooError as error:
    print(error)
print(zoo.list_models("cnn"))
"""
    process = subprocess.run([sys.executable, "-c", f"from zoo.errors import ZooError{code}"], capture_output=True, text=True, timeout=60)
    assert process.stdout == "A model named 'cnn' is registered already, by zoo.models.cnn.cnn. Choose another name.\n['cnn']\n", process.stderr


def no_default(input_shape: Any, num_classes: Any, *, units: int) -> Any: ...


def no_shape(num_classes: int = 2) -> Any: ...


def no_arguments() -> Any: ...


@pytest.mark.parametrize(
    ("arguments", "builder", "kind", "expected"),
    [
        ({"name": "a.b"}, linear, UsageError, "A model's name has no dot: the dot separates the tag. Received: 'a.b'."),
        ({"variants": {"a.b": {}}}, linear, UsageError, "A model's name has no dot: the dot separates the tag. Received: 'linear_a.b'."),
        (
            {"domains": {"unit": Int(1, 2)}},
            linear,
            UnknownNameError,
            "Unknown hyperparameter of linear 'unit'. Did you mean 'units'? Valid hyperparameters of linear: bias, units.",
        ),
        ({"variants": {"x": {"width": 2}}}, linear, UnknownNameError, "Unknown hyperparameter of linear 'width'. Valid"),
        (
            {"pretrained": [WeightsSpec("t", "t", (1, 1, 1), 2, {"width": 2})]},
            linear,
            UnknownNameError,
            "Unknown hyperparameter of linear 'width'. Valid",
        ),
        ({"pretrained": {"linear_x": []}}, linear, UnknownNameError, "Unknown variant of linear in pretrained 'linear_x'. Did you mean 'linear'?"),
        ({"pretrained": [WeightsSpec("t", "t", (1, 1, 1), 2)] * 2}, linear, UsageError, "The tags of linear repeat: t, t."),
        ({}, no_default, UsageError, "Every hyperparameter of a model builder has a default. no_default's 'units' has none."),
        ({}, no_shape, UsageError, "A model builder takes input_shape and num_classes. no_shape takes: num_classes."),
        ({}, no_arguments, UsageError, "A model builder takes input_shape and num_classes. no_arguments takes: nothing."),
    ],
)
def test_what_cannot_be_registered(arguments: dict[str, Any], builder: Any, kind: type[ZooError], expected: str) -> None:
    before = zoo.list_models()
    assert message(kind, lambda: zoo.register_model(**arguments)(builder)).startswith(expected)
    assert zoo.list_models() == before


def test_the_forgotten_parentheses_are_noticed() -> None:
    assert message(UsageError, lambda: zoo.register_model(linear)).startswith(  # type: ignore[arg-type]
        "register_model takes the model's name, or nothing: write @register_model(). Received: <function linear"
    )


@pytest.mark.parametrize("cause", [UsageError("No."), ModuleNotFoundError("No module named 'x'")], ids=["of the zoo", "of Python"])
def test_another_package_s_models_that_cannot_be_registered_are_named(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    class Broken:
        name, value = "birds", "birds.models"

        def load(self) -> None:
            raise cause

    registry._load_all.cache_clear()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Broken()] if group == "neuron_zoo.models" else [])
    try:
        kind = UsageError if isinstance(cause, UsageError) else ZooError
        assert message(kind, zoo.list_models) == f"The models of 'birds.models' (entry point 'birds') could not be registered: {cause}"
    finally:
        monkeypatch.undo()
        registry._load_all.cache_clear()
        zoo.list_models()
