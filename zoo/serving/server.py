"""Starting, draining and stopping the server, in this process or in a child."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from zoo.errors import MissingExtraError, ServingError
from zoo.serving.repository import ModelSource

if TYPE_CHECKING:
    from zoo.serving.rest import Models

READY = "listening on "
START_SECONDS = 120
DRAIN_SECONDS = 30


def serve(sources: Sequence[ModelSource], host: str = "127.0.0.1", port: int = 8501, announce: Callable[[Models, str], None] | None = None) -> None:
    """Serves models until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        sources: The models; `zoo.serving.repository.find_models` finds them.
        host: Address to listen on; the default is reachable from this machine alone.
        port: TCP port, 0 for a free one.
        announce: Called with the loaded models and the server's URL when it is about to listen.

    Raises:
        MissingExtraError: The packages of the extra `serve` are not installed.
        ServingError: The port is in use, or no model could be loaded.
    """
    try:
        import orjson  # noqa: F401
        import uvicorn

        from zoo.serving.rest import Models, application
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Serving needs {error.name}: pip install 'neuron-zoo[serve]'") from None

    with _listen(host, port) as listener:
        models = Models(sources)
        if not any(model.loaded for model in models.served.values()):
            reasons = [reason for model in models.served.values() for reason in model.failed.values()]
            raise ServingError(f"No model could be loaded. {' '.join(reasons)}")
        if announce:
            announce(models, f"http://{_address(host)}:{listener.getsockname()[1]}")
        config = uvicorn.Config(application(models), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=DRAIN_SECONDS)
        try:
            asyncio.run(_run(uvicorn.Server(config), listener))
        finally:
            models.close()


async def _run(server: object, listener: socket.socket) -> None:
    """Runs uvicorn with our own handlers, so that SIGTERM ends in exit status 0 and not in death by the signal."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True  # type: ignore[attr-defined]

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server.capture_signals = contextlib.nullcontext  # type: ignore[attr-defined]
    await server.serve(sockets=[listener])  # type: ignore[attr-defined]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ServingError(f"Port {port} on {host} is in use. Choose another with --port, or --port 0 for a free one.") from None
        raise ServingError(f"Cannot listen on {host}, port {port}: {error}.") from None
    listener.listen(2048)
    return listener


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class ServerProcess:
    """A `zoo serve` in a child process.

    Attributes:
        url: Where it listens, such as `http://127.0.0.1:41234`.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process, self.url = process, url

    def stop(self) -> int:
        """Asks the server to stop with SIGTERM, waits until requests under way are answered, and returns its exit status."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=DRAIN_SECONDS + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        return self._process.returncode

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.stop()


def start(repository: str | Path, port: int = 0) -> ServerProcess:
    """Starts `zoo serve` on a model repository in a child process, and waits until it answers.

    Args:
        repository: The model repository.
        port: TCP port, 0 for a free one.

    Raises:
        ServingError: The server ended before it listened; the message is its own.
    """
    command = [sys.executable, "-m", "zoo.cli", "serve", str(repository), f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    said = []
    for line in _lines(process):
        said.append(line)
        if match := re.search(rf"{READY}(http://\S+)", line):
            return ServerProcess(process, match[1])
    process.communicate()
    raise ServingError(f"The server did not start: {' '.join(said).strip() or f'exit status {process.returncode}'}")


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from iter(process.stdout.readline, "")
