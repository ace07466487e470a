"""`zoo predict` on a small trained model: pictures of digits, bad files among good ones, and what it prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy
import pytest
import tensorflow as tf

import zoo
from zoo.cards import Card
from zoo.commands import predict
from zoo.errors import UnknownNameError, UsageError, WeightsError
from zoo.factory import RUN_CARD, RUN_WEIGHTS
from zoo.files import sha256


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained on digits for seconds, as a finished run's directory."""
    import keras

    keras.utils.set_random_seed(0)
    training = zoo.load_dataset("digits", "train")
    hyperparameters = {"units": 128, "depth": 1}
    model = zoo.create_model("relu_mlp", input_shape=(8, 8, 1), num_classes=10, **hyperparameters)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(training.images, training.labels, epochs=30, batch_size=64, verbose=0)
    directory = tmp_path_factory.mktemp("run")
    model.save_weights(directory / RUN_WEIGHTS)
    card = Card(
        name="run",
        model="relu_mlp",
        hyperparameters=hyperparameters,
        input_shape=(8, 8, 1),
        num_classes=10,
        class_names=training.spec.class_names,
        dataset="digits",
        light_on_dark=True,
        recipe={},
        sha256=sha256(directory / RUN_WEIGHTS),
        parameters=model.count_params(),
    )
    card.write(directory / RUN_CARD)
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Test digits as pictures of ink on paper, in colour, larger than the model's images and off the middle, with their labels."""
    directory = tmp_path_factory.mktemp("pictures")
    test = zoo.load_dataset("digits", "test")
    pictures = []
    for index in range(30):
        stroke = tf.image.resize(test.images[index], (160, 160), "bicubic").numpy().clip(0, 255) / 255
        paper = numpy.full((300, 240, 3), (235.0, 230.0, 215.0))
        paper[100:260, 20:180] *= 1 - 0.8 * stroke
        path = directory / f"{index:02}.png"
        path.write_bytes(tf.io.encode_png(paper.astype("uint8")).numpy())
        pictures.append((path, test.spec.class_names[test.labels[index]]))
    return pictures


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    predict.configure(parser)
    return predict.run(parser.parse_args([str(word) for word in words]))


def test_pictures_of_digits_are_read_right(run_directory: Path, pictures: list[tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run_directory, *(path for path, _ in pictures), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(path) for path, _ in pictures]
    right = sum(row["label"] == label for row, (_, label) in zip(rows, pictures, strict=True))
    assert right >= 24, f"{right} of 30"


def test_an_image_of_the_models_own_size_gives_the_models_own_probabilities(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = zoo.load_dataset("digits", "test").images[:3]
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(tf.io.encode_png(image).numpy())
    model, card = zoo.load_trained(run_directory)
    expected = tf.nn.softmax(model(images)).numpy()
    assert run(run_directory, *paths, "--json", "--top", 99) == 0
    for row, probabilities in zip(json.loads(capsys.readouterr().out), expected, strict=True):
        assert len(row["top"]) == 10, "there are no more classes"
        given = {entry["label"]: entry["probability"] for entry in row["top"]}
        numpy.testing.assert_allclose([given[name] for name in card.class_names], probabilities, atol=1e-6)
        assert [entry["probability"] for entry in row["top"]] == sorted(given.values(), reverse=True)
        assert row["label"] == row["top"][0]["label"] == card.class_names[probabilities.argmax()]
        assert row["probability"] == row["top"][0]["probability"]


def test_the_table_has_the_top_classes(run_directory: Path, pictures: list[tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = pictures[0]
    assert run(run_directory, path, "--top", 3) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["file", "label", "probability"]
    assert len(lines) == 4
    assert lines[1].split()[0] == str(path)
    assert all(line.rstrip().endswith("%") for line in lines[1:])
    assert captured.err == ""


def test_bad_images_cost_a_line_each_and_the_good_are_answered(
    run_directory: Path, pictures: list[tuple[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes[1].png"
    text.write_text("no image")
    good = [path for path, _ in pictures[:2]]
    assert run(run_directory, text, good[0], tmp_path / "missing.png", good[1]) == 1
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[1:]] == [str(path) for path in good]
    errors = captured.err.splitlines()
    assert errors == [
        f"zoo: {text} is not an image that can be decoded. Expected a whole PNG, JPEG, BMP, GIF or WebP file.",
        f"zoo: The image {tmp_path / 'missing.png'} cannot be read: No such file or directory.",
    ]
    assert run(run_directory, text, good[0], "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [sorted(row) for row in rows] == [["error", "file"], ["file", "label", "probability", "top"]]


def test_only_bad_images(run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run_directory, tmp_path / "missing.png") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert run(run_directory, tmp_path / "missing.png", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["file"] == str(tmp_path / "missing.png")


def test_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--top must be a whole number above 0\. Received: 0\."):
        run("cnn_bn.mnist", "photo.png", "--top", "0")
    with pytest.raises(UnknownNameError, match="Did you mean 'cnn_bn'"):
        run("cnn_bm.mnist", "photo.png")
    with pytest.raises(WeightsError, match="holds no finished training run"):
        run(tmp_path, "photo.png")
