"""The shipped configurations: each with its evidence, each in its family's space, and first in a search."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import pytest
from scripted_search import scripted

import zoo
from tuning.priors import Prior, complete, first_configurations, read_priors
from tuning.spaces import search_space

FAMILIES = ("sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_lies_in_the_space_and_has_its_evidence(family: str) -> None:
    rows = read_priors(family)
    assert {row.dataset for row in rows} >= {"digits"}
    space = search_space(family, study="optimizers")
    for row in rows:
        assert complete(space, row.config) is not None, row
        assert row.config["optimizer"] == row.optimizer
        assert 0.5 < row.val_accuracy <= 1
        assert row.epochs >= 1
        assert row.command.startswith(f"zoo tune {family} --dataset {row.dataset} ")
    assert len({(row.dataset, row.optimizer) for row in rows}) == len(rows)


def test_the_files_are_those_of_the_families() -> None:
    files = {Path(str(file)).stem: file for file in (resources.files("tuning") / "priors").iterdir()}
    assert set(files) == set(FAMILIES) <= {zoo.model_info(name).family for name in zoo.list_models()}
    for file in files.values():
        with file.open() as lines:
            assert next(csv.reader(lines)) == list(Prior.__dataclass_fields__)


def test_priors_come_first_then_defaults_and_every_optimizer_once() -> None:
    space = search_space("relu_mlp", study="joint")
    first = first_configurations(space, "relu_mlp", "digits")
    assert [entry["config"]["optimizer"] for entry in first][:1] == [read_priors("relu_mlp")[0].optimizer]
    assert {entry["config"]["optimizer"] for entry in first} == set(zoo.list_optimizers())
    assert len(first) == len(zoo.list_optimizers())
    sources = [entry["source"] for entry in first]
    assert sources == sorted(sources, reverse=True)  # prior before default
    assert all({"model.units", "model.depth"} <= entry["config"].keys() for entry in first)


def test_the_same_data_set_counts_before_others() -> None:
    space = search_space("relu_mlp", study="optimizers")
    rows = {(row.dataset, row.optimizer): row for row in read_priors("relu_mlp")}
    both = {optimizer for dataset, optimizer in rows if dataset == "digits"} & {
        optimizer for dataset, optimizer in rows if dataset == "fashion_mnist"
    }
    assert both
    for dataset in ("digits", "fashion_mnist"):
        chosen = {entry["config"]["optimizer"]: entry["config"] for entry in first_configurations(space, "relu_mlp", dataset)}
        assert all(chosen[optimizer] == dict(rows[dataset, optimizer].config) for optimizer in both)


def test_a_space_without_optimizers_begins_with_its_defaults() -> None:
    import keras_tuner

    space = keras_tuner.HyperParameters()
    space.Float("rate", 0.1, 1.0, default=0.5)
    assert first_configurations(space) == [{"source": "default", "config": {"rate": 0.5}}]


def test_a_search_begins_with_them_unless_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = scripted(tmp_path / "known", monkeypatch.setattr, trials=6)
    unknown = scripted(tmp_path / "unknown", monkeypatch.setattr, trials=6, priors=False)
    assert {trial.source for trial in known.trials[:4]} <= {"prior", "default"}
    assert [trial.source for trial in known.trials[4:]] == ["tpe", "tpe"]
    assert {trial.source for trial in unknown.trials} == {"tpe"}
    assert len({trial.optimizer for trial in known.trials[:4]}) == 4
