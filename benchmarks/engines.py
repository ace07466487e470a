"""The server's engines beside each other, on the same versions: two models with random weights, in all formats.

    python benchmarks/engines.py calls     [--engines tf_threads,tf,litert,onnx,auto] [--subjects mlp,cnn] [--seconds 3] [--rounds 3]
    python benchmarks/engines.py requests  [--engines ...] [--subjects ...] [--seconds 3] [--rounds 3]
    python benchmarks/engines.py batches   [--engines ...] [--subjects ...] [--seconds 3] [--rounds 3]
    python benchmarks/engines.py start     [--engines ...] [--subjects ...] [--rounds 3] [--models 5]

- `calls`: images per second within a process, of two callers, one image and 32 at a time.
- `requests`: single images per second over REST and over gRPC, of callers on connections of their own in another process.
- `batches`: images per second over the network, 32 to a request, as raw bytes of a tensor over gRPC and as PNG files in base 64 over
  REST, and which share that is of what the engine does within a process, without a client beside it.
- `start`: seconds from the command to the first answer; memory for each model more.

`tf_threads` is the session with TensorFlow's default threads, by which the ratios go; `tf` is the session as this server runs a
small model, in its caller's thread. Engines take turns, each in a process of its own, and the best of the rounds counts.
Every figure is appended to `results/engines.csv`; ratios, not rates, are what carries over to other machines.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from table import Table

import zoo
from zoo.console import load_backend

if TYPE_CHECKING:
    from zoo.serving.servable import Servable

RESULTS = Path(__file__).parent / "results" / "engines.csv"
COLUMNS = ("line", "subject", "engine", "served_by", "batch", "callers")
VERSIONS = ("python", "tensorflow", "ai-edge-litert", "onnxruntime", "commit")
REFERENCE, BEST, AUTO = "tf_threads", ("tf", "litert", "onnx"), "auto"
ENGINES = (REFERENCE, *BEST, AUTO)
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("relu_mlp", {"units": 512, "depth": 1}),  # 784-512-10
    "cnn": ("cnn", {"filters": 32, "blocks": 3}),  # convolutions of 32, 64 and 128
}
SHAPE = (28, 28, 1)
CALLERS = 2
BATCHES = (1, 32)
FASTER, NEARLY, READY_SECONDS, SHARE = 3.0, 0.95, 5.0, 0.7


# -- what a process of its own does --------------------------------------------------------------------------------------


def export(job: dict[str, Any]) -> None:
    """Writes a model with random weights in all formats."""
    model, hyperparameters = SUBJECTS[job["subject"]]
    network = zoo.create_model(model, input_shape=SHAPE, num_classes=10, **hyperparameters)
    card = zoo.Card(
        name=f"{model}.random",
        model=model,
        hyperparameters={**zoo.model_info(model).defaults, **hyperparameters},
        input_shape=SHAPE,
        num_classes=10,
        class_names=tuple(map(str, range(10))),
        dataset="random",
        light_on_dark=True,
        recipe={},
        sha256="",
        parameters=network.count_params(),
    )
    zoo.export_model((network, card), job["repository"], name=job["subject"], formats=["saved_model", "litert", "onnx"])


def images(count: int) -> Any:
    import numpy

    return numpy.random.default_rng(0).integers(0, 256, (count, *SHAPE)).astype("float32")


def files(count: int) -> list[bytes]:
    """The same images as PNG files."""
    from PIL import Image

    found = []
    for image in images(count):
        with io.BytesIO() as file:
            Image.fromarray(image[..., 0].astype("uint8")).save(file, "PNG")
            found.append(file.getvalue())
    return found


def rate(callers: Sequence[Callable[[], Any]], seconds: float) -> float:
    """How many answers per second several threads get together."""
    counts, gate = [0] * len(callers), threading.Barrier(len(callers) + 1)

    def call(index: int) -> None:
        for _ in range(3):
            callers[index]()
        gate.wait()
        while time.perf_counter() < end:
            callers[index]()
            counts[index] += 1

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(callers))]
    for thread in threads:
        thread.start()
    end = time.perf_counter() + seconds  # of the first calls, which nobody counts; set anew when all are there
    while gate.n_waiting < len(callers):
        time.sleep(0.001)
    began = time.perf_counter()
    end = began + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def loaded(job: dict[str, Any]) -> Servable:
    """The version that a job is about, on its engine."""
    from zoo.serving.servable import Servable, SessionOptions

    threads = SessionOptions(intra_op_threads=0, inter_op_threads=0) if job["engine"] == REFERENCE else None
    return Servable(Path(job["repository"]) / job["subject"] / "1", threads, "tf" if threads else job["engine"])


def calls(job: dict[str, Any]) -> dict[str, Any]:
    """Images per second by batch, in this process."""
    servable = loaded(job)
    signature = servable.signature()
    assert signature is not None
    found = {}
    for batch in BATCHES:
        request = {"image": images(batch)}
        found[str(batch)] = batch * rate([lambda request=request: signature.run(request)] * CALLERS, job["seconds"])
    return {"served_by": servable.engine, "rates": found}


def limits(job: dict[str, Any]) -> dict[str, Any]:
    """Images per second by protocol, 32 at a time, in this process: what the server cannot exceed."""
    import numpy

    servable = loaded(job)
    requests = {"gRPC": ("serving_default", {"image": images(32)}), "REST, b64": ("predict_bytes", {"image_bytes": numpy.array(files(32), object)})}
    found = {}
    for protocol, (name, arrays) in requests.items():
        signature = servable.signature(name)
        assert signature is not None
        signature.run(arrays)
        found[protocol] = 32 * rate([lambda signature=signature, arrays=arrays: signature.run(arrays)] * CALLERS, job["seconds"])
    return {"served_by": servable.engine, "rates": found}


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Answers per second by protocol, of callers in this process."""
    return {protocol: rate([caller(job, images(1)) for _ in range(CALLERS)], job["seconds"]) for protocol, caller in CALLS.items()}


def ask_batches(job: dict[str, Any]) -> dict[str, Any]:
    """Images per second by protocol, 32 at a time, of callers in this process."""
    callers = {"gRPC": lambda: grpc_caller(job, images(32)), "REST, b64": lambda: bytes_caller(job, files(32))}
    return {protocol: 32 * rate([caller() for _ in range(CALLERS)], job["seconds"]) for protocol, caller in callers.items()}


def bytes_caller(job: dict[str, Any], contents: Sequence[bytes]) -> Callable[[], None]:
    instances = [{"b64": base64.b64encode(content).decode()} for content in contents]
    return http_caller(job, json.dumps({"signature_name": "predict_bytes", "instances": instances}).encode())


def rest_caller(job: dict[str, Any], image: Any) -> Callable[[], None]:
    return http_caller(job, json.dumps({"instances": image.tolist()}).encode())


def http_caller(job: dict[str, Any], body: bytes) -> Callable[[], None]:
    """Sends the same bytes again and again: a client of the least work."""
    host, port = job["rest"].removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = f"POST /v1/models/{job['subject']}:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def call() -> None:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        size = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        while len(rest) < size:
            rest += connection.recv(65536)
        if b" 200 " not in head.splitlines()[0]:
            sys.exit(f"The server answered {rest.decode()}")

    return call


def grpc_caller(job: dict[str, Any], image: Any) -> Callable[[], Any]:
    import grpc

    from zoo.serving.messages import message
    from zoo.serving.tensors import fill_proto

    request = message("PredictRequest")()
    request.model_spec.name = job["subject"]
    fill_proto(request.inputs["image"], image, as_content=True)
    channel = grpc.insecure_channel(job["grpc"].removeprefix("grpc://"), options=[("grpc.use_local_subchannel_pool", 1)])
    method, content = channel.unary_unary("/tensorflow.serving.PredictionService/Predict"), request.SerializeToString()
    return lambda: method(content)


CALLS: dict[str, Callable[[dict[str, Any], Any], Callable[[], Any]]] = {"REST": rest_caller, "gRPC": grpc_caller}
WORKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "export": export,
    "calls": calls,
    "limits": limits,
    "ask": ask,
    "ask_batches": ask_batches,
}


# -- the lines -----------------------------------------------------------------------------------------------------------


def run(task: str, **job: Any) -> Any:
    """Runs one of `WORKERS` in a process of its own."""
    command = [sys.executable, __file__, "worker", task, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{task} failed: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def heading(row: Mapping[str, Any]) -> str:
    by = f" ({row['served_by']})" if row["engine"] == AUTO else ""
    return f"{row['line']:<9} {row['subject']:<4} {row.get('batch', ''):<3} {row['engine'] + by:<20}"


def flags(engine: str) -> list[str]:
    """What `zoo serve` gets; as many threads as processors are TensorFlow's default."""
    shared = ["--no-playground", f"--engine={'tf' if engine == REFERENCE else engine}"]
    return [*shared, f"--tensorflow_session_parallelism={os.cpu_count()}"] if engine == REFERENCE else shared


def best_of(arguments: argparse.Namespace, measure: Callable[[str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Engine -> what was measured: of every figure the largest of the rounds, in which engines take turns."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(arguments.rounds):
        for engine in arguments.engines:
            measured = measure(engine)
            best = found.setdefault(engine, measured)["rates"]
            found[engine] = {**measured, "rates": {key: max(value, best[key]) for key, value in measured["rates"].items()}}
    return found


def report(table: Table, found: dict[str, dict[str, Any]], key: str, **row: Any) -> None:
    """Adds a row for each engine, with what is wanted of `auto`: three times the reference's rate for single images, and the best engine's."""
    rates = {engine: measured["rates"][key] for engine, measured in found.items()}
    for engine, value in rates.items():
        ratio = {"ratio": value / rates[REFERENCE]} if REFERENCE in rates and engine != REFERENCE else {}
        verdict = wanted(rates, engine, row["batch"])
        table.add(**row, engine=engine, served_by=found[engine]["served_by"], callers=CALLERS, value=value, **ratio, **verdict)


def wanted(rates: dict[str, float], engine: str, batch: int) -> dict[str, str]:
    conditions = {}
    if engine == AUTO and batch == 1 and REFERENCE in rates:
        conditions[f">= {FASTER:g}x {REFERENCE}"] = rates[AUTO] >= FASTER * rates[REFERENCE]
    if engine == AUTO and (others := [rates[name] for name in BEST if name in rates]):
        conditions[f">= {NEARLY:g}x the best"] = rates[AUTO] >= NEARLY * max(others)
    return {"wanted": " and ".join(conditions), "met": "yes" if all(conditions.values()) else "no"} if conditions else {}


def line_calls(table: Table, arguments: argparse.Namespace, repository: Path) -> None:
    for subject in arguments.subjects:
        job = {"subject": subject, "repository": str(repository), "seconds": arguments.seconds}
        found = best_of(arguments, lambda engine, job=job: run("calls", engine=engine, **job))
        for batch in BATCHES:
            report(table, found, str(batch), line="calls", subject=subject, batch=batch, unit="images/s")


def asked(task: str, repository: Path, engine: str, subject: str, seconds: float) -> dict[str, Any]:
    """What callers in another process get out of a server."""
    from zoo.serving import start

    with start(repository / subject, 0, *flags(engine)) as server:
        rates = run(task, subject=subject, rest=server.url, grpc=server.grpc, seconds=seconds)
        return {"served_by": served_by(server.said), "rates": rates}


def line_requests(table: Table, arguments: argparse.Namespace, repository: Path) -> None:
    for subject in arguments.subjects:
        found = best_of(arguments, lambda engine, subject=subject: asked("ask", repository, engine, subject, arguments.seconds))
        for protocol in CALLS:
            report(table, found, protocol, line="requests", subject=subject, batch=1, unit=f"requests/s, {protocol}")


def line_batches(table: Table, arguments: argparse.Namespace, repository: Path) -> None:
    for subject in arguments.subjects:
        job = {"subject": subject, "repository": str(repository), "seconds": arguments.seconds}
        limit = best_of(arguments, lambda engine, job=job: run("limits", engine=engine, **job))
        found = best_of(arguments, lambda engine, subject=subject: asked("ask_batches", repository, engine, subject, arguments.seconds))
        for engine, measured in found.items():
            for protocol, value in measured["rates"].items():
                most = limit[engine]["rates"][protocol]
                row = {"line": "batches", "subject": subject, "engine": engine, "served_by": measured["served_by"], "batch": 32, "callers": CALLERS}
                table.add(**row, value=most, unit=f"images/s in a process ({protocol})")
                share = {"ratio": value / most, "wanted": f">= {SHARE:g} of that", "met": "yes" if value >= SHARE * most else "no"}
                table.add(**row, value=value, unit=f"images/s, {protocol}", **share)


def line_start(table: Table, arguments: argparse.Namespace, repository: Path) -> None:
    for subject in arguments.subjects:
        for engine in arguments.engines:
            measured = [ready(repository / subject, engine) for _ in range(arguments.rounds)]
            seconds, megabytes, by = min(measured)
            limit = {"wanted": f"<= {READY_SECONDS:g} s", "met": "yes" if seconds <= READY_SECONDS else "no"} if by in ("litert", "onnx") else {}
            row = {"line": "start", "subject": subject, "engine": engine, "served_by": by}
            table.add(**row, value=seconds, unit="s to the first answer", **limit)
            with tempfile.TemporaryDirectory() as several:
                for number in range(arguments.models):
                    shutil.copytree(repository / subject, Path(several) / f"{subject}{number}")
                more = (ready(Path(several), engine)[1] - megabytes) / (arguments.models - 1)
            table.add(**row, value=megabytes, unit="MB with one model")
            table.add(**row, value=more, unit="MB for each model more")


def ready(repository: Path, engine: str) -> tuple[float, float, str]:
    """Seconds from the command to the first answer, the server's memory when every model has answered, and its engine."""
    from zoo.serving import Client, start

    began = time.perf_counter()
    with start(repository, 0, *flags(engine)) as server, Client(server.url) as client:
        names = re.findall(r"^(\S+): version", server.said, re.MULTILINE)
        client.predict(names[0], image=images(1))
        seconds = time.perf_counter() - began
        for name in names[1:]:
            client.predict(name, image=images(1))
        kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(server.pid)], capture_output=True, text=True, check=True).stdout
        return seconds, int(kilobytes) / 1000, served_by(server.said)


def served_by(said: str) -> str:
    return re.findall(r": version \S+ on (\S+)", said)[0]


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.argv[1:2] == ["worker"]:
        if sys.argv[2] == "export":
            load_backend()
        print(json.dumps(WORKERS[sys.argv[2]](json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", choices=("calls", "requests", "batches", "start"))
    parser.add_argument("--engines", type=lambda text: text.split(","), default=ENGINES, help=f"default: {','.join(ENGINES)}")
    parser.add_argument("--subjects", type=lambda text: text.split(","), default=tuple(SUBJECTS), help=f"default: {','.join(SUBJECTS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="the time of each measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the best counts (default: 3)")
    parser.add_argument("--models", type=int, default=5, help="start: models in one server, for the memory (default: 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for subject in arguments.subjects:
            run("export", subject=subject, repository=folder)
        lines = {"calls": line_calls, "requests": line_requests, "batches": line_batches, "start": line_start}
        lines[arguments.line](Table(arguments.out, COLUMNS, VERSIONS, heading), arguments, Path(folder))


if __name__ == "__main__":
    main()
