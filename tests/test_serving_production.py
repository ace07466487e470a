"""The configuration of docs/tasks/production.md, as it stands there: encryption, tokens, limits, metrics, and an end under load."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
import yaml
from certificates import Authority
from prometheus_client.parser import text_string_to_metric_families

import zoo
from zoo.errors import ServingError
from zoo.serving import Client
from zoo.serving.repository import find_models, write_config
from zoo.serving.server import bind
from zoo.serving.status import Code

PAGE = Path(__file__).parent.parent / "docs" / "tasks" / "production.md"
MODEL = "relu_mlp.digits"
IMAGES = numpy.ones((1, 8, 8, 1), "float32")
TOKEN = {"Authorization": "Bearer secret"}


def blocks() -> list[str]:
    return re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class Production:
    """The page's server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = Authority(folder)
        authority.sign("server")
        self.authority = str(authority.path)
        (folder / "tokens").write_text("secret\n")
        (folder / "tokens").chmod(0o600)
        zoo.export_model(MODEL, folder / "models", formats=["saved_model", "litert"])
        write_config(folder / "models.config", find_models(folder / "models"))
        with bind("127.0.0.1", 0) as rest, bind("127.0.0.1", 0) as other:
            self.rest, self.grpc = rest.getsockname()[1], other.getsockname()[1]
        command = blocks()[0].replace("8501", str(self.rest)).replace("8500", str(self.grpc)).replace("0.0.0.0", "127.0.0.1")
        program, *arguments = shlex.split(command)
        assert program == "zoo"
        self.url = f"https://127.0.0.1:{self.rest}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zoo.cli", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("listening on"):
                break
        assert said, "it ended"
        assert said[-1] == f"listening on {self.url} and grpcs://127.0.0.1:{self.grpc}\n", said
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", verify=self.authority, timeout=30, **arguments)

    def post(self, body: Any, **arguments: Any) -> requests.Response:
        return requests.post(f"{self.url}/v1/models/{MODEL}:predict", data=body, verify=self.authority, timeout=30, **arguments)

    def client(self, protocol: str, token: str | None = "secret") -> Client:
        url = self.url if protocol == "rest" else f"grpcs://127.0.0.1:{self.grpc}"
        return Client(url, token=token, certificate_authority=self.authority, retries=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    production = Production(tmp_path_factory.mktemp("production"))
    yield production
    production.close()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_both_ports_are_encrypted_and_ask_for_the_token(server: Production, protocol: str) -> None:
    with server.client(protocol) as client:
        assert client.predict(MODEL, image=IMAGES)["probabilities"].shape == (1, 10)
    with server.client(protocol, token=None) as client, pytest.raises(ServingError) as error:
        client.predict(MODEL, image=IMAGES)
    assert error.value.code == Code.UNAUTHENTICATED
    plain = f"http://127.0.0.1:{server.rest}" if protocol == "rest" else f"grpc://127.0.0.1:{server.grpc}"
    with Client(plain, token="secret", retries=0, timeout=5) as client, pytest.raises(ServingError):
        client.predict(MODEL, image=IMAGES)


def test_health_and_interface(server: Production) -> None:
    assert [server.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/models", "/openapi.json")] == [200, 200, 401, 401, 401]
    assert server.get("/openapi.json", headers=TOKEN).json()["security"] == [{"token": []}]
    assert server.get("/", headers=TOKEN).status_code == 404


def test_limits(server: Production) -> None:
    too_large = server.post(b" " * 1_000_001, headers=TOKEN)
    assert too_large.status_code == 413
    deep = server.post(b"[" * 1000, headers=TOKEN)
    assert deep.status_code == 400
    long = server.get("/healthz", headers={"a": "b" * 70_000})
    assert long.status_code == 431

    def trickle() -> Iterator[bytes]:
        for _ in range(200):
            yield b" "
            time.sleep(0.1)

    status = None
    with contextlib.suppress(requests.ConnectionError):  # the client may be writing when the server has had enough
        status = server.post(trickle(), headers=TOKEN).status_code
    assert status in (408, None), "a body that trickles is never read to its end"


def test_the_metrics_are_those_of_all_workers(server: Production) -> None:
    def count() -> float:
        page = server.get("/metrics", headers=TOKEN).text
        families = {family.name: family for family in text_string_to_metric_families(page)}
        samples = [sample for sample in families["zoo_requests"].samples if sample.labels["status"] == "OK" and sample.labels["protocol"] == "REST"]
        assert {sample.labels["engine"] for sample in samples} <= {"litert"}
        return sum(sample.value for sample in samples)

    body = json.dumps({"instances": IMAGES.tolist()})
    before = count()
    assert [server.post(body, headers={**TOKEN, "Connection": "close"}).status_code for _ in range(20)] == [200] * 20
    assert count() == before + 20


def test_the_access_log(server: Production) -> None:
    marked = server.post(json.dumps({"instances": IMAGES.tolist()}), headers={**TOKEN, "X-Request-Id": "this-one"})
    assert marked.headers["x-request-id"] == "this-one"
    lines = [json.loads(line) for line in (server.folder / "access.log").read_text().splitlines()]
    (line,) = (line for line in lines if line["request_id"] == "this-one")
    assert (line["model"], line["status"], line["method"]) == (MODEL, 200, "POST")


def test_the_other_blocks_are_what_they_look_like() -> None:
    _, client, prometheus = blocks()
    compile(client, str(PAGE), "exec")
    (job,) = yaml.safe_load(prometheus)["scrape_configs"]
    assert (job["scheme"], job["authorization"]) == ("https", {"credentials_file": "token"})


def test_the_end_under_load_drops_nothing(server: Production) -> None:
    """Clients ask on and on. Whoever has sent a request gets an answer; afterwards connections are refused."""
    body = json.dumps({"instances": IMAGES.tolist()})
    answered, failures = [0] * 4, list[str]()

    def ask(index: int) -> None:
        with requests.Session() as session:
            while True:
                try:
                    response = session.post(f"{server.url}/v1/models/{MODEL}:predict", data=body, headers=TOKEN, verify=server.authority, timeout=30)
                except requests.ConnectionError as error:
                    if "refused" not in str(error) and "closed connection without response" not in str(error):
                        failures.append(str(error))
                    return
                if response.status_code != 200:
                    failures.append(response.text)
                answered[index] += 1

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert server.get("/readyz").status_code == 503
    for thread in threads:
        thread.join()
    assert server.process.wait(60) == 0
    assert min(answered) > 0
    unanswered = [failure for failure in failures if "Connection aborted" not in failure and "reset" not in failure.lower()]
    assert unanswered == []
