"""The shipped configurations: each with its evidence, each in its family's space, and first in a search."""

from __future__ import annotations

import csv
import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_search import ScriptedEngine, scripted

import zoo
from tuning import priors
from tuning.priors import Prior, complete, first_configurations, read_priors
from tuning.segments import Segment
from tuning.spaces import search_space
from tuning.subjects import ZooSubject
from zoo.specs import Recipe

FAMILIES = ("sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_lies_in_the_space_and_has_its_evidence(family: str) -> None:
    rows = read_priors(family)
    assert "digits" in {row.dataset for row in rows}
    space = search_space(family, study="optimizers")
    for row in rows:
        assert complete(space, row.config) is not None, row
        assert row.config["optimizer"] == row.optimizer
        assert 0.5 < row.val_accuracy <= 1
        assert row.epochs * zoo.dataset_info(row.dataset).splits["train"] >= 9 * 1437  # images seen
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
    assert first[0]["config"]["optimizer"] == next(row.optimizer for row in read_priors("relu_mlp") if row.dataset == "digits")
    assert {entry["config"]["optimizer"] for entry in first} == set(zoo.list_optimizers())
    assert len(first) == len(zoo.list_optimizers())
    sources = [entry["source"] for entry in first]
    assert sources == sorted(sources, reverse=True)  # prior before default
    assert all({"model.units", "model.depth"} <= entry["config"].keys() for entry in first)


def test_the_rows_are_those_of_the_data_set_or_else_of_the_nearest_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Prior("adam", "fashion_mnist", 0.89, 9, 0, {"optimizer": "adam", "adam.learning_rate": 0.001}, ""),
        Prior("sgd", "fashion_mnist", 0.88, 9, 0, {"optimizer": "sgd", "sgd.learning_rate": 0.1}, ""),
        Prior("sgd", "digits", 0.97, 9, 0, {"optimizer": "sgd", "sgd.learning_rate": 0.5}, ""),
        Prior("adam", "cifar10", 0.97, 9, 0, {"optimizer": "adam", "adam.learning_rate": 100.0}, ""),
    ]
    monkeypatch.setattr(priors, "read_priors", lambda model: rows)
    space = search_space("relu_mlp", ["sgd", "adam"], study="optimizers")

    def first(dataset: str) -> list[tuple[str, float]]:
        found = first_configurations(space, "relu_mlp", dataset)
        return [(entry["source"], entry["config"][f"{entry['config']['optimizer']}.learning_rate"]) for entry in found]

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    assert first("fashion_mnist") == first("mnist") == [("prior", 0.001), ("prior", 0.1)]
    assert first("digits") == first(str(tmp_path)) == [("prior", 0.5), ("default", 0.001)]
    assert [source for source, _ in first("cifar10")] == ["default", "default"]  # its value is not in the space


def test_the_command_finds_and_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class WithoutAdam(ScriptedEngine):
        def run(self, recipe: Recipe, *arguments: Any) -> Segment:
            return Segment("diverged", message="the test says so") if recipe.optimizer == "adam" else super().run(recipe, *arguments)

    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: WithoutAdam())
    for trials in ("9", "3"):
        priors.main(["relu_mlp", "--dataset", "digits", "--trials", trials, "--optimizers", "sgd,rmsprop,adam", "--directory", str(tmp_path)])
    assert "adam: no trial came to its end" in capsys.readouterr().out
    rows = read_priors("relu_mlp", tmp_path / "relu_mlp.csv")
    assert {row.optimizer for row in rows} == {"sgd", "rmsprop"}
    assert [row.val_accuracy for row in rows] == sorted((row.val_accuracy for row in rows), reverse=True)
    assert rows[0].command.endswith("--trials 3 --epochs 9 --batch-size 128 --no-priors")
    priors.write_prior(tmp_path / "relu_mlp.csv", dataclasses.replace(rows[0], dataset="mnist"))
    assert [row.dataset for row in read_priors("relu_mlp", tmp_path / "relu_mlp.csv")] == ["digits", "digits", "mnist"]


def test_a_studys_portfolio_takes_the_place_of_earlier_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = Prior("adam", "digits", 0.9, 9, 0, {"optimizer": "adam", "adam.learning_rate": 0.001}, "zoo tune ...")
    for prior in (old, dataclasses.replace(old, optimizer="sgd"), dataclasses.replace(old, dataset="mnist")):
        priors.write_prior(tmp_path / "relu_mlp.csv", prior)
    found = [("relu_mlp", dataclasses.replace(old, val_accuracy=0.95)), ("cnn", old)]
    with (tmp_path / "portfolio.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["family", *Prior.__dataclass_fields__])
        writer.writeheader()
        writer.writerows({"family": family, **priors.prior_row(prior)} for family, prior in found)
    priors.main(["--study", str(tmp_path), "--directory", str(tmp_path)])
    assert capsys.readouterr().out == "relu_mlp: 1 rows\ncnn: 1 rows\n"
    rows = read_priors("relu_mlp", tmp_path / "relu_mlp.csv")
    assert [(row.dataset, row.optimizer, row.val_accuracy) for row in rows] == [
        ("digits", "adam", 0.95),
        ("digits", "sgd", 0.9),
        ("mnist", "adam", 0.9),
    ]
    assert read_priors("cnn", tmp_path / "cnn.csv") == [old]
    with pytest.raises(SystemExit, match="no finished part"):
        priors.main(["--study", str(tmp_path / "nothing")])


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
