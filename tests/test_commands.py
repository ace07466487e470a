"""The subcommands, through `zoo.cli.main`: what they print, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli import main
from zoo.training import read_recipe


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(["train", "relu_mlp", "--dataset", "digits", "--set", "units=16", "--epochs", "1", "--augment", "shift", "--out", str(directory)]) == 0
    )
    return directory


def test_train_takes_flags_and_goes_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(trained)
    assert (recipe.hyperparameters, recipe.epochs, recipe.augmentation, recipe.validate) == ({"units": 16}, 1, (zoo.Shift(),), True)
    status, out, _ = run(capsys, "train", str(trained), "--json")
    assert status == 0
    assert json.loads(out)["results"].keys() == {"validation", "test"}


def test_evaluate_prints_a_table_or_json(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "evaluate", str(trained), "--split", "validation", "--json")
    assert (status, json.loads(out)["images"]) == (0, 144)
    status, out, _ = run(capsys, "evaluate", "cnn.digits")
    assert status == 0
    assert "of 360 images" in out
    assert "expected calibration error" in out


@pytest.mark.parametrize(
    ("name", "expected"), [("cnn_bn", "search: 4 .. 64 (log)"), ("cnn_bn.mnist", "over 3 seeds"), ("adam", "Kingma"), ("mnist", "60,000")]
)
def test_info_shows_every_kind_of_record(name: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", name)
    assert status == 0
    assert expected in out
    status, out, _ = run(capsys, "info", name, "--json")
    assert status == 0
    assert json.loads(out)["name"] == name


def test_info_of_weights_whose_card_knows_of_no_seeds(ship: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = zoo.evaluate(zoo.create_model("cnn.digits", pretrained=True), *zoo.load_dataset("digits", "test")[:2])
    shipped = ship("relu_mlp", units=8)
    shipped.rewrite_card(results={"test": result}, environment={"processor": "any", "cores": "2", "keras": "3", "backend": "tensorflow"}, seeds={})
    status, out, err = run(capsys, "info", shipped.name)
    assert (status, err) == (0, "")
    assert "of 360 test images" in out
    assert "seeds:" not in out


def test_export_writes_a_version(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "export", str(trained), "--to", str(tmp_path), "--name", "mine", "--json")
    assert status == 0
    (report,) = json.loads(out)
    assert (report["name"], report["version"]) == ("mine", 1)
    assert (tmp_path / "mine" / "1" / "saved_model.pb").is_file()


def test_tune_ranks_and_writes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("tune", "relu_mlp", "--dataset", "digits", "--optimizers", "sgd,adam", "--study", "optimizers", "--trials", "2", "--epochs", "1")
    status, out, err = run(capsys, *arguments, "--out", str(tmp_path / "search"))
    assert status == 0, err
    assert "best_recipe.json" in out.replace("\n", "")
    assert "Traceback" not in err
    status, out, _ = run(capsys, *arguments, "--out", str(tmp_path / "search"), "--json")
    assert status == 0
    data = json.loads(out)
    assert len(data["trials"]) == 2
    assert data["best"]["val_accuracy"] == max(trial["val_accuracy"] for trial in data["trials"])


def test_photographs_are_resized_to_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy
    import tensorflow as tf

    folder, directory = tmp_path / "photographs", tmp_path / "run"
    for label, gray in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for index in range(8):  # 8 of 60 x 90 pixels: without a size they would be trained on as they are
            image = numpy.full((60, 90, 3), (gray, gray + index, 90), "uint8")
            (folder / label / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    train = ("train", "relu_mlp", "--dataset", str(folder), "--image-size", "12", "--set", "units=8", "--epochs", "1", "--out", str(directory))
    status, _, err = run(capsys, *train)
    assert status == 0, err
    assert zoo.load_trained(directory)[1].input_shape == (12, 12, 3)
    status, out, err = run(capsys, "evaluate", str(directory), "--json")
    assert status == 0, err
    assert json.loads(out)["images"] == 4
    status, out, err = run(capsys, "inspect", str(directory), "--json")
    assert status == 0, err
    search = ("tune", "relu_mlp", "--dataset", str(folder), "--image-size", "12", "--optimizers", "sgd", "--trials", "1", "--epochs", "1")
    status, out, err = run(capsys, *search, "--no-report", "--out", str(tmp_path / "search"))
    assert status == 0, err
    assert read_recipe(tmp_path / "search" / "best_recipe.json").image_size == 12


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["info", "cnn_bm"], 2, "Unknown name 'cnn_bm'. Did you mean 'cnn_bn'"),
        (["info", "cnn.mnst"], 2, "Did you mean 'mnist'"),
        (["evaluate", "cnn_bn.minst"], 2, "Did you mean 'mnist'"),
        (["evaluate", "cnn.digits", "--split", "tests"], 2, "test"),
        (["evaluate", "cnn.digits", "--dataset", "no/such/folder"], 2, "no/such/folder"),
        (["evaluate", "."], 1, "no finished training run"),
        (["train", "cnn"], 2, "needs --dataset"),
        (["train", "cnn.mnist", "--dataset", "digits"], 2, "For another data set name the model: zoo train cnn --dataset digits"),
        (["train", "cnn", "--dataset", "digits", "--optimizer", "adm"], 2, "Did you mean 'adam'"),
        (["train", "cnn", "--dataset", "digits", "--set", "filter=3"], 2, "Did you mean 'filters'"),
        (["train", "cnn", "--dataset", "digits", "--set", "filters"], 2, "Expected NAME=VALUE"),
        (["train", "cnn", "--dataset", "digits", "--optimizer-set", "momentun=3", "--optimizer", "momentum"], 2, "Did you mean 'momentum'"),
        (["train", "cnn", "--dataset", "digits", "--epochs", "0"], 2, "Recipe.epochs must be"),
        (["train", "none.json"], 2, "none.json cannot be read"),
        (["tune", "cnn", "--dataset", "digits", "--budget", "soon"], 2, "A budget is a time"),
        (["tune", "cnn", "--dataset", "digits", "--optimizers", "sgd,adm"], 2, "Did you mean 'adam'"),
        (["tune", "cnn", "--dataset", "digits", "--trials", "0"], 2, "trials must be above 0"),
        (["export", "cnn.digit", "--to", "x"], 2, "Did you mean 'digits'"),
        (["export", "cnn.digits", "relu_mlp.digits", "--name", "x"], 2, "--name names one model"),
        (["serve"], 1, "no model repository saved_models here"),
        (["serve", "no/such/repository"], 1, "no model repository no/such/repository"),
        (["serve", "cnn.digits", "--model_base_path=x"], 2, "Name what to serve once"),
        (["nothing"], 2, "invalid choice"),
    ],
)
def test_every_mistake_is_one_clear_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert message in err
    lines = [line for line in err.splitlines() if line.startswith("zoo: ")]
    assert arguments == ["nothing"] or len(lines) == 1
    assert "Traceback" not in err


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.training import TrainingRun

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "fit", interrupt)
    status, _, err = run(capsys, "train", "relu_mlp", "--dataset", "digits", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert status == 130
    assert f"Go on with: zoo train {tmp_path / 'run'}" in err


def test_a_diverged_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--optimizer", "sgd", "--learning-rate", "1e30", "--epochs", "2", "--out", str(tmp_path / "run"))
    status, _, err = run(capsys, "train", "relu_mlp", "--dataset", "digits", *arguments)
    assert status == 1
    assert "the run diverged. Lower the learning rate (it is 1e+30)" in err


def test_a_corrupt_weight_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "card.json").write_bytes((trained / "card.json").read_bytes())
    data = bytearray((trained / "model.weights.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.weights.h5").write_bytes(data)
    status, _, err = run(capsys, "evaluate", str(copy))
    assert status == 1
    assert "damaged" in err
