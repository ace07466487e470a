"""The code blocks of README.md run as written.

Blocks marked `python`, `bash`, `sh` or `console` run, from the top of the page to its end. The python blocks share one
namespace; in a console block the lines behind `$ ` are the commands. All run in one temporary directory, with the commands
of this environment first on PATH. A process that a block leaves in the background lives until the page ends. A block that
cannot run here has a comment with the reason right before it:

    <!-- skip: downloads the repository -->
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DATA = ROOT.parent / "shared" / "tensorflow_datasets"
SECONDS = 300

FENCE = re.compile(
    r"^(?P<indent> {0,3})(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^ {0,3}(?P=fence)[ \t]*$", re.DOTALL | re.MULTILINE
)
SKIP = re.compile(r"<!--\s*skip:\s*(?P<reason>(?:(?!-->).)+?)\s*-->\s*\Z", re.DOTALL)


class Block(NamedTuple):
    line: int
    language: str
    code: str
    skip: str | None


@dataclass
class Page:
    """Where the blocks of one page run, and what the earlier ones left behind."""

    path: Path
    directory: Path
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    groups: list[int] = field(default_factory=list)

    def run(self, block: Block) -> None:
        if block.language != "python":
            self.run_shell(commands(block.code) if block.language == "console" else block.code)
            return
        with contextlib.chdir(self.directory):
            if block.code.lstrip().startswith(">>>"):
                self.run_session(block)
            else:
                # The blank lines put the block's own line numbers into a traceback.
                exec(compile("\n" * block.line + block.code, str(self.path), "exec", dont_inherit=True), self.namespace)

    def run_session(self, block: Block) -> None:
        session = doctest.DocTestParser().get_doctest(block.code, self.namespace, self.path.name, str(self.path), block.line)
        session.globs = self.namespace  # get_doctest copies it
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
        runner.run(session, out=report.append, clear_globs=False)
        assert not report, "".join(report)

    def run_shell(self, code: str) -> None:
        # A background process would keep a pipe open, so the output goes to a file.
        with open(self.directory / ".output", "w+") as output:
            process = subprocess.Popen(
                ["bash", "-e", "-u", "-o", "pipefail", "-c", code],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.groups.append(process.pid)
            try:
                status: int | str = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = f"still running after {SECONDS} s"
            output.seek(0)
            assert status == 0, f"status {status}:\n{code}\n{output.read()[-4000:]}"

    def close(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGTERM)


def blocks(text: str) -> list[Block]:
    """Returns the blocks that a reader would run."""
    found = []
    for match in FENCE.finditer(text):
        if match["language"] in ("python", "bash", "sh", "console"):
            skip = SKIP.search(text, 0, match.start())
            code = re.sub(f"^ {{0,{len(match['indent'])}}}", "", match["code"], flags=re.MULTILINE)
            found.append(Block(text.count("\n", 0, match.start()) + 1, match["language"], code, skip and skip["reason"]))
    return found


def commands(console: str) -> str:
    """Returns the lines behind `$ `, and behind `> ` where they go on."""
    lines, prompts = [], ("$ ",)
    for line in console.splitlines():
        if line.startswith(prompts):
            lines.append(line[2:])
            prompts = ("$ ", "> ") if line.endswith("\\") else ("$ ",)
        else:
            prompts = ("$ ",)
    assert lines, f"A console block has its commands behind '$ ':\n{console}"
    return "\n".join(lines)


def readme_blocks() -> list[Block]:
    return blocks(README.read_text(encoding="utf-8")) if README.is_file() else []


@pytest.fixture
def new_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    page = Page(tmp_path / "page.md", tmp_path)
    yield page
    page.close()


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(README, tmp_path_factory.mktemp("readme"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if DATA.is_dir() and "TFDS_DATA_DIR" not in os.environ:
            patch.setenv("TFDS_DATA_DIR", str(DATA))
        yield page
    page.close()


@pytest.mark.parametrize("block", readme_blocks(), ids=lambda block: f"line{block.line}-{block.language}")
def test_block_runs(block: Block, readme: Page) -> None:
    if block.skip:
        pytest.skip(block.skip)
    readme.run(block)


def test_the_readme_shows_both_python_and_shell() -> None:
    languages = {block.language for block in readme_blocks() if not block.skip}
    assert "python" in languages
    assert languages & {"bash", "sh", "console"}


PAGE = """# Title
```python
x = 1
```
text <!-- skip: not right before a block -->
more text

<!-- skip: no network -->
```bash
git clone somewhere
```

```text
not code
```

1. In a list:

   ```console
   $ echo one \\
   > two
   one two
   $ false
   ```

~~~sh
echo "```python"
~~~
"""


def test_blocks_are_found() -> None:
    assert blocks(PAGE) == [
        Block(2, "python", "x = 1\n", None),
        Block(9, "bash", "git clone somewhere\n", "no network"),
        Block(19, "console", "$ echo one \\\n> two\none two\n$ false\n", None),
        Block(26, "sh", 'echo "```python"\n', None),
    ]
    assert commands(blocks(PAGE)[2].code) == "echo one \\\ntwo\nfalse"


def test_python_blocks_share_a_namespace_and_a_directory(new_page: Page) -> None:
    new_page.run(Block(1, "python", "from pathlib import Path\nx = 1\nPath('file').write_text('2')\n", None))
    new_page.run(Block(5, "bash", "test $(cat file) = 2 && echo 3 > file\n", None))
    new_page.run(Block(9, "python", ">>> x + int(Path('file').read_text())\n4\n>>> x = 7\n", None))
    new_page.run(Block(13, "python", "assert x == 7\n", None))


@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("python", "pass\nundefined_name", "name 'undefined_name' is not defined"),
        ("python", ">>> 1 + 1\n3\n", "Expected"),
        ("bash", "false\ntrue\n", "status 1"),
        ("bash", "false | true\n", "status 1"),
        ("sh", "echo to the terminal; exit 7\n", "to the terminal"),
        ("console", "$ true\n$ false\n", "status 1"),
        ("console", "no prompt\n", "A console block has its commands behind"),
    ],
)
def test_a_block_that_fails_fails_the_test(new_page: Page, language: str, code: str, message: str) -> None:
    with pytest.raises((AssertionError, NameError)) as failure:
        new_page.run(Block(3, language, code, None))
    assert message in str(failure.value)


def test_a_background_process_ends_with_the_page(new_page: Page) -> None:
    new_page.run(Block(1, "bash", "sleep 600 & echo $! > pid\n", None))
    pid = int((new_page.directory / "pid").read_text())
    os.kill(pid, 0)
    new_page.close()
    subprocess.run(["bash", "-c", f"for i in $(seq 100); do kill -0 {pid} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"], check=True)
