"""`zoo tune`: searches for the best configuration of a model and its optimizer under a budget."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import console, load_backend, print_json
from zoo.errors import MissingExtraError, UsageError
from zoo.optimizers import optimizer_info
from zoo.registry import resolve
from zoo.specs import PRECISIONS, SCHEDULES, Recipe

if TYPE_CHECKING:
    from tuning.result import SearchResult

HELP = "search for a model's best hyperparameters and optimizer"
EXAMPLES = """  zoo tune relu_mlp --dataset digits --budget 60s
  zoo tune cnn_bn --dataset fashion_mnist --optimizers momentum,adamw --trials 40 --epochs 9
  zoo tune cnn --dataset path/to/folder --study architecture --budget 10m --out search
  zoo tune --resume search --budget 10m              goes on, after an interruption too
  zoo tune relu_mlp --dataset digits --range adam.learning_rate=1e-5..0.1 --trials 50
  zoo tune cnn --dataset fashion_mnist --budget 10m --workers 4
  zoo tune cnn --dataset fashion_mnist --budget 10m --from search
  zoo tune cnn --dataset fashion_mnist --budget 1h --engine ray --address ray://head:10001
  zoo tune relu_mlp --dataset digits --trials 200 --storage postgresql://user@host/studies
  zoo train search/best_recipe.json                  trains the winner"""
DEFAULT_BUDGET = 60.0
CLOSING = 4.0  # seconds of the budget that are kept for the report; more on a machine with more work than processors
SHOWN = 10
RESUMED = ("optimizers", "study", "vary", "range", "sampler", "scheduler", "reduction", "epochs", "batch_size", "schedule", "precision", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model's name; none with --resume")
    parser.add_argument("--dataset", help="a data set's name, or a folder of images with one subfolder per class")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width to resize the images to (default: their own)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the search that stands in this folder, as it was")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--budget", help="time, such as 45s, 5m or 1h, the report included (default: 60s, unless --trials is given)")
    limits.add_argument("--trials", type=int, help="total number of trials, those before a resumption included")
    space = parser.add_argument_group("the space")
    space.add_argument("--optimizers", help="comma-separated names (default: all)")
    space.add_argument("--study", choices=("joint", "optimizers", "architecture"), help="what varies (default: joint)")
    space.add_argument("--vary", help="what else varies, comma-separated: schedule, label_smoothing")
    space.add_argument("--range", action="append", metavar="NAME=LOW..HIGH", help="other ends for a number of the space; can be repeated")
    search = parser.add_argument_group("the search")
    search.add_argument("--sampler", help="tpe, random, gp, cmaes, qmc, or kerastuner_random, _bayesian, _grid, _hyperband (default: tpe)")
    search.add_argument("--scheduler", help="who goes on: asha, hyperband, median or none (default: asha)")
    search.add_argument("--reduction", type=int, help="one in so many trials goes on (default: 3)")
    search.add_argument("--from", dest="from_study", type=Path, metavar="STUDY", help="begin with the best of another search, by its folder")
    search.add_argument("--no-priors", action="store_true", help="do not begin with configurations that earlier searches found good")
    search.add_argument(
        "--engine", choices=("compiled", "plain", "ray"), default="compiled", help="ray: on a Ray cluster; plain: stock Keras (default: compiled)"
    )
    search.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that train, each on its share of the cores (default: this one; of Ray: all)",
    )
    search.add_argument("--address", help="of the Ray cluster, such as ray://head:10001 (default: the one on this machine, or a new one)")
    trial = parser.add_argument_group("each trial")
    trial.add_argument("--epochs", type=int, help="epochs of a whole trial (default: 9)")
    trial.add_argument("--batch-size", type=int, help="images per step (default: 128)")
    trial.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate (default: constant with asha and hyperband, else cosine)")
    trial.add_argument("--precision", choices=PRECISIONS, help="(default: float32)")
    trial.add_argument("--seed", type=int, help="of the trials and of the search (default: 0)")
    record = parser.add_argument_group("the record")
    record.add_argument("--out", type=Path, help="where the search keeps its state; an earlier one there goes on")
    record.add_argument("--storage", help="URL of a database that several searches share (default: SQLite in the search's folder)")
    record.add_argument("--checkpoints", action="store_true", help="keep paused trials on disk, so that a killed search repeats less")
    record.add_argument("--accept-changes", action="store_true", help="go on in --out although the space or the search differs; its trials stay")
    record.add_argument("--no-report", action="store_true", help="write no report")
    record.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    record.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    budget = None if arguments.budget is None else parse_duration(arguments.budget)
    if budget is None and arguments.trials is None:
        budget = DEFAULT_BUDGET
    settings = _resumed(arguments) if arguments.resume else _new(arguments)
    load_backend()
    from tuning.display import Display
    from tuning.study import BEST_RECIPE, resume, search

    common: dict[str, Any] = {
        "trials": arguments.trials,
        "engine": arguments.engine,
        "workers": arguments.workers,
        "address": arguments.address,
        "checkpoints": arguments.checkpoints,
        "data_dir": arguments.data_dir,
    }
    closing = 0.0 if arguments.no_report else CLOSING * max(1.0, _load())
    if budget is not None:
        common["budget"] = max(1.0, budget - closing - (time.monotonic() - started))
    title, epochs = _title(arguments)
    try:
        with Display(title, epochs) as display:
            if arguments.resume:
                result = resume(arguments.resume, watch=display.watch, **common)
            else:
                result = search(**settings, watch=display.watch, directory=arguments.out, **common)
    except KeyboardInterrupt:
        place = arguments.resume or arguments.out
        hint = f"zoo tune --resume {place}" if place else "the same command"
        raise KeyboardInterrupt(f"Interrupted. What was finished is kept; go on with: {hint}") from None
    best = result.best
    report = "" if arguments.no_report else _report(result)
    if arguments.json:
        document = {"best": best.to_dict(), "trials": [trial.to_dict() for trial in result.trials], "overhead": round(result.overhead, 4)}
        print_json({**document, "seconds": round(result.seconds, 1), "directory": str(result.directory)})
        return 0
    console().print(ranking_table(result))
    for text in _summary(result, report, result.directory / BEST_RECIPE):
        console().print(text, markup=False)
    return 0


def _load() -> float:
    """Processes that wait for a processor, per processor."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1.0


def _new(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what `search` takes, with the defaults of what was not given."""
    if arguments.model is None or arguments.dataset is None:
        raise UsageError("A search needs a MODEL and --dataset, or --resume with the folder of an earlier one.")
    spec, _ = resolve(arguments.model)
    scheduler = arguments.scheduler or "asha"
    recipe = Recipe(
        model=spec.name,
        dataset=arguments.dataset,
        image_size=arguments.image_size,
        epochs=9 if arguments.epochs is None else arguments.epochs,
        batch_size=128 if arguments.batch_size is None else arguments.batch_size,
        schedule=arguments.schedule or ("constant" if scheduler in ("asha", "hyperband") else "cosine"),
        precision=arguments.precision or "float32",
        seed=0 if arguments.seed is None else arguments.seed,
        validate=True,
    )
    return {
        "recipe": recipe,
        "optimizers": _optimizers(arguments.optimizers),
        "study": arguments.study or "joint",
        "vary": _names(arguments.vary, "--vary") or (),
        "ranges": dict(parse_range(text) for text in arguments.range or ()),
        "sampler": arguments.sampler or "tpe",
        "scheduler": scheduler,
        "reduction": 3 if arguments.reduction is None else arguments.reduction,
        "priors": not arguments.no_priors,
        "storage": arguments.storage,
        "from_study": arguments.from_study,
        "accept_changes": arguments.accept_changes,
    }


def _resumed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks that a resumption names nothing but what may differ."""
    given = [name for name in ("model", "dataset", "image_size", "out", "storage", *RESUMED) if getattr(arguments, name) is not None]
    if arguments.from_study is not None:
        given.append("from")
    if arguments.no_priors:
        given.append("no_priors")
    if given:
        names = ", ".join("MODEL" if name == "model" else f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"--resume goes on with a search as it was, so {names} cannot be given. "
            f"To change the search and keep its trials: zoo tune MODEL --dataset ... --out {arguments.resume} --accept-changes."
        )
    return {}


def _title(arguments: argparse.Namespace) -> tuple[str, int]:
    """Returns what is searched, and the epochs of a whole trial."""
    if not arguments.resume:
        return f"{arguments.model} on {arguments.dataset}", 9 if arguments.epochs is None else arguments.epochs
    from tuning.settings import read_settings

    settings = read_settings(arguments.resume)
    subject = f"{settings.recipe.model} on {settings.recipe.dataset}" if settings.recipe else settings.hypermodel
    return subject, settings.epochs


def _report(result: SearchResult) -> str:
    """Writes the report; returns where it is, or why there is none."""
    from tuning.report import write_report

    try:
        return f"report: {write_report(result)}"
    except MissingExtraError as error:
        return f"no report: {error}"


def _summary(result: SearchResult, report: str, recipe: Path) -> list[str]:
    states = [trial.state for trial in result.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    rate = 60 * len(states) / result.elapsed
    lines = [f"\n{len(states)} trials ({counted}) in {result.elapsed:.0f} s, {rate:.1f} a minute; overhead {100 * result.overhead:.0f} %"]
    for name, value, (low, high) in result.on_the_edge():
        lines.append(f"{name}={value:.3g} of the best trial lies on the edge of its range; a wider one: --range {name}={low:g}..{high:g}")
    lines.append(f"all of it in {result.directory}{f'; {report}' if report else ''}")
    lines.append(f"best: {100 * (result.best.val_accuracy or 0):.2f} % validation accuracy; train it with: zoo train {recipe}")
    return lines


def ranking_table(result: SearchResult) -> Any:
    """Returns the best trials, and every optimizer's best one, as a rich table."""
    from rich.table import Table

    from tuning.display import configuration

    seen: set[str] = set()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "trial", "validation", "epochs", "state", "seconds", "configuration"):
        table.add_column(column, justify="left" if column in ("state", "configuration") else "right")
    for rank, trial in enumerate(result.ranking, start=1):
        first_of_optimizer = trial.optimizer not in seen
        seen.add(trial.optimizer)
        if rank > SHOWN and not first_of_optimizer:
            continue
        table.add_row(
            str(rank),
            str(trial.number),
            f"{100 * (trial.val_accuracy or 0):.2f} %",
            str(trial.epochs),
            trial.state,
            f"{trial.seconds:.1f}",
            configuration(trial.config),
        )
    return table


def parse_duration(text: str) -> float:
    """Returns the seconds that `45s`, `5m`, `1h` or a plain number of seconds stands for.

    Raises:
        UsageError: The text is none of these, or zero.

    Example:
        >>> parse_duration("5m")
        300.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise UsageError(f"A budget is a time above 0, such as 45s, 5m or 1h. Received: {text!r}.")
    return seconds


def parse_range(text: str) -> tuple[str, tuple[float, float]]:
    """Returns the name and the ends that `NAME=LOW..HIGH` gives.

    Raises:
        UsageError: The text is none such.

    Example:
        >>> parse_range("adam.learning_rate=1e-5..0.1")
        ('adam.learning_rate', (1e-05, 0.1))
    """
    name, _, ends = text.partition("=")
    low, _, high = ends.partition("..")
    try:
        return name.strip(), (float(low), float(high))
    except ValueError:
        raise UsageError(f"A range is NAME=LOW..HIGH, such as adam.learning_rate=1e-5..0.1. Received: {text!r}.") from None


def _optimizers(text: str | None) -> list[str] | None:
    names = _names(text, "--optimizers")
    for name in names or ():
        optimizer_info(name)
    return names


def _names(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} takes comma-separated names. Received: {text!r}.")
    return names
