"""The documentation: the code of its pages runs, its links lead somewhere, it builds without a warning, and it leaves nothing out."""

from __future__ import annotations

import argparse
import contextlib
import html.parser
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_blocks import ROOT, Block, Page, opened, parameters

import tuning
import zoo
import zoo.lab
import zoo.serving
from zoo import errors
from zoo.cli import build_parser

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(DOCS).with_suffix(""))


# Each page's blocks in their order; all of one page run in one directory, as a reader's would.


class OnePageAtATime:
    """Keeps a page open until another one's turn comes."""

    def __init__(self, root: Path, commands: Path) -> None:
        self.root, self.commands = root, commands
        self.page: Page | None = None
        self.stack = contextlib.ExitStack()

    def turn_to(self, path: Path) -> Page:
        if self.page is None or self.page.path != path:
            self.stack.close()
            directory = self.root / name(path).replace("/", "-")
            directory.mkdir()
            self.page = self.stack.enter_context(opened(path, directory, self.commands))
        return self.page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Iterator[OnePageAtATime]:
    book = OnePageAtATime(tmp_path_factory.mktemp("pages"), commands)
    with book.stack:
        yield book


def all_blocks() -> list[Any]:
    return [
        pytest.param(path, *parameter.values, id=f"{name(path)}-{parameter.id}", marks=parameter.marks)
        for path in PAGES
        for parameter in parameters(path)
    ]


@pytest.mark.parametrize(("path", "block"), all_blocks())
def test_block_runs(path: Path, block: Block, pages: OnePageAtATime) -> None:
    if block.skip:
        pytest.skip(block.skip)
    pages.turn_to(path).run(block)


# On GitHub: the pages as they lie in the repository.


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", CODE_BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


CODE_BLOCK = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.DOTALL | re.MULTILINE)


def broken_links(path: Path) -> list[str]:
    """The links of a page that lead nowhere, or out of the repository."""
    broken = []
    for link in LINK.finditer(CODE.sub("", path.read_text(encoding="utf-8"))):
        target = urllib.parse.urlsplit(link["target"])
        if target.scheme:
            continue
        file = (path.parent / urllib.parse.unquote(target.path)).resolve()
        if not target.path:
            file = path
        elif not (file.is_file() and file.is_relative_to(ROOT)):
            broken.append(link["target"])
            continue
        if target.fragment and file.suffix == ".md" and target.fragment not in anchors(file):
            broken.append(link["target"])
    return broken


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_a_file_of_the_repository(path: Path) -> None:
    assert not broken_links(path)


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = DOCS / "index.md"
    (tmp_path / "page.md").write_text(
        f"# A title\n[fine](https://example.org) `[code](none.md)`\n```\n# no title\n[code](none.md)\n```\n"
        f"[gone](gone.md) [here](#a-title) [there](#no-title) [outside](page.md) [inside]({os.path.relpath(page, tmp_path)})\n"
    )
    assert broken_links(tmp_path / "page.md") == ["gone.md", "#no-title", "page.md"]


# As a site.


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    outcome = build(DOCS, target)
    assert outcome.returncode == 0, outcome.stderr
    return target


class Links(html.parser.HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.found += [values[key] for key in ("href", "src") if key in values]
        self.anchors |= {values[key] for key in ("id", "name") if key in values}


def test_the_site_builds_and_each_link_in_it_leads_somewhere(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html")}
    assert {name(path) for path in PAGES} <= {str(path.relative_to(site).with_suffix("")) for path in pages}
    broken = []
    for path, page in pages.items():
        for link in page.found:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            file = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path
            if not file.is_file() or (target.fragment and file in pages and target.fragment not in pages[file].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    foreign = re.compile(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//[^\"]+|<link[^>]+rel=\"stylesheet\"[^>]+href=\"(?:https?:)?//[^\"]+")
    assert not [f"{path.relative_to(site)}: {match[0]}" for path in site.rglob("*.html") for match in foreign.finditer(path.read_text("utf-8"))]


WRONG = {
    "[gone](gone.md)": "cross-reference target not found: 'gone.md'",
    "[gone](index.md#gone)": "'gone'",
    "![gone](gone.svg)": "gone.svg",
    "```{eval-rst}\n.. autofunction:: zoo.gone\n```": "failed to import 'gone' from module 'zoo'",
    "```{eval-rst}\n:py:class:`zoo.Gone`\n```": "reference target not found: zoo.Gone",
}


def test_warnings_fail_the_build(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    (source / "_static").mkdir(parents=True)
    (source / "_static" / "wide.css").touch()
    (source / "conf.py").write_text((DOCS / "conf.py").read_text(encoding="utf-8"))
    (source / "index.md").write_text("\n\n".join(["# A page", *WRONG]) + "\n")
    (source / "orphan.md").write_text("# A page in no table of contents\n")
    outcome = build(source, tmp_path / "site")
    assert outcome.returncode == 1
    for message in (*WRONG.values(), "document isn't included in any toctree"):
        assert message in outcome.stderr


# What has to stand in it.

PUBLIC = [
    *(f"zoo.{public}" for public in zoo.__all__ if public != "__version__"),
    *(f"tuning.{public}" for public in tuning.__all__),
    *(f"zoo.serving.{public}" for public in zoo.serving.__all__),
    *(f"zoo.lab.{public}" for public in zoo.lab.__all__),
    *(f"zoo.errors.{public}" for public, value in vars(errors).items() if isinstance(value, type) and issubclass(value, zoo.ZooError)),
]


def test_the_reference_has_every_public_name(site: Path) -> None:
    _, _, entries = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    documented = {line.split()[0] for line in zlib.decompress(entries).decode().splitlines() if " py:" in line}
    assert not [public for public in PUBLIC if public not in documented and f"zoo.errors.{public.rpartition('.')[2]}" not in documented]


def test_the_reference_has_every_subcommand_with_its_flags(site: Path) -> None:
    text = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    commands = next(action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    assert {"serve", "tune"} <= set(commands)
    for command, parser in commands.items():
        assert f'id="zoo-{command}"' in text
        for action in parser._actions:
            assert action.help == argparse.SUPPRESS or all(flag in text for flag in action.option_strings)


def test_light_and_dark(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'aria-label="Toggle Light / Dark / Auto color theme"' in page or "theme-toggle" in page


@pytest.mark.parametrize("story", ["lab_story.py", "optimizer_story.py"])
def test_a_story_has_the_present_measurements(story: str) -> None:
    check = [sys.executable, str(DOCS / story), "--check"]
    assert subprocess.run(check).returncode == 0, f"python docs/{story} writes it anew"


@pytest.mark.parametrize(
    ("story", "page", "record", "old", "new", "shown"),
    [
        ("lab_story.py", "lab", "digits/relu.json", '"verdict": "wrong"', '"verdict": "holds"', "**Holds on digits, wrong on MNIST.**"),
        ("optimizer_story.py", "optimizer-study", "digits/study.json", '"trials": 20', '"trials": 21', "21 trials per cell"),
        ("optimizer_story.py", "optimizer-study", "../../benchmarks/deepobs_ends.csv", "92.14", "92.13", "92.13 ± 0.20 (n=10)"),
    ],
)
def test_a_stale_story_is_noticed(story: str, page: str, record: str, old: str, new: str, shown: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / page, docs / page)
    shutil.copytree(DOCS.parent / "benchmarks", tmp_path / "benchmarks")
    for file in (DOCS / f"{page}.md", *DOCS.glob("*_story.py")):
        shutil.copyfile(file, docs / file.name)
    path = docs / page / record
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    check = [sys.executable, str(docs / story), "--check"]
    assert subprocess.run(check).returncode == 1
    subprocess.run(check[:-1], check=True)
    assert shown in (docs / f"{page}.md").read_text(encoding="utf-8")


def test_the_labs_story_has_every_claim_of_the_lab() -> None:
    text = (DOCS / "lab.md").read_text(encoding="utf-8")
    for claim in zoo.lab.list_claims():
        assert f"<!-- {claim}: begin -->\n**" in text
        for dataset in ("digits", "mnist"):
            assert (DOCS / "lab" / dataset / f"{claim}.json").is_file()
