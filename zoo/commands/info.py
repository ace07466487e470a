"""`zoo info`: everything about a model, a weight, an optimizer or a data set."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.cards import Card
from zoo.console import console, print_json
from zoo.datasets import dataset_info, list_datasets
from zoo.errors import unknown
from zoo.optimizers import OPTIMIZERS, optimizer_info
from zoo.registry import list_models, resolve
from zoo.specs import Choice, DatasetSpec, Domain, ModelSpec, OptimizerSpec
from zoo.weights import pretrained_card

HELP = "show a model, a pretrained weight, an optimizer or a data set"
EXAMPLES = """  zoo info cnn_bn            a model: hyperparameters, their ranges, weights, papers
  zoo info cnn_bn.mnist      a weight: its card
  zoo info adam              an optimizer
  zoo info mnist --json      a data set"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model, model.tag, optimizer or data set")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    record = _find(arguments.name)
    if arguments.json:
        print_json(_plain(record))
        return 0
    show: dict[type, Any] = {ModelSpec: _show_model, Card: _show_card, OptimizerSpec: _show_optimizer, DatasetSpec: _show_dataset}
    for line in show[type(record)](record):
        console().print(line)
    return 0


def _find(name: str) -> ModelSpec | Card | OptimizerSpec | DatasetSpec:
    if name.partition(".")[0] in list_models():
        spec, weights = resolve(name)
        return spec if weights is None else pretrained_card(spec.name, weights)
    if name in OPTIMIZERS:
        return optimizer_info(name)
    if name in list_datasets() or Path(name).is_dir() or "/" in name:
        return dataset_info(name)
    raise unknown("name", name, [*list_models(), *OPTIMIZERS, *list_datasets()])


def _plain(record: Any) -> Any:
    """The record as JSON data; a model's builder becomes its import path."""
    if isinstance(record, ModelSpec):
        builder = f"{record.builder.__module__}.{record.builder.__qualname__}"
        return {**dataclasses.asdict(dataclasses.replace(record, builder=len)), "builder": builder}
    return dataclasses.asdict(record)


def _show_model(spec: ModelSpec) -> Iterable[str]:
    yield f"[bold]{spec.name}[/]: {spec.description}"
    yield "\nhyperparameters"
    for name, default in spec.defaults.items():
        yield f"  {name} = {default!r}" + (f"   search: {_range(spec.domains[name])}" if name in spec.domains else "")
    yield "\npretrained weights"
    for weights in spec.pretrained:
        yield f"  {_headline(pretrained_card(spec.name, weights))}"
    if not spec.pretrained:
        yield "  none"
    yield "\nreferences"
    for reference in spec.references:
        yield f"  {reference}"
    example = f"{spec.name}.{spec.pretrained[0].tag}" if spec.pretrained else spec.name
    yield f'\nmodel = zoo.create_model("{example}"{", pretrained=True" if spec.pretrained else ""})'


def _headline(card: Card) -> str:
    test = card.results["test"]
    low, high = test["accuracy_interval"]
    measured = f"{100 * test['accuracy']:.2f} % of {test['images']:,} test images (95 %: {100 * low:.2f} - {100 * high:.2f})"
    return f"{card.name}: {measured}, {card.parameters:,} parameters"


def _show_card(card: Card) -> Iterable[str]:
    test, seeds = card.results["test"], card.seeds
    yield f"[bold]{_headline(card)}[/]"
    if seeds.get("count", 1) > 1:
        yield f"over {seeds['count']} seeds: {100 * seeds['mean']:.2f} ± {100 * seeds['standard_deviation']:.2f} %"
    titles = {
        "test_views": "averaged over views",
        "test_exact": "on the bit-exact test images",
        "test_exact_views": "on the bit-exact test images, averaged over views",
    }
    for kind, title in titles.items():
        if kind in card.results:
            yield f"{title}: {100 * card.results[kind]['accuracy']:.2f} % of {card.results[kind]['images']:,}"
    yield f"the shipped weights are seed {card.recipe['seed']}'s"
    yield f"negative log likelihood {test['negative_log_likelihood']:.4f}, expected calibration error {test['expected_calibration_error']:.4f}"
    yield f"\ninput      image {card.input_shape}, values 0..255"
    yield f"output     logits ({card.num_classes},): {', '.join(card.class_names)}"
    yield f"trained on {card.dataset} in {card.seconds:.0f} s on {card.environment['processor']}, {card.environment['cores']} cores"
    yield f"keras      {card.environment['keras']} on {card.environment['backend']}"
    if card.multiply_accumulates:
        yield f"cost       {card.multiply_accumulates:,} multiply-accumulates per image"
    for size, milliseconds in card.latency.items():
        yield f"latency    {milliseconds:.1f} ms for {size} image{'s' * (size != '1')}"
    if card.file_bytes:
        yield f"file       {card.file_bytes / 1e6:.2f} MB, {card.stored_dtype}"
    yield f"licence    {card.license}"
    yield f"sha256     {card.sha256}"
    yield "\nhyperparameters"
    for name, value in card.hyperparameters.items():
        yield f"  {name} = {value!r}"
    yield "\nrecipe"
    for name, value in card.recipe.items():
        if name not in ("model", "dataset", "hyperparameters"):
            yield f"  {name} = {value!r}"
    yield "\nclass: precision, recall"
    for row in test["classes"]:
        yield f"  {row['name']}: {100 * row['precision']:.2f} %, {100 * row['recall']:.2f} % of {row['images']}"


def _show_optimizer(spec: OptimizerSpec) -> Iterable[str]:
    yield f"[bold]{spec.name}[/] ({spec.family}): {spec.description}"
    yield f"keras      keras.optimizers.{spec.keras_class}"
    yield f"defaults   learning_rate={spec.learning_rate:g}" + "".join(f", {name}={value!r}" for name, value in spec.defaults.items())
    for name, domain in spec.domains.items():
        yield f"search     {name}: {_range(domain)}"
    yield f"paper      {spec.reference}"


def _show_dataset(spec: DatasetSpec) -> Iterable[str]:
    shape = tuple("any" if size is None else size for size in spec.image_shape)
    yield f"[bold]{spec.name}[/]: {spec.num_classes} classes, images {shape}"
    yield f"splits     {', '.join(f'{name} {count:,}' for name, count in spec.splits.items())}"
    yield f"classes    {', '.join(spec.class_names)}"
    yield f"source     {spec.source}"
    for label, value in (("homepage", spec.homepage), ("licence", spec.license), ("get it", spec.how_to_get)):
        if value:
            yield f"{label:<10} {value}"


def _range(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return "one of " + ", ".join(str(value) for value in domain.values)
    return f"{domain.low:g} .. {domain.high:g}" + ("" if domain.sampling == "linear" else f" ({domain.sampling})")
