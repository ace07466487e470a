"""The access log: a line of JSON for every request, over both protocols."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from zoo.errors import ServingError

logger = logging.getLogger(__name__)
REQUEST_ID = "x-request-id"
_FIT = re.compile(r"[\x21-\x7e]{1,128}")


class AccessLog:
    """Writes a line for every request.

    Args:
        path: The file, which lines are appended to; `-` is standard output.

    Raises:
        ServingError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock, self._failed = path, threading.Lock(), False
        self._file = self._open()

    def _open(self) -> BinaryIO:
        if self._path == "-":
            return sys.stdout.buffer
        try:
            return Path(self._path).open("ab", buffering=0)  # a line is one write, so that those of several processes do not mix
        except OSError as error:
            raise ServingError(f"The access log {self._path} cannot be written: {error.strerror}.") from None

    def reopen(self) -> None:
        """Opens the file anew, as after it was moved away."""
        if self._path == "-":
            return
        with self._lock:
            try:
                old, self._file = self._file, self._open()
            except ServingError as error:
                logger.warning("%s", error)
            else:
                old.close()

    def close(self) -> None:
        """Closes the file."""
        if self._path != "-":
            with self._lock:
                self._file.close()

    def write(self, **fields: Any) -> None:
        """Writes a line: the time, and what is given.

        A disk that is full must not keep the server from answering: what cannot be written is lost, and that is said once.
        """
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        line = json.dumps({"time": stamp, **fields}, ensure_ascii=True)
        with self._lock:
            try:
                self._file.write(f"{line}\n".encode())
                self._file.flush()
                self._failed = False
            except (OSError, ValueError) as error:
                if not self._failed:
                    logger.warning("The access log %s cannot be written: %s", self._path, error)
                self._failed = True


def request_id(given: str | None) -> str:
    """Returns the client's own mark for a request, where it fits into a line, or a new one."""
    return given if given is not None and _FIT.fullmatch(given) else os.urandom(8).hex()
