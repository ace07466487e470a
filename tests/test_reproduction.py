"""Reproduction: the spread, the budget, and a recipe run again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import zoo
from zoo.cli import main
from zoo.commands.reproduce import seconds
from zoo.errors import UsageError
from zoo.reproduction import Reproduction, reproduce, spread


def test_the_spread_is_students_prediction_interval() -> None:
    low, high = spread([0.905, 0.91, 0.915], 10**9)
    assert (low + high) / 2 == pytest.approx(0.91)
    assert high - 0.91 == pytest.approx(4.3027 * 0.005 * math.sqrt(4 / 3), rel=1e-4)


def test_equal_seeds_and_single_seeds_have_the_noise_of_one_evaluation() -> None:
    noise = math.sqrt(0.9 * 0.1 / 1000)
    low, high = spread([0.9, 0.9, 0.9], 1000)
    assert high - low == pytest.approx(2 * 4.3027 * noise / 2 * math.sqrt(4 / 3), rel=1e-4)
    low, high = spread([0.9], 1000)
    assert high - low == pytest.approx(2 * 1.96 * noise * math.sqrt(2), rel=1e-4)
    low, high = spread([1.0, 1.0], 100)
    assert low < 1.0 == high


def test_a_recipe_run_again_in_two_sittings_lies_within_the_spread(tmp_path: Path) -> None:
    first = reproduce("relu_mlp.digits", budget=0.001, directory=tmp_path)
    assert first.accuracies == ()
    assert first.within is first.difference is None
    assert first.unfinished == (0, 0, 100)
    second = reproduce("relu_mlp.digits", budget=1.5, directory=tmp_path)
    if second.unfinished:
        assert 0 < second.unfinished[1] < 100
    last = reproduce("relu_mlp.digits", directory=tmp_path)
    assert last.unfinished is None
    assert last.within
    assert last.accuracies[0] == pytest.approx(1.0, abs=0.02)
    assert reproduce("relu_mlp.digits", directory=tmp_path) == last


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1.5m", 90.0), ("7", 7.0)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "-3m", "1d", "m"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="--budget must be a time above 0, such as 90s, 10m or 2h"):
        seconds(text)


def test_the_command_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = reproduce("relu_mlp.digits", seeds=2, budget=0.001, data_dir="my data")
    assert result.command == "zoo reproduce relu_mlp.digits --seeds 2 --budget 0.001s --data-dir 'my data'"
    assert reproduce("relu_mlp.digits", budget=0.001, directory=tmp_path / "elsewhere").command is None


def test_what_cannot_be_reproduced() -> None:
    with pytest.raises(UsageError, match=r"Only a shipped weight can be reproduced. Received: the model 'cnn'. Its weights: cnn.mnist"):
        zoo.reproduce("cnn")
    with pytest.raises(UsageError, match=r"seeds and budget must be above 0. Received: seeds=0"):
        zoo.reproduce("cnn.digits", seeds=0)


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        (Reproduction("a.b", (0.99,), 0.991, 0.98, 1.0, None), 0, "99.00 %, -0.10 points: within the spread"),
        (Reproduction("a.b", (0.95,), 0.991, 0.98, 1.0, None), 1, "95.00 %, -4.10 points: OUTSIDE the spread"),
        (
            Reproduction("a.b", (), 0.991, 0.98, 1.0, (0, 3, 9), "zoo reproduce a.b --seeds 1 --budget 60s"),
            0,
            "epoch 3 of 9 when the budget was used up; no verdict on it yet. To go on: zoo reproduce a.b --seeds 1 --budget 60s",
        ),
        (
            Reproduction("a.b", (0.95,), 0.991, 0.98, 1.0, (1, 3, 9), "zoo reproduce a.b --seeds 2"),
            1,
            "95.00 %, -4.10 points: OUTSIDE the spread seed 1 epoch 3 of 9 when the budget was used up",
        ),
    ],
)
def test_the_command(result: Reproduction, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("zoo.commands.reproduce.reproduce", lambda *_, **__: result)
    assert main(["reproduce", "a.b"]) == status
    assert text in " ".join(capsys.readouterr().out.split())
    assert main(["reproduce", "a.b", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["within"] == result.within
