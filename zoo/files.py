"""Writes that are whole or absent: a temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write to, and renames it to `path` when the block ends.

    A reader sees the old file or the new one, never a part. The temporary keeps the suffixes of `path`, because
    writers such as `keras.Model.save_weights` choose their format by them. If the block raises, `path` is
    left as it was and the temporary is removed.

    Args:
        path: The file.
        replace: Whether it takes the place of a file that is there when the block ends; without, that file stays.

    Example:
        >>> with atomic_file("/tmp/zoo_example.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> Path("/tmp/zoo_example.txt").read_text()
        'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        _sync(temporary)
        if replace or not _linked(temporary, target):
            temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, target: Path) -> bool:
    """Gives a file a second name unless that is taken; False where the file system has no such links."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return True
    except OSError:
        return target.exists()
    return True


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary sibling directory of `path`, and renames it to `path` when the block ends.

    Raises:
        FileExistsError: `path` exists and is no empty directory; before the block runs, or after it where another writer
            was faster.
    """
    target = Path(path)
    _require_vacant(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        for child in temporary.rglob("*"):
            _sync(child)
        _sync(temporary)
        try:
            temporary.rename(target)
        except OSError:
            _require_vacant(target)
            raise
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_vacant(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
