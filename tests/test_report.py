"""The report of a search, and the answers it is made of."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from scripted_search import OPTIMIZERS, scripted

from tuning.dispatch import Compilation
from tuning.report import bootstrap_best, compiling, expected_best, write_report
from tuning.result import SearchResult, Trial, TrialTable
from zoo.cli import main
from zoo.errors import MissingExtraError, UnknownNameError, UsageError


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    with pytest.MonkeyPatch.context() as patch:
        return scripted(tmp_path_factory.mktemp("search"), patch.setattr, trials=40, study="joint")


def test_the_report_answers_and_shows(result: SearchResult) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    text = write_report(result).read_text()
    for section in ("The best configuration", "By optimizer", "Anytime", "Learning rate", "What mattered", "Configurations", "Budget", "The edges"):
        assert f"## {section}" in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+\.svg)\)", text)
    assert {Path(picture).stem for picture in pictures} >= {"optimizers", "anytime", "learning_rate", "importances", "parallel", "budget"}
    for picture in pictures:
        assert "<svg" in (result.directory / picture).read_text()[:1000]
    assert f"**{100 * (result.best.val_accuracy or 0):.2f} %**" in text
    for name in OPTIMIZERS:
        assert re.search(rf"^\| {name} \| \d+ \|", text, re.MULTILINE)
    first = (result.directory / pictures[0]).read_bytes()
    write_report(result)
    assert (result.directory / pictures[0]).read_bytes() == first


def test_a_report_without_matplotlib_says_what_to_install(result: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"neuron-zoo\[plot\]"):
        write_report(result)


def test_zoo_plot_draws_a_search(result: SearchResult, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    write_report(result)
    assert main(["plot", str(result.directory)]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {file.name for file in files} == {
        f"{name}.{kind}" for name in ("optimizers", "anytime", "learning_rate", "budget") for kind in ("svg", "png")
    }
    for name in ("optimizers", "learning_rate", "budget"):  # from the files it draws what the search itself had drawn
        assert (result.directory / "plots" / f"{name}.svg").read_bytes() == (result.directory / "report" / f"{name}.svg").read_bytes()


def test_zoo_plot_of_a_search_that_found_nothing(tmp_path: Path, result: SearchResult, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search.json").write_bytes((result.directory / "search.json").read_bytes())
    assert main(["plot", str(tmp_path)]) == 2
    assert "has not come to an end" in capsys.readouterr().err
    (tmp_path / "trials.csv").write_text(TrialTable().to_csv())
    assert main(["plot", str(tmp_path)]) == 2
    assert "nothing to draw" in capsys.readouterr().err


def test_what_grouping_saved_is_told_where_it_saved_anything() -> None:
    found = Compilation(2, 3, 6.0, 10, 30.0, workers=2, in_order=5, grouped=4.0)
    assert "in the order of the trials it would have been 5 compilations, about 4.0 s more." in compiling(found)
    for grouped in (0.0, -3.3):
        assert compiling(dataclasses.replace(found, grouped=grouped)).endswith("about 30.0 s saved.")


def test_importances_find_what_the_script_depends_on(result: SearchResult) -> None:
    shares = result.importances()
    assert sum(shares.values()) == pytest.approx(1)
    assert {"optimizer", "model.units"} <= set(shares)
    optimizer = max(OPTIMIZERS, key=lambda name: sum(trial.optimizer == name for trial in result.trials))
    own = result.importances(optimizer)
    assert next(iter(own)) == f"{optimizer}.learning_rate"


def test_importances_of_too_few_trials(result: SearchResult) -> None:
    few = SearchResult(TrialTable(result.trials[:3]), result.directory, 1.0, ranges=result.ranges)
    with pytest.raises(UsageError, match="at least 8 trials"):
        few.importances()
    with pytest.raises(UnknownNameError, match="Unknown optimizer of the search 'lion'"):
        result.importances("lion")


def test_the_table_is_csv_and_json(result: SearchResult, tmp_path: Path) -> None:
    data = json.loads(result.trials.to_json(tmp_path / "trials.json"))
    assert {"number", "state", "config", "epochs", "val_accuracy", "seconds"} <= data[0].keys()
    assert json.loads((tmp_path / "trials.json").read_text()) == data
    assert len(result.trials.to_csv(tmp_path / "trials.csv").splitlines()) == len(result.trials) + 1
    assert result.trials.rows()[0]["optimizer"] == result.trials[0].optimizer


def found(**config: Any) -> SearchResult:
    ranges: dict[str, tuple[float, float, bool]] = {
        "rate": (1e-3, 1.0, True),
        "dropout": (0.0, 0.5, False),
        "units": (32, 512, True),
        "depth": (1, 4, False),
    }
    return SearchResult(TrialTable([Trial(0, "completed", config, None, 0.9, 9, 1.0)]), Path(), 1.0, ranges=ranges, validation=1000)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rate": 0.03}, []),
        ({"rate": 0.9}, [("rate", 0.9, (1e-3, 10.0))]),
        ({"rate": 1.1e-3}, [("rate", 1.1e-3, (1e-4, 1.0))]),
        ({"dropout": 0.0}, []),  # there is nothing below
        ({"dropout": 0.49}, [("dropout", 0.49, (0.0, 0.75))]),
        ({"units": 512}, [("units", 512, (32, 1024))]),
        ({"units": 32}, [("units", 32, (16, 512))]),
        ({"depth": 1}, []),
        ({"depth": 4}, [("depth", 4, (1, 5))]),
    ],
)
def test_a_best_value_on_the_edge_gets_a_wider_range(config: dict[str, Any], expected: list[Any]) -> None:
    edges = found(**config).on_the_edge()
    assert [(name, value) for name, value, _ in edges] == [(name, value) for name, value, _ in expected]
    for (_, _, ends), (_, _, wider) in zip(edges, expected, strict=True):
        assert ends == pytest.approx(wider)


def test_intervals() -> None:
    low, high = found(rate=0.1).interval() or (0, 0)
    assert (low, high) == pytest.approx((0.8799, 0.9171), abs=1e-4)  # Wilson's, of 900 in 1000
    figures = numpy.random.default_rng(0).normal(0.8, 0.05, 30).tolist()
    low, high = bootstrap_best(figures)
    assert sorted(figures)[-8] < low < high == max(figures)


def test_the_expected_best_is_that_of_random_draws() -> None:
    figures = numpy.random.default_rng(0).normal(size=12)
    drawn = numpy.random.default_rng(1).choice(figures, (20_000, 3)).max(axis=1)
    assert expected_best(figures.tolist())[2] == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 20_000**0.5)


def test_with_a_schedule_whole_trials_come_first() -> None:
    trials = TrialTable(
        [Trial(0, "pruned", {}, None, 0.95, 3, 1.0), Trial(1, "completed", {}, None, 0.9, 9, 1.0), Trial(2, "failed", {}, None, None, 0, 1.0)]
    )
    assert [trial.number for trial in SearchResult(trials, Path(), 1.0).ranking] == [0, 1]
    assert [trial.number for trial in SearchResult(trials, Path(), 1.0, whole_only=True).ranking] == [1, 0]
