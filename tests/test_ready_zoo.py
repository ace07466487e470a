"""The quick `zoo` of the pages' tests answers as the command does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the pages' tests use the command itself")
COMMAND = Path(sys.executable).parent / "zoo"


def run(command: Path, *arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run([command, *arguments], cwd=directory, env=variables, input="", capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "arguments", [("list", "--pretrained", "cnn_bn.*"), ("info", "none.such"), ("evaluate", "relu_mlp.digits", "--json"), ("evaluate",)]
)
def test_it_answers_as_the_command_does(commands: Path, arguments: tuple[str, ...], tmp_path: Path) -> None:
    found, expected = (run(place, *arguments, directory=tmp_path) for place in (commands / "zoo", COMMAND))
    assert (found.returncode, found.stderr) == (expected.returncode, expected.stderr)
    assert without_rates(found.stdout) == without_rates(expected.stdout)


def without_rates(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "per_second" not in line]


def test_it_runs_where_it_is_called(commands: Path, tmp_path: Path) -> None:
    done = run(commands / "zoo", "export", "relu_mlp.digits", "--to", "here", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "relu_mlp.digits" / "1" / "saved_model.pb").is_file()


def test_it_finds_what_is_on_the_path(commands: Path, tmp_path: Path) -> None:
    (tmp_path / "more-1.0.dist-info").mkdir()
    (tmp_path / "more-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (tmp_path / "more-1.0.dist-info" / "entry_points.txt").write_text("[neuron_zoo.models]\nmore = more\n")
    (tmp_path / "more.py").write_text("import zoo\n\n\n@zoo.register_model()\ndef more(input_shape=(8, 8, 1), num_classes=10):\n    'One more.'\n")
    assert "One more." in run(commands / "zoo", "list", directory=tmp_path, PYTHONPATH=str(tmp_path)).stdout
    assert "One more." not in run(commands / "zoo", "list", directory=tmp_path).stdout


def test_other_variables_for_tensorflow_get_the_command_itself(commands: Path, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "__init__.py").touch()
    (tmp_path / "zoo" / "cli.py").write_text("def main():\n    print('another zoo')\n    return 5\n")
    done = run(commands / "zoo", "list", directory=tmp_path, PYTHONPATH=str(tmp_path), TF_ENABLE_ONEDNN_OPTS="0")
    assert (done.returncode, done.stdout) == (5, "another zoo\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_caller(commands: Path, number: signal.Signals, tmp_path: Path) -> None:
    options = ["--rest_api_port=any", "--port=any"]
    caller = subprocess.Popen([commands / "zoo", "serve", "relu_mlp.digits", *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    with caller.stdout as printed:
        assert printed.readline(), "it prints when it serves"
        caller.send_signal(number)
        status = caller.wait(60)
        printed.read()  # ends when no process has the pipe any more
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
