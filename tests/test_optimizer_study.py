"""`zoo study optimizers`: equal budgets, and resumption without repeated work."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scripted_search import ScriptedEngine

import tuning.optimizer_study as study
from tuning import study_command
from tuning.optimizer_plan import Plan, read_plan
from tuning.optimizer_report import write_report
from tuning.optimizer_results import RULES, read_cell
from tuning.optimizer_study import Progress, run_study
from tuning.priors import read_priors
from tuning.segments import Segment
from tuning.settings import read_settings
from tuning.subjects import ZooSubject
from zoo.errors import StudyError, UnknownNameError, UsageError, ZooError
from zoo.lab import Interval

PLAN = Plan(("digits",), ("relu_mlp",), ("sgd", "adam"), trials=2, epochs=1, seeds=2)
TIMES = ("seconds",)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def without_times(path: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows_of(path)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A study that ran without an interruption, and what it told."""
    directory, told = tmp_path_factory.mktemp("study"), list[Progress]()
    run_study(PLAN, directory, watch=told.append)
    return directory, told


def command(*arguments: Any) -> int:
    parser = argparse.ArgumentParser()
    study_command.configure(parser)
    return study_command.run(parser.parse_args(["optimizers", *map(str, arguments)]))


# --- a study on digits ------------------------------------------------------------------------------------------------


def test_every_optimizer_has_the_same_budget_and_its_own_ranges(whole: tuple[Path, list[Progress]]) -> None:
    rows = rows_of(whole[0] / "study.csv")
    assert [row["optimizer"] for row in rows] == ["sgd", "adam"]
    assert {(row["trials"], row["trained_epochs"], row["seeds"]) for row in rows} == {("2", "2", "2")}
    for cell in PLAN.cells():
        settings = read_settings(cell.directory(whole[0]) / "search")
        assert (settings.sampler, settings.scheduler, settings.priors, settings.study) == ("qmc", "none", False, "optimizers")
        assert settings.optimizers == (cell.optimizer,)
        measured = read_cell(PLAN, whole[0], cell)
        assert measured is not None
        assert {name.partition(".")[0] for trial in measured.search.trials for name in trial.config} == {"optimizer", cell.optimizer}


def test_the_best_by_validation_is_trained_from_fresh_seeds(whole: tuple[Path, list[Progress]]) -> None:
    seeds = rows_of(whole[0] / "seeds.csv")
    assert [(row["optimizer"], row["seed"]) for row in seeds] == [("sgd", "1"), ("sgd", "2"), ("adam", "1"), ("adam", "2")]
    for row in rows_of(whole[0] / "study.csv"):
        trials = rows_of(whole[0] / "cells" / "digits" / "relu_mlp" / row["optimizer"] / "trials.csv")
        best = max(trials, key=lambda trial: float(trial["val_accuracy"]))
        assert json.loads(row["config"]) == json.loads(best["config"])
        test = [float(seed["test_accuracy"]) for seed in seeds if seed["optimizer"] == row["optimizer"]]
        expected = Interval.of(test)
        assert [float(row[f"test_{end}"]) for end in ("mean", "low", "high")] == pytest.approx([expected.mean, expected.low, expected.high], abs=1e-6)


def test_the_best_configurations_are_read_as_priors(whole: tuple[Path, list[Progress]]) -> None:
    priors = read_priors("relu_mlp", whole[0] / "portfolio.csv")
    assert [prior.optimizer for prior in priors] == ["sgd", "adam"]
    assert all(prior.dataset == "digits" and prior.epochs == 1 and 0 < prior.val_accuracy <= 1 for prior in priors)
    assert "zoo tune relu_mlp --dataset digits" in priors[0].command
    assert read_priors("cnn", whole[0] / "portfolio.csv") == []


def test_progress_counts_cells_and_knows_the_time_left_after_the_first(whole: tuple[Path, list[Progress]]) -> None:
    told = whole[1]
    assert [(now.number, now.cells) for now in told if now.ended] == [(1, 2), (2, 2)]
    assert math.isinf(told[0].left)
    second = [now.left for now in told if now.number == 2]
    assert second == sorted(second, reverse=True)
    assert second[0] > 0 == second[-1]
    assert study_command.place(told[-1]) == "cell 2 of 2, time left 0:00: relu_mlp on digits with adam"
    assert {"trial 1 of 2", "trial 2 of 2", "final training 2 of 2"} <= {now.doing for now in told}


def test_a_report_with_figures(whole: tuple[Path, list[Progress]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    monkeypatch.setattr(study, "search", never)
    assert command("--out", whole[0], "--resume") == 0
    assert f"report: {whole[0] / 'report.md'}" in capsys.readouterr().out
    text = (whole[0] / "report.md").read_text(encoding="utf-8")
    assert "## relu_mlp on digits" in text
    assert all(rule in text for rule in RULES.values())
    for name in ("accuracy", "learning-rate"):
        assert f"report/digits-relu_mlp-{name}.svg" in text
        ElementTree.parse(whole[0] / "report" / f"digits-relu_mlp-{name}.svg")


def test_json_for_programs(whole: tuple[Path, list[Progress]], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--out", whole[0], "--resume", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert Plan.from_dict(document["plan"]) == PLAN
    assert [cell["optimizer"] for cell in document["cells"]] == ["sgd", "adam"]


# --- interruptions ----------------------------------------------------------------------------------------------------


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this has been done already")


def interrupting(when: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    def watch(now: Progress) -> None:
        if when(now):
            raise KeyboardInterrupt

    return watch


def test_an_interrupted_study_goes_on_and_ends_as_one_that_was_not(
    whole: tuple[Path, list[Progress]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, trained = tmp_path / "study", list[int]()
    for when in (
        lambda now: now.doing == "trial 2 of 2",
        lambda now: now.doing == "final training 2 of 2",
        lambda now: now.number == 2 and now.doing == "final training 1 of 2",
    ):
        with pytest.raises(KeyboardInterrupt):
            run_study(PLAN, directory, watch=interrupting(when))
    finished = {path: path.stat().st_mtime_ns for path in directory.rglob("seed-*.json")}
    assert len(finished) == 2
    fit = study.TrainingRun.fit
    monkeypatch.setattr(study.TrainingRun, "fit", lambda run: trained.append(run.recipe.seed) or fit(run))
    monkeypatch.setattr(study, "search", never)
    run_study(PLAN, directory)
    assert trained == [1, 2]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for name in ("study.csv", "seeds.csv"):
        assert without_times(directory / name) == without_times(whole[0] / name)
    monkeypatch.setattr(study.TrainingRun, "fit", never)
    run_study(PLAN, directory)


def test_the_test_images_are_not_read_before_a_configuration_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: ScriptedEngine())
    monkeypatch.setattr(study, "load_test_data", never)
    with pytest.raises(AssertionError, match="done already"):
        run_study(dataclasses.replace(PLAN, optimizers=("sgd",)), tmp_path)
    assert len(rows_of(tmp_path / "cells" / "digits" / "relu_mlp" / "sgd" / "trials.csv")) == 2


def test_an_optimizer_that_always_diverges_has_a_row_without_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(ScriptedEngine):
        def run(self, *_: Any, **__: Any) -> Segment:
            return Segment("diverged", message="the loss became nan in epoch 1")

    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: Diverging())
    monkeypatch.setattr(study, "TrainingRun", never)
    (row,) = run_study(dataclasses.replace(PLAN, optimizers=("sgd",)), tmp_path)
    assert (row["diverged"], row["seeds"], row["val_mean"], row["decades"], row["config"]) == (1.0, 0, None, None, "")
    assert not (tmp_path / "portfolio.csv").exists()
    assert "no trial came to its end" in write_report(dataclasses.replace(PLAN, optimizers=("sgd",)), tmp_path).read_text(encoding="utf-8")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("--families", "relu_ml"), UnknownNameError, "Unknown family 'relu_ml'. Did you mean 'relu_mlp'"),
        (("--optimizers", "sgd,adm"), UnknownNameError, "Did you mean 'adam'"),
        (("--datasets", "digit"), UnknownNameError, "Did you mean 'digits'"),
        (("--datasets", ","), UsageError, "--datasets takes comma-separated names"),
        (("--seeds", 1), UsageError, "seeds must be 2 or more"),
        (("--trials", 0), UsageError, "trials must be 1 or more"),
        (("--resume",), UsageError, "holds no study to go on with"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[Any, ...], kind: type[ZooError], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message) as caught:
        command("--out", tmp_path, *arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_study_may_grow(whole: tuple[Path, list[Progress]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    searched, search = list[list[str]](), study.search
    monkeypatch.setattr(study, "search", lambda *arguments, **options: searched.append(options["optimizers"]) or search(*arguments, **options))
    assert command("--out", tmp_path, "--resume", "--optimizers", "adam,lion,sgd") == 0
    assert searched == [["lion"]], "the others are there already"
    assert [row["optimizer"] for row in rows_of(tmp_path / "study.csv")] == ["adam", "lion", "sgd"]
    assert read_plan(tmp_path) == dataclasses.replace(PLAN, optimizers=("adam", "lion", "sgd"))
    with pytest.raises(UsageError, match="epochs: 1 -> 2"):
        command("--out", tmp_path, "--resume", "--epochs", 2)


@pytest.mark.parametrize("name", ["seed-1.json", "trials.csv"])
def test_a_damaged_file_is_named(name: str, whole: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    damaged = PLAN.cells()[1].directory(tmp_path) / name
    damaged.write_text("number\n1\n")
    with pytest.raises(StudyError, match=rf"{name} cannot be read .* Remove it, and run the study again"):
        run_study(PLAN, tmp_path)
