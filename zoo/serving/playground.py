"""The page at `/`: its files, the list of models that it finds there, and the pixels that a model sees of an image file.

Predictions, feature maps, metadata and status are not here: the page asks the REST API for them, as everyone does. What it
needs beyond that is

| request | answer |
|---|---|
| `GET /`, `GET /static/...` | the page and its files |
| `GET /models` | what is served: versions, states, labels, inputs, classes, cards |
| `POST /prepare/NAME`, `.../versions/N`, `.../labels/L` | an image file as a request for the signature `features`, prepared as by `predict_bytes` |
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from zoo.cards import Card
from zoo.errors import ZooError
from zoo.export import EXTRA
from zoo.golden import GOLDEN
from zoo.serving.servable import status_of_errors
from zoo.serving.status import StatusError, invalid_argument
from zoo.signatures import FEATURES, PREDICT_BYTES, preparation

if TYPE_CHECKING:
    from zoo.serving.manager import Manager, Version
    from zoo.serving.repository import ModelSource
    from zoo.serving.servable import Servable

Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may do: load its own files and ask its own server. Data cannot become markup, and no other page may frame it."""
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}
PAGE = "index.html"
MOST_CARD_BYTES = 1 << 20
_COMMON = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for again: the answer is short where nothing changed
}
_PREPARE = re.compile(r"/prepare/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?", re.ASCII)


class Playground:
    """Answers what lies outside `/v1/`.

    Args:
        manager: The models.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._files = read_files()
        self._details: weakref.WeakKeyDictionary[Servable, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._preparations: dict[tuple[Any, ...], Callable[[Any], Any]] = {}
        self._lock = threading.Lock()

    async def answer(
        self, scope: Mapping[str, Any], path: str, body: Callable[[], Awaitable[bytes]], in_thread: Callable[..., Awaitable[bytes]]
    ) -> Response | None:
        """Answers a request, or returns None where it is none of the page's.

        Args:
            scope: The request, as ASGI has it.
            path: Its path, without the query.
            body: Reads its body.
            in_thread: Runs a function with its arguments in a thread.

        Raises:
            StatusError: There is no such model, or the image cannot be prepared for it.
        """
        method = scope["method"]
        if method == "POST":
            found = _PREPARE.fullmatch(path)
            if found is None:
                return None
            version = None if found["version"] is None else int(found["version"])
            label = None if found["label"] is None else unquote(found["label"])
            return 200, _headers(".json"), await in_thread(self.prepare, unquote(found["model"]), version, label, await body())
        if method not in ("GET", "HEAD"):
            return None
        if path == "/models":
            headers, content = _headers(".json"), await in_thread(self.models)
        elif path in self._files:
            headers, content = self._files[path]
        else:
            return None
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'.encode()
        unchanged = any(name == b"if-none-match" and tag in value for name, value in scope["headers"])
        return 304 if unchanged else 200, [*headers, (b"etag", tag)], b"" if unchanged else content

    def models(self) -> bytes:
        """Returns the served models as JSON, in the order in which they are served."""
        return json.dumps({"models": [self._model(source) for source in self._manager.sources]}).encode()

    def prepare(self, name: str, version: int | None, label: str | None, data: bytes) -> bytes:
        """Returns a request for a model's signature `features`, of the pixels that its `predict_bytes` makes of an image file.

        Raises:
            StatusError: There is no such version, it has no card, or the bytes are no image.
        """
        import numpy
        import orjson

        with self._manager.lease(name, version, label) as (_, servable):
            prepare = self._preparation(servable)
        with status_of_errors():
            pixels = prepare(numpy.array([data], object)).numpy()
        return orjson.dumps({"signature_name": FEATURES, "instances": pixels}, option=orjson.OPT_SERIALIZE_NUMPY)

    def _preparation(self, servable: Servable) -> Callable[[Any], Any]:
        """Image files `(1,)` -> the model's images `(1, height, width, channels)`: the function that exports are made with."""
        import tensorflow as tf

        try:
            card = _whole_card(servable)
            key = (*card.input_shape, card.light_on_dark, card.dataset)
            with self._lock:
                if key not in self._preparations:
                    files = tf.TensorSpec((1,), tf.string)
                    self._preparations[key] = tf.function(preparation(card), input_signature=[files], autograph=False).get_concrete_function()
                return self._preparations[key]
        except (ZooError, TypeError, ValueError) as error:
            raise invalid_argument(f"Images cannot be prepared for this model: {error}") from None

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


def read_files() -> dict[str, tuple[Headers, bytes]]:
    """Returns the page's files by the paths at which they are served."""
    found = {}
    for file in files("zoo.serving").joinpath("static").iterdir():
        suffix = Path(file.name).suffix
        if suffix in TYPES:
            found["/" if file.name == PAGE else f"/static/{file.name}"] = (_headers(suffix), file.read_bytes())
    return found


def _headers(suffix: str) -> Headers:
    return [(name.encode(), value.encode()) for name, value in {"content-type": TYPES[suffix], **_COMMON}.items()]


def _details(servable: Servable) -> dict[str, Any]:
    """What does not change about a version: its inputs, and what its export says of it."""
    card, inputs = read_card(_card_path(servable)), _inputs(servable)
    answer = servable.signature(PREDICT_BYTES)
    reads_images = answer is not None and [info.type.name for info in answer.inputs.values()] == ["string"] and "probabilities" in answer.outputs
    return {
        "image": reads_images,
        "features": reads_images and FEATURES in inputs and _has_whole_card(servable),
        "inputs": inputs,
        "classes": _class_names(servable, card),
        "golden": sorted(file.name.partition(".")[0] for file in (servable.path / EXTRA / GOLDEN).glob("*.request.json")),
        "card": card,
    }


def _inputs(servable: Servable) -> dict[str, dict[str, dict[str, Any]]]:
    """Signature -> input -> its type and shape; -1 for an open dimension, None where the rank is open."""
    signatures = {name: servable.signature(name) for name in sorted(servable.signatures) if not name.startswith("__")}
    return {
        name: {alias: {"dtype": info.type.name, "shape": None if info.shape is None else list(info.shape)} for alias, info in found.inputs.items()}
        for name, found in signatures.items()
        if found is not None
    }


def _card_path(servable: Servable) -> Path:
    return servable.path / EXTRA / "card.json"


def _whole_card(servable: Servable) -> Card:
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
        return bool(_whole_card(servable))
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
