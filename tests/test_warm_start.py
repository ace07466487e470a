"""Beginning with what another search found, and telling whether that helped."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted_search import OPTIMIZERS, scripted

import tuning
from tuning.report import warm_start_sections
from tuning.settings import read_claim
from tuning.study import resume
from tuning.warm_start import PER_OPTIMIZER, SOURCE, TAKEN, OtherStudy, begin_with, judge, read_study
from zoo.errors import UsageError

SPACE = tuning.search_space("relu_mlp", OPTIMIZERS, study="optimizers")


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search of thirty trials."""
    scripted(tmp_path / "other", monkeypatch.setattr, trials=30, seed=5)
    return tmp_path / "other"


def test_the_best_of_the_other_study_come_in_turn_with_what_would_come_without(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = scripted(tmp_path / "without", monkeypatch.setattr, trials=4)
    result = scripted(tmp_path / "new", monkeypatch.setattr, trials=16, from_study=other)
    sources = [trial.source for trial in result.trials[: 2 * TAKEN]]
    assert sources[::2] == [SOURCE] * TAKEN
    assert [trial.config for trial in result.trials[1 : 2 * TAKEN : 2]][:2] == [trial.config for trial in without.trials[:2]]
    assert set(sources[1::2]) == {"prior", "random"}
    known = {json.dumps(config, sort_keys=True) for config in read_study(other).configs}
    assert all(json.dumps(trial.config, sort_keys=True) in known for trial in result.trials[: 2 * TAKEN : 2])
    chosen = [trial.optimizer for trial in result.trials[: 2 * TAKEN : 2]]
    assert max(chosen.count(name) for name in chosen) == PER_OPTIMIZER or len(set(chosen)) < TAKEN / PER_OPTIMIZER


def test_the_report_has_the_evidence_and_a_resumption_needs_no_other_study(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path / "new", monkeypatch.setattr, trials=5, from_study=other)
    shutil.rmtree(other)
    result = resume(tmp_path / "new", trials=16)
    assert [trial.source for trial in result.trials].count(SOURCE) == TAKEN
    assert read_claim(tmp_path / "new")["settings"]["begun_with"] == "relu_mlp-digits in other"
    figures = {trial.number: trial.val_accuracy or math.nan for trial in result.trials}
    title, table, verdict = warm_start_sections(result, figures)
    assert title == "## Warm start"
    assert "| from relu_mlp-digits in other | 6 |" in table
    assert "two-sided p = " in verdict
    assert "(Spearman)" in verdict
    assert not warm_start_sections(scripted(tmp_path / "without", monkeypatch.setattr, trials=2), figures)


def test_a_search_that_stands_cannot_begin_with_another_study(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, first, began in (("cold", None, "without another study"), ("warm", other, "with relu_mlp-digits in other")):
        scripted(tmp_path / name, monkeypatch.setattr, trials=2, from_study=first)
        before = read_claim(tmp_path / name)
        shutil.copytree(other, tmp_path / f"not {name}")
        message = f"began {began}, so it cannot begin with relu_mlp-digits in not {name}. .*leave --from out"
        for accept in (False, True):
            with pytest.raises(UsageError, match=message) as raised:
                scripted(tmp_path / name, monkeypatch.setattr, trials=4, from_study=tmp_path / f"not {name}", accept_changes=accept)
            assert "--accept-changes" not in str(raised.value)
        assert read_claim(tmp_path / name) == before
    assert len(scripted(tmp_path / "warm", monkeypatch.setattr, trials=4, from_study=other).trials) == 4


def test_too_few_trials_are_no_evidence(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scripted(tmp_path / "new", monkeypatch.setattr, trials=2, from_study=other)
    assert "too few trials" in warm_start_sections(result, {0: 0.5, 1: 0.5})[1]


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [
        ([0.9, 0.91, 0.92, 0.93, 0.94, 0.95], [0.5, 0.6, 0.7, math.nan, 0.8, 0.85], "it helped"),
        ([0.5, 0.6, 0.7, math.nan, 0.8, 0.85], [0.9, 0.91, 0.92, 0.93, 0.94, 0.95], "it hurt"),
        ([0.9, 0.5, 0.92, 0.7, 0.94, 0.8], [0.6, 0.91, 0.7, 0.93, 0.8, 0.95], "cannot be told"),
    ],
)
def test_the_verdict_follows_from_ranks(own: list[float], others: list[float], verdict: str) -> None:
    figures = {**{2 * index: value for index, value in enumerate(own)}, **{2 * index + 1: value for index, value in enumerate(others)}}
    evidence = judge("other", {2 * index: 0.9 - index / 100 for index in range(6)}, figures)
    assert evidence is not None
    assert verdict in evidence.verdict
    assert -1 <= evidence.agreement <= 1
    assert judge("other", {0: 0.9, 2: 0.8}, {0: 0.5}) is None


def test_agreement_is_that_of_the_order() -> None:
    evidence = judge("other", {0: 0.9, 2: 0.8, 4: 0.7}, {0: 0.5, 2: 0.4, 4: 0.3, 1: 0.1, 3: 0.1})
    assert evidence is not None
    assert evidence.agreement == pytest.approx(1.0)
    equal = judge("other", {0: 0.9, 2: 0.8}, {0: 0.5, 2: 0.5, 1: 0.1, 3: 0.1})
    assert equal is not None
    assert math.isnan(equal.agreement)


def test_what_the_new_space_does_not_have_is_left_out() -> None:
    configs: list[dict[str, Any]] = [
        {"optimizer": "sgd", "sgd.learning_rate": 0.1},
        {"optimizer": "sgd", "sgd.learning_rate": 100.0},
        {"optimizer": "lion", "lion.learning_rate": 0.001},
        {"optimizer": "sgd", "sgd.learning_rate": 0.2, "model.units": 64},
    ]
    found = begin_with(OtherStudy("other", configs, [0.5, 0.9, 0.95, 0.6]), SPACE, [], 0)
    assert [entry["config"] for entry in found[::2]] == [
        {"optimizer": "sgd", "sgd.learning_rate": 0.2},
        {"optimizer": "sgd", "sgd.learning_rate": 0.1},
    ]
    with pytest.raises(UsageError, match="No configuration of other lies in this search's space"):
        begin_with(OtherStudy("other", [{"units": 3}], [0.5]), SPACE, [], 0)


def test_another_version_of_the_space_is_refused(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((other / "search.json").read_text())
    (other / "search.json").write_text(json.dumps({**document, "space_version": 0}))
    with pytest.raises(UsageError, match="version 0 of the search space"):
        scripted(tmp_path / "new", monkeypatch.setattr, trials=2, from_study=other)
    with pytest.raises(UsageError, match="holds no search"):
        scripted(tmp_path / "new", monkeypatch.setattr, trials=2, from_study=tmp_path / "nowhere")
