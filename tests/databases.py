"""A PostgreSQL server of the tests' own, on a free port, for as long as a test wants it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def program(name: str) -> str | None:
    """Finds one of PostgreSQL's programs, which Debian does not put on the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Starts a server with an empty database; gives its URL. Skips the test where the server or its driver is not installed."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed: pip install 'neuron-zoo[postgresql]'")
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    owner = {"user": "postgres", "group": "postgres"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as place:
        if owner:
            shutil.chown(place, **owner)
        data, port = f"{place}/data", free_port()
        subprocess.run([initdb, "-D", data, "-U", "tests", "-A", "trust", "-N"], check=True, capture_output=True, cwd=place, **owner)  # type: ignore[call-overload]
        options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
        start = [control, "-D", data, "-w", "-l", f"{place}/log", "-o", options, "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place, **owner)  # type: ignore[call-overload]
        try:
            yield f"postgresql://tests@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([control, "-D", data, "-m", "immediate", "-w", "stop"], check=True, capture_output=True, cwd=place, **owner)  # type: ignore[call-overload]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
