"""`zoo train`: runs a recipe, or goes on with an interrupted run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError
from zoo.initialization import INITIALIZATIONS
from zoo.optimizers import list_optimizers, optimizer_info
from zoo.recipes import list_recipes, load_recipe
from zoo.registry import resolve
from zoo.specs import AUGMENTATIONS, PRECISIONS, SCHEDULES, Recipe
from zoo.training import RECIPE, default_directory, read_recipe, train

HELP = "train a model from a recipe or from flags, resumably"
EXAMPLES = """  zoo train cnn_bn.digits                            the recipe behind the shipped weights
  zoo train recipe.json --seed 1                     a recipe from a file, such as `zoo tune` writes
  zoo train cnn --dataset path/to/folder --epochs 20 --augment affine flip
  zoo train cnn_bn --dataset digits --initial-weights cnn_bn.digits --optimizer momentum --learning-rate 0.01
  zoo train runs/my-run                              goes on with an interrupted run"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="WHAT", help="a recipe's name or JSON file, a run directory to go on with, or a model with --dataset")
    parser.add_argument("--out", type=Path, help="run directory (default: runs/<model>-<dataset>-<fingerprint>)")
    parser.add_argument("--restart", action="store_true", help="discard what an earlier run left in the run directory")
    parser.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR, or TFDS's own)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="spread every batch over N GPUs, or parts of the processor (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the finished run's card as JSON")
    group = parser.add_argument_group("recipe", "each flag replaces the recipe's value")
    group.add_argument("--dataset", help="a data set's name, or a folder of images with one subfolder per class")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width to resize the images to (default: their own)")
    group.add_argument(
        "--set", dest="hyperparameters", metavar="NAME=VALUE", nargs="+", help="the model's hyperparameters, e.g. units=512 dropout=0.2"
    )
    group.add_argument("--optimizer", help=", ".join(list_optimizers()))
    group.add_argument("--learning-rate", type=float, help="peak of the schedule (default: the optimizer's own)")
    group.add_argument("--optimizer-set", dest="optimizer_arguments", metavar="NAME=VALUE", nargs="+", help="e.g. momentum=0.95")
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--warmup", type=float, help="share of all steps over which the learning rate rises, 0..1")
    group.add_argument("--batch-size", type=int)
    group.add_argument("--epochs", type=int)
    group.add_argument("--label-smoothing", type=float)
    group.add_argument(
        "--augment", nargs="*", choices=list(AUGMENTATIONS), help="augmentations with their default strength, which suits images of 28x28"
    )
    group.add_argument("--augmentation-tail", type=float, help="share of the epochs over which affine and elastic weaken to nothing, 0..1")
    group.add_argument("--initialization", nargs="*", metavar="NAME", help=f"how the weights start: {', '.join(INITIALIZATIONS)}")
    group.add_argument("--teacher", metavar="NAME", help="pretrained weights whose answers are learned along with the labels")
    group.add_argument("--teacher-weight", type=float, help="share of the teacher's answers in the loss, 0..1")
    group.add_argument("--temperature", type=float, help="divides the logits where answers are compared")
    group.add_argument("--lookahead", type=int, metavar="STEPS", help="go halfway back to the weights of so many steps before")
    group.add_argument("--ema", type=float, help="momentum of the weights' moving average, e.g. 0.999")
    group.add_argument("--precision", choices=PRECISIONS)
    group.add_argument("--validate", action=argparse.BooleanOptionalAction, help="hold out a validation split (default with --dataset: yes)")
    group.add_argument("--early-stopping", type=int, metavar="EPOCHS", help="end after so many epochs without a better validation accuracy")
    group.add_argument("--initial-weights", metavar="NAME", help="pretrained weights to start from")
    group.add_argument("--seed", type=int)


def run(arguments: argparse.Namespace) -> int:
    recipe, directory = recipe_and_directory(arguments)
    load_backend()
    screen = console(stderr=True)
    screen.print(f"{recipe.model} on {recipe.dataset}, {recipe.epochs} epochs with {recipe.optimizer}; run directory {directory}", markup=False)
    card = train(recipe, directory, data_dir=arguments.data_dir, restart=arguments.restart, devices=arguments.devices)
    if arguments.json:
        print_json(dataclasses.asdict(card))
        return 0
    for split, result in card.results.items():
        low, high = result["accuracy_interval"]
        console().print(
            f"{split} accuracy {100 * result['accuracy']:.2f} % (95 %: {100 * low:.2f} - {100 * high:.2f}) on {result['images']:,} images"
        )
    console().print(
        f"weights and card in {directory}; next: zoo evaluate {directory}, zoo predict {directory} IMAGE, zoo export {directory}", markup=False
    )
    return 0


def recipe_and_directory(arguments: argparse.Namespace) -> tuple[Recipe, Path]:
    """Puts together the recipe that the command line asks for, and where it runs."""
    source, changes = arguments.source, _changes(arguments)
    path = Path(source)
    if (path / RECIPE).is_file():
        recipe = dataclasses.replace(read_recipe(path), **changes)
        return recipe, arguments.out or path
    if path.suffix == ".json" or path.is_file():
        base = read_recipe(path)
    elif source in list_recipes():
        base = load_recipe(source)
        if "dataset" in changes and changes["dataset"] != base.dataset:
            raise UsageError(
                f"The recipe {source} is for {base.dataset}. For another data set name the model: "
                f"zoo train {base.model.partition('.')[0]} --dataset {changes['dataset']}."
            )
    else:
        spec, _ = resolve(source)
        if arguments.dataset is None:
            raise UsageError(f"{source} is a model, so training it needs --dataset. Recipes that need none: {', '.join(list_recipes())}.")
        optimizer_info(arguments.optimizer or "adam")
        base = Recipe(model=source if "." in source else spec.name, dataset=arguments.dataset, validate=True)
    if "hyperparameters" in changes:
        changes["hyperparameters"] = {**base.hyperparameters, **changes["hyperparameters"]}
    if "optimizer_arguments" in changes and changes.get("optimizer", base.optimizer) == base.optimizer:
        changes["optimizer_arguments"] = {**base.optimizer_arguments, **changes["optimizer_arguments"]}
    elif changes.get("optimizer", base.optimizer) != base.optimizer:
        changes = {"optimizer_arguments": {}, "learning_rate": None, **changes}
    recipe = dataclasses.replace(base, **changes)
    return recipe, arguments.out or default_directory(recipe)


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that flags replace."""
    names = {entry.name for entry in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    for name in ("hyperparameters", "optimizer_arguments"):
        if name in changes:
            changes[name] = dict(_assignment(text) for text in changes[name])
    if arguments.initialization is not None:
        changes["initialization"] = tuple(arguments.initialization)
    if arguments.augment is not None:
        changes["augmentation"] = tuple(AUGMENTATIONS[name]() for name in arguments.augment)
    return changes


def _assignment(text: str) -> tuple[str, Any]:
    """`units=512` -> `("units", 512)`; a value is read as JSON where it is JSON, as a string otherwise."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"Expected NAME=VALUE, such as units=512. Received: {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
