"""`zoo lab`, `zoo inspect` and `zoo plot` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import zoo
from zoo.cli import main
from zoo.specs import Recipe

Capture = pytest.CaptureFixture[str]


def test_lab_writes_figures_and_a_page(tmp_path: Path, capsys: Capture) -> None:
    assert main(["lab", "pooling", "--seeds", "2", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry["claim"] for entry in result["claims"]] == ["pooling"]
    assert result["claims"][0]["verdict"] == "holds with conditions"
    assert "![pooling](pooling.svg)" in Path(result["page"]).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["relo"], "Unknown claim 'relo'. Did you mean 'relu'"), (["relu", "--seeds", "1"], "at least two seeds")]
)
def test_lab_with_wrong_arguments(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_inspect_prints_a_row_per_layer(capsys: Capture) -> None:
    assert main(["inspect", "cnn_bn.digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("block1_conv1") and "3 px" in line for line in lines)


def test_inspect_draws_an_image_s_way(tmp_path: Path, capsys: Capture) -> None:
    digits = zoo.load_dataset("digits", "test")
    Image.fromarray(digits.images[0].squeeze()).resize((64, 64)).save(tmp_path / "digit.png")
    assert main(["inspect", "cnn_bn.digits", str(tmp_path / "digit.png"), "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["pictures"]) == 6
    assert all(Path(picture).is_file() for picture in result["pictures"])
    assert result["layers"][0]["name"] == "preprocess_rescale"
    assert main(["inspect", "cnn_bn.digits", "--images", "0"]) == 2


def test_plot_of_a_run_and_of_a_shipped_weight(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    zoo.train(Recipe("relu_mlp", "digits", hyperparameters={"units": 8}, epochs=2, validate=True), run)
    assert main(["plot", str(run)]) == 0
    assert {path.name for path in (run / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("curves", "confusion", "reliability") for kind in ("svg", "png")
    }
    assert "validation" in (run / "plots" / "curves.svg").read_text()
    assert main(["plot", "relu_mlp.digits", "--out", str(tmp_path / "shipped")]) == 0
    assert (tmp_path / "shipped" / "curves.png").is_file()
