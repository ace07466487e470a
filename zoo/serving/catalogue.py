"""What a server has: its models, their versions, and what the exports say of themselves."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import ZooError
from zoo.export import EXTRA
from zoo.golden import GOLDEN
from zoo.serving.status import StatusError
from zoo.signatures import FEATURES, PREDICT_BYTES

if TYPE_CHECKING:
    from zoo.serving.manager import Manager, Version
    from zoo.serving.repository import ModelSource
    from zoo.serving.servable import Servable
    from zoo.serving.tensors import TensorInfo

MOST_CARD_BYTES = 1 << 20


class Catalogue:
    """Describes the served models.

    Args:
        manager: The models.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._details: weakref.WeakKeyDictionary[Servable, dict[str, Any]] = weakref.WeakKeyDictionary()

    def models(self) -> list[dict[str, Any]]:
        """Returns the models, in the order in which they are served, as JSON can hold them."""
        return [self._model(source) for source in self._manager.sources]

    def _model(self, source: ModelSource) -> dict[str, Any]:
        try:
            versions = self._manager.statuses(source.name)
        except StatusError:  # none was found yet
            versions = {}
        entries = [self._version(number, version) for number, version in versions.items()]
        return {"name": source.name, "labels": dict(source.labels), "versions": entries}

    def _version(self, number: int, version: Version) -> dict[str, Any]:
        entry = {"version": number, "state": version.state.name, "error": None if version.error is None else version.error.message}
        servable = version.servable
        if servable is None:
            return entry
        if servable not in self._details:
            self._details[servable] = _details(servable)
        return {**entry, **self._details[servable]}


def _details(servable: Servable) -> dict[str, Any]:
    """What does not change about a version: its inputs, and what its export says of it."""
    card, inputs = read_card(_card_path(servable)), _tensors(servable, "inputs")
    answer = servable.signature(PREDICT_BYTES)
    reads_images = answer is not None and [info.type.name for info in answer.inputs.values()] == ["string"] and "probabilities" in answer.outputs
    return {
        "image": reads_images,
        "features": reads_images and FEATURES in inputs and _has_whole_card(servable),
        "engine": servable.engine,
        "inputs": inputs,
        "outputs": _tensors(servable, "outputs"),
        "classes": _class_names(servable, card),
        "golden": sorted(file.name.partition(".")[0] for file in (servable.path / EXTRA / GOLDEN).glob("*.request.json")),
        "card": card,
    }


def _tensors(servable: Servable, side: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Signature -> input or output -> its type and shape; -1 for an open dimension, None where the rank is open."""
    signatures = {name: servable.signature(name) for name in sorted(servable.signatures) if not name.startswith("__")}
    return {name: {alias: _tensor(info) for alias, info in getattr(found, side).items()} for name, found in signatures.items() if found is not None}


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"dtype": info.type.name, "shape": None if info.shape is None else list(info.shape)}


def _card_path(servable: Servable) -> Path:
    return servable.path / EXTRA / "card.json"


def whole_card(servable: Servable) -> Card:
    """The card as the zoo writes it.

    Raises:
        ZooError, ValueError: There is none, or another.
    """
    try:
        card = Card.read(_card_path(servable))
        if not all(isinstance(size, int) for size in card.input_shape):
            raise ValueError(f"input_shape is {card.input_shape}")
        return card
    except (AttributeError, RecursionError) as error:  # what lies there may be anything
        raise ValueError(str(error)) from None


def _has_whole_card(servable: Servable) -> bool:
    try:
        return bool(whole_card(servable))
    except (ZooError, ValueError):
        return False


def read_card(path: Path) -> dict[str, Any] | None:
    """Returns the card as it lies beside a model, which need not be the zoo's; None where there is none, or none that is JSON."""
    try:
        if path.stat().st_size > MOST_CARD_BYTES:
            return None
        card = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)  # JSON has no NaN, and browsers take none
    except (OSError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) else None


def _class_names(servable: Servable, card: Mapping[str, Any] | None) -> list[str]:
    names = (card or {}).get("class_names")
    if isinstance(names, list):
        return list(map(str, names))
    try:
        return (servable.path / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
