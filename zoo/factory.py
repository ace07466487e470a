"""Names to models, weights included."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import UnknownNameError, WeightsError
from zoo.registry import build_model, list_models, resolve
from zoo.weights import load_weights, pretrained_card, pretrained_file, transfer

if TYPE_CHECKING:
    import keras

    from zoo.specs import ModelSpec, WeightsSpec

RUN_CARD = "card.json"
RUN_WEIGHTS = "model.weights.h5"


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    **hyperparameters: Any,
) -> keras.Model:
    """Builds a model by name.

    Args:
        name: `model` or `model.tag`. A tag gives the configuration of its weights: input shape, classes, hyperparameters.
        pretrained: Loads the tag's weights (the default tag's where the name has none).
        input_shape: `(height, width, channels)` of the images; the configuration's where None.
        num_classes: Length of the logits; the configuration's where None.
        **hyperparameters: The builder's own arguments; `zoo info NAME` lists them.

    Returns:
        A `keras.Model` from images `(batch, height, width, channels)`, values 0..255, uint8 or float32, to logits
        `(batch, num_classes)`, float32. With `pretrained` and another `num_classes` or `input_shape` than the weights',
        the head starts anew or the first layer is adapted; `zoo.load_report(model)` tells, variable by variable.

    Raises:
        UnknownNameError: No such model, tag or hyperparameter; the message gives the closest names.
        UsageError: A shape or class count is impossible.
        WeightsError: The weights are missing, damaged, or do not fit.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("cnn_bn", input_shape=(32, 32, 3), num_classes=7)
        >>> model.output_shape
        (None, 7)
        >>> pretrained = zoo.create_model("relu_mlp.digits", pretrained=True)
        >>> len(zoo.load_report(pretrained).loaded)
        6
    """
    spec, weights = resolve(name)
    if pretrained:
        weights = weights or spec.weights()
    if weights is None:
        return build_model(spec, input_shape, num_classes, hyperparameters)
    target = build_model(
        spec,
        weights.input_shape if input_shape is None else input_shape,
        weights.num_classes if num_classes is None else num_classes,
        {**weights.hyperparameters, **hyperparameters},
    )
    if pretrained:
        transfer(_pretrained(spec, weights), target, f"{spec.name}.{weights.tag}")
    return target


def load_trained(source: str | Path) -> tuple[keras.Model, Card]:
    """Loads a trained model, shipped or your own, with its card.

    Args:
        source: `model[.tag]`, or the directory of a training run.

    Returns:
        The model with its weights, and the card that describes it.

    Raises:
        UnknownNameError: Neither a model nor a directory.
        WeightsError: The run has not ended, or its files are damaged.

    Example:
        >>> import zoo
        >>> model, card = zoo.load_trained("cnn.digits")
        >>> card.class_names[3]
        '3'
    """
    directory = Path(source)
    finished = (directory / RUN_CARD).is_file()
    if not finished and (not directory.is_dir() or str(source).partition(".")[0] in list_models()):
        spec, weights = _named(str(source))
        weights = weights or spec.weights()
        return create_model(f"{spec.name}.{weights.tag}", pretrained=True), pretrained_card(spec.name, weights)
    if not finished:
        raise WeightsError(f"{directory} holds no finished training run: it has no {RUN_CARD}. `zoo train --out {directory}` makes or resumes one.")
    card = Card.read(directory / RUN_CARD)
    model = build_model(resolve(card.model)[0], card.input_shape, card.num_classes, card.hyperparameters)
    load_weights(model, directory / RUN_WEIGHTS, card)
    return model, card


def _named(source: str) -> tuple[ModelSpec, WeightsSpec | None]:
    """Resolves what is no directory."""
    try:
        return resolve(source)
    except UnknownNameError as error:
        if source.partition(".")[0] in list_models():
            raise
        raise UnknownNameError(f"{error} There is no directory {source!r} either.") from None


def _pretrained(spec: ModelSpec, weights: WeightsSpec) -> keras.Model:
    card = pretrained_card(spec.name, weights)
    source = build_model(spec, card.input_shape, card.num_classes, card.hyperparameters)
    with importlib.resources.as_file(pretrained_file(spec.name, weights, ".weights.h5")) as path:
        load_weights(source, path, card)
    return source
