"""`import zoo`, and the command line until a command runs, load nothing slow."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
import zoo.commands

BACKENDS = {"tensorflow", "keras", "jax", "torch"}
SLOW = BACKENDS | {"numpy", "scipy", "sklearn", "rich", "optuna", "keras_tuner", "tensorflow_datasets", "matplotlib", "uvicorn", "grpc"}


def modules_after(code: str) -> set[str]:
    """Returns the top-level modules that a fresh interpreter holds after `code`."""
    report = "\nimport sys\nprint('\\nMODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    process = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.rpartition("MODULES")[2].split())


def test_import_and_list_models_load_nothing_slow() -> None:
    assert not modules_after("import zoo; assert 'cnn_bn' in zoo.list_models()") & SLOW


def test_zoo_list_loads_no_backend() -> None:
    loaded = modules_after("from zoo.cli import main; assert main(['list']) == 0")
    assert "rich" in loaded, "the listing is a table, so the report above saw the command run"
    assert not loaded & BACKENDS


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(zoo.commands.__path__)])
def test_a_subcommand_loads_nothing_slow_before_it_runs(name: str) -> None:
    assert not modules_after(f"import zoo.commands.{name}") & SLOW


def test_the_parser_with_every_subcommand_loads_nothing_slow() -> None:
    assert not modules_after("from zoo.cli import build_parser; build_parser().format_help()") & SLOW


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(zoo, name) is not None
    assert name in dir(zoo)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'create_modle'"):
        _ = zoo.create_modle


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(os.fspath(zoo.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    seen = {(str(node.module), alias.name) for node in imports for alias in node.names}
    lazy = {(f"zoo.{home}", name) for home, names in zoo._HOMES.items() for name in names}
    assert seen == lazy
    assert {name for _, name in seen} | {"__version__"} == set(zoo.__all__)
    assert all(alias.asname == alias.name for node in imports for alias in node.names), "`as` marks a name as exported"
