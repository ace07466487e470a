"""Runs the code blocks of a page as they are written.

Blocks marked `python`, `bash`, `sh` or `console` run, from the top of the page to its end. The python blocks share one
namespace; in a console block the lines behind `$ ` are the commands. All run in one temporary directory, with a copy of
`examples/`, and with the commands of this environment first on PATH, `zoo` the one of `ready_zoo.py`. A process that a block
leaves in the background lives until the page ends. Comments right before a block say what is different about it:

    <!-- skip: downloads the repository -->          it cannot run here, for this reason
    <!-- slow: trains for five minutes -->           it and those below it run with the slow tests only
    <!-- background: 8501 -->                        it runs until the page ends; the next block runs when this port answers
    <!-- tests: "--epochs 30" is "--epochs 1" -->    what the tests run instead, to be quick

On a page with a background block the ports 8500 and 8501 are free ones, and `zoo serve` is told so.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
DATA = ROOT.parent / "shared" / "tensorflow_datasets"
SECONDS = 300
REST, GRPC = "8501", "8500"

FENCE = re.compile(
    r"^(?P<indent> {0,3})(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^ {0,3}(?P=fence)[ \t]*$", re.DOTALL | re.MULTILINE
)
COMMENTS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
COMMENT = re.compile(r"<!--\s*(?P<kind>\w+):\s*(?P<text>.+?)\s*-->", re.DOTALL)
KINDS = ("skip", "slow", "background", "tests")
INSTEAD = re.compile(r'"(?P<written>[^"]+)" is "(?P<run>[^"]*)"')


class Block(NamedTuple):
    line: int
    language: str
    code: str
    skip: str | None = None
    slow: str | None = None
    background: str | None = None


@dataclass
class Page:
    """Where the blocks of one page run, and what the earlier ones left behind."""

    path: Path
    directory: Path
    ports: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, block: Block) -> None:
        block = block._replace(code=self.with_ports(block.code))
        if block.language != "python":
            self.run_shell(block)
            return
        with contextlib.chdir(self.directory):
            if block.code.lstrip().startswith(">>>"):
                self.run_session(block)
            else:
                # The blank lines put the block's own line numbers into a traceback.
                exec(compile("\n" * block.line + block.code, str(self.path), "exec", dont_inherit=True), self.namespace)

    def with_ports(self, code: str) -> str:
        if not self.ports:
            return code
        code = re.sub(rf"\b({REST}|{GRPC})\b", lambda port: self.ports[port[0]], code)
        return re.sub(r"\bzoo serve\b", f"zoo serve --rest_api_port={self.ports[REST]} --port={self.ports[GRPC]}", code)

    def run_session(self, block: Block) -> None:
        session = doctest.DocTestParser().get_doctest(block.code, self.namespace, self.path.name, str(self.path), block.line)
        session.globs = self.namespace  # get_doctest copies it
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
        runner.run(session, out=report.append, clear_globs=False)
        assert not report, "".join(report)

    def run_shell(self, block: Block) -> None:
        code = commands(block.code) if block.language == "console" else block.code
        # A background process would keep a pipe open, so the output goes to a file.
        with open(self.directory / f".output{len(self.processes)}", "w+") as output:
            process = subprocess.Popen(
                ["bash", "-e", "-u", "-o", "pipefail", "-c", code],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.processes.append(process)
            if block.background:
                failure = self.wait_for(block.background, process)
            else:
                try:
                    failure = f"status {process.returncode}" if process.wait(SECONDS) else ""
                except subprocess.TimeoutExpired:
                    failure = f"still running after {SECONDS} s"
            output.seek(0)
            assert not failure, f"{failure}:\n{code}\n{output.read()[-4000:]}"

    def wait_for(self, port: str, process: subprocess.Popen[bytes]) -> str:
        """Waits until a port answers and returns ''; or why it never will."""
        for _ in range(10 * SECONDS):
            if process.poll() is not None:
                return f"ended with status {process.returncode} before port {port} answered"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(self.ports.get(port, port))), timeout=1):
                return ""
            time.sleep(0.1)
        return f"port {port} does not answer after {SECONDS} s"

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:  # each leads a group of its own, which may outlive it
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)


def blocks(text: str) -> list[Block]:
    """Returns the blocks that a reader would run."""
    found = []
    for match in FENCE.finditer(text):
        if match["language"] in ("python", "bash", "sh", "console"):
            line = text.count("\n", 0, match.start()) + 1
            code = re.sub(f"^ {{0,{len(match['indent'])}}}", "", match["code"], flags=re.MULTILINE)
            said: dict[str, str] = {}
            if comments := COMMENTS.search(text, 0, match.start()):
                for comment in COMMENT.finditer(comments[0]):
                    if comment["kind"] == "tests":
                        code = instead(code, comment["text"], line)
                    elif comment["kind"] in KINDS:
                        said[comment["kind"]] = comment["text"]
            found.append(Block(line, match["language"], code, **said))
    return found


def instead(code: str, comment: str, line: int) -> str:
    """Returns the code with what the tests run instead."""
    match = INSTEAD.fullmatch(comment)
    assert match, f'Line {line}: write `"what stands there" is "what the tests run"`, not `{comment}`.'
    assert match["written"] in code, f"Line {line}: {match['written']!r} does not stand in the block."
    return code.replace(match["written"], match["run"])


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


def page_blocks(path: Path) -> list[Block]:
    """Returns the blocks of a page; none where there is no such page."""
    return blocks(path.read_text(encoding="utf-8")) if path.is_file() else []


def parameters(path: Path) -> list[Any]:
    """Returns a page's blocks as parameters of a test; from the first slow one on, those that are not skipped are marked so."""
    found, slow = [], False
    for block in page_blocks(path):
        slow = slow or block.slow is not None
        found.append(pytest.param(block, id=f"line{block.line}-{block.language}", marks=[pytest.mark.slow] if slow and not block.skip else []))
    return found


@contextlib.contextmanager
def opened(path: Path, directory: Path, commands: Path | None = None) -> Iterator[Page]:
    """Gives a page whose blocks run in `directory`, with `commands` ahead of this environment's, and ends what they started."""
    import zoo
    from zoo import registry

    zoo.list_models()
    page = Page(path, directory)
    if any(block.background for block in page_blocks(path)):
        page.ports = {REST: free_port(), GRPC: free_port()}
    if EXAMPLES.is_dir() and "examples" in path.read_text(encoding="utf-8"):
        shutil.copytree(EXAMPLES, directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_models", dict(registry._models))
        first = [str(place) for place in (commands, Path(sys.executable).parent) if place is not None]
        patch.setenv("PATH", os.pathsep.join([*first, os.environ["PATH"]]))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        patch.syspath_prepend(directory)
        if DATA.is_dir() and "TFDS_DATA_DIR" not in os.environ:
            patch.setenv("TFDS_DATA_DIR", str(DATA))
        try:
            yield page
        finally:
            page.close()
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
                    del sys.modules[name]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
