"""Verified weight files into models, with a report of what became of every variable.

A file is trusted only after its SHA-256 equals the one in its card. It is first loaded, whole, into the model that it was
written from; the variables then go over one by one. So a weight never lands in the wrong place, and a model with another
head or another number of channels gets everything that fits.
"""

from __future__ import annotations

import importlib.resources
import logging
import textwrap
import warnings
import weakref
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import WeightsError
from zoo.files import sha256

if TYPE_CHECKING:
    import keras
    import numpy

    from zoo.specs import WeightsSpec

logger = logging.getLogger("zoo")
HEAD = "logits"


@dataclass(frozen=True)
class LoadReport:
    """What became of each variable when weights were loaded.

    Attributes:
        source: Where the weights came from.
        loaded: Variables copied as they are.
        adapted: Variables fitted to another input shape, each with how.
        reinitialised: Variables that kept their fresh values: only ever the head's.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    reinitialised: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} variables loaded"]
        lines += [f"adapted {entry}" for entry in self.adapted]
        lines += [f"reinitialised {entry}: train it before use" for entry in self.reinitialised]
        return "; ".join(lines)


_reports: weakref.WeakKeyDictionary[Any, LoadReport] = weakref.WeakKeyDictionary()


def load_report(model: keras.Model) -> LoadReport:
    """Returns what happened to each variable when `model` got its pretrained weights.

    Raises:
        WeightsError: The model was not created with pretrained weights.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("relu_mlp.digits", pretrained=True, num_classes=26)
        >>> zoo.load_report(model).reinitialised
        ('logits/kernel', 'logits/bias')
    """
    if model not in _reports:
        raise WeightsError(f"The model {model.name!r} was not created with pretrained weights, so there is no load report.")
    return _reports[model]


def pretrained_file(model: str, weights: WeightsSpec, suffix: str) -> Traversable:
    """Returns the file `<model>.<tag><suffix>` in the package that ships the weights."""
    try:
        return importlib.resources.files(weights.package) / f"{model}.{weights.tag}{suffix}"
    except ModuleNotFoundError:
        raise WeightsError(f"The weights of {model}.{weights.tag} should lie in the package {weights.package!r}, which is not installed.") from None


def pretrained_card(model: str, weights: WeightsSpec) -> Card:
    """Reads the card of shipped weights.

    Raises:
        WeightsError: The card is missing or damaged, or describes other weights.
    """
    path = pretrained_file(model, weights, ".json")
    card = Card.read(path)
    if (card.name, card.model) != (f"{model}.{weights.tag}", model):
        raise WeightsError(f"The card {path} describes {card.name} of the model {card.model}, not {model}.{weights.tag}. Install the package again.")
    return card


def load_weights(source: keras.Model, path: Path, card: Card) -> None:
    """Loads a weight file into the model it was written from, after checking that the file is whole.

    Raises:
        WeightsError: The file is missing, its SHA-256 is not the card's, or it does not fit the model.
    """
    try:
        digest = sha256(path)
    except OSError as error:
        raise WeightsError(f"The weights {path} cannot be read: {error.strerror or error}.") from None
    if digest != card.sha256:
        raise WeightsError(
            f"The weights {path} are damaged: their SHA-256 is {digest[:12]}..., the card of {card.name} says {card.sha256[:12]}.... "
            "Nothing was loaded. Install the package again, or train the weights anew."
        )
    try:
        _check_layers(source, path)
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            source.load_weights(path)
        if skipped := [str(remark.message) for remark in remarks if issubclass(remark.category, UserWarning)]:
            raise ValueError(skipped[0])
    except (ValueError, OSError, KeyError) as error:
        detail = textwrap.shorten(str(error), 300)
        raise WeightsError(f"The weights {path} do not fit the model {card.model} as the card of {card.name} describes it: {detail}") from None


def _check_layers(source: keras.Model, path: Path) -> None:
    """Raises a ValueError unless the file has, by layer name, the model's variables and no others.

    Keras finds a layer in the file by its class and position: it would put the third of a file's fully connected layers
    into the third of the model's, whatever they are, and leave further ones unread.
    """
    import h5py

    stored, nested = {}, set()
    with h5py.File(path) as file:
        for layer in file["layers"].values():
            name, values = layer["vars"].attrs["name"], layer["vars"]
            if set(layer) != {"vars"}:
                nested.add(name)
            elif len(values):
                stored[name] = [values[key].shape for key in sorted(values, key=int)]
    expected = {layer.name: [tuple(variable.shape) for variable in layer.weights] for layer in source.layers if layer.weights}
    for name in [*expected, *(name for name in stored if name not in expected)]:
        in_file, in_model = stored.get(name, "none"), expected.get(name, "none")
        if name not in nested and in_file != in_model:
            raise ValueError(f"the variables of {name} are {in_file} in the file and {in_model} in the model.")


def transfer(source: keras.Model, target: keras.Model, name: str) -> LoadReport:
    """Copies the weights of `source` into `target`, variable by variable, and keeps the report for `load_report`.

    A variable of the same path and shape is copied. A first convolution for another number of channels sums or repeats
    its filters over the channels; a fully connected layer behind a flattening of another height and width has its
    kernel resampled over the plane. The head, `logits`, starts anew where the number of classes differs.

    Raises:
        WeightsError: Another variable has no counterpart; nothing was copied then.
    """
    have = {variable.path: variable for variable in source.weights}
    values: dict[str, Any] = {}
    loaded, adapted, reinitialised, misfits = [], [], [], []
    for variable in target.weights:
        path, shape = variable.path, tuple(variable.shape)
        origin = have.pop(path, None)
        if origin is not None and tuple(origin.shape) == shape:
            values[path] = origin
            loaded.append(path)
        elif path.split("/")[0] == HEAD and (origin is None or origin.shape[-1] != shape[-1]):
            reinitialised.append(path)
        elif origin is not None and (change := _adapt(source, target, path)) is not None:
            values[path], how = change
            adapted.append(f"{path} {tuple(origin.shape)} -> {shape} ({how})")
        else:
            misfits.append(f"{path} {shape}" + ("" if origin is None else f" (the weights have {tuple(origin.shape)})"))
    misfits += [f"{path} (in the weights only)" for path in have if path.split("/")[0] != HEAD]
    if misfits:
        raise WeightsError(
            f"The weights of {name} do not fit the model as configured; only the head may differ. Nothing was loaded. "
            f"Drop the hyperparameters that change the network. Misfits: {', '.join(misfits)}."
        )
    for variable in target.weights:
        if variable.path in values:
            variable.assign(values[variable.path])
    report = LoadReport(name, tuple(loaded), tuple(adapted), tuple(reinitialised))
    _reports[target] = report
    logger.log(logging.WARNING if adapted or reinitialised else logging.INFO, "%s", report)
    return report


def _adapt(source: keras.Model, target: keras.Model, path: str) -> tuple[numpy.ndarray, str] | None:
    """Fits a kernel to another input, or returns None where no sound way is known."""
    import numpy
    from keras import layers, ops

    layer_name, _, variable_name = path.partition("/")
    old, new = source.get_layer(layer_name), target.get_layer(layer_name)
    if variable_name != "kernel":
        return None
    kernel = ops.convert_to_numpy(old.kernel)
    if (
        isinstance(new, layers.Conv2D)
        and _first(target) is new
        and kernel.shape[:2] + kernel.shape[3:] == tuple(new.kernel.shape)[:2] + tuple(new.kernel.shape)[3:]
    ):
        channels = new.kernel.shape[2]
        summed = kernel.sum(axis=2, keepdims=True) / channels
        return numpy.repeat(summed, channels, axis=2), "summed over the channels, shared by the new ones"
    before, after = _plane(source, old), _plane(target, new)
    if not (isinstance(new, layers.Dense) and before and after and kernel.shape[1] == new.kernel.shape[1]):
        return None
    units, how = kernel.shape[1], []
    plane = kernel.reshape(*before, units)
    if before[2] != after[2]:
        if _first(target) is not new:
            return None
        plane = numpy.repeat(plane.sum(axis=2, keepdims=True) / after[2], after[2], axis=2)
        how.append("summed over the channels, shared by the new ones")
    if before[:2] != after[:2]:
        flat = plane.reshape(1, *before[:2], -1)
        resized = ops.convert_to_numpy(ops.image.resize(flat, after[:2], interpolation="bilinear", antialias=True, data_format="channels_last"))
        plane = resized * (before[0] * before[1]) / (after[0] * after[1])
        how.append("resampled over the plane")
    return plane.reshape(-1, units), ", ".join(how)


def _first(model: keras.Model) -> Any:
    """The first layer with a kernel."""
    return next(layer for layer in model.layers if hasattr(layer, "kernel"))


def _plane(model: keras.Model, layer: keras.Layer) -> tuple[int, int, int] | None:
    """`(height, width, channels)` of what was flattened right before `layer`, dropout aside; None where nothing was."""
    from keras import layers

    at = model.layers.index(layer) - 1
    while at >= 0 and isinstance(model.layers[at], layers.Dropout):
        at -= 1
    before = model.layers[at]
    if at < 0 or not isinstance(before, layers.Flatten):
        return None
    height, width, channels = before.input.shape[1:]
    return height, width, channels
