"""Parameters of batching from a measurement: what is measured, what is left out, and what is written."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from serving_models import QUICK, half_plus, repository

from zoo.cli import main
from zoo.commands import serve as command
from zoo.errors import ServingError
from zoo.serving import autotune
from zoo.serving.autotune import batching_parameters, choose_batching, measure, measure_signature, median_milliseconds, write_own_parameters
from zoo.serving.batching import OWN_PARAMETERS, BatchingParameters, read_batching_parameters, read_own_parameters
from zoo.serving.repository import ModelSource, find_models
from zoo.serving.servable import Servable
from zoo.serving.status import invalid_argument

PER_MODEL = "--enable_per_model_batching_parameters"
CURVES = {"a on tf": {1: 2.0, 2: 2.5, 4: 4.0}, "long_name on litert+onnx": {1: 1.0, 2: 1.9, 4: 3.9}}


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "SECONDS_PER_SIZE", 0.0)
    monkeypatch.setattr(autotune, "RUNS_PER_SIZE", 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that can be measured, and one that cannot."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 3):
        half_plus(folder / "half" / str(version), version)
    half_plus(folder / "other" / "1", 1)
    shutil.copytree(repository() / "several", folder / "several")
    return folder


def servable_of(name: str) -> Servable:
    return Servable(repository() / name / "1")


@pytest.mark.parametrize("threads", [1, 3, os.cpu_count() or 1])
def test_the_file_is_read_back_and_means_what_was_chosen(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "batching.config"
    path.write_text(batching_parameters(CURVES, callers=threads, threads=threads))
    chosen = choose_batching(CURVES, threads)
    expected = BatchingParameters(chosen.max_batch_size, chosen.batch_timeout_micros, chosen.max_enqueued_batches, threads)
    assert read_batching_parameters(path) == expected
    assert re.search(r"^# long_name on litert\+onnx +1\.000 +1\.900 +3\.900$", path.read_text(), re.MULTILINE)
    assert ("one request at a time." if threads == 1 else f"{threads} batches at the same time.") in path.read_text()


def test_a_versions_own_file_does_not_say_the_threads(tmp_path: Path) -> None:
    path = write_own_parameters(autotune.Measurement("a", tmp_path, "tf", CURVES["a on tf"]), callers=3)
    assert path == tmp_path / OWN_PARAMETERS
    assert [file.name for file in tmp_path.iterdir()] == [OWN_PARAMETERS]
    assert "num_batch_threads" not in path.read_text()
    chosen = choose_batching({"a": CURVES["a on tf"]}, 3)
    assert read_own_parameters(tmp_path) == BatchingParameters(chosen.max_batch_size, chosen.batch_timeout_micros, chosen.max_enqueued_batches)
    with pytest.raises(ServingError, match="cannot be written: "):
        write_own_parameters(autotune.Measurement("a", path, "tf", CURVES["a on tf"]), callers=3)


def test_callers_run_at_the_same_time() -> None:
    together, seen = threading.Barrier(3, timeout=30), {threading.get_ident()}

    def run() -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            together.wait()

    assert median_milliseconds(run, callers=3) >= 0
    assert len(seen) == 4, "this thread warms up, and three are measured"


def test_a_failure_of_one_caller_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "RUNS_PER_SIZE", 1_000_000_000)
    numbers = itertools.count()

    def run() -> None:
        if next(numbers) == 20:
            raise invalid_argument("no more")

    with pytest.raises(Exception, match="no more"):
        median_milliseconds(run, callers=3)


class Engine:
    """A signature that notes the batches that it gets."""

    def __init__(self, like: Any, largest: int = 1000) -> None:
        self.inputs, self.largest, self.batches = like.inputs, largest, set[tuple[Any, ...]]()

    def run(self, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str] = ()) -> Mapping[str, numpy.ndarray]:
        (array,) = arrays.values()
        if len(array) > self.largest:
            raise invalid_argument("too many")
        self.batches.add((array.shape, array.dtype.name, threading.current_thread() is threading.main_thread()))
        return arrays


def test_every_size_goes_through_the_signature_on_every_thread() -> None:
    servable = servable_of("half_plus_two")
    engine = Engine(servable.signature())
    curve = measure_signature(engine, 2)  # type: ignore[arg-type]
    assert list(curve) == [1, 2, 4, 8, 16, 32, 64]
    assert all(milliseconds > 0 for milliseconds in curve.values())
    assert {((size,), "float32", False) for size in curve} <= engine.batches
    with pytest.raises(ServingError, match="a batch of 8 fails: INVALID_ARGUMENT: too many"):
        measure_signature(Engine(servable.signature(), largest=4), 2)  # type: ignore[arg-type]
    servable.close()


@pytest.mark.parametrize(
    ("model", "signature", "reason"),
    [
        ("several", "serving_default", "its input text takes strings."),
        ("several", "total", "its input x is of unknown shape."),
        ("several", "uneven", "its output b has not one row for each row that it is asked."),
        ("several", "product", "its input y is of unknown shape."),
        ("types", "serving_default", "it has no signature serving_default with inputs."),
        ("types", "int8", "its input x is of unknown shape."),
        ("defaults", "serving_default", "its input factor has no rows."),
    ],
)
def test_what_cannot_be_measured(model: str, signature: str, reason: str) -> None:
    servable = servable_of(model)
    found = {signature: None, **servable._signatures}[signature]
    with pytest.raises(ServingError) as failure:
        measure_signature(found, 1, (1, 2))
    assert str(failure.value).startswith(reason)
    servable.close()


def test_models_as_they_are_served(models: Path, tmp_path: Path) -> None:
    said: list[str] = []
    sources = [*find_models(models), ModelSource("broken", repository() / "broken"), ModelSource("missing", tmp_path)]
    found = measure(sources, QUICK, 2, said.append, sizes=(1, 4))
    assert [(one.model, one.version, one.engine, list(one.curve)) for one in found] == [
        ("half", models / "half" / "3", "tf", [1, 4]),
        ("other", models / "other" / "1", "tf", [1, 4]),
    ]
    text = "\n".join(said)
    assert "not served: No versions of servable missing found" in text
    assert re.search(r"^not served: .*broken/1 cannot be loaded", text, re.MULTILINE)
    assert "left out: several: its input text takes strings." in said
    assert "Median milliseconds per batch, 2 at the same time:" in said
    (head,) = (line for line in said if line.startswith("model "))
    (row,) = (line for line in said if line.startswith("half "))
    assert head.split() == ["model", "engine", "1", "4"]
    assert re.fullmatch(r"half +tf( +[0-9]+\.[0-9]{3}){2}", row)
    assert len(head) == len(row)


def test_no_model_can_be_measured(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"^No model can be measured\. left out: several: its input text takes strings\.$"):
        measure([ModelSource("several", repository() / "several")], QUICK, 1, lambda line: None)
    with pytest.raises(ServingError, match=r"^No model can be measured\. not served: No versions of servable missing found"):
        measure([ModelSource("missing", tmp_path)], QUICK, 1, lambda line: None)


def test_a_file_of_its_own_that_is_wrong_does_not_keep_a_version_from_being_measured(models: Path, capsys: Any) -> None:
    own = models / "half" / "3" / OWN_PARAMETERS
    own.write_text("nonsense")
    flags = ["--enable_batching", PER_MODEL]
    assert main(["serve", str(models), *flags, "--autotune"]) == 0
    printed = capsys.readouterr()
    paths = [own, models / "other" / "1" / OWN_PARAMETERS]
    assert printed.out.splitlines() == [f"written: {path}" for path in paths]
    assert "left out: several: its input text takes strings." in printed.err
    for path in paths:
        parameters = read_own_parameters(path.parent)
        assert parameters is not None
        assert parameters.max_batch_size in autotune.BATCH_SIZES
        path.unlink()
    assert not (models / "half" / "1" / OWN_PARAMETERS).exists(), "an old version is none that is served"


def test_the_threads_are_those_that_were_given(models: Path, tmp_path: Path, capsys: Any) -> None:
    common, file = tmp_path / "common.config", tmp_path / "found.config"
    common.write_text("num_batch_threads { value: 3 }")
    flags = ["--enable_batching", f"--batching_parameters_file={common}"]
    assert main(["serve", str(models), *flags, "--autotune", str(file)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"written: {file}\nuse:     --enable_batching --batching_parameters_file={file}\n"
    assert "3 at the same time:" in printed.err
    assert read_batching_parameters(file).num_batch_threads == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--autotune", "--engine=tensorflow_model_server"], 2, "--autotune measures this package's engines, and not"),
        (["--autotune", "--workers=2"], 2, "--autotune measures one process, and --workers are several."),
        (["--autotune", "."], 2, "--autotune FILE is a folder: .. WHAT stands before --autotune."),
        (["--autotune=file", PER_MODEL], 2, f"With {PER_MODEL} --autotune writes each"),
        (
            ["cnn.digits", "--autotune", PER_MODEL],
            2,
            "With --enable_per_model_batching_parameters --autotune writes into",
        ),
        (["--autotune", "--batching_parameters_file=x"], 2, "--batching_parameters_file is set without setting --enable_batching to true."),
        (["--autotune"], 1, "There is no model repository saved_models here."),
        (["--autotune", "--model_base_path=nowhere"], 1, "No model can be measured."),
    ],
)
def test_wrong_usage(arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *arguments]) == status
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"zoo: {message}")


def test_the_flag_is_not_passed_on() -> None:
    for given in (["--autotune"], ["--autotune", "file"], ["--autotune=file"]):
        assert command._without(["--a=1", *given, "--b=2"], command.OWN_FLAGS, ()) == ["--a=1", "--b=2"]


def test_the_modules_import_nothing_slow() -> None:
    code = "import sys, zoo.serving.autotune, zoo.deployment; print({'numpy', 'tensorflow', 'keras', 'uvicorn', 'grpc'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "set()\n"


def test_the_command_end_to_end(models: Path, tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "zoo.cli", "serve", str(models), "--engine=tf", "--autotune"]
    process = subprocess.run(command_line, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    file = tmp_path / "printed"
    file.write_text(process.stdout)
    assert read_batching_parameters(file).num_batch_threads == os.cpu_count()
    assert process.stdout.startswith("# Measured on ")
    assert re.search(r"^# half on tf( +[0-9]+\.[0-9]{3}){7}$", process.stdout, re.MULTILINE)
    assert re.search(r"^half +tf( +[0-9]+\.[0-9]{3}){7}$", process.stderr, re.MULTILINE)
    assert "left out: several: its input text takes strings." in process.stderr
