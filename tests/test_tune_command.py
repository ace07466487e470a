"""`zoo tune`: what it prints for people and for programs, how it goes on, and what it says of bad input."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import forking
from rich.console import Console
from scripted_search import ScriptedEngine

from tuning.command import parse_duration, parse_range
from tuning.display import Display, clock, configuration, counts, headline, line, remaining
from tuning.history import read_history
from tuning.result import TABLE
from tuning.storage import Record
from tuning.study import Status
from tuning.subjects import ZooSubject
from zoo.cli import main
from zoo.errors import UsageError
from zoo.training import read_recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `zoo tune` on the scripted engine; gives its status, and what it printed."""
    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: ScriptedEngine())
    capsys.readouterr()

    def run(*arguments: Any) -> tuple[int, str, str]:
        status = main(["tune", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


BASE = ("relu_mlp", "--dataset", "digits", "--study", "optimizers", "--optimizers", "sgd,momentum")


def test_json_for_programs(tune: Run, tmp_path: Path) -> None:
    status, output, lines = tune(*BASE, "--trials", 8, "--out", tmp_path, "--json", "--no-report")
    document = json.loads(output)
    assert status == 0
    assert {"best", "trials", "overhead"} <= document.keys()
    assert all({"number", "state", "config", "epochs", "val_accuracy", "seconds"} <= trial.keys() for trial in document["trials"])
    assert [trial["number"] for trial in document["trials"]] == list(range(8))
    assert document["best"]["val_accuracy"] == max(trial["val_accuracy"] or 0 for trial in document["trials"])
    assert 0 <= document["overhead"] <= 1
    assert lines.count("trial ") == sum(1 for text in lines.splitlines() if "best" in text and "eta" in text) >= 8


def test_a_table_a_report_and_a_recipe_for_people(tune: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    status, output, _ = tune(*BASE, "--trials", 9, "--out", tmp_path)
    assert status == 0
    assert "rank" in output
    assert f"report: {tmp_path / 'report.md'}" in output
    assert f"train it with: zoo train {tmp_path / 'best_recipe.json'}" in output
    assert read_recipe(tmp_path / "best_recipe.json").validate
    assert (tmp_path / "report" / "anytime.svg").is_file()


def test_a_search_is_resumed_by_its_folder_alone(tune: Run, tmp_path: Path) -> None:
    first = json.loads(tune(*BASE, "--trials", 4, "--out", tmp_path, "--json", "--no-report", "--seed", 3)[1])
    status, output, _ = tune("--resume", tmp_path, "--trials", 6, "--json", "--no-report")
    again = json.loads(output)
    assert status == 0
    assert [trial["config"] for trial in again["trials"][:4]] == [trial["config"] for trial in first["trials"]]
    assert len(again["trials"]) == 6
    assert again["trials"][5]["recipe"]["seed"] == 3


def searching(directory: Path) -> None:
    """What a process runs that is to be ended."""
    sys.exit(main(["tune", "relu_mlp", "--dataset", "digits", "--trials", "1000", "--out", str(directory)]))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals")
def test_a_search_that_gets_sigterm_writes_down_what_was_finished(tmp_path: Path) -> None:
    process = forking().Process(target=searching, args=(tmp_path,))
    process.start()
    while len(read_history(tmp_path)) < 3 and process.is_alive():
        process.join(0.02)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    epochs = [int(row["epochs"]) for row in csv.DictReader((tmp_path / TABLE).read_text().splitlines())]
    assert sum(epochs) >= 2  # the last one may have been interrupted as it was written down
    assert read_recipe(tmp_path / "best_recipe.json").dataset == "digits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu_mlp",), "needs a MODEL and --dataset, or --resume"),
        (("--resume", "nowhere", "--trials", 1), "nowhere holds no search to go on with"),
        (("relu_mlp", "--resume", "here", "--epochs", 3), "so MODEL, --epochs cannot be given"),
        (("relu_ml", "--dataset", "digits"), "Did you mean 'relu_mlp'"),
        (("relu_mlp", "--dataset", "digits", "--optimizers", "adm"), "Did you mean 'adam'"),
        (("relu_mlp", "--dataset", "digits", "--optimizers", ","), "comma-separated names"),
        (("relu_mlp", "--dataset", "digits", "--sampler", "tp"), "Did you mean 'tpe'"),
        (("relu_mlp", "--dataset", "digits", "--scheduler", "media"), "Did you mean 'median'"),
        (("relu_mlp", "--dataset", "digits", "--budget", "soon"), "such as 45s, 5m or 1h"),
        (("relu_mlp", "--dataset", "digits", "--range", "sgd.learning_rate"), "NAME=LOW..HIGH"),
        (("relu_mlp", "--dataset", "digits", "--trials", 1, "--storage", "mongodb://host"), "such as sqlite:///study.db"),
        (
            ("relu_mlp", "--dataset", "digits", "--trials", 1, "--storage", "mysql://user:secret@host/name"),
            "needs a driver that is not installed: pip install",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[Any, ...], message: str, tune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, error = tune(*arguments)
    assert status in (1, 2)
    assert message in error
    assert error.count("\n") == 1
    assert "secret" not in error
    assert output == ""


def test_a_changed_space_is_told_on_one_line(tune: Run, tmp_path: Path) -> None:
    tune(*BASE, "--trials", 2, "--out", tmp_path, "--no-report")
    status, _, error = tune(*BASE, "--trials", 4, "--out", tmp_path, "--no-report", "--range", "sgd.learning_rate=1e-4..10")
    assert status == 2
    assert "sgd.learning_rate: 0.001..5.0, log (optimizer = sgd) -> 0.0001..10.0" in error
    assert "--accept-changes" in error
    assert tune(*BASE, "--trials", 4, "--out", tmp_path, "--no-report", "--range", "sgd.learning_rate=1e-4..10", "--accept-changes")[0] == 0


def status(**changes: Any) -> Status:
    records = [
        Record(0, {"optimizer": "sgd", "sgd.learning_rate": 0.1}, 1, 3, "w", "tpe", curve={1: 0.5, 2: 0.6}, seconds=2.0),
        Record(1, {"optimizer": "adam", "adam.learning_rate": 0.00123}, 1, 1, "w", "tpe", curve={1: 0.8}, seconds=1.0),
        Record(2, {"optimizer": "adam"}, 1, 1, "w", "tpe", state="diverged", message="the loss became nan"),
    ]
    return Status(
        **{"records": records, "seconds": 30.0, "budget": 90.0, "total": 6, "step_seconds": 27.0, "current": records[0], "ended": None, **changes}
    )


def test_the_figures_of_a_running_search() -> None:
    assert headline(status()) == "0:30 of 1:30, eta 0:30  best 80.00 % (trial 1)  3 of 6 trials, 6.0 a minute  overhead 10 %"
    assert counts(status()) == "1 running, 1 paused, 1 diverged"
    assert remaining(status(total=None)) == 60
    assert remaining(status(budget=float("inf"), records=[])) != remaining(status(budget=float("inf"), records=[]))  # unknown: NaN
    assert "trial   2  epoch  0/9" in line(status(), status().records[2], 9)
    assert "(the loss became nan)" in line(status(), status().records[2], 9)
    assert configuration({"optimizer": "adam", "adam.learning_rate": 0.00123, "model.units": 64}) == "adam learning_rate=0.00123 units=64"
    assert [clock(seconds) for seconds in (5, 65, 3665, float("nan"))] == ["0:05", "1:05", "1:01:05", "?"]


def test_the_live_table_shows_the_best_and_what_runs() -> None:
    screen = Console(file=io.StringIO(), width=120, force_terminal=True)
    screen.print(Display("relu_mlp on digits", 9).table(status()))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for part in ("relu_mlp on digits", "overhead 10 %", "80.00 %", "running", "paused", "learning_rate=0.00123"):
        assert part in text


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), width=120, force_terminal=True)
    monkeypatch.setattr("tuning.display.console", lambda stderr: screen)
    with Display("relu_mlp on digits", 9) as display:
        display.watch(status())
    assert "80.00 %" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_durations_and_ranges() -> None:
    assert [parse_duration(text) for text in ("45s", "5m", "1h", "90", "1.5m")] == [45, 300, 3600, 90, 90]
    assert parse_range("adam.learning_rate=1e-5..0.1") == ("adam.learning_rate", (1e-5, 0.1))
    for text in ("", "0", "5d", "-3s", "soon"):
        with pytest.raises(UsageError, match="such as 45s"):
            parse_duration(text)
    for text in ("rate", "rate=1", "rate=a..b"):
        with pytest.raises(UsageError, match=r"NAME=LOW\.\.HIGH"):
            parse_range(text)
