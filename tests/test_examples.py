"""The examples run as they stand, and the task pages' messages are what a reader gets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy
import pytest
from page_blocks import ROOT, page_blocks

import zoo
from zoo.cli import main
from zoo.training import claim

EXAMPLES, TASKS = ROOT / "examples", ROOT / "docs" / "tasks"
MISTAKE = re.compile(r"^\| `+(?P<command>zoo [^`]+)`+ \| (?P<fence>`+)(?P<message>.+?)(?P=fence) \|.*\|$", re.MULTILINE)


def python(*arguments: str | Path, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "Agg", **environment}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=directory, env=variables, capture_output=True, text=True, timeout=900)


def draw(folder: Path, classes: int = 3, images: int = 12) -> Path:
    """A folder of images, one subfolder per class: bright bands, one row of the image for each class."""
    import tensorflow as tf

    random = numpy.random.default_rng(0)
    for label in range(classes):
        (folder / f"band{label}").mkdir(parents=True)
        for index in range(images):
            image = random.integers(0, 40, (40, 40, 1), "uint8")
            image[12 * label : 12 * label + 10] += 200
            (folder / f"band{label}" / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    return folder


def test_fine_tuning_on_a_folder(tmp_path: Path) -> None:
    draw(tmp_path / "bands")
    process = python(EXAMPLES / "fine_tune_folder.py", "bands", "--epochs", "2", "--batch-size", "8", directory=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "of the test images" in process.stdout
    assert "band1: " in process.stdout
    assert "exported to saved_models/bands/1" in process.stdout
    assert (tmp_path / "saved_models" / "bands" / "1" / "saved_model.pb").is_file()
    assert zoo.load_trained(tmp_path / "bands-run")[1].input_shape == (28, 28, 1)


def test_fine_tuning_on_a_folder_that_is_not_there(tmp_path: Path) -> None:
    process = python(EXAMPLES / "fine_tune_folder.py", "no/such", directory=tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("The folder 'no/such' does not exist")


# --- the third-party package ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed into a folder for PYTHONPATH; built from a copy, because setuptools leaves its own files behind."""
    directory = tmp_path_factory.mktemp("third-party")
    shutil.copytree(EXAMPLES / "third_party_models", directory / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    process = python(*pip, "--target", directory / "site", directory / "source", directory=directory)
    assert process.returncode == 0, process.stderr
    return directory / "site"


@pytest.fixture
def zoo_with_it(site: Path, commands: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs `zoo`, in an environment that has the package, and gives what it prints."""

    def run(*arguments: str) -> str:
        process = subprocess.run(
            [commands / "zoo", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=900
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def test_the_third_party_model_is_listed(zoo_with_it: Callable[..., str]) -> None:
    row = next(row for row in json.loads(zoo_with_it("list", "--json")) if row["model"] == "separable_cnn")
    assert row["pretrained"] == ["digits"]
    assert row["description"].startswith("Depthwise separable convolutions")
    assert "separable_cnn.digits" in zoo_with_it("list", "--pretrained")
    assert "search: 8 .. 64 (log)" in zoo_with_it("info", "separable_cnn")
    assert "98.61 % of 360 test images" in zoo_with_it("info", "separable_cnn.digits")


def test_its_weights_are_what_its_card_and_its_readme_say(zoo_with_it: Callable[..., str]) -> None:
    accuracy = json.loads(zoo_with_it("evaluate", "separable_cnn.digits", "--json"))["accuracy"]
    card = json.loads((EXAMPLES / "third_party_models" / "zoo_separable" / "separable_cnn.digits.json").read_text(encoding="utf-8"))
    assert accuracy == pytest.approx(card["results"]["test"]["accuracy"], abs=1 / 360 + 1e-9)
    assert "98.61 % of 360 images" in (EXAMPLES / "third_party_models" / "README.md").read_text(encoding="utf-8")


def test_it_is_searched(zoo_with_it: Callable[..., str]) -> None:
    search = ("tune", "separable_cnn", "--dataset", "digits", "--optimizers", "adam", "--trials", "1", "--epochs", "1", "--no-report")
    data = json.loads(zoo_with_it(*search, "--out", "search", "--json"))
    assert data["best"]["recipe"]["model"] == "separable_cnn"
    assert {"model.filters", "model.blocks", "model.dropout"} <= set(data["best"]["config"])


def test_a_run_is_shipped_by_its_script(zoo_with_it: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "zoo_separable").mkdir()
    (tmp_path / "ship.py").write_text((EXAMPLES / "third_party_models" / "ship.py").read_text(encoding="utf-8"))
    train = ("train", "separable_cnn", "--dataset", "digits", "--no-validate", "--epochs", "1", "--set", "filters=8", "--out", "run")
    zoo_with_it(*train)
    process = python("ship.py", "run", "separable_cnn.small", directory=tmp_path)
    assert process.returncode == 0, process.stderr
    card = json.loads((tmp_path / "zoo_separable" / "separable_cnn.small.json").read_text(encoding="utf-8"))
    weights = tmp_path / "zoo_separable" / "separable_cnn.small.weights.h5"
    assert card["name"] == "separable_cnn.small"
    assert card["file_bytes"] == weights.stat().st_size
    assert card["sha256"] == zoo.files.sha256(weights)


# --- the notebook -----------------------------------------------------------------------------------------------------

NOTEBOOK = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
RUN_CELLS = """
import json, sys
cells = [cell for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
namespace = {"__name__": "__main__"}
for number, cell in enumerate(cells, 1):
    exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
print(f"{len(cells)} cells ran")
"""


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    process = python("-c", RUN_CELLS, EXAMPLES / "tour.ipynb", directory=tmp_path)
    assert process.returncode == 0, process.stderr
    count = sum(cell["cell_type"] == "code" for cell in NOTEBOOK["cells"])
    assert f"{count} cells ran" in process.stdout
    assert "cross [" in process.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_fails_fails_the_notebook(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "source": ["x = 1\n", "y = 2"]}, {"cell_type": "code", "source": ["assert x == y"]}]
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": cells}))
    process = python("-c", RUN_CELLS, "bad.ipynb", directory=tmp_path)
    assert process.returncode == 1
    assert "cell 2" in process.stderr


def test_the_notebook_is_kept_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert not re.search(r"^\s*[%!]", "".join(cell["source"]), re.MULTILINE), "only plain Python runs in the test"
            compile("".join(cell["source"]), "cell", "exec")


def test_every_example_is_listed() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([^)]+)\)", text))
    assert all((EXAMPLES / path).is_file() for path in listed)
    assert {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")} == {path.partition("/")[0] for path in listed}


# --- what the pages say of mistakes -----------------------------------------------------------------------------------


def mistakes() -> list[Any]:
    return [
        pytest.param(path.stem, found["command"], found["message"], id=f"{path.stem}: {found['command']}")
        for path in sorted(TASKS.glob("*.md"))
        for found in MISTAKE.finditer(path.read_text(encoding="utf-8"))
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands who has followed the pages up to a mistake."""
    directory = tmp_path_factory.mktemp("desk")
    draw(directory / "shapes")
    draw(directory / "photos", classes=1)
    (directory / "photos" / "square").mkdir()
    (directory / "shapes" / "band0").rename(directory / "shapes" / "circle")
    (directory / "notes.txt").write_text("no image")
    (directory / "saved_models" / "cnn_bn.digits" / "1").mkdir(parents=True)
    recipe = zoo.Recipe("cnn_bn", "shapes", image_size=28, initial_weights="cnn_bn.mnist", epochs=3, batch_size=16, validate=True)
    claim(directory / "shapes-run", recipe)
    return directory


def test_the_pages_tell_of_mistakes() -> None:
    assert len({parameter.values[0] for parameter in mistakes()}) >= 7
    assert len(mistakes()) > 25


@pytest.mark.parametrize(("page", "command", "message"), mistakes())
def test_a_mistake_is_answered_as_its_page_says(
    page: str, command: str, message: str, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setenv("COLUMNS", "400")
    status: int | str | None = 0
    with contextlib.suppress(SystemExit):
        status = main(shlex.split(command)[1:])
    assert status != 0 or "invalid choice" in message
    printed = capsys.readouterr()
    assert message in printed.err + printed.out


REGISTRATIONS = re.compile(r"^\| `(?P<code>@zoo\.register_model\(.*?\))` \| `(?P<message>.+?)` \|", re.MULTILINE)


def test_registrations_are_refused_as_the_page_says(own_registry: dict[str, Any]) -> None:
    def residual_mlp(input_shape: Any = (8, 8, 1), num_classes: int = 10, *, units: int = 8) -> None: ...

    found = list(REGISTRATIONS.finditer((TASKS / "add-a-model.md").read_text(encoding="utf-8")))
    assert len(found) == 3
    for match in found:
        with pytest.raises(zoo.ZooError) as error:
            eval(match["code"].removeprefix("@"), {"zoo": zoo})(residual_mlp)
        assert match["message"] in str(error.value)


def test_the_pod_that_copies_the_repository_is_one() -> None:
    code = next(block.code for block in page_blocks(TASKS / "kubernetes.md") if "--overrides" in block.code)
    overrides = json.loads(re.search(r"--overrides='(.*?)'\n", code, re.DOTALL)[1])  # type: ignore[index]
    pod = {"kind": "Pod", "metadata": {"name": "copy"}, **overrides}
    kubernetes_validate.validate(pod, "1.33", strict=True)
    assert overrides["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models"
