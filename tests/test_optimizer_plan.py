"""What a comparison of optimizers compares: its budget, and the directory that keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tuning.optimizer_plan import Plan, claim, read_plan
from zoo.errors import StudyError, UsageError

PLAN = Plan(("digits",), ("relu_mlp",), ("sgd", "adam"), trials=2, epochs=1, seeds=2)


def test_what_is_not_given_depends_on_the_size_of_the_data_set() -> None:
    plan = Plan()
    assert [(plan.recipe(name, "cnn").epochs, plan.recipe(name, "cnn").batch_size, len(plan.seeds_of(name))) for name in plan.datasets] == [
        (20, 32, 5),
        (10, 128, 3),
    ]
    assert PLAN.seeds_of("fashion_mnist") == (1, 2), "the searches have seed 0"


def test_cells_are_in_the_order_of_work() -> None:
    plan = dataclasses.replace(PLAN, families=("cnn", "relu_mlp"))
    assert [(cell.optimizer, cell.family) for cell in plan.cells()] == [("sgd", "cnn"), ("sgd", "relu_mlp"), ("adam", "cnn"), ("adam", "relu_mlp")]
    places = {cell.directory(Path("study")) for cell in plan.cells()}
    assert len(places) == 4


def test_a_directory_keeps_its_plan(tmp_path: Path) -> None:
    claim(tmp_path / "study", PLAN)
    assert read_plan(tmp_path / "study") == PLAN
    claim(tmp_path / "study", PLAN)


def test_a_directory_of_another_study_says_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, PLAN)
    with pytest.raises(UsageError, match=r"optimizers: sgd,adam -> sgd; trials: 2 -> 3\)\. Go on with it as it was by --resume"):
        claim(tmp_path, dataclasses.replace(PLAN, trials=3, optimizers=("sgd",)))
    assert read_plan(tmp_path) == PLAN
    claim(tmp_path, dataclasses.replace(PLAN, optimizers=("adam", "lion", "sgd")))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": 2}', '{"version": 1, "datasets": 3}'])
def test_a_plan_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StudyError, match=r"study\.json cannot be read as a study"):
        claim(tmp_path, PLAN)
    assert (tmp_path / "study.json").read_text() == content


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and holds no study"):
        claim(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
