"""Starting, draining and stopping the server, in this process or in a child."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError, ServingError
from zoo.serving.repository import ModelSource
from zoo.serving.status import StatusError

if TYPE_CHECKING:
    from zoo.serving.access_log import AccessLog
    from zoo.serving.batching import BatchingParameters
    from zoo.serving.manager import Manager, ManagerOptions
    from zoo.serving.metrics import Metrics
    from zoo.serving.observation import Observer
    from zoo.serving.operations import Operations
    from zoo.serving.rest import RestApplication
    from zoo.serving.security import Tls, Tokens
    from zoo.serving.service import Service
    from zoo.serving.shadow import Shadow, Target
    from zoo.serving.workers import Worker

READY = "listening on "
REST_PORT = 8501
GRPC_PORT = 8500
START_SECONDS = 120
DRAIN_SECONDS = 30


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, and what it allows.

    Attributes:
        host: Address to listen on; the default is reachable from this machine alone.
        rest_port: TCP port for REST; 0 for a free one, None for no REST.
        grpc_port: TCP port for gRPC; the same.
        grpc_socket: Path of a UNIX socket for gRPC, or None.
        grpc_channel_arguments: gRPC's own settings, as `name=value,name=value`.
        ssl_config: File with an SSLConfig for gRPC, or None.
        tls: Certificates for both ports, or None for no encryption.
        tokens: Who may ask, or None where everyone may.
        access_log: Where requests are written down, or None.
        body_bytes: The largest REST body.
        timeout_seconds: The longest that a REST request may take; 0 for no limit.
        rest_threads: REST requests that are answered at the same time.
        grpc_threads: The same for gRPC.
        waiting: How many more may wait for a thread.
        connections: How many clients may be connected to REST.
        read_seconds: The longest that a client may take to send a request; 0 for no limit.
        cors: Whether web pages of other origins may call REST.
        metrics_path: Path of the page of metrics with TF Serving's names, or None for none.
        metrics: Whether there is a page of metrics at `/metrics`.
        drain_seconds: How long a server that was told to stop goes on, no longer ready, so that balancers learn of it.
        playground: Whether there is a page at `/`; without, REST answers there as TF Serving does.
        tensor_content: Whether gRPC answers carry tensors as raw bytes and not in typed fields.
        check_methods: Whether a signature's method has to be the one that is called.
        batching: How requests are joined, or None; where the manager reads each version's own parameters, they say it in its place.
        record_warmup: How many shapes of requests are kept for each model, for the next version's warm-up; 0 for none.
        shadows: The versions that get a copy of the traffic.
        shadow_fraction: How much of it.
        worker: Which of several processes this one is, or None.
        manager: How versions are looked for and loaded.
    """

    host: str = "127.0.0.1"
    rest_port: int | None = REST_PORT
    grpc_port: int | None = GRPC_PORT
    grpc_socket: Path | None = None
    grpc_channel_arguments: str = ""
    ssl_config: Path | None = None
    tls: Tls | None = None
    tokens: Tokens | None = None
    access_log: AccessLog | None = None
    body_bytes: int = 256 * 1024 * 1024
    timeout_seconds: float = 30.0
    rest_threads: int = field(default_factory=lambda: 4 * (os.cpu_count() or 1))
    grpc_threads: int = field(default_factory=lambda: 4 * (os.cpu_count() or 1))
    waiting: int = 1000
    connections: int = 10_000
    read_seconds: float = 60.0
    cors: bool = False
    metrics_path: str | None = None
    metrics: bool = True
    drain_seconds: float = 0.0
    playground: bool = True
    tensor_content: bool = False
    check_methods: bool = False
    batching: BatchingParameters | None = None
    record_warmup: int = 0
    shadows: Sequence[Target] = ()
    shadow_fraction: float = 1.0
    worker: Worker | None = None
    manager: ManagerOptions | None = None


@dataclass(frozen=True)
class Addresses:
    """Where a server listens.

    Attributes:
        rest: `http://host:port`, `https://` with certificates, or None.
        grpc: `grpc://host:port`, `grpcs://` with certificates, or None.
    """

    rest: str | None
    grpc: str | None

    def __str__(self) -> str:
        return " and ".join(address for address in (self.rest, self.grpc) if address)


def serve(
    sources: Sequence[ModelSource],
    options: ServerOptions | None = None,
    *,
    refresh: Callable[[], Sequence[ModelSource]] | None = None,
    wait: bool = False,
    announce: Callable[[Manager, Addresses], None] | None = None,
) -> None:
    """Serves models until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        sources: The models; `zoo.serving.repository.find_models` finds them.
        options: Where the server listens, and what it allows.
        refresh: Returns the models anew, as by reading models.config again.
        wait: Whether to wait for a first version where there is none yet, as TF Serving does.
        announce: Called with the loaded models and the server's addresses when it listens.

    Raises:
        MissingExtraError: The packages of the extra `serve` are not installed.
        ServingError: A port is in use, no model could be loaded, or a label names a version that is not loaded.
    """
    try:
        import orjson  # noqa: F401
        import uvicorn  # noqa: F401

        from zoo.serving import grpc_server  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Serving needs {error.name}: pip install 'neuron-zoo[serve]'") from None

    options = options or ServerOptions()
    with contextlib.ExitStack() as stack:
        if options.access_log is not None:
            stack.callback(options.access_log.close)
        listener = None if options.rest_port is None else stack.enter_context(bind(options.host, options.rest_port, options.worker is not None))
        manager = _load(sources, options, refresh, wait, stack)
        gc.freeze()  # what is there now stays: no later look for garbage need go through it while clients wait
        stack.callback(gc.unfreeze)
        shadow = _shadow(manager, options, stack)
        service, metrics = _service(manager, options, shadow, stack)
        grpc, grpc_port = _start_grpc(service, metrics, options, stack)
        operations = _operations(manager, metrics, options, shadow)
        rest = None if listener is None else _rest_server(service, metrics, options, operations, listener, stack)
        rest_port = None if listener is None else listener.getsockname()[1]
        addresses = Addresses(
            *(
                None if port is None else f"{scheme}{'s' * encrypted}://{_host(options)}:{port}"
                for scheme, port, encrypted in (("http", rest_port, bool(options.tls)), ("grpc", grpc_port, bool(options.tls or options.ssl_config)))
            )
        )
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            running = _Running(rest, listener, grpc, operations, options, _pages(manager, metrics, shadow))
            runner.run(running.run(lambda: announce(manager, addresses) if announce else None))


def _new_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that there is for this system."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _host(options: ServerOptions) -> str:
    return f"[{options.host}]" if ":" in options.host else options.host


def _load(
    sources: Sequence[ModelSource],
    options: ServerOptions,
    refresh: Callable[[], Sequence[ModelSource]] | None,
    wait: bool,
    stack: contextlib.ExitStack,
) -> Manager:
    """Loads the models, and sees to it that there is something to serve."""
    from zoo.serving.manager import Manager

    try:
        manager = Manager(sources, options.manager, refresh)
    except StatusError as error:
        raise ServingError(f"Failed to start server. Error: {error}", error.code) from None
    stack.callback(manager.close)
    while not any(manager.loaded(source.name) for source in manager.sources):
        failures = list(manager.failures().values())
        if failures or not wait or manager.options.poll_seconds <= 0:
            raise ServingError(f"No model could be loaded. {' '.join(failures + manager.missing())}")
        time.sleep(0.1)  # the manager's own looks report what is missing
    return manager


def _shadow(manager: Manager, options: ServerOptions, stack: contextlib.ExitStack) -> Shadow | None:
    from zoo.serving.shadow import Shadow

    if not options.shadows:
        return None
    shadow = Shadow(manager, options.shadows, options.shadow_fraction, 0 if options.worker is None else options.worker.number)
    stack.callback(shadow.close)
    return shadow


def _service(manager: Manager, options: ServerOptions, shadow: Shadow | None, stack: contextlib.ExitStack) -> tuple[Service, Metrics | None]:
    from zoo.serving.batching import Batcher
    from zoo.serving.inference import Options, run_directly
    from zoo.serving.metrics import Metrics
    from zoo.serving.recording import Recorder
    from zoo.serving.service import Service

    metrics = Metrics() if options.metrics or options.metrics_path is not None else None
    run = run_directly
    if options.batching is not None:
        batcher = Batcher(options.batching, manager.options.per_model_batching)
        stack.callback(batcher.close)
        run = batcher.run
    observers: list[Observer] = [] if shadow is None else [shadow]
    if options.record_warmup:
        recorder = Recorder(options.record_warmup)
        stack.callback(recorder.close)
        observers.append(recorder)
    service = Service(
        manager, Options(run, options.tensor_content, options.check_methods), metrics, alone=options.worker is None, observers=observers
    )
    return service, metrics


def _start_grpc(service: Service, metrics: Metrics | None, options: ServerOptions, stack: contextlib.ExitStack) -> tuple[Any, int | None]:
    """Starts gRPC, and returns its server and its TCP port; None for what is not asked for."""
    from zoo.serving.grpc_server import Observers, start_grpc

    addresses = [] if options.grpc_port is None else [f"{_host(options)}:{options.grpc_port}"]
    if options.grpc_socket is not None:
        addresses.append(f"unix:{options.grpc_socket}")
    if not addresses:
        return None, None
    server, ports = start_grpc(
        service,
        addresses,
        threads=options.grpc_threads,
        waiting=options.waiting,
        channel_arguments=options.grpc_channel_arguments,
        ssl_config=options.ssl_config,
        tls=options.tls,
        shared=options.worker is not None,
        observers=Observers(service.manager, metrics, options.tokens, options.access_log),
    )
    stack.callback(lambda: server.stop(DRAIN_SECONDS).wait())
    return server, None if options.grpc_port is None else ports[0]


def _rest_server(
    service: Service, metrics: Metrics | None, options: ServerOptions, operations: Operations, listener: socket.socket, stack: contextlib.ExitStack
) -> Any:
    from zoo.serving.playground import Playground
    from zoo.serving.rest import Limits, RestApplication

    try:
        listener.listen(2048)  # not before there are models, so that whoever can connect is answered
    except OSError:
        raise _in_use(*listener.getsockname()[:2]) from None
    limits = Limits(options.body_bytes, options.timeout_seconds, options.rest_threads, options.waiting, options.connections, options.read_seconds)
    playground = Playground(service.manager) if options.playground else None
    application = RestApplication(
        service,
        limits,
        cors=options.cors,
        metrics=metrics,
        metrics_path=options.metrics_path,
        operations=operations,
        tokens=options.tokens,
        access_log=options.access_log,
        playground=playground,
        worker=options.worker,
    )
    stack.callback(application.close)
    encryption = {} if options.tls is None else options.tls.for_uvicorn()
    return http_server(application, timeout_graceful_shutdown=DRAIN_SECONDS, **encryption)


def http_server(application: RestApplication, **settings: Any) -> Any:
    """Returns uvicorn's server of an application; predict requests go the short way where nothing stands between them and the model.

    Args:
        application: What answers.
        settings: More of uvicorn's settings.
    """
    import uvicorn

    from zoo.serving.connection import Connection, Guard
    from zoo.serving.hot_path import HotPath

    hot_path = HotPath(application) if application.service.plain else None
    settings["http"] = functools.partial(Connection, application, Guard(application.limits), hot_path)
    quiet: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "lifespan": "off",
        "proxy_headers": False,
        "ws": "none",
    }
    return uvicorn.Server(uvicorn.Config(application, **quiet, **settings))


def _pages(manager: Manager, metrics: Metrics | None, shadow: Shadow | None) -> dict[str, Callable[[], str]]:
    """The pages of metrics that this process has, by their names."""
    from zoo.serving.metrics import process_gauges

    if metrics is None:
        return {}

    def own() -> str:
        versions = [(source.name, number, found.engine) for source in manager.sources for number, found in manager.loaded(source.name).items()]
        return metrics.own_page(process_gauges(), versions) + ("" if shadow is None else shadow.page())

    return {"tf": metrics.page, "own": own}


def _operations(manager: Manager, metrics: Metrics | None, options: ServerOptions, shadow: Shadow | None) -> Operations:
    from zoo.serving.operations import Operations

    pages = _pages(manager, metrics, shadow)

    async def page() -> str:
        own = pages["own"]()
        return own if options.worker is None else await options.worker.page("own", own)

    return Operations(manager, page if options.metrics and pages else None, options.tokens is not None, shadow)


class _Running:
    """A server that runs until a signal comes, so that SIGTERM ends in exit status 0 and not in death by the signal."""

    def __init__(
        self, rest: Any, listener: socket.socket | None, grpc_server: Any, operations: Operations, options: ServerOptions, pages: Mapping[str, Any]
    ) -> None:
        self._rest, self._listener, self._grpc_server = rest, listener, grpc_server
        self._operations, self._options, self._pages = operations, options, pages

    async def run(self, announce: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT.

        The handler for SIGTERM stays when the loop has ended: a second signal must not kill what is just about to end.
        """
        worker = self._options.worker
        shown = None if worker is None or not self._pages else await worker.show(self._pages)
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def handle(number: int, frame: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(told.set)

        signal.signal(signal.SIGTERM, handle)
        interrupt = signal.signal(signal.SIGINT, handle)
        if self._options.access_log is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._options.access_log.reopen)
        serving = None if self._rest is None else await self._start_rest()
        announce()
        await told.wait()
        await self._stop(serving)
        if shown is not None:
            shown.close()
        signal.signal(signal.SIGINT, interrupt)

    async def _start_rest(self) -> asyncio.Task[None]:
        self._rest.capture_signals = contextlib.nullcontext
        serving: asyncio.Task[None] = asyncio.create_task(self._rest.serve(sockets=[self._listener]))
        while not self._rest.started and not serving.done():
            await asyncio.sleep(0.005)
        return serving

    async def _stop(self, serving: asyncio.Task[None] | None) -> None:
        """Lets balancers learn that this server is not ready, and then both protocols drain at the same time."""
        self._operations.draining = True
        await asyncio.sleep(self._options.drain_seconds)
        if self._rest is not None:
            self._rest.should_exit = True
        draining = None if self._grpc_server is None else self._grpc_server.stop(DRAIN_SECONDS)
        if serving is not None:
            await serving
        if draining is not None:
            await asyncio.to_thread(draining.wait)


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """Returns a socket with an address, which does not listen yet.

    Args:
        host: The address.
        port: The port, 0 for a free one.
        shared: Whether other processes may have the same address.

    Raises:
        ServingError: The port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, so that asyncio turns Nagle's algorithm off: with it an answer in two segments takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise _in_use(host, port) from None
        raise ServingError(f"Cannot listen on {host}, port {port}: {error}.") from None
    return listener


def _in_use(host: str, port: int) -> ServingError:
    return ServingError(f"Port {port} on {host} is in use. Choose another with --rest_api_port, or --rest_api_port=any for a free one.")


class ServerProcess:
    """A `zoo serve` in a child process.

    Attributes:
        url: Where it answers REST, such as `http://127.0.0.1:41234`.
        grpc: Where it answers gRPC, such as `grpc://127.0.0.1:41235`.
        pid: The process's number.
    """

    def __init__(self, process: subprocess.Popen[str], url: str, grpc: str, said: deque[str]) -> None:
        self._process, self.url, self.grpc, self._said = process, url, grpc, said
        self._reader = threading.Thread(target=self._read, daemon=True)  # so that the pipe never fills up
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def said(self) -> str:
        """The last lines that the server printed."""
        return "".join(self._said)

    def stop(self) -> int:
        """Asks the server to stop with SIGTERM, waits until requests under way are answered, and returns its exit status."""
        self._process.terminate()
        try:
            self._process.wait(timeout=DRAIN_SECONDS + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.returncode

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None or not self._process.stdout.closed:  # type: ignore[union-attr]
            self.stop()


def start(repository: str | Path, port: int = 0, *arguments: str) -> ServerProcess:
    """Starts `zoo serve` on a model repository in a child process, and waits until it answers.

    Args:
        repository: The model repository.
        port: TCP port for REST, 0 for a free one. The port for gRPC is a free one.
        *arguments: More arguments for `zoo serve`.

    Raises:
        ServingError: The server ended before it listened; the message is its own.
    """
    flags = [f"--rest_api_port={port or 'any'}", "--port=any", *arguments]
    command = [sys.executable, "-m", "zoo.cli", "serve", str(repository), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    said: deque[str] = deque(maxlen=1000)
    for line in process.stdout:
        said.append(line)
        if match := re.search(rf"{READY}(?P<rest>https?://\S+)?(?: and )?(?P<grpc>grpcs?://\S+)?", line):
            return ServerProcess(process, match["rest"] or "", match["grpc"] or "", said)
    process.communicate()
    raise ServingError(f"The server did not start: {''.join(said).strip() or f'exit status {process.returncode}'}")
