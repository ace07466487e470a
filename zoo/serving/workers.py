"""One server in several processes that share its ports: what one process cannot do, because Python runs one thread at a time.

The parent holds the ports and starts the workers, each a `zoo serve` of its own that loads all models; the kernel deals the
connections out. A worker that dies is started again. When the parent is told to stop, it tells the workers, which answer what
they have; when the parent dies, they find their standard input closed and do the same. A worker that is asked for the metrics
asks the others for theirs, over sockets in a folder that they share, and answers with the sums.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ServingError
from zoo.serving.metrics import merged
from zoo.serving.server import DRAIN_SECONDS, READY, bind

RESTART_SECONDS = 1.0
"""Time between the end of a worker and the start of the next, so that one that cannot live does not take the machine."""
SIBLING_SECONDS = 1.0


@dataclass(frozen=True)
class Worker:
    """One of several processes.

    Attributes:
        number: Which one it is, from 0.
        folder: Where they find each other.
    """

    number: int
    folder: Path

    @property
    def socket(self) -> Path:
        """Where this one shows its metrics to the others."""
        return self.folder / f"{self.number}.sock"

    async def show(self, pages: Mapping[str, Callable[[], str]]) -> asyncio.Server:
        """Shows metrics to the others, as long as what is returned is kept.

        Args:
            pages: Name -> what returns the page.
        """
        self.socket.unlink(missing_ok=True)  # of the one before

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, KeyError):
                writer.write(pages[(await reader.readline()).decode().strip()]().encode())
                await writer.drain()
            writer.close()

        return await asyncio.start_unix_server(answer, self.socket)

    async def page(self, name: str, own: str) -> str:
        """Returns a Prometheus page of all workers; one that does not answer at once is left out."""
        others = [path for path in sorted(self.folder.glob("*.sock")) if path != self.socket]
        pages = await asyncio.gather(*(_read(path, name) for path in others), return_exceptions=True)
        return merged([own, *(page for page in pages if isinstance(page, str))])

    def stop_with_parent(self) -> None:
        """Sees to it that this process ends when the parent has."""

        def watch() -> None:
            while os.read(0, 1):  # not sys.stdin: an interpreter that ends waits for whoever reads from it
                pass
            signal.raise_signal(signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()


async def _read(path: Path, name: str) -> str:
    async with asyncio.timeout(SIBLING_SECONDS):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"{name}\n".encode())
        page = await reader.read()
        writer.close()
    return page.decode()


class _Process:
    """A worker as its parent sees it."""

    def __init__(self, command: Sequence[str], say: Callable[[str], None]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.said: list[str] = []
        self.ready = threading.Event()
        """Set when it listens, or has ended."""
        self._say = say
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self.ready.is_set():
                self._say(line)
            else:
                self.said.append(line)
                if line.startswith(READY):
                    self.ready.set()
        self._process.wait()
        self.ready.set()

    @property
    def status(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """Sends a signal, where it still runs."""
        if self.status is None:
            self._process.send_signal(number)

    def end(self) -> None:
        """Waits until it has ended, and ends it where that takes too long."""
        try:
            self._process.wait(DRAIN_SECONDS + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def supervise(command: Sequence[str], count: int, host: str, rest_port: int | None, grpc_port: int | None, say: Callable[[str], None]) -> int:
    """Runs workers until SIGTERM or SIGINT.

    Args:
        command: A worker's command line, but for its ports and its number.
        count: How many there are.
        host: Address to listen on.
        rest_port: TCP port for REST; 0 for a free one, None for no REST.
        grpc_port: TCP port for gRPC; the same.
        say: Takes the lines that workers print.

    Returns:
        The exit status: 0, or that of a worker that could not start.

    Raises:
        ServingError: A port is in use.
    """
    stop, received = threading.Event(), list[int]()

    def handle(number: int, frame: object) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    with _ports(host, rest_port, grpc_port) as ports, tempfile.TemporaryDirectory(prefix="zoo-workers-") as folder:

        def start(index: int) -> _Process:
            return _Process([*command, *ports, f"--worker={index}:{folder}"], say)

        workers = [start(index) for index in range(count)]
        try:
            for worker in workers:
                worker.ready.wait()
            failed = next((worker for worker in workers if worker.status is not None), None)
            if failed is not None and not stop.is_set():
                return failed.status or 1
            for line in workers[0].said:
                say(f"{count} workers\n{line}" if line.startswith(READY) else line)
            _keep(workers, start, stop)
        finally:
            for worker in workers:
                worker.send(signal.SIGTERM)
            for worker in workers:
                worker.end()
    return 0


def _keep(workers: list[_Process], start: Callable[[int], _Process], stop: threading.Event) -> None:
    """Starts workers again that ended, until it is time to stop."""
    while not stop.wait(0.2):
        for index, worker in enumerate(workers):
            if worker.status is not None and not stop.wait(RESTART_SECONDS):
                print(f"worker {index} ended with status {worker.status}; another takes its place", file=sys.stderr, flush=True)
                worker.end()
                workers[index] = start(index)


@contextlib.contextmanager
def _ports(host: str, rest_port: int | None, grpc_port: int | None) -> Iterator[list[str]]:
    """Takes the ports, and yields the flags that say so; whoever holds a port without listening gets none of its connections."""
    with contextlib.ExitStack() as stack:
        flags = []
        for flag, port in (("--rest_api_port", rest_port), ("--port", grpc_port)):
            if port is None:
                flags.append(f"{flag}=0")
                continue
            if port:
                bind(host, port).close()  # says so where another server has it
            held = stack.enter_context(bind(host, port, shared=True))
            flags.append(f"{flag}={held.getsockname()[1]}")
        yield flags


def require_shared_ports() -> None:
    """Raises an error where several processes cannot listen on one port.

    Raises:
        ServingError: This system cannot do that.
    """
    if not hasattr(socket, "SO_REUSEPORT") or sys.platform not in ("linux", "darwin"):
        raise ServingError(f"--workers needs a system on which processes can share a port, such as Linux. This one is {sys.platform}.")
