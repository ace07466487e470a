"""Searches beside KerasTuner's and Optuna's: the same space, split and clock, each in a process of its own.

    python benchmarks/search.py identical [--subjects digits_mlp,fashion_mlp,fashion_cnn,fashion_cnn_bf16] [--trials N [--peer-trials M]]
    python benchmarks/search.py overhead [--subjects fashion_mlp,fashion_cnn] [--trials 200]
    python benchmarks/search.py thousand [--trials 1000]
    python benchmarks/search.py anytime [--subjects fashion_mlp,fashion_cnn] [--seeds 5] [--seconds 240] [--engines ...] [--resume] [--one-processor]
    python benchmarks/search.py priors [--seeds 3] [--seconds 60]

- `identical`: the same list of configurations, as one oracle with one seed gives it, trained by `keras_tuner.RandomSearch` and
  by `tuning.CompiledTuner`; finished trials per minute, building and compiling included.
- `overhead`: the share of a search's wall time that is not spent inside training steps.
- `thousand`: the wall time of a thousand trials of the digits MLP.
- `anytime`: when a search reaches the best validation accuracy that the best peer's median seed has at the end of its time.
- `priors`: when a search on MNIST, on which no shipped configuration was found, reaches with them what it has at the end where nothing is
  given to it, and the accuracies a half and a whole point below; and when with the optimizers' defaults, which is what a family without
  shipped configurations begins with.

The space is which of six optimizers, and that optimizer's own numbers. But for the last line, no search is given configurations
known to be good. The clock starts when data and libraries are loaded and nothing is built. Peers are written as their documentation shows. Every
figure is appended to `results/search.csv`; ratios, not times, are what carries over to other machines. `anytime` takes hours:
what each search reached and when is kept in `results/search_curves.csv`, and `--resume` runs only what is not there yet.
With `--one-processor` each search has one processor to itself, and as many run at once as there are processors.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from table import Table

import zoo
from zoo.console import load_backend

RESULTS = Path(__file__).parent / "results" / "search.csv"
COLUMNS = ("line", "subject", "engine", "seed", "trials", "epochs", "seconds")
VERSIONS = ("python", "keras", "tensorflow", "keras-tuner", "commit")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
FIXED: dict[str, Any] = {"batch_size": 128, "schedule": "constant", "validate": True}
MLP = zoo.Recipe("relu_mlp", "fashion_mnist", hyperparameters={"units": 256, "depth": 2}, epochs=9, **FIXED)
CNN = zoo.Recipe("cnn", "fashion_mnist", hyperparameters={"filters": 32, "units": 128}, epochs=9, **FIXED)
SUBJECTS = {
    "mnist_mlp": dataclasses.replace(MLP, dataset="mnist"),
    "digits_mlp": zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 128, "depth": 2}, epochs=5, **FIXED),
    "fashion_mlp": MLP,
    "fashion_cnn": CNN,
    "fashion_cnn_bf16": dataclasses.replace(CNN, precision="mixed_bfloat16"),
}
# Subject -> epochs, trials, and the ratio that is wanted.
IDENTICAL = {"digits_mlp": (5, 200, 20.0), "fashion_mlp": (9, 20, 4.0), "fashion_cnn": (4, 12, 1.5), "fashion_cnn_bf16": (4, 12, 3.0)}
OVERHEAD = {"digits_mlp": 0.50, "fashion_mlp": 0.10, "fashion_cnn": 0.05}  # share of the wall time
THOUSAND_SECONDS = 300.0
OURS, PEERS = "neuron-zoo", ("kt_random", "kt_bayesian", "kt_hyperband", "optuna_tpe_hyperband")
BELOW = (0.01, 0.005, 0.0)  # what a search without priors has at the end: the accuracies that are waited for
FRACTION = 0.2
CURVES = "search_curves.csv"
Curve = list[tuple[float, float]]


# -- what a process of its own does: one engine on one subject -----------------------------------------------------------


class OutOfTime(KeyboardInterrupt):
    """The time is over; no library takes this for a failed trial."""


class Clock:
    """When an engine began, when it has to end, and what it has reached by when. KerasTuner copies callbacks: this stays one."""

    started = ended = 0.0
    curve: Curve = []  # noqa: RUF012

    @classmethod
    def start(cls, seconds: float | None) -> None:
        cls.started = time.monotonic()
        cls.ended = cls.started + seconds if seconds else float("inf")

    @classmethod
    def reach(cls, accuracy: float) -> None:
        cls.curve.append((round(time.monotonic() - cls.started, 3), accuracy))


def watch() -> Any:
    """A Keras callback that writes down every epoch and ends the search when its time is over."""
    import keras

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if time.monotonic() > Clock.ended:
                raise OutOfTime

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            Clock.reach(float(logs["val_accuracy"]))

    return Watch()


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one engine, and says what came of it."""
    recipe = dataclasses.replace(SUBJECTS[job["subject"]], epochs=job["epochs"], seed=job["seed"])
    training, validation = zoo.load_dataset(recipe.dataset, "train_minus_validation"), zoo.load_dataset(recipe.dataset, "validation")
    warnings.simplefilter("ignore")
    import keras_tuner  # noqa: F401
    import optuna  # noqa: F401

    import tuning.compiled_tuner
    import tuning.study  # noqa: F401

    with tempfile.TemporaryDirectory() as directory:
        Clock.start(job["seconds"])
        done = ENGINES[job["engine"]](recipe, training, validation, job, directory) or {}
        return {"seconds": time.monotonic() - Clock.started, "curve": Clock.curve, **done}


def search_arguments(training: Any, validation: Any, recipe: zoo.Recipe, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    return {
        "x": training.images,
        "y": training.labels,
        "validation_data": (validation.images, validation.labels),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "verbose": 0,
        **({"callbacks": list(callbacks)} if callbacks else {}),
    }


def keras_tuner_search(kind: str, **more: Any) -> Callable[..., dict[str, Any]]:
    """KerasTuner as its guide shows it."""

    def run(recipe: zoo.Recipe, training: Any, validation: Any, job: dict[str, Any], directory: str) -> dict[str, Any]:
        import keras_tuner

        import tuning

        # It takes a seed of 0 for none, and ends after three diverged trials in a row unless it is told not to.
        shared = {"seed": job["seed"] + 1, "max_consecutive_failed_trials": 10**9, "directory": directory, "project_name": "search"}
        limits = more or {"max_trials": job["trials"] or 10**6}
        tuner = getattr(keras_tuner, kind)(tuning.ZooHyperModel(recipe, training, OPTIMIZERS, "optimizers"), "val_accuracy", **limits, **shared)
        return finished(tuner, search_arguments(training, validation, recipe, [watch()] if job["seconds"] else []))

    return run


def finished(tuner: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(OutOfTime):
        tuner.search(**arguments)
    trials = tuner.oracle.trials.values()
    configurations = [tuner.oracle.trials[trial].hyperparameters.values for trial in tuner.oracle.start_order]
    return {"trials": sum(trial.status in ("COMPLETED", "FAILED") for trial in trials), "configurations": configurations}


def compiled_tuner(recipe: zoo.Recipe, training: Any, validation: Any, job: dict[str, Any], directory: str) -> dict[str, Any]:
    """KerasTuner's random oracle, on shared compiled steps, one trial on each processor."""
    import keras_tuner

    import tuning

    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=job["trials"], seed=job["seed"] + 1)
    hypermodel = tuning.ZooHyperModel(recipe, training, OPTIMIZERS, "optimizers")
    tuner = tuning.CompiledTuner(oracle, hypermodel, directory=directory, project_name="search")
    return finished(tuner, search_arguments(training, validation, recipe))


def optuna_search(recipe: zoo.Recipe, training: Any, validation: Any, job: dict[str, Any], directory: str) -> dict[str, Any]:
    """Optuna's TPE and Hyperband pruner around Keras's `fit`, as its Keras example shows it."""
    import keras
    import optuna

    from tuning.spaces import configure
    from zoo.training import compile_trainer

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Pruning(keras.callbacks.Callback):
        def __init__(self, trial: optuna.Trial) -> None:
            super().__init__()
            self.trial = trial

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.trial.report(logs["val_accuracy"], step=epoch)
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        values: dict[str, Any] = {"optimizer": trial.suggest_categorical("optimizer", OPTIMIZERS)}
        for name, domain in zoo.optimizer_info(values["optimizer"]).domains.items():
            full = f"{values['optimizer']}.{name}"
            if isinstance(domain, zoo.Choice):
                values[full] = trial.suggest_categorical(full, domain.values)
            elif domain.sampling == "complement_log":
                full = f"{values['optimizer']}.one_minus_{name}"
                values[full] = trial.suggest_float(full, 1 - domain.high, 1 - domain.low, log=True)
            else:
                values[full] = trial.suggest_float(full, domain.low, domain.high, log=domain.sampling == "log")
        return values

    def objective(trial: optuna.Trial) -> float:
        model = compile_trainer(configure(recipe, suggest(trial)), training)[0]
        history = model.fit(**search_arguments(training, validation, recipe, [watch(), Pruning(trial)]))
        return history.history["val_accuracy"][-1]

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=recipe.epochs, reduction_factor=3)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=job["seed"]), pruner=pruner)
    with contextlib.suppress(OutOfTime):
        study.optimize(objective, timeout=job["seconds"])
    return {"trials": len(study.trials)}


def own_search(recipe: zoo.Recipe, training: Any, validation: Any, job: dict[str, Any], directory: str) -> dict[str, Any]:
    """The zoo's search as `zoo tune` runs it, beginning with its `priors`, with the optimizers' `defaults`, or with `nothing` given."""
    import tuning
    import tuning.priors
    from tuning.history import read_history

    if job["given"] == "defaults":
        tuning.priors.read_priors = lambda *arguments: []
    limits = {"trials": job["trials"]} if job["trials"] else {"budget": job["seconds"]}
    place = {"directory": Path(directory) / "search", "tensorboard": False}
    result = tuning.search(recipe, optimizers=OPTIMIZERS, study="optimizers", priors=job["given"] != "nothing", **place, **limits)
    Clock.curve = [(row["wall_seconds"], row["val_accuracy"]) for row in read_history(result.directory) if "val_accuracy" in row]
    return {"trials": len(result.trials), "overhead": result.overhead}


ENGINES: dict[str, Callable[..., dict[str, Any]]] = {
    OURS: own_search,
    "compiled_tuner": compiled_tuner,
    "kt_random": keras_tuner_search("RandomSearch"),
    "kt_bayesian": keras_tuner_search("BayesianOptimization"),
    "kt_hyperband": keras_tuner_search("Hyperband", max_epochs=9, factor=3, hyperband_iterations=100),
    "optuna_tpe_hyperband": optuna_search,
}


# -- the lines -----------------------------------------------------------------------------------------------------------


def run(engine: str, subject: str, seed: int = 0, **job: Any) -> dict[str, Any]:
    """Runs an engine in a process of its own, for so many `epochs` per trial, and `trials` or `seconds`."""
    job = {"trials": None, "seconds": None, "processors": None, "given": "nothing", **job, "engine": engine, "subject": subject, "seed": seed}
    done = subprocess.run([sys.executable, __file__, "worker", json.dumps(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{engine} failed on {subject}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def heading(row: Mapping[str, Any]) -> str:
    return f"{row['line']:<10} {row['subject']:<17} {row['engine']:<21}"


def identical(table: Table, arguments: argparse.Namespace) -> None:
    for subject in arguments.subjects or IDENTICAL:
        epochs, trials, wanted = IDENTICAL[subject]
        trials = arguments.trials or trials
        peer_trials = arguments.peer_trials or trials
        stock = run("kt_random", subject.removesuffix("_bf16"), epochs=epochs, trials=peer_trials)
        own = run("compiled_tuner", subject, epochs=epochs, trials=trials)
        if stock["configurations"][:trials] != own["configurations"][:peer_trials]:
            sys.exit(f"The two searches of {subject} trained different configurations.")
        per_minute = {name: 60 * found["trials"] / found["seconds"] for name, found in (("kt_random", stock), ("compiled_tuner", own))}
        row = {"line": "identical", "subject": subject, "seed": 0, "epochs": epochs, "unit": "trials/min"}
        table.add(**row, trials=peer_trials, engine="kt_random", seconds=stock["seconds"], value=per_minute["kt_random"])
        ratio = per_minute["compiled_tuner"] / per_minute["kt_random"]
        verdict = {"ratio": ratio, "wanted": f">= {wanted:g}x", "met": "yes" if ratio >= wanted else "no"}
        table.add(**row, trials=trials, engine="compiled_tuner", seconds=own["seconds"], value=per_minute["compiled_tuner"], **verdict)


def overhead(table: Table, arguments: argparse.Namespace) -> None:
    for subject in arguments.subjects or ("fashion_mlp", "fashion_cnn"):
        trials = arguments.trials or 200
        found = run(OURS, subject, epochs=SUBJECTS[subject].epochs, trials=trials)
        verdict = {"wanted": f"<= {100 * OVERHEAD[subject]:g} %", "met": "yes" if found["overhead"] <= OVERHEAD[subject] else "no"}
        row = {"line": "overhead", "subject": subject, "engine": OURS, "seed": 0, "trials": trials, "epochs": SUBJECTS[subject].epochs}
        table.add(**row, seconds=found["seconds"], value=100 * found["overhead"], unit="%", **verdict)


def thousand(table: Table, arguments: argparse.Namespace) -> None:
    trials = arguments.trials or 1000
    found = run(OURS, "digits_mlp", epochs=5, trials=trials)
    limit = THOUSAND_SECONDS * trials / 1000
    verdict = {"wanted": f"<= {limit:g} s", "met": "yes" if found["seconds"] <= limit else "no"}
    row = {"line": "thousand", "subject": "digits_mlp", "engine": OURS, "seed": 0, "trials": trials, "epochs": 5}
    table.add(**row, seconds=found["seconds"], value=found["seconds"], unit="s", **verdict)


def anytime(table: Table, arguments: argparse.Namespace) -> None:
    arguments.seconds = arguments.seconds or 240.0
    for subject in arguments.subjects or ("fashion_mlp", "fashion_cnn"):
        curves = curves_of(subject, arguments.seeds or (5 if subject == "fashion_mlp" else 3), table, arguments)
        if OURS in curves and len(curves) > 1:
            judge(table, subject, curves, arguments.seconds, 1 if arguments.one_processor else table.about["cores"])


def curves_of(subject: str, seeds: int, table: Table, arguments: argparse.Namespace) -> dict[str, list[Curve]]:
    """Runs every engine with every seed, where that was not done before; returns what each reached and when."""
    processors = sorted(os.sched_getaffinity(0))
    shares = [[processor] for processor in processors] if arguments.one_processor else [processors]
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in shares:
        free.put(share)

    def curve_of(seed: int, engine: str) -> Curve:
        record = {"subject": subject, "engine": engine, "seed": seed, "limit": arguments.seconds, **table.about, "cores": len(shares[0])}
        known = earlier_curve(arguments.out.with_name(CURVES), record) if arguments.resume else None
        if known is not None:
            return known
        share = free.get()
        try:
            return search_for(table, arguments, record, share)
        finally:
            free.put(share)

    runs = [(seed, engine) for seed in range(seeds) for engine in arguments.engines]  # seed by seed, so that a slow hour slows all alike
    with ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(lambda one: curve_of(*one), runs))
    return {name: [curve for (_, engine), curve in zip(runs, found, strict=True) if engine == name] for name in arguments.engines}


WRITING = threading.Lock()


def search_for(table: Table, arguments: argparse.Namespace, record: Mapping[str, Any], processors: Sequence[int]) -> Curve:
    """Runs one engine for its time on some processors, keeps when it reached what, and returns it."""
    found = run(record["engine"], record["subject"], record["seed"], epochs=9, seconds=arguments.seconds, processors=processors)
    curve: Curve = []
    for second, accuracy in found["curve"]:
        value = round(accuracy, 6)
        if second <= arguments.seconds and value > max((reached for _, reached in curve), default=0.0):
            curve.append((second, value))
    path = arguments.out.with_name(CURVES)
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"line": "anytime", **{name: record[name] for name in ("subject", "engine", "seed", "cores")}, "trials": found["trials"]}
    best = curve[-1][1] if curve else 0.0
    with WRITING:
        new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, (*record, "second", "val_accuracy"), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows({**record, "second": second, "val_accuracy": value} for second, value in curve)
        table.add(**row, epochs=len(found["curve"]), seconds=arguments.seconds, value=best, unit="best val_accuracy")
    return curve


def earlier_curve(path: Path, record: Mapping[str, Any]) -> Curve | None:
    """Returns what the same search reached in an earlier run on such a machine; None where there was none. Of ours, the commit counts."""
    names = [name for name in record if name != "commit" or record["engine"] == OURS]
    with path.open(newline="") if path.is_file() else contextlib.nullcontext([]) as file:
        rows = [row for row in csv.DictReader(file) if all(row[name] == str(record[name]) for name in names)]
    return [(float(row["second"]), float(row["val_accuracy"])) for row in rows] or None


def priors(table: Table, arguments: argparse.Namespace) -> None:
    subject, seconds = "mnist_mlp", arguments.seconds or 60.0
    found: dict[str, list[Curve]] = {"nothing": [], "defaults": [], "priors": []}
    for seed in range(arguments.seeds or 3):
        for given, curves in found.items():
            curves.append(run(OURS, subject, seed, epochs=9, seconds=seconds, given=given)["curve"])
    end = median_best(found["nothing"], seconds)
    for below in BELOW:
        times = {given: statistics.median(first_reach(curve, end - below) for curve in curves) for given, curves in found.items()}
        for given in found:
            row = {"line": "priors", "subject": subject, "engine": f"given {given}", "seed": "all", "seconds": seconds}
            table.add(**row, value=times[given], unit=f"s to {end - below:.4f}", ratio=times["nothing"] / times[given])
    for given, curves in found.items():
        row = {"line": "priors", "subject": subject, "engine": f"given {given}", "seed": "all", "seconds": seconds}
        table.add(**row, value=median_best(curves, seconds), unit="val_accuracy")


def first_reach(curve: Curve, target: float) -> float:
    """Returns when a curve first has a value; infinity where it does not."""
    return next((second for second, value in curve if value >= target), float("inf"))


def judge(table: Table, subject: str, curves: dict[str, list[Curve]], seconds: float, cores: int) -> None:
    """Compares when the best peer's final median is reached: by the peer's median curve, and by each of our seeds."""
    finals = {engine: median_best(found, seconds) for engine, found in curves.items() if engine != OURS}
    peer = max(finals, key=lambda engine: finals[engine])
    target = finals[peer]
    moments = sorted(second for curve in curves[peer] for second, _ in curve)
    theirs = next(second for second in moments if median_best(curves[peer], second) >= target)
    ours = statistics.median(first_reach(curve, target) for curve in curves[OURS])
    row = {"line": "anytime", "subject": subject, "seed": "all", "cores": cores, "unit": f"s to {target:.4f}"}
    table.add(**row, engine=peer, seconds=seconds, value=theirs)
    for name, reference in (("of the peer's time", theirs), (f"of {seconds:g} s", seconds)):
        verdict = {"ratio": reference / ours, "wanted": f"<= {FRACTION:g} {name}", "met": "yes" if ours <= FRACTION * reference else "no"}
        table.add(**row, engine=OURS, seconds=seconds, value=ours, **verdict)


def median_best(curves: Sequence[Curve], second: float) -> float:
    """The median over seeds of the best value by a moment."""
    return statistics.median(max((value for moment, value in curve if moment <= second), default=0.0) for curve in curves)


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        job = json.loads(sys.argv[2])
        if job["processors"]:
            os.sched_setaffinity(0, job["processors"])
        load_backend()
        print(json.dumps(worker(job)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", choices=("identical", "overhead", "thousand", "anytime", "priors"))
    parser.add_argument("--subjects", type=lambda text: text.split(","), help=f"of {', '.join(SUBJECTS)} (default: all that the line is about)")
    parser.add_argument("--trials", type=int, help="trials per search (default: as many as the line asks for)")
    parser.add_argument("--peer-trials", type=int, help="identical: the peer trains only so many of the list; its rate is the same throughout")
    parser.add_argument("--seeds", type=int, help="anytime, priors: seeds per engine (default: 5 for anytime's MLP, otherwise 3)")
    parser.add_argument("--seconds", type=float, help="anytime, priors: the time of each search (default: 240, and 60)")
    parser.add_argument(
        "--resume", action="store_true", help=f"anytime: take what is in {CURVES}, beside the CSV file, of the same versions and processor"
    )
    parser.add_argument("--one-processor", action="store_true", help="anytime: one processor for each search, and as many searches at once")
    everyone = (*PEERS, OURS)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=everyone, help=f"anytime (default: {','.join(everyone)})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if wrong := sorted(set(arguments.engines) - set(everyone)):
        parser.error(f"no such engine: {', '.join(wrong)}. Expected some of: {', '.join(everyone)}.")
    table = Table(arguments.out, COLUMNS, VERSIONS, heading)
    lines = {"identical": identical, "overhead": overhead, "thousand": thousand, "anytime": anytime, "priors": priors}
    lines[arguments.line](table, arguments)


if __name__ == "__main__":
    main()
