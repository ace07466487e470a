"""The command line: help, exit statuses, output for programs, closed pipes; and the console it prints with."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import zoo
from zoo import cli
from zoo.cli import main
from zoo.console import console, print_json
from zoo.errors import DatasetError, UsageError, ZooError

COMMANDS = cli._subcommands()
Capture = pytest.CaptureFixture[str]


def run(*arguments: str, stdout: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `zoo` in a process of its own, its output buffered as on a user's machine."""
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "zoo.cli", *arguments]
    return subprocess.run(command, text=True, timeout=60, stdout=stdout, stderr=subprocess.PIPE, env={**buffered, **environment})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Puts a function in the place of all subcommands, as `zoo try [--number N]`."""

    def install(function: Callable[[argparse.Namespace], int]) -> None:
        module = ModuleType("try")
        module.HELP, module.EXAMPLES, module.run = "try something", "  zoo try", function  # type: ignore[attr-defined]
        module.configure = lambda parser: parser.add_argument("--number", type=int, choices=(1, 2))  # type: ignore[attr-defined]
        monkeypatch.setattr(cli, "_subcommands", lambda: {"try": module})

    return install


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def function(arguments: argparse.Namespace) -> int:
        raise error

    return function


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command_in_the_order_of_use(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    listing = capsys.readouterr().out.partition("commands:")[2]
    words = [line.split()[0] for line in listing.splitlines() if line.startswith("    ") and not line.startswith("     ")]
    assert words == list(COMMANDS)
    expected = ["list", "info", "predict", "train", "evaluate", "reproduce", "verify", "tune", "export", "serve", "demo"]
    assert [word for word in words if word in expected] == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_s_help_says_what_it_does_and_gives_examples(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: zoo {name}" in text
    assert COMMANDS[name].HELP.split()[0] in text
    assert f"examples:\n  zoo {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name: str) -> None:
    parser = cli.build_parser()
    for line in COMMANDS[name].EXAMPLES.splitlines():
        program, command, *arguments = shlex.split(re.split(r"\s{2,}", line.strip())[0])
        assert program == "zoo"
        assert parser.parse_args([command, *arguments]).run is COMMANDS[command].run


def test_the_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"neuron-zoo {zoo.__version__}\n"


# --- exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["", "lst", "try --nubmer 1", "try --number 3", "try --number x", "try more"])
def test_wrong_usage_is_2(arguments: str, command: Any, capsys: Capture) -> None:
    command(lambda arguments: 0)
    with pytest.raises(SystemExit) as exit_:
        main(arguments.split())
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: zoo")
    assert "error: " in captured.err.splitlines()[-1]


def test_an_unknown_command_is_named_with_the_valid_ones(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["lst"])
    assert "invalid choice: 'lst' (choose from " in capsys.readouterr().err


@pytest.mark.parametrize("status", [0, 1, 2, True])
def test_a_command_s_status_is_the_exit_status(status: int, command: Any) -> None:
    command(lambda arguments: status)
    assert main(["try"]) == status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("Wrong."), 2, "zoo: Wrong."),
        (DatasetError("Missing."), 1, "zoo: Missing."),
        (ZooError("Failed."), 1, "zoo: Failed."),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 1, "zoo: a.png: No such file or directory."),
        (OSError(28, "No space left on device"), 1, "zoo: No space left on device."),
        (OSError("strange"), 1, "zoo: strange."),
        (KeyboardInterrupt(), 130, "zoo: Interrupted."),
        (KeyboardInterrupt("Go on with: zoo train runs/x"), 130, "zoo: Go on with: zoo train runs/x"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_on_stderr(error: BaseException, status: int, line: str, command: Any, capsys: Capture) -> None:
    command(raising(error))
    assert main(["try"]) == status
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize("message", ["Interrupted.", "Go on with: zoo train runs/x"])
def test_sigterm_ends_a_command_as_an_interruption(message: str, command: Any, capsys: Capture) -> None:
    def terminated(arguments: argparse.Namespace) -> int:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # which would end the tests
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(message) from None
        return 0

    command(terminated)
    assert main(["try"]) == 143
    assert capsys.readouterr().err == f"zoo: {message}\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("free", ["another thread", "serve", "a handler"])
def test_sigterm_is_left_alone(free: str, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[Any]()
    command(lambda arguments: found.append(signal.getsignal(signal.SIGTERM)) or 0)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN if free == "a handler" else signal.SIG_DFL)
    if free == "serve":
        monkeypatch.setattr(cli, "OWN_END", ("try",))
    try:
        if free == "another thread":
            thread = threading.Thread(target=main, args=(["try"],))
            thread.start()
            thread.join()
        else:
            main(["try"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIG_IGN if free == "a handler" else signal.SIG_DFL]


def test_a_bug_shows_its_traceback(command: Any) -> None:
    command(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["try"])


def test_arguments_reach_the_command(command: Any) -> None:
    seen = []
    command(lambda arguments: seen.append(arguments.number) or 0)
    assert main(["try", "--number", "2"]) == 0
    assert seen == [2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["info", "cnn_bm"], "zoo: Unknown name 'cnn_bm'. Did you mean 'cnn_bn'"),
        (
            ["info", "cnn_bn.minst"],
            "zoo: Unknown tag of cnn_bn 'minst'. Did you mean 'mnist'? Valid tags of cnn_bn: cifar10, digits, fashion_mnist, mnist.",
        ),
        (["train", "cnn_bm"], "zoo: Unknown model 'cnn_bm'. Did you mean 'cnn_bn'"),
    ],
    ids=str,
)
def test_a_wrong_name_is_2_before_anything_slow(arguments: list[str], line: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert (captured.out, captured.err.count("\n")) == ("", 1)


# --- pipes and full disks ---------------------------------------------------------------------------------------------

needs_pipes = pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")


@needs_pipes
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"], ["info", "cnn"]], ids=" ".join)
def test_a_closed_pipe_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = run(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert process.stderr == ""
    assert process.returncode in (0, 1)  # rich, where it notices the pipe first, exits with 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"]], ids=" ".join)
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        process = run(*arguments, stdout=full)
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("zoo: ")
    assert "No space left on device." in process.stderr


# --- zoo list ---------------------------------------------------------------------------------------------------------


def test_list_is_a_table_of_all_models(capsys: Capture) -> None:
    assert main(["list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "pretrained", "description"]
    assert [row.split()[0] for row in rows] == zoo.list_models()
    assert "mnist, fashion_mnist, cifar10, digits" in rows[0]


def test_list_json_is_one_document(capsys: Capture) -> None:
    assert main(["list", "--json", "cnn*"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == zoo.list_models("cnn*")
    assert rows[0] == {
        "model": "cnn",
        "pretrained": ["mnist", "fashion_mnist", "cifar10", "digits"],
        "description": zoo.model_info("cnn").description,
    }


def test_list_pretrained_gives_the_cards_figures(capsys: Capture) -> None:
    assert main(["list", "--pretrained", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == zoo.list_models(pretrained=True)
    for row in rows:
        assert row["dataset"] == row["name"].partition(".")[2]
        assert row["parameters"] > 0
        assert 0.5 < row["test_accuracy"] <= 1
    assert main(["list", "--pretrained", "cnn_bn.[dm]*"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "dataset", "parameters", "test", "accuracy"]
    assert [first.split()[0], second.split()[0]] == ["cnn_bn.digits", "cnn_bn.mnist"]
    assert first.endswith(" %")


def test_list_pretrained_without_a_result(ship: Any, capsys: Capture) -> None:
    ship("relu_mlp", units=8).rewrite_card(results={})
    assert main(["list", "--pretrained", "relu_mlp.toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["test_accuracy"] is None
    assert main(["list", "--pretrained", "relu_mlp.toy"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["relu_mlp.toy", "toy"]


@pytest.mark.parametrize("pattern", ["nothing", "[/x]", "[bold]*"])
def test_list_without_a_match(pattern: str, capsys: Capture) -> None:
    assert main(["list", pattern]) == 1
    assert capsys.readouterr() == ("", f"zoo: Nothing matches {pattern!r}.\n")
    assert main(["list", "--json", pattern]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_in_a_pipe_every_row_is_a_line_however_narrow_the_terminal() -> None:
    process = run("list", stdout=subprocess.PIPE, COLUMNS="20")
    assert process.returncode == 0
    assert [line.split()[0] for line in process.stdout.splitlines()] == ["model", *zoo.list_models()]
    assert zoo.model_info("cnn").description in process.stdout


# --- the console ------------------------------------------------------------------------------------------------------


def test_results_go_to_stdout_and_progress_to_stderr(capsys: Capture) -> None:
    console().print("result")
    console(stderr=True).print("progress")
    assert capsys.readouterr() == ("result\n", "progress\n")


def test_print_json_keeps_every_kind_of_value(capsys: Capture) -> None:
    data = {"a": [1, 2.5, None, True, "é\n"], "b": {}}
    print_json(data)
    text = capsys.readouterr().out
    assert json.loads(text) == data
    assert text.endswith("}\n")


def test_the_backend_loads_without_a_word() -> None:
    code = "from zoo.console import load_backend; load_backend(); import sys; assert {'keras', 'tensorflow'} <= set(sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_what_the_backend_says_is_shown_when_it_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'a note of native code'); raise ImportError('not for this processor')")
    (tmp_path / "keras.py").write_text("import tensorflow")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from zoo.console import load_backend; load_backend()"
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.startswith("a note of native code")
    assert process.stderr.endswith("ImportError: not for this processor\n")
