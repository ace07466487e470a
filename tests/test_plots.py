"""Pictures are written, whole, and the same drawing gives the same file."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy
import pytest

import zoo
from zoo.errors import MissingExtraError, UsageError
from zoo.figures import save_figure
from zoo.plots import draw_confusion, draw_curves, draw_image, draw_reliability


def are_pictures(files: list[Path], *names: str) -> None:
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    for file in files:
        assert file.read_bytes().startswith(b"<?xml" if file.suffix == ".svg" else b"\x89PNG")


def test_curves(tmp_path: Path) -> None:
    files = draw_curves({"loss": [1.0, 0.5], "accuracy": [0.5, 0.9], "val_loss": [1.0, 0.7], "val_accuracy": [0.5, 0.8]}, tmp_path / "curves")
    are_pictures(files, "curves")
    assert "validation" in files[0].read_text()
    with pytest.raises(UsageError, match="holds no epoch"):
        draw_curves({}, tmp_path / "none")


def test_confusion_and_reliability(tmp_path: Path) -> None:
    are_pictures(draw_confusion([[5, 1], [0, 6]], ["cat", "dog"], tmp_path / "confusion"), "confusion")
    assert "dog" in (tmp_path / "confusion.svg").read_text()
    logits = numpy.random.default_rng(0).normal(size=(50, 3))
    are_pictures(draw_reliability(logits, logits.argmax(axis=1), tmp_path / "reliability"), "reliability")


@pytest.mark.parametrize(
    ("name", "pictures"), [("cnn_bn.digits", ("saliency", "features", "filters")), ("sigmoid_mlp.digits", ("saliency", "features"))]
)
def test_an_image_s_way_through_a_model(name: str, pictures: tuple[str, ...], tmp_path: Path) -> None:
    digits = zoo.load_dataset("digits", "test")
    files = draw_image(zoo.create_model(name, pretrained=True), digits.images[0], digits.spec.class_names, tmp_path)
    are_pictures(files, *pictures)
    assert "hidden1" in (tmp_path / "features.svg").read_text()


def test_the_same_drawing_gives_the_same_svg(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_confusion([[5, 1], [0, 6]], ["cat", "dog"], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_drawing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(figure: Any) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        save_figure(broken, tmp_path / "broken")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'neuron-zoo\[plot\]'"):
        draw_confusion([[1]], ["a"], tmp_path / "x")
