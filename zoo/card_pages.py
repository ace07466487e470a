"""Cards for people: a Markdown page with Hugging Face's metadata, and the training curve as SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zoo.cards import Card
from zoo.specs import Recipe

WIDTH, HEIGHT, MARGIN = 640, 260, 40
COLORS = {"loss": "#b4442c", "accuracy": "#2a5fa8"}


def card_page(card: Card, recipe: Recipe, summary: str) -> str:
    """Returns a card as a Markdown page.

    Args:
        card: Of shipped weights.
        recipe: What trained them.
        summary: One or two sentences about the recipe.

    Returns:
        YAML front matter with a `model-index` as Hugging Face reads it, then the page.
    """
    test, seeds = card.results["test"], card.seeds
    shape = " x ".join(str(size) for size in card.input_shape)
    sections = [
        _front_matter(card),
        f"# {card.name}\n\n{summary}\n",
        f"![Loss and accuracy over the epochs]({card.name}.svg)\n",
        (
            "## Use\n\n```python\nimport zoo\n\n"
            f'model = zoo.create_model("{card.name}", pretrained=True)\n```\n\n'
            f"Input: images {shape}, values 0..255, {'light strokes on a dark ground' if card.light_on_dark else 'as the data set has them'}. "
            f"Output: {card.num_classes} logits: {', '.join(card.class_names)}.\n\n"
            f"Meant for learning, for comparing methods and as a small, well-measured baseline on {card.dataset}. Its confidence says "
            "nothing about images of another kind, and it must not decide anything about people.\n"
        ),
        (
            f"## Accuracy\n\n{_table(('on', 'images', 'accuracy', '95 % interval'), _accuracies(card))}\n\n"
            f"{_seeds(seeds)} The intervals are Wilson's. {_protocol(card)}\n"
        ),
        (
            f"### Calibration\n\nNegative log likelihood {test['negative_log_likelihood']:.4f} nats, expected calibration error "
            f"{100 * test['expected_calibration_error']:.2f} points over 15 bins.{_soft_targets(recipe)}\n"
        ),
        "### By class\n\n"
        + _table(
            ("class", "images", "precision", "recall"),
            [(row["name"], row["images"], f"{100 * row['precision']:.2f} %", f"{100 * row['recall']:.2f} %") for row in test["classes"]],
        )
        + "\n",
        (
            f"## Size and speed\n\n{_table(('', ''), _sizes(card))}\n\n"
            "Times, here and below, are wall times as they came: other work may have shared the processor.\n"
        ),
        (
            f"## Training\n\n{_data(card)}\n\n```json\n{json.dumps(_changed(recipe), indent=2)}\n```\n\n"
            f"The network: {', '.join(f'{name} {_plain(value)}' for name, value in card.hyperparameters.items())}.\n\n"
            f"`zoo reproduce {card.name}` runs it again and compares. It took {card.seconds:,.0f} s on {card.environment['processor']}, "
            f"{card.environment['cores']} cores, with keras {card.environment['keras']} on {card.environment['backend']}.\n"
        ),
        f"## Licence\n\n{card.license} for the weights. SHA-256 of the file: `{card.sha256}`.\n",
    ]
    return "\n".join(sections)


def training_curve(card: Card) -> str:
    """Returns loss and accuracy over the epochs as an SVG picture, `640 x 260`."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    half = WIDTH / 2
    for index, column in enumerate(("loss", "accuracy")):
        values = card.history.get(column, [])
        if values:
            parts += _panel(column, values, index * half, half)
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, values: Sequence[float], left: float, width: float) -> list[str]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    inner_width, inner_height = width - 1.5 * MARGIN, HEIGHT - 2 * MARGIN
    x0, y0 = left + MARGIN, HEIGHT - MARGIN
    steps = max(1, len(values) - 1)
    points = " ".join(f"{x0 + inner_width * i / steps:.1f},{y0 - inner_height * (value - low) / span:.1f}" for i, value in enumerate(values))
    return [
        f'<path d="M{x0} {MARGIN}V{y0}H{x0 + inner_width}" fill="none" stroke="#888"/>',
        f'<text x="{x0}" y="{MARGIN - 12}" font-weight="bold" fill="{COLORS[title]}">training {title}</text>',
        f'<text x="{x0 - 4}" y="{MARGIN + 4}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{x0 - 4}" y="{y0}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{x0}" y="{y0 + 16}">1</text>',
        f'<text x="{x0 + inner_width}" y="{y0 + 16}" text-anchor="end">epoch {len(values)}</text>',
        f'<polyline points="{points}" fill="none" stroke="{COLORS[title]}" stroke-width="2"/>',
    ]


def _front_matter(card: Card) -> str:
    """Hugging Face's model card metadata; JSON values are valid YAML."""
    metrics = [
        {"type": "accuracy", "value": round(card.results["test"]["accuracy"], 4), "name": "Test accuracy"},
        {"type": "nll", "value": round(card.results["test"]["negative_log_likelihood"], 4), "name": "Negative log likelihood"},
        {"type": "ece", "value": round(card.results["test"]["expected_calibration_error"], 4), "name": "Expected calibration error"},
    ]
    lines = [
        "---",
        f"license: {card.license.lower()}",
        "library_name: keras",
        "pipeline_tag: image-classification",
        f"datasets: [{card.dataset}]",
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {card.name}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {card.dataset}, type: {card.dataset}, split: test}}",
        "    metrics:",
        *(f"    - {json.dumps(metric)}" for metric in metrics),
        "---\n",
    ]
    return "\n".join(lines)


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _accuracies(card: Card) -> list[tuple[str, str, str, str]]:
    views = " and ".join(card.recipe.get("views", ()))
    exact = "the test images that are bit-exact"
    kinds = {
        "test": "all test images",
        "test_views": f"all test images, averaged over views ({views})",
        "test_exact": exact,
        "test_exact_views": f"{exact}, averaged over views ({views})",
    }
    rows = []
    for kind, text in kinds.items():
        if result := card.results.get(kind):
            low, high = result["accuracy_interval"]
            rows.append((text, f"{result['images']:,}", f"{100 * result['accuracy']:.2f} %", f"{100 * low:.2f} - {100 * high:.2f} %"))
    return rows


def _seeds(seeds: Any) -> str:
    if seeds["count"] == 1:
        return "One seed was trained."
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in seeds["test_accuracy"])
    mean, deviation = 100 * seeds["mean"], 100 * seeds["standard_deviation"]
    return f"Over {seeds['count']} seeds: {mean:.2f} ± {deviation:.2f} % ({each}); the weights are those of the first."


def _protocol(card: Card) -> str:
    """What the test images were used for."""
    text = (
        "Every run trained on all training images and was evaluated on the test images after its last epoch; neither an epoch nor a "
        "seed was chosen by them."
    )
    if card.stored_dtype == "float16":
        text += " They were read once more to see that rounding the weights to float16 changes the accuracy by no more than 0.02 points."
    if card.dataset == "mnist" and any({"affine", "elastic"} & set(entry) for entry in card.recipe.get("augmentation", ())):
        text += (
            " The strength of the distortions is not blind to them: it goes back to single runs of a fully connected network that were "
            "compared on these test images, so the figures may be slightly optimistic."
        )
    return text


def _soft_targets(recipe: Recipe) -> str:
    causes = [f"labels smoothed by {recipe.label_smoothing:g}"] if recipe.label_smoothing else []
    causes += [f"the softened answers of {recipe.teacher}"] if recipe.teacher else []
    return f" It learned {' and '.join(causes)}, so its probabilities run below its accuracy: use them to rank, not as chances." if causes else ""


def _plain(value: Any) -> str:
    """`(64, 256)` -> `64-256`; `None` -> `none`."""
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _sizes(card: Card) -> list[tuple[str, str]]:
    rows = [("parameters", f"{card.parameters:,}")]
    if card.multiply_accumulates:
        rows.append(("multiply-accumulates per image", f"{card.multiply_accumulates:,}"))
    if card.file_bytes:
        rows.append(("file", f"{card.file_bytes / 1e6:.2f} MB, {card.stored_dtype}"))
    rows += [(f"latency, {size} image{'s' * (size != '1')}", f"{milliseconds:.1f} ms") for size, milliseconds in card.latency.items()]
    return rows


def _data(card: Card) -> str:
    text = f"All training images of {card.dataset}, none held out; the figures are those of the last epoch."
    if card.dataset == "cifar10":
        text += (
            " Of the copy used here 98 images (77 for training, 21 for testing) were only to be had as JPEG and are not "
            "bit-exact; hence the second accuracy, over the 9,979 exact test images."
        )
    return text


def _changed(recipe: Recipe) -> dict[str, Any]:
    """What every reader asks for, and the recipe's other fields that differ from the defaults."""
    always = ("model", "dataset", "optimizer", "learning_rate", "schedule", "batch_size", "epochs", "precision", "seed")
    plain = Recipe(recipe.model, recipe.dataset).to_dict()
    return {name: value for name, value in recipe.to_dict().items() if name in always or value != plain[name]}
