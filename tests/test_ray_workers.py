"""Searches on a Ray cluster of two nodes on this machine: a node that is killed, a driver that is killed, and the same results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import free_port
from scripted_search import RECIPE, FatalSubject, await_true, check_going_on, completed, fatal, follow, read_log, read_trials, same_figures

import zoo
from tuning.engine import CompiledEngine
from tuning.executors import Job, Outcome
from tuning.ray_workers import RayWorkers, handed_on, joined
from tuning.segments import Segment
from tuning.settings import Settings
from tuning.study import search
from zoo.errors import MissingExtraError, StudyError
from zoo.specs import Recipe

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None

needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install 'neuron-zoo[ray]'")
TINY = Recipe("relu_mlp", "digits", hyperparameters={"units": 8, "depth": 1}, schedule="constant", epochs=3)


def start(options: dict[str, Any]) -> Any:
    made = Cluster(initialize_head=True, head_node_args=options)
    try:
        made.two = [made.add_node(num_cpus=1) for _ in range(2)]
        made.wait_for_nodes()
    except (OSError, RuntimeError):
        made.shutdown()
        raise
    return made


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A head without processors, and two nodes with one each; with the parameter `client`, the head has a port for clients."""
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
    monkeypatch.setenv("TFDS_DATA_DIR", "the nodes' own")
    options = {"num_cpus": 0, "include_dashboard": False}
    if getattr(request, "param", "") == "client":
        options["ray_client_server_port"] = free_port()
    try:
        made = start(options)
    except (OSError, RuntimeError):  # Ray's own processes sometimes die as they start
        made = start(options)
    made.client = f"ray://127.0.0.1:{options.get('ray_client_server_port')}"
    yield made
    ray.shutdown()
    made.shutdown()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neuron-zoo\[ray\]'"):
        search(TINY, optimizers=["sgd"], study="optimizers", trials=1, engine="ray", directory=tmp_path)


def test_parts_of_a_stretch_are_joined() -> None:
    first = Segment("completed", ({"epoch": 1},), build_seconds=1.0, step_seconds=2.0)
    second = Segment("stopped", ({"epoch": 2},), message="pruned", step_seconds=3.0)
    assert joined([first, second]) == Segment("stopped", ({"epoch": 1}, {"epoch": 2}), None, "pruned", 1.0, 5.0)


@needs_ray
def test_a_node_is_killed_mid_search(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was at goes on from its last rung, on the node that is left, and nothing else is trained again."""
    log = tmp_path / "log"
    thread = threading.Thread(target=kill_the_node_of_the_hanging, args=(cluster, log), daemon=True)
    thread.start()
    found = fatal(tmp_path / "search", log, monkeypatch.setattr, trials=9, epoch=2, times=1, hangs=True, engine="ray", address=cluster.address)
    thread.join()
    ((_, dead, rate, _),) = read_log(log, "dies")
    assert [trial.number for trial in found.trials] == list(range(9))
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    assert len({json.dumps(trial.config) for trial in found.trials}) == 9
    stretches = [tuple(line[2:5]) for line in read_log(log, "trains")]
    assert {stretch: count for stretch, count in Counter(stretches).items() if count > 1} == {(rate, 1, 3): 2}
    assert len({line[1] for line in read_log(log, "trains") if line[2:5] == [rate, 1, 3]} - {dead}) == 1
    whole = fatal(tmp_path / "alone", tmp_path / "log2", monkeypatch.setattr, trials=9, workers=1)
    same_figures(found, whole)


def kill_the_node_of_the_hanging(cluster: Any, log: Path) -> None:
    """Waits until a worker hangs, and kills the node that it belongs to, with all of its processes."""
    while not read_log(log, "dies"):
        time.sleep(0.05)
    ((_, _, _, parent),) = read_log(log, "dies")
    (node,) = [node for node in cluster.two if any(process.process.pid == parent for found in node.all_processes.values() for process in found)]
    cluster.remove_node(node, allow_graceful=False)


@needs_ray
@pytest.mark.slow
def test_a_node_joins_and_dies_while_its_workers_start_and_others_die_idle(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets workers, unless they were counted; the search goes on, the dead are noticed, and no trial is blamed for them."""
    monkeypatch.setattr("tuning.ray_workers.LOOK_SECONDS", 0.5)
    log = tmp_path / "log"
    subject = FatalSubject(Settings(RECIPE, optimizers=("sgd",)), None, log=log)
    workers = RayWorkers(subject, "compiled", None, cluster.address)
    try:
        until(workers, lambda: len(workers.free()) == workers.size == 2)
        node = cluster.add_node(num_cpus=3)
        until(workers, lambda: workers.size == 5)
        starting = workers.workers[2:]
        until(workers, lambda: not ray.available_resources().get("CPU"))
        with contextlib.closing(RayWorkers(subject, "compiled", 1, cluster.address)) as counted:
            counted.looked = 0.0
            counted.next_finished(lambda number, row: False, 0.0)
            assert counted.size == 1
        cluster.remove_node(node, allow_graceful=False)
        until(workers, lambda: not any(worker in workers.workers for worker in starting))
        for line in read_log(log, "started")[:2]:
            os.kill(line[1], signal.SIGKILL)
        workers.submit(0, Job(7, RECIPE, 1, None, 60.0))
        outcome = until(workers, lambda: False)
        assert outcome is not None
        assert outcome.death
        assert not outcome.begun
        until(workers, lambda: not workers.free())
    finally:
        workers.close()


def until(workers: RayWorkers, condition: Callable[[], bool]) -> Outcome | None:
    """Has workers go on until a condition holds, or a job of theirs has ended."""
    outcome = None
    while outcome is None and not condition():
        outcome = workers.next_finished(lambda number, row: False, 0.2)
    return outcome


@needs_ray
def test_the_driver_is_killed_and_started_again(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, log = tmp_path / "search", tmp_path / "search.log"
    script = Path(__file__).with_name("scripted_search.py")
    options = {"engine": "ray", "address": cluster.address}
    driver = subprocess.Popen([sys.executable, str(script), str(directory), json.dumps({"trials": 999, "seconds": 0.05, **options})])
    follow(log, "trains", 5, driver)
    await_true(lambda: bool(completed(read_trials(directory))), driver)
    driver.kill()
    driver.wait()
    before = read_trials(directory)
    total = len(before) + 3
    found = fatal(directory, log, monkeypatch.setattr, trials=total, **options)
    assert [trial.number for trial in found.trials] == list(range(total))
    assert {trial.state for trial in found.trials} <= {"completed", "pruned"}
    assert len({json.dumps(trial.config) for trial in found.trials}) == total
    check_going_on(before, found, log)


@needs_ray
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Ray leaves the logs of the server for clients open
@pytest.mark.parametrize("cluster", ["client"], indirect=True)
def test_a_search_through_a_client(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies is replaced, the nodes' environment stays theirs, and a connection that is lost or comes to nothing is one line."""
    monkeypatch.setenv("TFDS_DATA_DIR", "the search's own")
    log = tmp_path / "log"
    found = fatal(tmp_path / "search", log, monkeypatch.setattr, trials=9, workers=None, epoch=2, times=1, engine="ray", address=cluster.client)
    assert {line[4] for line in read_log(log, "started")} == {"the nodes' own"}
    ((_, _, rate, _),) = read_log(log, "dies")
    stretches = Counter(tuple(line[2:5]) for line in read_log(log, "trains"))
    assert {stretch: count for stretch, count in stretches.items() if count > 1} == {(rate, 1, 3): 2}
    same_figures(found, fatal(tmp_path / "alone", tmp_path / "log2", monkeypatch.setattr, trials=9, workers=1))

    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "0")
    subject = FatalSubject(Settings(RECIPE, optimizers=("sgd",)), None, log=log)
    with contextlib.closing(RayWorkers(subject, "compiled", 1, cluster.client)) as workers:
        (server,) = cluster.head_node.all_processes["ray_client_server"]
        server.process.kill()
        with pytest.raises(StudyError, match=r"The connection to the Ray cluster was lost \(.*the same search goes on"):
            until(workers, lambda: False)

    for name in ("INITIAL_TIMEOUT_SEC", "MAX_TIMEOUT_SEC"):
        monkeypatch.setattr(f"ray.util.client.worker.{name}", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StudyError, match="ray client connection timeout"):
        RayWorkers(subject, "compiled", 1, f"ray://127.0.0.1:{silent.getsockname()[1]}")
    RayWorkers(subject, "compiled", 1, cluster.address).close()


@needs_ray
@pytest.mark.slow
def test_results_are_those_of_each_configuration_trained_alone(cluster: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizers": ["sgd", "adam"], "study": "optimizers", "trials": 4, "engine": "ray", "address": cluster.address}
    found = search(TINY, workers=2, directory=tmp_path, **options)
    engine = CompiledEngine(*(zoo.load_dataset("digits", split) for split in ("train_minus_validation", "validation")))
    rows = {(row["trial"], row["epoch"]): (row["loss"], row["val_loss"], row["val_accuracy"]) for row in found.history()}
    for trial in found.trials:
        assert trial.recipe is not None
        alone = engine.run(dataclasses.replace(trial.recipe, epochs=3), until=trial.epochs)
        assert [(row["loss"], row["val_loss"], row["val_accuracy"]) for row in alone.history] == [
            rows[trial.number, epoch] for epoch in range(1, trial.epochs + 1)
        ]


@needs_ray
@pytest.mark.slow
def test_epochs_are_asked_about_one_by_one(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    found = fatal(tmp_path / "search", log, monkeypatch.setattr, trials=12, scheduler="median", engine="ray", address=cluster.address)
    assert {trial.state for trial in found.trials} == {"completed", "pruned"}
    assert all(line[4] - line[3] == 1 for line in read_log(log, "trains"))
    assert all(trial.epochs < 9 for trial in found.trials if trial.state == "pruned")


@needs_ray
@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "Connection refused"), ("ray://localhost:1", "Connection refused"), ("ray://head", "it names no port")]
)
def test_what_cannot_be_reached_is_one_line(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (address, None):  # the latter takes the environment's
        with pytest.raises(StudyError, match=f"No Ray cluster could be reached at {address} .*{reason}") as caught:
            RayWorkers(None, "compiled", 1, given)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv("RAY_ADDRESS", address)


@needs_ray
def test_a_head_that_has_no_process_for_a_client_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def init(address: str, **more: Any) -> None:
        asked.append(address)
        raise ConnectionAbortedError("Initialization failure from server:\nTraceback (most recent call last):\n  ...\nRuntimeError: it died.\n")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"ray://127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(StudyError, match=rf"No Ray cluster could be reached at {address} \(RuntimeError: it died\)\."):
            RayWorkers(None, "compiled", 1, address)
    assert asked == [address] * 2


def test_only_workers_on_this_machine_get_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", "here")
    here = {socket.gethostname()}
    assert handed_on(None, here)["TFDS_DATA_DIR"] == handed_on("auto", here)["TFDS_DATA_DIR"] == "here"
    assert handed_on("ray://head:10001", here) == handed_on("head:6379", here) == handed_on(None, here | {"another"}) == {}
