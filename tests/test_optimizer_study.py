"""`zoo study optimizers`: equal budgets, resumption without repeated work, and figures that follow from the measurements by their rules."""

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
from tuning.optimizer_report import envelope, write_report
from tuning.optimizer_study import (
    WITHIN,
    Cell,
    Final,
    Measured,
    Plan,
    Progress,
    best_trial,
    read_cell,
    read_plan,
    run_study,
    sensitivity,
    steps_to,
    target_of,
)
from tuning.priors import read_priors
from tuning.result import SearchResult, Trial, TrialTable
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
    assert all(rule in text for rule in study.RULES.values())
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


# --- the rules, on data on both sides ---------------------------------------------------------------------------------


def final(*curve: float, seed: int = 1, test: float = 0.9, diverged: bool = False) -> Final:
    return Final(seed, 0.0 if diverged else curve[-1], test, curve, 40, diverged, 1.0)


def trial(rate: float, accuracy: float | None, number: int = 0, state: str = "completed") -> Trial:
    return Trial(number, state, {"optimizer": "sgd", "sgd.learning_rate": rate}, None, accuracy, 1, 1.0)


def measured(optimizer: str, *finals: Final, trials: tuple[Trial, ...] = (trial(0.1, 0.9),)) -> Measured:
    result = SearchResult(TrialTable(trials), Path(), math.nan, ranges={f"{optimizer}.learning_rate": (1e-3, 1.0, True)})
    return Measured(Cell("digits", "cnn", optimizer), result, finals)


def test_steps_to_a_target_count_whole_epochs() -> None:
    run = final(0.5, 0.8, 0.9, 0.7)
    assert steps_to(run, 0.8) == 80
    assert steps_to(run, 0.8 + 1e-6) == 120
    assert math.isinf(steps_to(run, 0.9 + 1e-6))
    assert math.isinf(steps_to(dataclasses.replace(run, diverged=True), 0.8))


def test_the_target_is_a_share_of_the_best_optimizers_median() -> None:
    good = measured("sgd", final(0.9), final(0.8), final(0.2))
    bad = measured("adam", final(0.7), final(0.7), final(1.0))
    assert target_of([bad, good]) == pytest.approx(0.99 * 0.8)
    assert target_of([measured("sgd")]) is None


def test_steps_are_the_median_over_seeds_and_none_where_too_few_get_there() -> None:
    group = [
        measured("sgd", final(0.5, 0.9), final(0.9, 0.9), final(0.5, 0.9)),
        measured("adam", final(0.9, 0.8), final(0.5, 0.8), final(0.5, 0.8)),
    ]
    rows = study.summarize(group)
    assert [(row["steps_to_target"], row["seeds_at_target"]) for row in rows] == [(80, 3), (None, 1)]


def test_differences_are_to_the_best_by_validation_not_by_test() -> None:
    group = [
        measured("sgd", final(0.8, test=0.99), final(0.8, test=0.97)),
        measured("adam", final(0.9, test=0.95), final(0.9, test=0.93)),
    ]
    rows = study.summarize(group)
    assert rows[1]["difference_mean"] == 0
    assert rows[0]["difference_mean"] == pytest.approx(0.04)
    assert (rows[0]["difference_low"], rows[0]["difference_high"]) == pytest.approx((0.04, 0.04))


def test_sensitivity_is_the_width_of_the_rates_within_a_point_of_the_best() -> None:
    trials = [
        trial(1e-3, 0.9 - 2 * WITHIN),
        trial(1e-2, 0.9 - WITHIN),
        trial(0.1, 0.9),
        trial(1.0, 0.9 - WITHIN - 1e-6),
        trial(5.0, None, 4, "diverged"),
    ]
    assert sensitivity(trials) == (1e-2, 0.1)
    assert sensitivity(trials[2:]) == (0.1, 0.1)
    assert sensitivity(trials[4:]) is None
    row = study.summarize([measured("sgd", final(0.9), trials=tuple(trials))])[0]
    assert (row["decades"], row["decades_searched"], row["near_best"], row["diverged"]) == (1.0, 3.0, 0.4, 0.2)


def test_of_equal_trials_the_earlier_is_chosen_and_none_that_did_not_end() -> None:
    trials = (trial(0.1, 0.95, 0, "stopped"), trial(0.2, 0.9, 1), trial(0.3, 0.9, 2))
    best = best_trial(measured("sgd", trials=trials).search)
    assert best is not None
    assert best.number == 1


def test_a_final_training_that_diverged_counts_as_zero() -> None:
    row = study.summarize([measured("sgd", final(0.9), final(0.5, diverged=True, test=0.0))])[0]
    assert (row["val_mean"], row["test_mean"], row["diverged_seeds"]) == (0.45, 0.45, 1)


def test_the_curve_over_learning_rates_is_the_best_of_each_half_decade() -> None:
    assert envelope([trial(0.01, 0.8), trial(0.02, 0.7), trial(0.04, 0.9), trial(0.05, 0.6), trial(1.0, None, 4, "diverged")]) == [
        (0.01, 0.8),
        (0.04, 0.9),
    ]


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


def test_a_directory_of_another_study_says_what_differs(whole: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    shutil.copy(whole[0] / "study.json", tmp_path)
    with pytest.raises(UsageError, match=r"optimizers: sgd,adam -> sgd; trials: 2 -> 3\)\. Go on with it as it was by --resume"):
        run_study(dataclasses.replace(PLAN, trials=3, optimizers=("sgd",)), tmp_path)
    with pytest.raises(UsageError, match=r"epochs: 1 -> 2"):
        command("--out", tmp_path, "--resume", "--epochs", 2)
    assert read_plan(tmp_path) == PLAN
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StudyError, match="cannot be read as a study"):
        run_study(PLAN, tmp_path)


def test_a_study_may_grow(whole: tuple[Path, list[Progress]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    searched, search = list[list[str]](), study.search
    monkeypatch.setattr(study, "search", lambda *arguments, **options: searched.append(options["optimizers"]) or search(*arguments, **options))
    assert command("--out", tmp_path, "--resume", "--optimizers", "adam,lion,sgd") == 0
    assert searched == [["lion"]], "the others are there already"
    assert [row["optimizer"] for row in rows_of(tmp_path / "study.csv")] == ["adam", "lion", "sgd"]
    assert read_plan(tmp_path) == dataclasses.replace(PLAN, optimizers=("adam", "lion", "sgd"))
    with pytest.raises(UsageError, match="optimizers: adam,lion,sgd -> sgd,adam"):
        run_study(PLAN, tmp_path)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and holds no study"):
        run_study(PLAN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["seed-1.json", "trials.csv"])
def test_a_damaged_file_is_named(name: str, whole: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    damaged = PLAN.cells()[1].directory(tmp_path) / name
    damaged.write_text("number\n1\n")
    with pytest.raises(StudyError, match=rf"{name} cannot be read .* Remove it, and run the study again"):
        run_study(PLAN, tmp_path)
