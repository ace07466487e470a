"""Training: the run directory, exact resume, divergence, early stopping, fine-tuning."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy
import pytest
from processes import forking

import zoo
from zoo import training
from zoo.errors import TrainingError, UsageError
from zoo.specs import Affine, Elastic, Flip, Recipe, Shift
from zoo.training import (
    CHECKPOINT,
    HISTORY,
    TrainingRun,
    build,
    compile_trainer,
    default_directory,
    load_training_data,
    precision,
    read_recipe,
    write_recipe,
)

SMALL = Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, epochs=2, learning_rate=0.005)
RESUMED = Recipe(
    "cnn_bn",
    "digits",
    hyperparameters={"filters": 4, "units": 8, "dropout": 0.2},
    epochs=8,
    batch_size=64,
    augmentation=(Affine(pixels=0.5), Elastic(0.2)),
    ema=0.9,
    label_smoothing=0.1,
    schedule="one_cycle",
)
# Everything else that has a state or depends on the epoch.
RESUMED_TOO = Recipe(
    "cnn_bn",
    "digits",
    hyperparameters={"filters": 4, "units": 8, "whitening": 2, "pooling": "first", "global_pooling": "max"},
    optimizer="muon",
    epochs=8,
    batch_size=64,
    augmentation=(Affine(pixels=0.5), Flip(alternating=True)),
    augmentation_tail=0.5,
    initialization=("whitening", "dirac"),
    teacher="cnn_bn.digits",
    lookahead=5,
    schedule="linear",
)


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return zoo.load_dataset("digits", "train_minus_validation")


@pytest.fixture(scope="module")
def validation() -> zoo.Dataset:
    return zoo.load_dataset("digits", "validation")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "finished"
    zoo.train(dataclasses.replace(SMALL, epochs=8, validate=True), directory, progress=False)
    return directory


def test_a_run_directory_holds_everything(finished: Path) -> None:
    assert {"recipe.json", "environment.json", CHECKPOINT, HISTORY, "model.weights.h5", "card.json", "tensorboard"} <= {
        path.name for path in finished.iterdir()
    }
    rows = (finished / HISTORY).read_text().splitlines()
    assert rows[0].split(",") == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"]
    assert len(rows) == 9
    assert read_recipe(finished).epochs == 8
    assert json.loads((finished / "environment.json").read_text())["backend"] == "tensorflow"
    model, card = zoo.load_trained(finished)
    assert card.results["test"]["images"] == 360
    test = zoo.load_dataset("digits", "test")
    assert zoo.evaluate(model, test.images, test.labels)["accuracy"] == card.results["test"]["accuracy"] > 0.7


def test_a_finished_run_is_not_run_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingRun, "fit", lambda *_: pytest.fail("it trained again"))
    assert zoo.train(read_recipe(finished), finished, progress=False).name == "finished"


def test_a_directory_belongs_to_one_recipe(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"another recipe \(epochs 8 -> 9\)"):
        zoo.train(dataclasses.replace(read_recipe(finished), epochs=9), finished)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(TrainingError, match="not empty and holds no training run"):
        zoo.train(SMALL, tmp_path)


@pytest.mark.parametrize("interrupted", [RESUMED, RESUMED_TOO])
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(interrupted: Recipe, tmp_path: Path) -> None:
    def start(directory: Path) -> Any:
        process = forking().Process(target=zoo.train, args=(interrupted, directory), kwargs={"progress": False})
        process.start()
        return process

    def finish(directory: Path) -> int:
        process = start(directory)
        process.join()
        return process.exitcode

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(whole) == 0
    for _ in range(3):
        epoch = epochs_done(killed)
        process = start(killed)
        while epochs_done(killed) <= epoch and process.is_alive():
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.15))
        process.kill()
        process.join()
    assert finish(killed) == 0
    assert epochs_done(killed) == interrupted.epochs
    first, second = arrays(whole / "model.weights.h5"), arrays(killed / "model.weights.h5")
    assert first.keys() == second.keys()
    assert all(numpy.array_equal(first[name], second[name]) for name in first)
    assert not list(killed.glob("**/.tmp-*.h5"))


def epochs_done(directory: Path) -> int:
    path = directory / HISTORY
    return len(path.read_text().splitlines()) - 1 if path.is_file() else 0


def arrays(path: Path) -> dict[str, numpy.ndarray]:
    found: dict[str, numpy.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    write_recipe(SMALL, tmp_path / "recipe.json")
    (tmp_path / CHECKPOINT).write_bytes(b"no zip file")
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be read .*--restart"):
        zoo.train(SMALL, tmp_path)


def test_divergence_stops_the_run(digits: zoo.Dataset) -> None:
    run = TrainingRun(dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e30, epochs=3), digits, None)
    with pytest.raises(TrainingError, match="diverged"):
        run.fit()


def test_early_stopping_keeps_the_best_epoch(digits: zoo.Dataset, validation: zoo.Dataset) -> None:
    recipe = dataclasses.replace(SMALL, validate=True, early_stopping=2, epochs=60, learning_rate=0.05)
    run = TrainingRun(recipe, digits, validation)
    run.fit()
    accuracies = [row["val_accuracy"] for row in run.history]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 3 < 60
    measured = zoo.evaluate(run.trained_model(), validation.images, validation.labels)["accuracy"]
    assert measured == pytest.approx(max(accuracies), abs=1e-5)


def test_the_average_replaces_the_weights(digits: zoo.Dataset) -> None:
    run = TrainingRun(dataclasses.replace(SMALL, ema=0.5), digits, None)
    run.fit()
    averages = [keras.ops.convert_to_numpy(value) for value in run.trainer.optimizer._model_variables_moving_average]
    kept = [keras.ops.convert_to_numpy(value) for value in run.trained_model().trainable_variables]
    assert all(numpy.array_equal(one, other) for one, other in zip(averages, kept, strict=True))


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(digits: zoo.Dataset) -> None:
    _, model, _ = compile_trainer(dataclasses.replace(SMALL, precision="mixed_bfloat16"), digits)
    assert model.get_layer("hidden1_dense").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(RuntimeError, match="inside"), precision("mixed_bfloat16"):
        raise RuntimeError("inside")
    assert keras.config.dtype_policy().name == "float32"


def test_a_model_without_a_tag_takes_the_data_sets_shape_and_statistics(digits: zoo.Dataset) -> None:
    model, hyperparameters = build(SMALL, digits)
    assert model.input_shape == (None, 8, 8, 1)
    assert hyperparameters["pixel_mean"] == pytest.approx(digits.images.mean(), abs=0.01)
    with pytest.raises(UsageError, match=r"cnn.mnist takes images of shape \(28, 28, 1\).*'cnn'"):
        build(Recipe("cnn.mnist", "digits"), digits)


def test_fine_tuning_starts_from_the_weights(digits: zoo.Dataset) -> None:
    model, _ = build(Recipe("relu_mlp", "digits", initial_weights="relu_mlp.digits"), digits)
    assert zoo.evaluate(model, digits.images, digits.labels)["accuracy"] > 0.95
    with pytest.raises(UsageError, match="must be a tag of it"):
        build(Recipe("sigmoid_mlp", "digits", initial_weights="relu_mlp.digits"), digits)


def test_a_recipe_runs_under_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    write_recipe(dataclasses.replace(RESUMED, epochs=2), tmp_path / "recipe.json")
    train = "import zoo; from zoo.training import read_recipe; zoo.train(read_recipe('recipe.json'), 'run', progress=False)"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles in half the time
    done = subprocess.run([sys.executable, "-c", train], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, card = zoo.load_trained(tmp_path / "run")
    assert card.environment["backend"] == "jax"
    test = zoo.load_dataset("digits", "test")
    assert zoo.evaluate(model, test.images, test.labels)["accuracy"] == pytest.approx(card.results["test"]["accuracy"], abs=0.006)


def test_recipes_from_files(tmp_path: Path) -> None:
    write_recipe(RESUMED, tmp_path / "one.json")
    assert read_recipe(tmp_path / "one.json") == RESUMED
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "two.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_recipe(tmp_path / "bad.json")
    assert default_directory(RESUMED).name.startswith("cnn_bn-digits-")


def test_the_augmentation_weakens_over_its_tail(digits: zoo.Dataset) -> None:
    run = TrainingRun(dataclasses.replace(SMALL, epochs=4, augmentation=(Affine(),), augmentation_tail=0.5), digits, None)
    layer = run.trainer.get_layer("augment")
    strengths: list[float] = []
    run.fit(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: strengths.append(float(layer.strength))))
    assert strengths == pytest.approx([1.0, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(("model", "optimizer"), [("relu_mlp", "adam"), ("cnn_bn", "momentum")])
def test_a_restarted_run_gives_what_a_new_one_gives(model: str, optimizer: str) -> None:
    hyperparameters = {"units": 8, "dropout": 0.2} | ({"filters": 4} if model == "cnn_bn" else {})
    first = Recipe(
        model,
        "digits",
        hyperparameters=hyperparameters,
        optimizer=optimizer,
        learning_rate=0.1,
        epochs=2,
        augmentation=(Shift(1),),
        schedule="constant",
    )
    training, validation = load_training_data(first)
    run = TrainingRun(first, training, validation)
    run.fit()
    other = dataclasses.replace(first, seed=1, learning_rate=0.01)
    run.restart(other)
    run.fit()
    new = TrainingRun(other, training, validation)
    new.fit()
    for row, expected in zip(run.history, new.history, strict=True):
        assert {**row, "seconds": 0} == {**expected, "seconds": 0}


def test_a_run_of_another_recipe_cannot_be_restarted() -> None:
    recipe = Recipe("relu_mlp", "digits", hyperparameters={"units": 8}, epochs=1, schedule="cosine", learning_rate=0.1)
    run = TrainingRun(recipe, load_training_data(recipe)[0], None)
    for other in (dataclasses.replace(recipe, learning_rate=0.2), dataclasses.replace(recipe, batch_size=64)):
        with pytest.raises(UsageError, match="another seed or another constant learning rate only"):
            run.restart(other)


def test_tensorboard_finds_scalars_hyperparameters_and_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata

    recipe = dataclasses.replace(SMALL, epochs=2, validate=True)
    zoo.train(recipe, tmp_path / "run", progress=False)
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run" / "tensorboard")).Reload()
    runs = events.Runs()
    assert {"epoch_loss", "epoch_accuracy"} <= set(events.Tensors("validation", "epoch_loss") and runs["validation"]["tensors"])
    assert any(tag.endswith("kernel/histogram") for tag in runs["train"]["tensors"])
    start = metadata.parse_session_start_info_plugin_data(events.SummaryMetadata(".", metadata.SESSION_START_INFO_TAG).plugin_data.content)
    assert start.hparams["model"].string_value == recipe.model
    assert start.hparams["hyperparameters.units"].number_value == recipe.hyperparameters["units"]


@pytest.mark.parametrize("images", [70, 9000])
def test_pixels_are_standardized_by_their_own_mean_and_deviation(images: int) -> None:
    pixels = numpy.random.default_rng(0).integers(0, 200, (images, 28, 28, 1)).astype("uint8")
    dataset = zoo.load_dataset("digits", "validation")._replace(images=pixels)
    expected = {"pixel_mean": round(float(pixels.mean()), 2), "pixel_std": round(float(pixels.std()), 2)}
    assert training._standardization({"pixel_mean": 0, "pixel_std": 1}, dataset) == expected
    assert training._standardization({"units": 1}, dataset) == {}
    assert training._standardization(expected, dataset._replace(images=pixels * 0)) == {"pixel_mean": 0.0, "pixel_std": 1.0}
