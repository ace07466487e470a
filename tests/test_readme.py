"""The code blocks of README.md run as written; how, says page_blocks.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_blocks import ROOT, Block, Page, opened, page_blocks, parameters

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Iterator[Page]:
    with opened(README, tmp_path_factory.mktemp("readme"), commands) as page:
        yield page


@pytest.mark.parametrize("block", parameters(README))
def test_block_runs(block: Block, readme: Page) -> None:
    if block.skip:
        pytest.skip(block.skip)
    readme.run(block)


def test_the_readme_shows_both_python_and_shell() -> None:
    languages = {block.language for block in page_blocks(README) if not block.skip}
    assert "python" in languages
    assert languages & {"bash", "sh", "console"}
