"""Makes the shipped weights: a recipe over several seeds, the first of which is shipped, never the best.

    python -m zoo.publishing cnn_bn.mnist --seeds 3
    python -m zoo.publishing --cards                  writes docs/cards, the tables of the README and of docs/models.md,
                                              and the recipes' docstrings anew, without training

Every seed trains on all training images and is evaluated on the test images after its last epoch; the test images decide
nothing but whether seed 0's weights bear storing in half precision. The runs stand under `runs/publishing/` and go on where
they were interrupted; seeds beyond those of a shipped card are added to it, unless its recipe has changed. The weights, their
golden outputs and the card go into the package, a row per run into `benchmarks/results/weights.csv`, the card as a page into
`docs/cards/`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.resources
import io
import os
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.card_pages import card_page, training_curve
from zoo.cards import Card
from zoo.console import load_backend
from zoo.datasets import Dataset, load_dataset
from zoo.errors import UsageError, ZooError
from zoo.evaluation import evaluate, evaluate_logits, latency, multiply_accumulates, predict, view_logits
from zoo.factory import RUN_WEIGHTS, load_trained
from zoo.files import atomic_file, sha256, write_text
from zoo.recipes import list_recipes, load_recipe, recipe_module
from zoo.registry import list_models, resolve
from zoo.specs import Recipe
from zoo.training import HISTORY, train
from zoo.verification import write_golden
from zoo.weights import pretrained_card, pretrained_file

if TYPE_CHECKING:
    import keras
    import numpy

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "weights.csv"
ANCHORS = ROOT / "benchmarks" / "anchors.csv"
README = ROOT / "README.md"
MODELS_PAGE = ROOT / "docs" / "models.md"
CARDS = ROOT / "docs" / "cards"
TABLE_BEGIN, TABLE_END = "<!-- weights: begin -->", "<!-- weights: end -->"
HALF_PRECISION_TOLERANCE = 0.0002
LATENCY_BATCHES = (1, 32)
BATCH_SIZE = 500
# The CIFAR-10 that the weights were made with has 98 images that were only to be had as JPEG: these of test's, and 77 of train's.
JPEG_CIFAR10_TRAIN = 77
JPEG_CIFAR10_TEST = frozenset(
    {722, 1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117, 8551, 9254}
)


def publish(name: str, seeds: int, runs: Path = Path("runs") / "publishing") -> Card:
    """Trains a recipe with seeds 0 to `seeds - 1` and ships seed 0.

    The weights are stored in half precision where that changes the test accuracy by no more than 0.02 points; the card's
    figures are those of the stored weights. Seeds of the very same recipe that have been published before stay as they are.

    Returns:
        The shipped card, with every seed's test accuracy, their mean and their standard deviation.
    """
    recipe = load_recipe(name)
    _, weights = resolve(name)
    if recipe.validate or weights is None:
        raise UsageError(f"A shipped weight has a tag and trains on all training images. The recipe {name} has validate={recipe.validate}.")
    package = Path(str(importlib.resources.files(weights.package)))
    first = _card(name) if name in shipped() and Recipe.from_dict(_card(name).recipe) == dataclasses.replace(recipe, seed=0) else None
    accuracies = [] if first is None else list(first.seeds["test_accuracy"])
    rows = [] if first is None else _rows(name)
    directories = {seed: runs / f"{name}-seed{seed}" for seed in range(len(accuracies), seeds)}
    for seed, directory in directories.items():
        train(dataclasses.replace(recipe, seed=seed), directory)
    test = load_dataset(recipe.dataset, "test") if directories else None
    for seed, directory in directories.items():
        assert test is not None
        model, card = load_trained(directory)
        if seed == 0:
            card = first = _store(name, recipe, directory, test, package)
        else:
            card = dataclasses.replace(card, name=name, results=measure(model, recipe, test))
        accuracies.append(card.results["test"]["accuracy"])
        rows.append(_row(card, seeds, multiply_accumulates(model)))
    assert first is not None
    first = dataclasses.replace(
        first,
        seeds={
            "count": len(accuracies),
            "test_accuracy": accuracies,
            "mean": statistics.fmean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        },
    )
    first.write(package / f"{name}.json")
    if 0 in directories:
        write_golden(name)
    _record(name, rows)
    return first


def measure(model: keras.Model, recipe: Recipe, test: Dataset) -> dict[str, Any]:
    """Returns what a card states of a model on test images, by kind; see `Card.results`."""
    names = test.spec.class_names
    logits = {"test": predict(model, test.images, BATCH_SIZE)}
    if recipe.views:
        logits["test_views"] = view_logits(model, test.images, recipe.views, BATCH_SIZE)
    results = {kind: evaluate_logits(values, test.labels, names) for kind, values in logits.items()}
    if recipe.dataset == "cifar10":
        exact = exact_cifar10_test()
        results |= {kind.replace("test", "test_exact"): evaluate_logits(values[exact], test.labels[exact], names) for kind, values in logits.items()}
    return {kind: result if kind == "test" else _brief(result) for kind, result in results.items()}


def exact_cifar10_test() -> numpy.ndarray:
    """Returns a mask over CIFAR-10's test images: False for those that the weights' makers only had as JPEG."""
    import numpy
    import tensorflow_datasets as tfds

    data = tfds.load("cifar10", split="test", decoders=tfds.decode.PartialDecoding({"id": True}), shuffle_files=False, download=False)
    identifiers = [record["id"].decode() for record in tfds.as_numpy(data)]
    return numpy.array([int(identifier.rpartition("_")[2]) not in JPEG_CIFAR10_TEST for identifier in identifiers])


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("classes", "confusion")}


def _store(name: str, recipe: Recipe, run: Path, test: Dataset, package: Path) -> Card:
    """Puts a run's weights into the package, in half precision if they bear it, and returns their card."""
    model, card = load_trained(run)
    whole, target = card.results["test"]["accuracy"], package / f"{name}.weights.h5"
    _round(model)
    halved = evaluate(model, test.images, test.labels, batch_size=BATCH_SIZE)["accuracy"]
    dtype = "float16" if abs(halved - whole) <= HALF_PRECISION_TOLERANCE + 1e-9 else "float32"
    if dtype == "float32":
        model, _ = load_trained(run)
    with atomic_file(target) as temporary:
        shutil.copyfile(run / RUN_WEIGHTS, temporary)
        if dtype == "float16":
            _halve(temporary)
    with (run / HISTORY).open(newline="", encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    card = dataclasses.replace(
        card,
        name=name,
        hyperparameters={**resolve(name)[0].defaults, **card.hyperparameters},
        recipe=recipe.to_dict(),
        sha256=sha256(target),
        results=measure(model, recipe, test),
        multiply_accumulates=multiply_accumulates(model),
        stored_dtype=dtype,
        file_bytes=target.stat().st_size,
        latency={str(size): latency(model, size) for size in LATENCY_BATCHES},
        history={column: [round(float(epoch[column]), 4) for epoch in epochs] for column in epochs[0] if column not in ("epoch", "seconds")},
    )
    card.write(package / f"{name}.json")
    return card


def _round(model: keras.Model) -> None:
    """Rounds a model's weights to half precision, in place."""
    from keras import ops

    for variable in model.weights:
        if variable.dtype == "float32":
            variable.assign(ops.convert_to_numpy(variable).astype("float16").astype("float32"))


def _halve(path: Path) -> None:
    """Rewrites a weight file with its numbers in half precision."""
    import h5py

    smaller = path.with_name(path.name + ".half")
    with h5py.File(path) as source, h5py.File(smaller, "w") as target:

        def copy(key: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                made = target.create_dataset(key, data=item[()].astype("float16") if item.dtype == "float32" else item[()])
            else:
                made = target.require_group(key)
            for attribute, value in item.attrs.items():
                made.attrs[attribute] = value

        source.visititems(copy)
        for attribute, value in source.attrs.items():
            target.attrs[attribute] = value
    os.replace(smaller, path)


def weights_table(cards: str = "docs/cards") -> str:
    """Returns the table of all shipped weights, in Markdown, for a page from which the cards lie in the given folder."""
    anchors = _anchors()
    lines = [
        "| name | parameters | test accuracy, seed 0 (95 % interval) | mean ± sd (seeds) | with views | published elsewhere | training, wall time |",
        "|---|---:|---|---|---:|---|---:|",
    ]
    for name in shipped():
        card = _card(name)
        test, seeds, views = card.results["test"], card.seeds, card.results.get("test_views")
        low, high = test["accuracy_interval"]
        published = "; ".join(f"[{anchor['accuracy']} %]({anchor['source']}), {anchor['what']}" for anchor in anchors[card.model, card.dataset])
        lines.append(
            f"| [`{name}`]({cards}/{name}.md) | {card.parameters:,} | {_percent(test['accuracy'])} ({100 * low:.2f} - {100 * high:.2f}) "
            f"| {_spread(seeds)} | {_percent(views['accuracy']) if views else ''} "
            f"| {published} | {_duration(card.seconds)} |"
        )
    lines += ["", "Wall times are of seed 0's run as it came: some runs shared their processor with others or paused."]
    return "\n".join([*lines, *_cifar10_note()])


def _cifar10_note() -> list[str]:
    """The CIFAR-10 figures once more, over the test images that are bit-exact."""
    cards = [card for card in map(_card, shipped()) if "test_exact" in card.results]
    if not cards:
        return []
    images = cards[0].results["test_exact"]["images"]
    figures = []
    for card in cards:
        views = card.results.get("test_exact_views")
        figures.append(
            f"`{card.name}` {_percent(card.results['test_exact']['accuracy'])}" + (f" ({_percent(views['accuracy'])} with views)" if views else "")
        )
    note = (
        f"Of the CIFAR-10 used here {len(JPEG_CIFAR10_TEST)} test and {JPEG_CIFAR10_TRAIN} training images were only to be had as JPEG and are not "
        f"bit-exact. On the other {images:,} test images: {', '.join(figures)}."
    )
    return ["", note]


def write_tables() -> None:
    """Puts the present table between the two markers of the README and of the documentation's page."""
    for page, cards in ((README, "docs/cards"), (MODELS_PAGE, "cards")):
        text = page.read_text(encoding="utf-8")
        before, _, rest = text.partition(TABLE_BEGIN)
        _, _, after = rest.partition(TABLE_END)
        if not after:
            raise UsageError(f"{page} lacks the markers {TABLE_BEGIN} and {TABLE_END}.")
        write_text(page, f"{before}{TABLE_BEGIN}\n{weights_table(cards)}\n{TABLE_END}{after}")


def card_pages() -> dict[str, str]:
    """Returns `docs/cards/` as file name -> text: a page and a training curve for each shipped weight, and an index."""
    pages = {}
    for name in shipped():
        card = _card(name)
        summary = (recipe_module(name).__doc__ or "").partition("\n")[0]
        pages[f"{name}.md"] = card_page(card, load_recipe(name), summary)
        pages[f"{name}.svg"] = training_curve(card)
    listed = "".join(f"- [{name}]({name}.md)\n" for name in shipped())
    return {"README.md": f"# Model cards\n\n{listed}", **pages}


def write_card_pages() -> None:
    """Writes `docs/cards/` anew, and removes what no weight has any more."""
    pages = card_pages()
    CARDS.mkdir(parents=True, exist_ok=True)
    for file in CARDS.iterdir():
        if file.name not in pages:
            file.unlink()
    for file_name, text in pages.items():
        write_text(CARDS / file_name, text)


def expectation(card: Card) -> str:
    """Returns what a recipe's docstring says under its summary: the command, the accuracy to expect, the time, the hardware."""
    seeds = card.seeds
    count = "one seed" if seeds["count"] == 1 else f"{seeds['count']} seeds"
    deviation = "" if seeds["count"] == 1 else f" ± {100 * seeds['standard_deviation']:.2f}"
    return (
        f"    zoo reproduce {card.name} --seeds {seeds['count']}\n\n"
        f"Test accuracy {100 * seeds['mean']:.2f}{deviation} % over {count}, {_duration(card.seconds)} each on "
        f"{card.environment['processor']}, {card.environment['cores']} cores, Keras {card.environment['keras']} on {card.environment['backend']}.\n"
    )


def write_recipe_docstrings() -> None:
    """Puts each card's expectation under the first line of its recipe's docstring."""
    for name in shipped():
        module = recipe_module(name)
        path, summary = Path(str(module.__file__)), (module.__doc__ or "").partition("\n")[0]
        _, _, code = path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')
        write_text(path, f'"""{summary}\n\n{expectation(_card(name))}"""{code}')


def shipped() -> list[str]:
    """Returns the weights that have a card; a new tag has none until its weights are published."""

    def has_card(name: str) -> bool:
        spec, weights = resolve(name)
        return weights is not None and pretrained_file(spec.name, weights, ".json").is_file()

    return [name for name in list_models(pretrained=True) if has_card(name)]


def _card(name: str) -> Card:
    spec, weights = resolve(name)
    assert weights is not None
    return pretrained_card(spec.name, weights)


def _anchors() -> Mapping[tuple[str, str], list[dict[str, str]]]:
    """Model and data set -> figures that others published for that kind of network, with their description and source."""
    anchors: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with ANCHORS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            anchors[row["model"], row["dataset"]].append(row)
    return anchors


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _spread(seeds: Mapping[str, Any]) -> str:
    if seeds["count"] == 1:
        return "one seed"
    return f"{100 * seeds['mean']:.2f} ± {100 * seeds['standard_deviation']:.2f} ({seeds['count']})"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _row(card: Card, seeds: int, macs: int) -> dict[str, str]:
    """One run's row of the results file."""
    test, versions = card.results["test"], card.environment
    views = card.results.get("test_views")
    return {
        "name": card.name,
        "seed": str(card.recipe["seed"]),
        "epochs": str(card.recipe["epochs"]),
        "test_accuracy": f"{test['accuracy']:.4f}",
        "test_accuracy_views": f"{views['accuracy']:.4f}" if views else "",
        "negative_log_likelihood": f"{test['negative_log_likelihood']:.4f}",
        "expected_calibration_error": f"{test['expected_calibration_error']:.4f}",
        "parameters": str(card.parameters),
        "multiply_accumulates": str(macs),
        "seconds": f"{card.seconds:.0f}",
        "recipe": Recipe.from_dict(card.recipe).fingerprint(),
        "commit": versions.get("commit", ""),
        "hardware": f"{versions['processor']}, {versions['cores']} cores",
        "versions": ", ".join(
            f"{package} {versions[package]}" for package in ("keras", versions["backend"], "numpy", "python") if package in versions
        ),
        "command": f"python -m zoo.publishing {card.name} --seeds {seeds}",
    }


def _rows(name: str | None = None) -> list[dict[str, str]]:
    """The rows of the results file, or those of one weight."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if name in (None, row["name"])]


def _record(name: str, rows: Sequence[dict[str, str]]) -> None:
    """Replaces the rows of `name` in the results file."""
    kept = [row for row in _rows() if row["name"] != name]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(sorted([*kept, *rows], key=lambda row: (row["name"], int(row["seed"]))))
    write_text(RESULTS, table.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Publishes the named weights, or all, and writes the pages and the table that follow from the cards."""
    parser = argparse.ArgumentParser(prog="python -m zoo.publishing", description="Train recipes over several seeds and ship seed 0.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="model.tag (default: every recipe)")
    parser.add_argument("--seeds", type=int, help="how many seeds (default: 5 for digits, 3 otherwise)")
    parser.add_argument("--cards", action="store_true", help="only write what follows from the shipped cards")
    arguments = parser.parse_args(argv)
    load_backend()
    try:
        for name in [] if arguments.cards else arguments.names or list_recipes():
            card = publish(name, arguments.seeds or (5 if name.endswith(".digits") else 3))
            print(f"{name}: {_percent(card.results['test']['accuracy'])} shipped as {card.stored_dtype}, {_spread(card.seeds)}", flush=True)
        write_tables()
        write_recipe_docstrings()
        write_card_pages()
        if missing := sorted(set(list_models(pretrained=True)) - set(shipped())):
            print(f"Left out, for want of a card: {', '.join(missing)}", file=sys.stderr)
    except ZooError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
