"""The errors: their kinds, exit statuses and messages."""

from __future__ import annotations

import inspect

import pytest

from zoo import errors
from zoo.errors import UnknownNameError, UsageError, ZooError, closest, unknown

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ZooError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_carries_its_message_and_an_exit_status(kind: type[ZooError]) -> None:
    assert str(kind("what happened")) == "what happened"
    assert kind.exit_status == (2 if kind in (UsageError, UnknownNameError) else 1)
    assert (kind.__doc__ or "").strip()


@pytest.mark.parametrize(("kind", "builtin"), [(UsageError, ValueError), (UnknownNameError, LookupError), (errors.MissingExtraError, ImportError)])
def test_errors_are_also_what_python_programmers_catch(kind: type[ZooError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_a_lookup_error_prints_its_message_without_quotes() -> None:
    assert str(unknown("model", "x", ["cnn"])).startswith("Unknown model 'x'")


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("cn", ["cnn", "cnn_bn"]),
        ("cnn_nb", ["cnn_bn", "cnn"]),
        ("mlp", ["relu_mlp"]),
        ("MLP", ["relu_mlp"]),
        ("zzz", []),
        ("", []),
    ],
)
def test_closest(received: str, expected: list[str]) -> None:
    assert closest(received, ["relu_mlp", "cnn", "cnn_bn"]) == expected


def test_closest_is_limited() -> None:
    assert len(closest("a1", [f"a{index}" for index in range(9)])) == 3
    assert len(closest("a1", [f"a{index}" for index in range(9)], limit=5)) == 5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (unknown("optimizer", "adm", ["sgd", "adam"]), "Unknown optimizer 'adm'. Did you mean 'adam'? Valid optimizers: adam, sgd."),
        (unknown("model", "zzz", ["cnn"]), "Unknown model 'zzz'. Valid models: cnn."),
        (unknown("model", "zzz", []), "Unknown model 'zzz'. There are no models."),
        (unknown("model", "cnn1", ["cnn2", "cnn3"]), "Unknown model 'cnn1'. Did you mean 'cnn3' or 'cnn2'? Valid models: cnn2, cnn3."),
        (unknown("optimizer family", "x", ["sgd"], plural="optimizer families"), "Unknown optimizer family 'x'. Valid optimizer families: sgd."),
        (unknown("optimizer", 5, ["sgd"]), "Unknown optimizer 5. Valid optimizers: sgd."),  # type: ignore[arg-type]
    ],
)
def test_unknown(error: UnknownNameError, message: str) -> None:
    assert str(error) == message
