"""A module imports only from its left, and zoo never imports tuning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From left to right. `zoo/models/cnn.py` belongs to "models"; modules of one room may import each other.
ORDER = (
    *("errors", "files", "specs", "console", "environment", "progress"),
    *("registry", "layers", "models", "cards", "weights", "pretrained", "factory"),
    *("muon", "optimizers", "images", "datasets", "augmentation", "initialization", "batch_normalization", "devices"),
    *("evaluation", "recipes", "compilation", "pipeline", "training"),  # training ends by evaluating
    *("inspection", "figures", "plots"),
    *("reproduction", "signatures", "golden", "formats", "export", "check", "serving", "deployment", "verification"),
    *("card_pages", "publishing", "lab"),
    *("commands", "cli"),
)
# What finds its parts at run time: public names, models, recipes, subcommands.
DYNAMIC = {"zoo/__init__.py", "zoo/registry.py", "zoo/recipes/__init__.py", "zoo/serving/__init__.py", "zoo/cli.py", "tuning/__init__.py"}
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in ("zoo", "tuning") for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_imports_come_from_the_left(path: str) -> None:
    wrong = [f"line {line}: {name}" for line, name in imports((ROOT / path).read_text(encoding="utf-8"), path) if not allowed(path, name)]
    assert not wrong, f"{path} imports from its right, or from a room that ORDER does not list: {', '.join(wrong)}"


@pytest.mark.parametrize("path", [path for path in MODULES if path not in DYNAMIC])
def test_only_the_finders_import_by_a_computed_name(path: str) -> None:
    wrong = dynamic_imports((ROOT / path).read_text(encoding="utf-8"))
    assert not wrong, f"{path} imports by a computed name in lines {wrong}; only {', '.join(sorted(DYNAMIC))} may."


def test_every_room_of_zoo_has_a_place() -> None:
    rooms = {room(path) for path in MODULES if path.startswith("zoo/")} - {""}
    assert rooms <= set(ORDER), f"Give {', '.join(sorted(rooms - set(ORDER)))} a place in ORDER."


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("zoo/specs.py", "from zoo.errors import UsageError", []),
        ("zoo/specs.py", "import zoo.training", ["zoo.training"]),
        ("zoo/specs.py", "def f():\n    from zoo.registry import resolve", ["zoo.registry"]),
        ("zoo/specs.py", "from zoo import cli, errors", ["zoo.cli"]),
        ("zoo/specs.py", "from zoo import create_model", ["zoo"]),
        ("zoo/specs.py", "from . import weights", ["zoo.weights"]),
        ("zoo/specs.py", "from .weights import load_report", ["zoo.weights"]),
        ("zoo/models/cnn.py", "from ..factory import create_model", ["zoo.factory"]),
        ("zoo/models/__init__.py", "from .cnn import cnn", []),
        ("zoo/cli.py", "import zoo\nimport tuning.command", ["tuning.command"]),
        ("zoo/specs.py", "if TYPE_CHECKING:\n    from zoo.cli import main\nelse:\n    import zoo.export", ["zoo.export"]),
        ("zoo/specs.py", "import zoology, json", []),
        ("tuning/spaces.py", "import zoo\nfrom zoo.training import train", []),
        ("tuning/spaces.py", "from zoo.commands import train", ["zoo.commands"]),
    ],
)
def test_the_rule_itself(path: str, source: str, expected: list[str]) -> None:
    assert [name for _, name in imports(source, path) if not allowed(path, name)] == expected


def test_the_rule_on_computed_names() -> None:
    assert dynamic_imports("import importlib\nimportlib.import_module('zoo.cli')\n__import__('zoo')\nimportlib.resources.files('zoo')") == [2, 3]
    assert dynamic_imports("from importlib import import_module as load") == [1]


def room(path: str) -> str:
    """`zoo/models/cnn.py` -> `models`, `zoo/cli.py` -> `cli`, `zoo/__init__.py` -> the empty string."""
    parts = Path(path).with_suffix("").parts[1:]
    return "" if parts == ("__init__",) else parts[0]


def allowed(path: str, name: str) -> bool:
    package, _, rest = name.partition(".")
    target = rest.partition(".")[0]
    if path.startswith("tuning/"):
        return package == "tuning" or target not in ("commands", "cli")
    if package == "tuning":
        return False
    if not target:  # the package itself reaches everything, so only what stands at the right end may import it
        return room(path) in ("commands", "cli", "lab")
    return target in ORDER and (room(path) == "" or ORDER.index(target) <= ORDER.index(room(path)))


def imports(source: str, path: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the full name of every import of zoo or tuning that can run, in whatever function it stands."""
    package = Path(path).parent.parts
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else str(node.module)
            names = [submodule(base, alias.name) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in dict.fromkeys(names) if name.partition(".")[0] in ("zoo", "tuning"))


def submodule(base: str, name: str) -> str:
    """What `from base import name` imports: the module `base.name` where that is one of zoo's or tuning's own, else `base`."""
    return f"{base}.{name}" if base in ("zoo", "tuning") and is_module(ROOT / base / name) else base


def is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.orelse:
                yield statement
                yield from running(statement)
        else:
            yield child
            yield from running(child)


def dynamic_imports(source: str) -> list[int]:
    """Returns the lines that import by a computed name."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if is_dynamic_import(node)]


def is_dynamic_import(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "importlib" and any(alias.name == "import_module" for alias in node.names)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__")
