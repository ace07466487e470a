"""The benchmarks run and write what they say, on a few digits. What they measure is no test's business."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from page_blocks import DATA

import zoo
from zoo.pipeline import batches

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PREPARED = Path(os.environ.get("TFDS_DATA_DIR") or DATA)


def needs(dataset: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (PREPARED / dataset).is_dir(), reason=f"{dataset} is not prepared; set TFDS_DATA_DIR")


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "TFDS_DATA_DIR": str(PREPARED)}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_table_appends_rounds_and_says_what_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from table import Table

    for _ in range(2):
        table = Table(tmp_path / "new" / "table.csv", ["engine"], ["python", "commit", "no-such-package"], lambda row: f"{row['engine']}:")
        table.add(engine="own", value=1.23456, unit="s", ratio=2.0, wanted="<= 1 s", met="no")
        table.add(engine="peer", value=2.5, unit="s")
    with table.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["engine"], row["value"], row["met"]) for row in rows] == [("own", "1.2346", "no"), ("peer", "2.5", "")] * 2
    assert all(row["processor"] and row["python"] and not row["no-such-package"] for row in rows)
    assert capsys.readouterr().out.splitlines()[:2] == ["own: 1.235 s, 2.00x   wanted <= 1 s: NOT MET", "peer: 2.5 s"]


@pytest.mark.parametrize(
    "families", [pytest.param(["relu_mlp"], id="one"), pytest.param(["sigmoid_mlp", "relu_mlp", "cnn", "cnn_bn"], id="all", marks=pytest.mark.slow)]
)
def test_training(families: list[str], tmp_path: Path) -> None:
    out = tmp_path / "training.csv"
    chosen = ("--families", *families) if len(families) == 1 else ()
    printed = run("training.py", "--dataset", "digits", "--images", "256", *chosen, "--out", str(out))
    assert "no comparison with PyTorch" in printed
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{family}.digits" for family in families]
    for row in rows:
        assert float(row["tutorial_ratio"]) > 0
        assert 0 <= float(row["matrix_rate_share"]) < 1.5


def test_time_to_99(tmp_path: Path) -> None:
    out = tmp_path / "time.csv"
    printed = run("time_to_99.py", "--dataset", "digits", "--seeds", "2", "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert all(0 <= float(row["accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert printed.count("seed ") == 2
    assert "mean " in printed


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("identical", "--trials", "3"), ("thousand", "--trials", "5"), ("overhead", "--trials", "3")])
def test_search(arguments: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "search.csv"
    subjects = () if arguments[0] == "thousand" else ("--subjects", "digits_mlp")
    printed = run("search.py", *arguments, *subjects, "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["line"] for row in rows} == {arguments[0]}
    assert all(float(row["value"]) > 0 and row["commit"] for row in rows)
    assert printed.count("wanted") == 1


@pytest.mark.slow
@needs("mnist")
def test_search_priors(tmp_path: Path) -> None:
    out = tmp_path / "search.csv"
    run("search.py", "priors", "--seeds", "1", "--seconds", "15", "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows] == ["given nothing", "given defaults", "given priors"] * 4
    assert {row["subject"] for row in rows} == {"mnist_mlp"}


def test_the_order_of_deepobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from deepobs import windowed_order

    rows = windowed_order(0, 1000, 50)
    assert sorted(rows) == list(range(1000))
    assert max(rows - range(1000)) == 49  # at each place, one of the fifty that came first of those left
    assert list(rows) == list(windowed_order(0, 1000, 50)) != list(windowed_order(1, 1000, 50))
    assert sorted(windowed_order(0, 20, 50)) == list(range(20))


def test_the_same_order_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from deepobs import ORDERS

    few = zoo.load_dataset("digits", "train")
    few = few._replace(images=few.images[:20], labels=few.labels[:20])
    for name, alike in (("same", True), ("fresh", False)):
        run = ORDERS[name](zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 4}, batch_size=10), few, None)
        shown = []
        for run.epoch in range(2):
            shown.append(numpy.concatenate([images for images, _ in batches(run)]))
        assert numpy.array_equal(*shown) == alike, name


@pytest.mark.slow
@needs("fashion_mnist")
def test_deepobs(tmp_path: Path) -> None:
    out = tmp_path / "deepobs.csv"
    for epochs in (1, 2):  # the second call trains one more
        options = ("--optimizers", "sgd", "--seeds", "1", "--epochs", str(epochs), "--runs", str(tmp_path / "runs"), "--out", str(out))
        out.unlink(missing_ok=True)  # as if the first call had been killed before it wrote
        printed = run("deepobs.py", *options)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer"], row["seed"], row["epoch"]) for row in rows] == [("sgd", "0", "1"), ("sgd", "0", "2")]
    assert float(rows[1]["value"]) == pytest.approx(87.4, abs=2.5)  # DeepOBS's logs: 87.00 and 87.79
    assert "after 2 epochs" in printed


@pytest.mark.slow
def test_search_anytime(tmp_path: Path) -> None:
    out = tmp_path / "search.csv"
    options = ("--subjects", "digits_mlp", "--seeds", "1", "--seconds", "15", "--engines", "kt_random,optuna_tpe_hyperband,neuron-zoo", "--resume")
    printed = run("search.py", "anytime", *options, "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows[:3]] == ["kt_random", "optuna_tpe_hyperband", "neuron-zoo"]
    assert all(0 < float(row["value"]) <= 1 for row in rows[:3])
    assert printed.count("wanted") == 2
    assert run("search.py", "anytime", *options, "--out", str(out)) == "\n".join([*printed.splitlines()[3:], ""])  # all from the record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "units"),
    [
        ("calls", {"images/s"}),
        ("requests", {"requests/s, REST", "requests/s, gRPC"}),
        ("batches", {f"images/s{where}" for where in (", gRPC", ", REST, b64", " in a process (gRPC)", " in a process (REST, b64)")}),
        ("start", {"s to the first answer", "MB with one model", "MB for each model more"}),
    ],
)
def test_engines(line: str, units: set[str], tmp_path: Path) -> None:
    out = tmp_path / "engines.csv"
    options = ("--subjects", "mlp", "--engines", "tf_threads,onnx,auto", "--seconds", "0.05", "--rounds", "1", "--models", "2")
    printed = run("engines.py", line, *options, "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["unit"] for row in rows} == units
    assert {row["line"] for row in rows} == {line}
    served_by = {row["engine"]: row["served_by"] for row in rows}
    assert {**served_by, "auto": served_by["auto"].split("+")[0] in ("tf", "litert", "onnx")} == {"tf_threads": "tf", "onnx": "onnx", "auto": True}
    assert all(row["commit"] and (float(row["value"]) > 0 or row["unit"] == "MB for each model more") for row in rows)
    assert ("wanted" in printed) == any(row["wanted"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "engines"),
    [
        (("workers", "--subjects", "digits_mlp", "--trials", "4"), ["one", "both", "apart", "two"]),
        (("simulated", "--workers", "8", "--most", "8", "--seconds", "3", "--clock", "cpu"), ["tpe"]),
    ],
)
def test_search_scale(arguments: tuple[str, ...], engines: list[str], tmp_path: Path) -> None:
    out = tmp_path / "scale.csv"
    printed = run("search_scale.py", *arguments, "--out", str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows] == engines
    assert all(float(row["value"]) > 0 and row["commit"] for row in rows)
    assert printed.count("wanted") == 1
    if arguments[0] == "simulated":
        assert float(rows[0]["value"]) <= 100.0 + 1e-6
        assert "workers busy with trials of 3 s" in printed or "does not scale" in printed
