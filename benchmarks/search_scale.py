"""Searches beyond one process: two workers beside one, a Ray cluster beside two workers, and how many workers one driver keeps busy.

    python benchmarks/search_scale.py all
    python benchmarks/search_scale.py workers [--subjects fashion_mlp,fashion_cnn] [--trials 24]
    python benchmarks/search_scale.py ray [--subjects fashion_mlp,fashion_cnn] [--trials 24]
    python benchmarks/search_scale.py simulated [--workers 1000] [--seconds 30] [--sampler tpe]

- `workers`: trials per minute of `--workers 2` on two cores, beside one worker on one core. Besides, one process that has both cores; and two
  searches at once that know nothing of each other, each on a core of its own. The latter is what the machine allows: two cores that share
  their arithmetic units or their memory give less than twice one.
- `ray`: trials per minute of a local cluster of two nodes with one core each, beside `--workers 2`.
- `simulated`: the whole search, with its sampler, scheduler and database, but trials replaced by learning curves and durations that
  a real search of digits recorded just before. A simulated worker is busy for as long as the recorded trial took, stretched to a
  mean of `--seconds` per trial; while all are busy, the clock is put forward to when the next one ends. So what is measured is the
  share of the time that workers are busy, if the driver takes as long over its own work as it really does: from when the first
  worker begins, so that filling all of them counts, to when the last new trial does. What a worker sends, and the way that it
  takes, is left out. The number of workers is doubled until less than 90 % is kept, or `--most` is reached.

In `workers` and `ray` all train the same list of configurations, each whole. The clock starts with the first trial, when all workers'
libraries and data are loaded, and nothing is compiled. Every figure is appended to `results/search_scale.csv`; ratios, not times, are
what carries over to other machines. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import search as base
from table import Table

from zoo.console import load_backend

RESULTS = Path(__file__).parent / "results" / "search_scale.csv"
SUBJECTS = ("fashion_mlp", "fashion_cnn")
EPOCHS = {"digits_mlp": 5, "fashion_mlp": 3, "fashion_cnn": 2}
TRIALS = {"digits_mlp": 24, "fashion_mlp": 24, "fashion_cnn": 6}
LINES = {"workers": ("one", "both", "apart", "two"), "ray": ("two", "ray")}  # each is judged by the ratio of its last to its first
WANTED = {"two": 1.6, "ray": 0.85}
BUSY = 0.9
RECORDED = 40  # trials of the real search that the simulated ones are drawn from
ROUNDS = 4  # trials per simulated worker


# -- real searches, each in a process of its own -------------------------------------------------------------------------


class Stopwatch:
    """The clock of a search: from its first trial, with all workers ready, to its end."""

    def __init__(self) -> None:
        self.began: float | None = None

    def watch(self, status: Any) -> None:
        if self.began is None and status.current is not None:
            self.began = time.monotonic()


def real(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one search, and says how long its trials took."""
    import tuning

    recipe = dataclasses.replace(base.SUBJECTS[job["subject"]], epochs=EPOCHS[job["subject"]], seed=0)
    stopwatch = Stopwatch()
    options: dict[str, Any] = {"engine": "compiled", "workers": job["workers"]}
    with tempfile.TemporaryDirectory() as directory:
        cluster = two_nodes() if job["way"] == "ray" else None
        if cluster is not None:
            options = {"engine": "ray", "workers": 2, "address": cluster.address}
        all_ready(options)
        shared = {"sampler": "random", "scheduler": "none", "priors": False, "tensorboard": False, "directory": Path(directory) / "search"}
        result = tuning.search(
            recipe, optimizers=base.OPTIMIZERS, study="optimizers", trials=job["trials"], watch=stopwatch.watch, **shared, **options
        )
        seconds = time.monotonic() - (stopwatch.began or 0)
        configurations = [dict(trial.config) for trial in result.trials]
        if cluster is not None:
            cluster.shutdown()
    return {"seconds": seconds, "trials": len(result.trials), "configurations": configurations, "compilations": result.compilation.times}


def two_nodes() -> Any:
    """A Ray cluster on this machine: a head that trains nothing, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return cluster


def all_ready(options: dict[str, Any]) -> None:
    """Has a search wait until all of its workers are ready before it gives them anything."""
    import tuning.study as study

    create = study._executor

    def ready(*arguments: Any) -> Any:
        executor = create(*arguments)
        while len(executor.free()) < executor.size:
            executor.next_finished(lambda number, row: False)
        return executor

    if options["engine"] == "ray" or options["workers"] > 1:
        study._executor = ready


def run(way: str, subject: str, trials: int, core: int = 0) -> dict[str, Any]:
    """Runs a search in a process of its own: `one` worker on one core, `both` cores for one process, `two` workers, or `ray`.

    `apart` is two searches of `one` worker at the same time, each with all trials.
    """
    if way == "apart":
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(lambda core: run("one", subject, trials, core), (0, 1))
        return {**first, "seconds": (first["seconds"] + second["seconds"]) / 4}  # the mean time, for twice the trials
    job = {"way": way, "subject": subject, "trials": trials, "workers": 2 if way == "two" else 1}
    cores = two_cores()
    threads = {"one": 1, "both": 2}.get(way)
    environment = {**os.environ, **({"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, __file__, "worker", json.dumps(job)]
    if hasattr(os, "sched_setaffinity"):
        chosen = ",".join(map(str, [cores[core]] if way == "one" else cores))
        command = [sys.executable, __file__, "pinned", chosen, *command[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{way} failed on {subject}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def two_cores() -> list[int]:
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(found) < 2:
        sys.exit("Two workers want two cores.")
    return found[:2]


def compare(table: Table, arguments: argparse.Namespace, line: str) -> None:
    """Trains the same list in several ways; the first is the reference of the ratios."""
    ways, judged = LINES[line], LINES[line][-1]
    for subject in arguments.subjects or SUBJECTS:
        trials = arguments.trials or TRIALS[subject]
        found = {way: run(way, subject, trials) for way in ways}
        rates = {way: 60 * entry["trials"] / entry["seconds"] for way, entry in found.items()}
        lists = [sorted(json.dumps(config, sort_keys=True) for config in entry["configurations"]) for entry in found.values()]
        if any(entry != lists[0] for entry in lists):
            sys.exit(f"The searches of {subject} trained different configurations.")
        for way in ways:
            row = {"line": line, "subject": subject, "engine": way, "seed": 0, "trials": trials, "epochs": EPOCHS[subject]}
            verdict: dict[str, Any] = {}
            if way != ways[0]:
                verdict["ratio"] = rates[way] / rates[ways[0]]
            if way == judged:
                verdict |= {"wanted": f">= {WANTED[judged]:g}x", "met": "yes" if verdict["ratio"] >= WANTED[judged] else "no"}
            table.add(**row, seconds=found[way]["seconds"], value=rates[way], unit="trials/min", **verdict)


# -- simulated workers ---------------------------------------------------------------------------------------------------


class Simulated:
    """An executor whose workers do nothing but take as long as recorded trials took.

    Args:
        size: How many workers.
        curves: Recorded trials: of each epoch its validation accuracy and its seconds.
        clock: By which the driver's own work is timed.
    """

    local = False

    def __init__(self, size: int, curves: Sequence[Sequence[tuple[float, float]]], clock: Any = time.monotonic) -> None:
        self.size, self.curves, self.clock = size, curves, clock
        self.idle = dict.fromkeys(range(size))
        self.under_way: list[tuple[float, int, float]] = []
        self.jobs: dict[int, Any] = {}
        self.skipped = 0.0
        self.intervals: list[tuple[float, float]] = []
        self.full = self.last_begun = self.closed = 0.0

    def now(self) -> float:
        return self.clock() + self.skipped

    def free(self) -> Sequence[int]:
        return list(self.idle)

    def wanted(self) -> int:
        return len(self.idle)

    def submit(self, worker: int, job: Any) -> None:
        del self.idle[worker]
        self.jobs[worker] = job
        first, now = job.snapshot.epoch if job.snapshot else 0, self.now()
        ends = now + sum(seconds for _, seconds in self.curves[job.number % len(self.curves)][first : job.until])
        heapq.heappush(self.under_way, (ends, worker, now))
        self.intervals.append((now, ends))
        self.last_begun = self.last_begun if first else now
        self.full = self.full or (0.0 if self.idle else now)

    def next_finished(self, on_row: Any, timeout: float | None = None) -> Any:
        from tuning.executors import Outcome
        from tuning.segments import Segment, Snapshot

        ends, worker, began = heapq.heappop(self.under_way)
        self.skipped += max(0.0, ends - self.now())
        job = self.jobs.pop(worker)
        curve = self.curves[job.number % len(self.curves)]
        epochs = range(job.snapshot.epoch if job.snapshot else 0, job.until)
        rows = tuple({"epoch": epoch + 1, "val_accuracy": curve[epoch][0], "seconds": curve[epoch][1]} for epoch in epochs)
        for row in rows:
            on_row(job.number, row)
        self.idle[worker] = None
        segment = Segment("completed", rows, Snapshot(job.until, {}), step_seconds=ends - began)
        return Outcome(job.number, worker, segment, seconds=ends - began)

    def busy(self) -> float:
        """Returns the share of the time that workers were busy, from when the first began to when the last new trial did."""
        start, end = self.intervals[0][0], self.last_begun
        spent = sum(max(0.0, min(last, end) - first) for first, last in self.intervals)
        return spent / (self.size * max(end - start, 1e-9))

    def close(self) -> None:
        self.closed = self.now()


def record(directory: str) -> list[list[tuple[float, float]]]:
    """Trains some random trials of digits, and returns of each epoch its validation accuracy and its seconds."""
    import tuning

    recipe = dataclasses.replace(base.SUBJECTS["digits_mlp"], epochs=9)
    shared = {"sampler": "random", "scheduler": "none", "priors": False, "tensorboard": False, "directory": Path(directory) / "recorded"}
    result = tuning.search(recipe, optimizers=base.OPTIMIZERS, study="optimizers", trials=RECORDED, **shared)
    rows: dict[int, list[tuple[float, float]]] = {}
    for row in result.history():
        rows.setdefault(int(row["trial"]), []).append((row["val_accuracy"], max(row["seconds"], 1e-3)))
    return [rows[trial.number] for trial in result.trials if trial.state == "completed"]


def stretched(curves: Sequence[Sequence[tuple[float, float]]], seconds: float) -> list[list[tuple[float, float]]]:
    """Returns curves whose trials take so many seconds on the average, as successive halving cuts them."""
    from tuning.schedulers import create_scheduler

    rungs = create_scheduler("asha", 9).rungs()
    epochs = sum((rung - before) / 3**index for index, (before, rung) in enumerate(zip([0, *rungs], rungs, strict=False)))
    mean = sum(second for curve in curves for _, second in curve) / sum(map(len, curves))
    return [[(value, second * seconds / (mean * epochs)) for value, second in curve] for curve in curves]


def simulate(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one search on simulated workers."""
    import tuning
    import tuning.study as study

    executor = Simulated(job["workers"], job["curves"], time.process_time if job["clock"] == "cpu" else time.monotonic)
    study._executor = lambda *arguments: executor
    recipe = dataclasses.replace(base.SUBJECTS["digits_mlp"], epochs=9)
    with tempfile.TemporaryDirectory() as directory:
        began = executor.clock()
        shared = {"sampler": job["sampler"], "scheduler": "asha", "priors": False, "tensorboard": False, "directory": directory}
        tuning.search(recipe, optimizers=base.OPTIMIZERS, study="optimizers", trials=job["trials"], workers=2, **shared)
        wall = executor.clock() - began
    written, filled = executor.now() - executor.closed, executor.full - executor.intervals[0][0]
    return {"share": executor.busy(), "filled": filled, "stretches": len(executor.intervals), "seconds": wall, "written": written}


def simulated(table: Table, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        curves = stretched(record(directory), arguments.seconds)
        size, reached = arguments.workers, 0
        while size <= arguments.most:
            job = {
                "way": "simulated",
                "workers": size,
                "curves": curves,
                "sampler": arguments.sampler,
                "trials": ROUNDS * size,
                "clock": arguments.clock,
            }
            path = Path(directory) / "job.json"
            path.write_text(json.dumps(job))
            done = subprocess.run([sys.executable, __file__, "worker", f"@{path}"], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{size} simulated workers failed: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            verdict = {"wanted": f">= {100 * BUSY:g} %", "met": "yes" if found["share"] >= BUSY else "no"} if size == arguments.workers else {}
            row = {"line": "simulated", "subject": f"{size} workers", "engine": arguments.sampler, "seed": 0, "trials": job["trials"], "epochs": 9}
            table.add(**row, seconds=found["seconds"], value=100 * found["share"], unit="% busy", **verdict)
            each = 1000 * found["seconds"] / found["stretches"]
            print(
                f"{'':<10} all busy after {found['filled']:.1f} s; the driver takes {each:.1f} ms a stretch of training, with all its writing; "
                f"what was left to write at the end took {found['written']:.1f} s"
            )
            if found["share"] < BUSY:
                break
            size, reached = 2 * size, size
        more = f"less than {100 * BUSY:g} % at {size}" if size <= arguments.most else f"{size} were not tried"
        print(f"one driver keeps {reached} workers busy with trials of {arguments.seconds:g} s; {more}" if reached else f"it does not scale: {more}")


# -- the command ---------------------------------------------------------------------------------------------------------


def work(text: str) -> None:
    load_backend()
    job = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    print(json.dumps(simulate(job) if job["way"] == "simulated" else real(job)))


def main() -> None:
    if sys.argv[1:2] == ["pinned"]:
        os.sched_setaffinity(0, {int(core) for core in sys.argv[2].split(",")})
        del sys.argv[1:3]
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", choices=(*LINES, "simulated", "all"))
    parser.add_argument("--subjects", type=lambda text: text.split(","), help=f"of {', '.join(EPOCHS)} (default: {','.join(SUBJECTS)})")
    parser.add_argument("--trials", type=int, help="per search (default: 24 of an MLP, 6 of a CNN)")
    parser.add_argument("--workers", type=int, default=1000, help="simulated: to begin with (default: 1000)")
    parser.add_argument("--most", type=int, default=16000, help="simulated: to end with (default: 16000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated: that a trial takes on the average (default: 30)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="simulated: cpu where something else runs too (default: wall)")
    parser.add_argument("--sampler", default="tpe", help="simulated (default: tpe)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    table = Table(arguments.out, base.COLUMNS, base.VERSIONS, base.heading)
    for line in LINES if arguments.line == "all" else [arguments.line]:
        if line in LINES:
            compare(table, arguments, line)
    if arguments.line in ("simulated", "all"):
        simulated(table, arguments)


if __name__ == "__main__":
    main()
