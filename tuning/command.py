"""`zoo tune`: searches for the best configuration of a model and its optimizer under a budget."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError
from zoo.optimizers import optimizer_info
from zoo.registry import resolve
from zoo.specs import PRECISIONS, SCHEDULES, Recipe

if TYPE_CHECKING:
    from tuning.trials import SearchResult, Trial

HELP = "search for a model's best hyperparameters and optimizer"
EXAMPLES = """  zoo tune relu_mlp --dataset digits --budget 60s
  zoo tune cnn_bn --dataset fashion_mnist --optimizers momentum,adamw --trials 20 --epochs 5
  zoo tune cnn --dataset path/to/folder --study architecture --budget 10m
  zoo train runs/search-.../best_recipe.json         trains the winner"""
DEFAULT_BUDGET = 60.0
SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's name")
    parser.add_argument("--dataset", required=True, help="a data set's name, or a folder of images with one subfolder per class")
    parser.add_argument("--optimizers", help="comma-separated names (default: all)")
    parser.add_argument("--study", choices=("joint", "optimizers", "architecture"), default="joint", help="what varies (default: joint)")
    parser.add_argument("--budget", help="time, such as 45s, 5m or 1h (default: 60s, unless --trials is given)")
    parser.add_argument("--trials", type=int, help="total number of trials")
    parser.add_argument("--epochs", type=int, default=5, help="epochs per trial (default: 5)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (default: 128)")
    parser.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="of the learning rate (default: cosine)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the search keeps its state; an earlier one there goes on")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    spec, _ = resolve(arguments.model)
    optimizers = _names(arguments.optimizers)
    budget = None if arguments.budget is None else parse_duration(arguments.budget)
    if budget is None and arguments.trials is None:
        budget = DEFAULT_BUDGET
    recipe = Recipe(
        model=spec.name,
        dataset=arguments.dataset,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        schedule=arguments.schedule,
        precision=arguments.precision,
        seed=arguments.seed,
        validate=True,
    )
    load_backend()
    from tuning.trials import BEST_RECIPE, search

    screen = console(stderr=True)
    with screen.status("preparing the search") as status:

        def show(trial: Trial) -> None:
            score = f"{100 * trial.val_accuracy:.2f} %" if trial.val_accuracy is not None else f"{trial.state}: {trial.message}"
            screen.print(f"trial {trial.number + 1:>3}  {score:<10}  {trial.recipe.optimizer:<9} {trial.seconds:.1f} s", markup=False)
            status.update(f"trial {trial.number + 2}")

        try:
            result = search(
                recipe,
                optimizers=optimizers,
                study=arguments.study,
                budget=budget,
                trials=arguments.trials,
                directory=arguments.out,
                data_dir=arguments.data_dir,
                on_trial=show,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted. What was finished is kept; run the same command again to go on.") from None
    best = result.best
    if arguments.json:
        print_json({"best": best.to_dict(), "trials": [trial.to_dict() for trial in result.trials], "directory": str(result.directory)})
        return 0
    console().print(ranking_table(result))
    console().print(
        f"\n{len(result.ranking)} of {len(result.trials)} trials completed in {result.seconds:.0f} s; all of them in {result.directory}", markup=False
    )
    console().print(
        f"best: {100 * (best.val_accuracy or 0):.2f} % validation accuracy; train it with: zoo train {result.directory / BEST_RECIPE}", markup=False
    )
    return 0


def ranking_table(result: SearchResult) -> Any:
    """Returns the best trials, and every optimizer's best one, as a rich table."""
    from rich.table import Table

    seen: set[str] = set()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "validation", "optimizer", "learning rate", "configuration", "seconds"):
        table.add_column(column, justify="left" if column in ("optimizer", "configuration") else "right")
    for rank, trial in enumerate(result.ranking, start=1):
        first_of_optimizer = trial.recipe.optimizer not in seen
        seen.add(trial.recipe.optimizer)
        if rank > SHOWN and not first_of_optimizer:
            continue
        arguments = {**trial.recipe.hyperparameters, **trial.recipe.optimizer_arguments}
        table.add_row(
            str(rank),
            f"{100 * (trial.val_accuracy or 0):.2f} %",
            trial.recipe.optimizer,
            f"{trial.recipe.learning_rate:.2g}",
            " ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in arguments.items()),
            f"{trial.seconds:.1f}",
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


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        optimizer_info(name)
    if not names:
        raise UsageError(f"--optimizers takes comma-separated names. Received: {text!r}.")
    return names
