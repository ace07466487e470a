"""Several devices learn what one learns, on virtual devices of the processor."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import zoo
from zoo.devices import data_parallel
from zoo.errors import UsageError
from zoo.specs import Recipe
from zoo.training import TrainingRun

# The larger number first: a processor can only be split before the first computation.
LOSSES = """
import json, sys
import zoo
from zoo.training import load_training_data, TrainingRun
recipe = zoo.Recipe("cnn", "digits", hyperparameters={"filters": 4, "units": 16}, epochs=4, batch_size=64, learning_rate=0.005, ema=0.9,
    teacher="cnn.digits", validate=True)
training, validation = load_training_data(recipe)
losses = {}
for devices in map(int, sys.argv[1:]):
    run = TrainingRun(recipe, training, validation, devices=devices)
    run.fit()
    losses[devices] = [row[name] for row in run.history for name in ("loss", "val_loss")]
print(json.dumps(losses))
"""


def run_python(code: str, *arguments: str, backend: str = "tensorflow") -> str:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("devices", [pytest.param(["2", "1"], id="two"), pytest.param(["4", "2", "1"], id="four", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_loss_curve_is_that_of_one_device(backend: str, devices: list[str]) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    losses = json.loads(run_python(LOSSES, *devices, backend=backend).splitlines()[-1])
    assert list(losses) == devices
    assert losses["1"][-2] < 0.8 * losses["1"][0]
    for several in devices[:-1]:
        assert losses[several] == pytest.approx(losses["1"], rel=1e-4)


def test_the_command_trains_on_two(tmp_path: Path) -> None:
    command = "import sys; from zoo.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = ("--dataset", "digits", "--set", "units=64", "--devices", "2", "--batch-size", "128", "--learning-rate", "0.01", "--epochs", "3")
    run_python(command, "train", "relu_mlp", *flags, "--out", str(tmp_path / "run"))
    _, card = zoo.load_trained(tmp_path / "run")
    assert card.results["validation"]["accuracy"] > 0.6
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 4


def test_what_cannot_be_spread() -> None:
    with pytest.raises(UsageError, match=r"devices must be a whole number above 0. Received: 0"):
        data_parallel(0)
    keras.ops.ones(1)  # the backend has started
    with pytest.raises(UsageError, match="999 devices are wanted, but there are"):
        data_parallel(999)


def test_a_batch_that_does_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.training.data_parallel", lambda devices: contextlib.nullcontext)
    with pytest.raises(UsageError, match="A batch of 63 images cannot be spread evenly over 2 devices"):
        TrainingRun(Recipe("relu_mlp", "digits", batch_size=63), zoo.load_dataset("digits", "train"), None, devices=2)
