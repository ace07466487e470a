"""What tries the server's reliability: plain connections, a load at a given rate, broken bodies, and where the figures go."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SCALE = float(os.environ.get("ZOO_RELIABILITY", "1"))
"""What the numbers of requests, swaps and rounds are multiplied by."""
TOKENS = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"16777217", b"1" * 400, b'"b64"', b"\\u"),
    *(b"\\ud800", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b'"signature_name":"predict_bytes",', b'"inputs":', b'"instances":', b"[" * 300, b"//"),
)


def times(count: int) -> int:
    """So many, scaled."""
    return max(round(count * SCALE), 1)


def report(name: str, **figures: tuple[float, str]) -> None:
    """Prints figures, each a value and its unit, and appends them to the file of `benchmarks/reliability.py`."""
    print(f"\n{name}: " + ", ".join(f"{figure.replace('_', ' ')} {value:.6g} {unit}".rstrip() for figure, (value, unit) in figures.items()))
    if path := os.environ.get("ZOO_RELIABILITY_RESULTS"):
        with Path(path).open("a") as file:
            file.writelines(
                json.dumps({"test": name, "figure": figure, "value": value, "unit": unit}) + "\n" for figure, (value, unit) in figures.items()
            )


class Answer(NamedTuple):
    """An answer over HTTP.

    Attributes:
        status: Its status.
        body: Its body.
        last: Whether the server says that the connection ends with it.
    """

    status: int
    body: bytes
    last: bool


class Connection:
    """A connection to a server over HTTP that is kept.

    Args:
        url: The server's.
    """

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self._data = b""

    @property
    def port(self) -> int:
        """The client's port."""
        port: int = self.socket.getsockname()[1]
        return port

    def send(self, sent: bytes) -> None:
        """Sends requests."""
        self.socket.sendall(sent)

    def answer(self) -> Answer:
        """Reads the next answer.

        Raises:
            ConnectionError: The server has ended the connection.
        """
        while b"\r\n\r\n" not in self._data:
            self._receive()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        size = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        while len(self._data) < size:
            self._receive()
        body, self._data = self._data[:size], self._data[size:]
        return Answer(int(head.split()[1]), body, b"connection: close" in head.lower())

    def _receive(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server ended the connection")
        self._data += data

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def request(path: str, body: bytes, *, chunked: bool = False) -> bytes:
    """A request over HTTP; one in chunks goes the long way through the server."""
    if chunked:
        return b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (path.encode(), len(body), body)
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def mutated(body: bytes, chance: random.Random) -> bytes:
    """A body with one to four faults, and never an empty one."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            del data[at : at + chance.randint(1, 20)]
        elif kind == 2:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            data = data[:at] or bytearray(b"{")
        elif kind == 4:
            other = chance.randrange(len(data) + 1)
            data[at:at] = data[other : other + chance.randint(1, 40)]
        else:
            data[at : at + 1] = chance.choice(TOKENS)
    return bytes(data) or b"{"


def is_json(body: bytes) -> bool:
    """Whether a body begins with a document, as far as Python's parser knows; it takes all that the server takes but `Inf`."""
    text = body.removeprefix(b"\xef\xbb\xbf").decode("latin-1").lstrip(" \t\r\n")
    try:
        json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        return b"Inf" in body
    return True


def until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    """Waits for something; returns whether it came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Clients:
    """Threads that each do something over and over, until they are told to stop."""

    def __init__(self) -> None:
        self.counts, self.failures = Counter[str](), list[str]()
        self.done = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, name: str, ask: Callable[[], Any]) -> None:
        """Starts a client; what `ask` raises ends it and is a failure."""

        def run() -> None:
            try:
                while not self.done.is_set():
                    ask()
                    self.counts[name] += 1
            except Exception as error:
                self.failures.append(f"{name}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Ends all, and waits for them."""
        self.done.set()
        for thread in self._threads:
            thread.join()


class Load(NamedTuple):
    """What became of the requests of a load.

    Attributes:
        answered: How many were answered with 200, per second.
        statuses: Status -> how many.
        refusals: The seconds that other answers took, sorted.
    """

    answered: float
    statuses: Counter[int]
    refusals: list[float]


def load(url: str, sent: bytes, seconds: float, *, rate: float = 0.0, clients: int = 0) -> Load:
    """Asks at a rate, whatever the answers, or from so many clients, each as soon as it has its answer.

    Args:
        url: The server's.
        sent: The request.
        seconds: For how long.
        rate: Requests per second, or 0.
        clients: How many there are where there is no rate.
    """
    return asyncio.run(_load(url, sent, seconds, rate, clients))


async def _load(url: str, sent: bytes, seconds: float, rate: float, clients: int) -> Load:
    host, port = url.removeprefix("http://").split(":")
    free, statuses, refusals = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]](), Counter[int](), list[float]()
    end, answered = time.perf_counter() + seconds, 0

    async def ask() -> None:
        nonlocal answered
        began = time.perf_counter()
        while free and free[-1][0].at_eof():  # it was idle until the server let go of it
            free.pop()[1].close()
        reader, writer = free.pop() if free else await asyncio.open_connection(host, int(port))
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
        now, status = time.perf_counter(), int(head.split()[1])
        free.append((reader, writer))
        statuses[status] += 1
        if status != 200:
            refusals.append(now - began)
        elif now <= end:
            answered += 1

    async def again() -> None:
        while time.perf_counter() < end:
            await ask()

    tasks = [asyncio.create_task(again()) for _ in range(clients)]
    began = time.perf_counter()
    while rate and (now := time.perf_counter()) < end:
        tasks += [asyncio.create_task(ask()) for _ in range(int((now - began) * rate) - len(tasks))]
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return Load(answered / seconds, statuses, sorted(refusals))


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values; 0 where there are none."""
    return values[int(share * (len(values) - 1))] if values else 0.0


def memory(pid: int) -> float:
    """The memory that a process holds, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def held(pid: int, server_port: int) -> set[int]:
    """Returns the clients' ports of the connections that a process holds.

    Args:
        pid: The process.
        server_port: The port that the clients asked for.
    """
    links = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    own = {os.readlink(link) for link in links if os.path.islink(link)}
    found = set[int]()
    for line in [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]:
        fields = line.split()
        local, remote = (int(fields[index].partition(":")[2], 16) for index in (1, 2))
        if local == server_port and remote and f"socket:[{fields[9]}]" in own:
            found.add(remote)
    return found
