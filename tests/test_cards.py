"""Cards survive their file, and a damaged one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.cards import Card
from zoo.errors import WeightsError

CARD = Card(
    name="cnn.toy",
    model="cnn",
    hyperparameters={"filters": 4, "dropout": 0.1, "initializer": "he_normal"},
    input_shape=(8, 8, 1),
    num_classes=2,
    class_names=("été", "winter"),
    dataset="toy",
    light_on_dark=False,
    recipe={"model": "cnn", "dataset": "toy"},
    sha256="0" * 64,
    parameters=123,
    results={"test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}},
    seeds={"count": 1},
    seconds=1.5,
    environment={"keras": "3"},
)


def test_round_trip(tmp_path: Path) -> None:
    CARD.write(tmp_path / "card.json")
    assert Card.read(tmp_path / "card.json") == CARD


def test_the_file_is_json_that_others_can_read(tmp_path: Path) -> None:
    CARD.write(tmp_path / "card.json")
    data = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert data["input_shape"] == [8, 8, 1]
    assert data["class_names"] == ["été", "winter"]
    assert data["results"]["test"]["accuracy"] == 0.5


def test_a_card_can_be_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"The card .*card\.json cannot be read: No such file or directory\."):
        Card.read(tmp_path / "card.json")


def edited(**changes: Any) -> str:
    return json.dumps({**CARD.__dict__, **changes})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in CARD.__dict__.items() if key != name})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        edited()[:100],
        "[1, 2]",
        "null",
        without("sha256"),
        without("input_shape"),
        edited(input_shape=None),
        edited(class_names=3),
        edited(color=1),
    ],
    ids=["empty", "brace", "truncated", "list", "null", "no sha256", "no input_shape", "input_shape null", "class_names number", "unknown key"],
)
def test_a_damaged_card_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(WeightsError, match=r"^The card .*card\.json is damaged: .*\. Install the package again, or train the weights anew\.$"):
        Card.read(tmp_path / "card.json")


def test_a_binary_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match="is damaged"):
        Card.read(tmp_path / "card.json")
