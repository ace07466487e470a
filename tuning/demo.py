"""`zoo demo`: the whole job on real data, in under three minutes and without a download."""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import console, load_backend
from zoo.errors import ZooError

if TYPE_CHECKING:
    import keras
    from rich.console import Console

    from zoo.cards import Card
    from zoo.datasets import Dataset

HELP = "see it all work: pretrained models, a search, training, an export, served answers"
EXAMPLES = """  zoo demo
  zoo demo --out demo --search-seconds 20"""
MODEL = "relu_mlp"
NAMES = ("sigmoid_mlp.digits", "relu_mlp.digits", "cnn.digits", "cnn_bn.digits")
TOLERANCE = 1e-5
IMAGES_SENT = 32


class CheckFailed(ZooError):
    """A step of the demonstration did not hold what it says."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="keep what the demo writes in this folder (default: a temporary one)")
    parser.add_argument("--search-seconds", type=float, default=45.0, help="budget of the search (default: 45)")


def run(arguments: argparse.Namespace) -> int:
    screen = console()
    with tempfile.TemporaryDirectory(prefix="zoo-demo-") as temporary:
        folder = arguments.out or Path(temporary)
        _list(screen)
        load_backend()
        digits = _evaluate(screen)
        recipe = _search(screen, folder / "search", arguments.search_seconds)
        model, card = _train(screen, recipe, folder / "run")
        repository = folder / "saved_models"
        _export(screen, folder / "run", repository)
        _serve(screen, repository, card.name, model, digits)
    screen.print("\nEvery step's check held.")
    return 0


def _step(screen: Console, number: int, title: str, command: str) -> None:
    screen.print(f"\n[bold]{number}. {title}[/]\n[dim]   $ {command}[/]")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(f"The demo's check failed: {message}")


def _list(screen: Console) -> None:
    from zoo.registry import list_models, model_info

    _step(screen, 1, "What is in the zoo", "zoo list")
    for name in list_models():
        spec = model_info(name)
        tags = f" (pretrained: {', '.join(weights.tag for weights in spec.pretrained)})" if spec.pretrained else ""
        screen.print(f"[bold]{name}[/]{tags}: {spec.description}")
    missing = set(NAMES) - set(list_models(pretrained=True))
    _check(not missing, f"the zoo lacks {', '.join(sorted(missing))}.")


def _evaluate(screen: Console) -> Dataset:
    from rich.table import Table

    import zoo

    _step(screen, 2, "Four pretrained models on scikit-learn's handwritten digits", "zoo evaluate cnn_bn.digits")
    digits = zoo.load_dataset("digits", "test")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "parameters", "test accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for name in NAMES:
        with screen.status(f"evaluating {name}"):
            model, card = zoo.load_trained(name)
            result = zoo.evaluate(model, digits.images, digits.labels)
        low, high = result["accuracy_interval"]
        table.add_row(name, f"{model.count_params():,}", f"{100 * result['accuracy']:.2f} %", f"{100 * low:.1f} - {100 * high:.1f} %")
        claimed = card.results["test"]["accuracy"]
        _check(result["accuracy"] >= claimed - 0.001, f"{name} is right on {result['accuracy']:.4f} of the test images; its card says {claimed:.4f}.")
    screen.print(table)
    return digits


def _search(screen: Console, directory: Path, seconds: float) -> Path:
    from tuning.command import ranking_table
    from tuning.display import headline
    from tuning.study import BEST_RECIPE, search
    from zoo.specs import Recipe

    _step(
        screen,
        3,
        f"Which optimizer suits {MODEL}? {seconds:.0f} s of search",
        f"zoo tune {MODEL} --dataset digits --study optimizers --budget {seconds:.0f}s",
    )
    with screen.status("searching") as status:
        result = search(
            Recipe(MODEL, "digits", schedule="constant", epochs=9, batch_size=32),
            study="optimizers",
            budget=seconds,
            directory=directory,
            watch=lambda now: status.update(f"searching: {headline(now)}"),
        )
    screen.print(ranking_table(result))
    screen.print(f"{len(result.trials)} trials; only the best of each stage went on to more epochs; overhead {100 * result.overhead:.0f} %")
    _check(len(result.ranking) > 1 and (result.best.val_accuracy or 0) > 0.8, "the search found no configuration above 80 % validation accuracy.")
    return directory / BEST_RECIPE


def _train(screen: Console, recipe_file: Path, directory: Path) -> tuple[keras.Model, Card]:
    import dataclasses

    import zoo
    from zoo.training import read_recipe

    _step(screen, 4, "Train the winner on all training images", f"zoo train {recipe_file.name} --no-validate --epochs 30")
    recipe = dataclasses.replace(read_recipe(recipe_file), validate=False, epochs=30)
    card = zoo.train(recipe, directory, progress=screen.is_terminal)
    accuracy = card.results["test"]["accuracy"]
    screen.print(f"{recipe.optimizer}, {recipe.epochs} epochs in {card.seconds:.0f} s: {100 * accuracy:.2f} % of the test images")
    _check(accuracy > 0.93, f"the trained model is right on {accuracy:.4f} of the test images, not above 0.93.")
    return zoo.load_trained(directory)


def _export(screen: Console, run: Path, repository: Path) -> None:
    from zoo.export import export_model, export_report

    _step(screen, 5, "Export it as a SavedModel for TF Serving", f"zoo export {run.name} --to {repository.name}")
    with screen.status("exporting"):
        report = export_report(export_model(run, repository))
    screen.print(f"{report['name']}/{report['version']}, {report['bytes'] / 1e6:.1f} MB: image -> probabilities, class_id, label, logits")
    _check((Path(report["directory"]) / "saved_model.pb").is_file(), "the export holds no saved_model.pb.")


def _serve(screen: Console, repository: Path, name: str, model: keras.Model, digits: Dataset) -> None:
    import numpy

    from zoo.evaluation import softmax
    from zoo.serving import start

    _step(screen, 6, "Serve it, and ask over HTTP as any TF Serving client would", f"zoo serve {repository.name} --rest_api_port=any")
    images = digits.images[:IMAGES_SENT]
    with screen.status("starting the server"):
        server = start(repository)
    with server:
        predictions = _post(f"{server.url}/v1/models/{name}:predict", {"instances": images.tolist()})["predictions"]
        status = server.stop()
    served = numpy.array([prediction["probabilities"] for prediction in predictions])
    difference = float(abs(served - softmax(model.predict(images, verbose=0))).max())
    right = sum(
        prediction["label"] == digits.spec.class_names[label] for prediction, label in zip(predictions, digits.labels[:IMAGES_SENT], strict=True)
    )
    screen.print(
        f"{len(predictions)} images answered, {right} labels right; largest difference to Keras's probabilities {difference:.1e}; "
        f"server stopped with status {status}"
    )
    _check(
        len(predictions) == IMAGES_SENT and difference <= TOLERANCE,
        f"the served probabilities differ from Keras's by {difference:.1e}, more than {TOLERANCE:.0e}.",
    )
    _check(status == 0, f"the server stopped with exit status {status}.")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
