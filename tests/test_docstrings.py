"""Every example in a docstring of zoo and tuning runs and prints what it shows."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tuning
import zoo
import zoo.lab
import zoo.serving

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_ONLY_FIRST_FAILURE


def modules() -> Iterator[ModuleType]:
    for package in ("zoo", "tuning"):
        root = importlib.import_module(package)
        yield root
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            yield importlib.import_module(module.name)


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [example for module in modules() for example in finder.find(module) if example.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    runner.run(example, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)


PUBLIC = {f"{package.__name__}.{name}": getattr(package, name) for package in (zoo, tuning, zoo.lab, zoo.serving) for name in package.__all__}
WITHOUT_EXAMPLE = {
    "zoo.lab.examine": "runs an experiment",
    "zoo.lab.write_page": "needs one",
    "zoo.serving.serve": "runs until it is stopped",
    "zoo.serving.start": "zoo.serving.Client's example calls it",
}


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - {"zoo.__version__"}))
def test_every_public_name_is_documented(name: str) -> None:
    assert (PUBLIC[name].__doc__ or "").strip(), f"{name} has no docstring."


def test_every_public_function_has_an_example() -> None:
    functions = {name: function for name, function in PUBLIC.items() if inspect.isfunction(function)}
    without = {name for name, function in functions.items() if ">>> " not in (function.__doc__ or "")}
    assert without == WITHOUT_EXAMPLE.keys()
