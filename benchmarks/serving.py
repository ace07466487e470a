"""Requests per second: `zoo serve` beside the Python servers that people use, on the same exported models, in one run.

    python benchmarks/serving.py install [--peers FOLDER]
    python benchmarks/serving.py measure [--peers FOLDER] [--servers zoo,fastapi_keras,...] [--models mlp,cnn] [--seconds 4] [--rounds 1]

Every server, written as its own documentation shows it (see `serving_peers/`), serves a perceptron 784-512-10 and a network of
three convolutions; `wrk`, on the same processors, asks for one image or for 32 at a time, as JSON, over 1, 8 or 32 connections.
Each server's answers are held against Keras's before its time is taken. `hand_tuned` is no package but the fastest FastAPI that
an afternoon makes. `install` makes an environment for each peer, which takes TensorFlow from this one.

Ratios, not rates, are what carries over to other machines: a server's rate against the best peer's and against the hand-tuned
one's. Every figure is appended to `results/serving.csv`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo.environment import environment

HERE = Path(__file__).parent
APPS = HERE / "serving_peers"
RESULTS = HERE / "results" / "serving.csv"
PEERS = HERE.parent / "build" / "peers"
COLUMNS = ("server", "version", "model", "images", "clients", "requests_per_second", "p99_milliseconds", "against_best_peer", "against_hand_tuned")
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("relu_mlp", {"units": 512, "depth": 1}),  # 784-512-10
    "cnn": ("cnn", {"filters": 32, "blocks": 3}),  # convolutions of 32, 64 and 128
}
SHAPE = (28, 28, 1)
IMAGES = (1, 32)
CLIENTS = (1, 8, 32)
START_SECONDS = 180


@dataclass(frozen=True)
class Server:
    """A server under test.

    Attributes:
        environment: Folder of its environment among the peers, or None for this one.
        packages: What is installed into it; the first is the one whose version is reported.
        command: Its command line, from the port; `{python}` and `{bin}` are the environment's.
        path: Where it takes requests.
        wrap: What a request's body holds, from the images.
        read: The probabilities in an answer.
    """

    environment: str | None
    packages: tuple[str, ...]
    command: tuple[str, ...]
    path: str = "/predict"
    wrap: Callable[[Any], Any] = lambda images: {"instances": images.tolist()}
    read: Callable[[Any], Any] = lambda answer: answer["predictions"]


def _tensors(images: Any) -> Any:
    return {"inputs": [{"name": "instances", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}]}


def _first_output(answer: Any) -> Any:
    import numpy

    return numpy.reshape(answer["outputs"][0]["data"], answer["outputs"][0]["shape"])


def _zoo(*flags: str) -> Server:
    """This package's server."""
    ports = ("--rest_api_port={port}", "--port=0")
    command = ("{python}", "-m", "zoo.cli", "serve", "{repository}", *ports, "--no-playground", *flags)
    return Server(
        None, ("neuron-zoo",), command, "/v1/models/{model}:predict", read=lambda answer: [row["probabilities"] for row in answer["predictions"]]
    )


_UVICORN = ("{python}", "-m", "uvicorn", "--port", "{port}", "--log-level", "warning")
SERVERS = {
    "zoo": _zoo(),
    "zoo_2_workers": _zoo("--workers=2"),
    "fastapi_keras": Server(
        "fastapi", ("fastapi", "uvicorn[standard]", "orjson"), (*_UVICORN, "fastapi_keras:app"), read=lambda answer: softmax(answer["predictions"])
    ),
    "fastapi_signature": Server("fastapi", ("fastapi",), (*_UVICORN, "fastapi_signature:app")),
    "litserve": Server("litserve", ("litserve",), ("{python}", "litserve_peer.py")),
    "bentoml": Server("bentoml", ("bentoml",), ("{bin}/bentoml", "serve", "bentoml_peer:Classifier", "--port", "{port}")),
    "ray_serve": Server("ray", ("ray[serve]",), ("{bin}/serve", "run", "ray_peer:app"), "/"),
    "mlserver": Server(
        "mlserver", ("mlserver",), ("{bin}/mlserver", "start", "{settings}"), "/v2/models/classifier/infer", wrap=_tensors, read=_first_output
    ),
    "hand_tuned": Server("fastapi", ("fastapi",), (*_UVICORN, "--workers", "2", "hand_tuned:app")),
}
OURS, HAND_TUNED = ("zoo", "zoo_2_workers"), "hand_tuned"


def install(peers: Path) -> None:
    """Makes the peers' environments; TensorFlow and Keras come from this one."""
    wanted: dict[str, tuple[str, ...]] = {}
    for server in SERVERS.values():
        if server.environment is not None:
            wanted.setdefault(server.environment, server.packages)
    for name, packages in wanted.items():
        print(f"{name}: {', '.join(packages)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", peers / name], check=True)
        subprocess.run([peers / name / "bin" / "pip", "install", "-q", *packages], check=True)
        (site,) = (peers / name / "lib").glob("python*/site-packages")
        (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")


def export(folder: Path, subject: str) -> None:
    """Writes a model with random weights, in all formats, and as a Keras file."""
    name, hyperparameters = SUBJECTS[subject]
    network = zoo.create_model(name, input_shape=SHAPE, num_classes=10, **hyperparameters)
    card = zoo.Card(
        name=f"{name}.random",
        model=name,
        hyperparameters={**zoo.model_info(name).defaults, **hyperparameters},
        input_shape=SHAPE,
        num_classes=10,
        class_names=tuple(map(str, range(10))),
        dataset="random",
        light_on_dark=True,
        recipe={},
        sha256="",
        parameters=network.count_params(),
    )
    zoo.export_model((network, card), folder / "repository", name=subject, formats=["saved_model", "litert", "onnx"])
    network.save(folder / f"{subject}.keras")


def images(count: int) -> Any:
    """Images in the range that the exported models take, a quarter of their pixels not zero, as of a handwritten digit."""
    import numpy

    random = numpy.random.default_rng(0)
    return (random.integers(0, 256, (count, *SHAPE)) * (random.random((count, *SHAPE)) < 0.25)).astype("float32")


@contextlib.contextmanager
def running(name: str, folder: Path, subject: str, peers: Path) -> Iterator[str]:
    """Starts a server, and yields the address that takes requests when it answers."""
    server = SERVERS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = 8000 if name == "ray_serve" else free.getsockname()[1]
    python = Path(sys.executable) if server.environment is None else peers / server.environment / "bin" / "python"
    settings = folder / "mlserver"
    settings.mkdir(exist_ok=True)
    (settings / "settings.json").write_text(json.dumps({"http_port": port, "grpc_port": 0, "metrics_port": 0, "parallel_workers": 0}))
    (settings / "model-settings.json").write_text(json.dumps({"name": "classifier", "implementation": "mlserver_peer.Classifier"}))
    values = {"python": python, "bin": python.parent, "port": port, "repository": folder / "repository", "settings": settings, "model": subject}
    paths = {"PEER_SAVED_MODEL": str(folder / "repository" / subject / "1"), "PEER_KERAS": str(folder / f"{subject}.keras"), "PEER_PORT": str(port)}
    path = os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH", "")]))
    surroundings = {
        **os.environ,
        **paths,
        "PYTHONPATH": path,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [part.format(**values) for part in server.command]
    url = f"http://127.0.0.1:{port}{server.path.format(**values)}"
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=APPS, env=surroundings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait(url, server, process)
            yield url
        except TimeoutError:
            sys.exit(f"{name} did not answer:\n{Path(log.name).read_text()[-2000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT if name == "ray_serve" else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait(url: str, server: Server, process: subprocess.Popen[bytes]) -> None:
    """Waits until a server answers.

    Raises:
        TimeoutError: It ended, or has not answered in time.
    """
    import requests

    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.post(url, json=server.wrap(images(1)), timeout=30).ok:
                return
        time.sleep(0.2)
    raise TimeoutError


def check(url: str, server: Server, expected: Any) -> None:
    """Holds a server's answers against Keras's."""
    import numpy
    import requests

    answer = numpy.array(server.read(requests.post(url, json=server.wrap(images(max(IMAGES))), timeout=60).json()))
    if answer.shape != expected.shape or not numpy.allclose(answer, expected, atol=1e-4):
        sys.exit(f"{url} answers {answer[:1]}, and Keras {expected[:1]}")


def load(url: str, body: str, clients: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and the 99th percentile of their latency in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n')
        script.flush()
        command = ["wrk", "-t1", f"-c{clients}", "--latency", "--timeout", "60", "-s", script.name, url]
        subprocess.run([*command, "-d1"], check=True, capture_output=True)
        said = subprocess.run([*command, f"-d{max(round(seconds), 1)}"], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"Requests failed: {said}")
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if rate is None or p99 is None:
        sys.exit(f"wrk said: {said}")
    return float(rate[1]), float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]


Key = tuple[str, str, int, int]


def measure(arguments: argparse.Namespace, folder: Path) -> dict[Key, tuple[float, float]]:
    """Server, model, images, clients -> the best rate of the rounds, and its latency."""
    import keras

    found: dict[Key, tuple[float, float]] = {}
    for _ in range(arguments.rounds):
        for subject in arguments.models:
            expected = keras.models.load_model(folder / f"{subject}.keras", compile=False).predict(images(max(IMAGES)), verbose=0)
            for name in arguments.servers:
                with running(name, folder, subject, arguments.peers) as url:
                    check(url, SERVERS[name], softmax(expected))
                    for count in IMAGES:
                        body = json.dumps(SERVERS[name].wrap(images(count)))
                        for clients in CLIENTS:
                            measured = load(url, body, clients, arguments.seconds)
                            found[name, subject, count, clients] = max(measured, found.get((name, subject, count, clients), (0.0, 0.0)))
                            print(
                                f"{name:<18} {subject} {count:>2} images {clients:>2} clients: {measured[0]:>8.0f}/s, p99 {measured[1]:.1f} ms",
                                flush=True,
                            )
    return found


def softmax(logits: Any) -> Any:
    import numpy

    powers = numpy.exp(numpy.subtract(logits, numpy.max(logits, axis=-1, keepdims=True)))
    return powers / powers.sum(axis=-1, keepdims=True)


def report(found: dict[Key, tuple[float, float]], path: Path, peers: Path) -> None:
    """Appends the figures to a CSV file, and prints what is wanted beside what was found."""
    versions = {name: version(name, peers) for name in {key[0] for key in found}}
    rows = [{"version": versions[key[0]], **_row(found, *key)} for key in found]
    about = environment()
    fields = (*COLUMNS, "processor", "cores", "commit")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**row, **{name: about.get(name, "") for name in fields[len(COLUMNS) :]}} for row in rows)
    for line in verdicts(found):
        print(line)


def _row(found: dict[Key, tuple[float, float]], name: str, subject: str, count: int, clients: int) -> dict[str, Any]:
    rate, p99 = found[name, subject, count, clients]
    row = {
        "server": name,
        "model": subject,
        "images": count,
        "clients": clients,
        "requests_per_second": round(rate, 1),
        "p99_milliseconds": round(p99, 2),
    }
    best, tuned = _best_peer(found, subject, count, clients), found.get((HAND_TUNED, subject, count, clients))
    return {
        **row,
        "against_best_peer": round(rate / best[0], 2) if best and best[0] else "",
        "against_hand_tuned": round(rate / tuned[0], 2) if tuned and tuned[0] else "",
    }


def version(name: str, peers: Path) -> str:
    """The version of a server's package."""
    server = SERVERS[name]
    python = Path(sys.executable) if server.environment is None else peers / server.environment / "bin" / "python"
    package = re.split(r"[\[=<>]", server.packages[0])[0]
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _best_peer(found: dict[Key, tuple[float, float]], subject: str, count: int, clients: int) -> tuple[float, float] | None:
    """The best packaged peer's rate and latency."""
    return max(
        (value for (name, *rest), value in found.items() if name not in (*OURS, HAND_TUNED) and rest == [subject, count, clients]), default=None
    )


def verdicts(found: dict[Key, tuple[float, float]]) -> Iterator[str]:
    """What is wanted at 32 clients, and whether it was found."""
    for subject, tuned_wanted in (("mlp", 2.0), ("cnn", 1.5)):
        ours = [found[name, subject, 1, 32] for name in OURS if (name, subject, 1, 32) in found]
        best, tuned = _best_peer(found, subject, 1, 32), found.get((HAND_TUNED, subject, 1, 32))
        if not ours:
            continue
        rate, p99 = max(ours)
        if best:
            yield _verdict(f"{subject}, single images, 32 clients: rate against the best packaged peer", rate / best[0], 3.0)
            yield _verdict(f"{subject}, single images, 32 clients: the best peer's p99 against ours", best[1] / p99, 2.0)
        if tuned:
            yield _verdict(f"{subject}, single images, 32 clients: rate against the hand-tuned server", rate / tuned[0], tuned_wanted)
        peers = [value[0] for (name, *rest), value in found.items() if name not in OURS and rest == [subject, 32, 32]]
        several = [found[name, subject, 32, 32][0] for name in OURS if (name, subject, 32, 32) in found]
        if peers and several:
            yield _verdict(f"{subject}, 32 images, 32 clients: rate against the best peer", max(several) / max(peers), 2.0)


def _verdict(what: str, ratio: float, wanted: float) -> str:
    return f"{what}: {ratio:.2f}x, wanted {wanted:g}x: {'met' if ratio >= wanted else 'NOT MET'}"


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return given

    return read


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("install", "measure"))
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' environments")
    parser.add_argument("--servers", type=names(list(SERVERS)), default=list(SERVERS), help=f"default: {','.join(SERVERS)}")
    parser.add_argument("--models", type=names(list(SUBJECTS)), default=list(SUBJECTS), help=f"default: {','.join(SUBJECTS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="time of each measurement (default: 4)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of which the best counts (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    if arguments.task == "install":
        install(arguments.peers)
        return
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk, which is not on PATH: apt-get install wrk, or brew install wrk.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for subject in arguments.models:
            export(folder, subject)
        report(measure(arguments, folder), arguments.out, arguments.peers)


if __name__ == "__main__":
    main()
