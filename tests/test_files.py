"""Writes are whole or absent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.files import atomic_directory, atomic_file, sha256, write_text


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "model.weights.h5"
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".weights.h5"), "Keras chooses the format by the suffix"
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == {"model.weights.h5"}


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, synced, fsync = tmp_path / "file", [], os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, target.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_text(target, "new")
    assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(target):
        pass
    assert target.read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_file(target) as first:
        first.write_text("first")
        with atomic_file(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first", "the last to finish wins"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_another_writer_was_faster_with_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "file"
    with atomic_file(target, replace=False) as temporary:
        temporary.write_text("second")
        target.write_text("first")
    assert target.read_text() == "first"
    assert names(tmp_path) == {"file"}
    with atomic_file(tmp_path / "other", replace=False) as temporary:
        temporary.write_text("alone")
    assert (tmp_path / "other").read_text() == "alone"
    assert names(tmp_path) == {"file", "other"}


def test_a_directory_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "cnn" / "1"
    with atomic_directory(target) as temporary:
        (temporary / "variables").mkdir()
        (temporary / "variables" / "data").write_text("new")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert (target / "variables" / "data").read_text() == "new"
    assert names(target.parent) == {"1"}
    assert target.stat().st_mode & 0o777 == 0o755, "another user's server can read it"


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "1"
    target.mkdir()
    with atomic_directory(target) as temporary:
        (temporary / "file").touch()
    assert names(target) == {"file"}


def test_an_exception_leaves_no_directory(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_directory(tmp_path / "1") as temporary:
            (temporary / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not names(tmp_path)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_an_occupied_name_is_refused_before_the_work(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "1"
    if kind == "directory":
        target.mkdir()
        (target / "old").touch()
    else:
        target.touch()
    with pytest.raises(FileExistsError) as error, atomic_directory(target):
        pytest.fail("the block ran")
    assert error.value.filename == str(target)
    assert names(tmp_path) == {"1"}


def test_of_two_writers_of_one_directory_the_first_to_finish_wins(tmp_path: Path) -> None:
    target = tmp_path / "1"

    def race() -> None:
        with atomic_directory(target) as slow:
            (slow / "slow").touch()
            with atomic_directory(target) as fast:
                (fast / "fast").touch()

    with pytest.raises(FileExistsError):
        race()
    assert names(target) == {"fast"}
    assert names(tmp_path) == {"1"}


KILLED_FILE = """
import os, signal, sys
from zoo.files import atomic_file
with atomic_file(sys.argv[1]) as temporary:
    with open(temporary, "w") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_DIRECTORY = """
import os, signal, sys
from zoo.files import atomic_directory
with atomic_directory(sys.argv[1]) as temporary:
    (temporary / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    assert subprocess.run([sys.executable, "-c", KILLED_FILE, str(target)], timeout=60).returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2, "the writer had begun"
    write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_writer_leaves_no_directory(tmp_path: Path) -> None:
    target = tmp_path / "1"
    assert subprocess.run([sys.executable, "-c", KILLED_DIRECTORY, str(target)], timeout=60).returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(names(tmp_path)) == 1, "the writer had begun"
    with atomic_directory(target) as temporary:
        (temporary / "whole").touch()
    assert names(target) == {"whole"}


def test_write_text_is_utf8_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "old" * 1000)
    write_text(target, "± 0.1 %")
    assert target.read_bytes() == "± 0.1 %".encode()


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 9999], ids=len)
def test_sha256(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
