"""A `zoo` for the blocks of pages: the same command, answered by a process that has its libraries loaded already.

Every call is a fork of one server, with the caller's arguments, directory, environment and files. Signals are passed on to it,
and it ends with its caller. What is saved are the seconds of loading. A caller with other variables for Keras, TensorFlow or JAX
than the server's gets the command itself; one with another PYTHONPATH finds what is there, but not another `zoo`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

LOADING = ("KERAS_", "TF_", "JAX_")  # beginnings of the variables on which it depends what is loaded
SCRIPT = """#!{python} -IS
import contextlib, json, os, signal, socket, sys

if {{name: value for name, value in os.environ.items() if name.startswith({loading})}} != {environment}:
    os.execv({command!r}, [{command!r}, *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
connection.sendall(request)
answers = connection.makefile()
process = int(answers.readline())


def pass_on(number, frame):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
sys.exit(int(answers.readline() or 1))
"""


@contextlib.contextmanager
def ready_zoo() -> Iterator[Path]:
    """Gives the directory of such a `zoo`, to come first on PATH."""
    commands = Path(sys.executable).parent
    if sys.platform != "linux":  # a fork after loading macOS's frameworks may crash
        yield commands
        return
    environment = {name: value for name, value in os.environ.items() if name.startswith(LOADING)}
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        address, script, command = f"{directory}/server", Path(directory, "zoo"), str(commands / "zoo")
        script.write_text(SCRIPT.format(python=sys.executable, loading=LOADING, environment=environment, command=command, address=address))
        script.chmod(0o755)
        listener.bind(address)
        listener.listen()
        server = [sys.executable, __file__, str(listener.fileno())]
        with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()]):
            yield Path(directory)  # leaving closes its standard input, and so ends it


def serve(listener: socket.socket) -> None:
    """Answers until standard input ends."""
    import tuning.worker_imports  # noqa: F401
    import zoo.export
    import zoo.training  # noqa: F401

    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        with contextlib.suppress(ChildProcessError):  # until there are no forks
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(connection)
            return
        connection.close()


def answer(connection: socket.socket) -> None:
    """Runs a caller's command in this process."""
    from zoo.cli import main

    os.setsid()
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as request:
        arguments, directory, environment = json.loads(request.read(int.from_bytes(head, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = arguments
    connection.sendall(f"{os.getpid()}\n".encode())
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    status: int | str | None = 1

    def report() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(f"{int(status or 0)}\n".encode())
        os._exit(0)

    atexit.register(report)
    try:
        status = main()
    except SystemExit as end:
        status = end.code


def end_with(connection: socket.socket) -> None:
    """Ends this process when its caller has ended."""
    connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
