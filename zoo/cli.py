"""The `zoo` command: finds its subcommands, runs one, and turns errors into one line and an exit status.

A subcommand is a module with `HELP` (one line), `EXAMPLES` (shown by `--help`), `configure(parser)` and
`run(arguments) -> int`. This package's stand in `zoo.commands`, one file each; other packages add theirs under the
entry-point group `neuron_zoo.commands`. None may import TensorFlow or Keras before it runs.

Exit status: 0 done; 1 failed; 2 wrong usage; 130 interrupted; 143 interrupted by SIGTERM, with which batch systems and containers
announce the end: a command writes down then what it does at Ctrl-C. `zoo serve` ends in its own way.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType

import zoo
from zoo import commands
from zoo.errors import ZooError

ENTRY_POINT_GROUP = "neuron_zoo.commands"
OWN_END = ("serve",)  # commands that handle SIGTERM themselves


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `zoo` with the given arguments (the process's where None) and returns the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # so that a closed pipe or a full disk shows here, and not when the interpreter ends
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has what it wanted, as in `zoo list | head`
            return 0
        return _fail(f"The output cannot be written: {error.strerror or error}.", 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        with contextlib.nullcontext() if arguments.command in OWN_END else _terminable():
            return int(arguments.run(arguments))
    except ZooError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "Interrupted.", 143 if isinstance(interrupt, _Terminated) else 130)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}.", 1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM has interrupted a command."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Has SIGTERM interrupt the block as Ctrl-C does, where it would end the process at once.

    Raises:
        _Terminated: It did.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    received = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        received.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        if received.is_set():
            raise _Terminated(*error.args) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser with every subcommand that is installed."""
    parser = argparse.ArgumentParser(prog="zoo", description="Keras models by name: pretrained, searched, exported, served.")
    parser.add_argument("--version", action="version", version=f"neuron-zoo {zoo.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, module in _subcommands().items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _subcommands() -> dict[str, ModuleType]:
    own = {module.name: importlib.import_module(f"zoo.commands.{module.name}") for module in pkgutil.iter_modules(commands.__path__)}
    others = {entry_point.name: _load(entry_point) for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    modules = {name: module for name, module in {**others, **own}.items() if not name.startswith("_")}
    order = ("list", "info", "predict", "train", "evaluate", "reproduce", "verify", "tune", "study", "export", "check", "serve", "demo")
    return dict(sorted(modules.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0])))


def _load(entry_point: importlib.metadata.EntryPoint) -> ModuleType:
    try:
        return entry_point.load()
    except Exception as error:
        raise ZooError(f"The command {entry_point.name!r} of {entry_point.value!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"zoo: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
