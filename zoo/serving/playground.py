"""The page at `/`: its files, and the pixels that a model sees of an image file.

Predictions, feature maps, metadata and status are not here: the page asks the REST API for them, as everyone does, and the list
of models is `operations`' business. What it needs beyond that is

| request | answer |
|---|---|
| `GET /`, `GET /static/...` | the page and its files |
| `POST /prepare/NAME`, `.../versions/N`, `.../labels/L` | an image file as a request for the signature `features`, prepared as by `predict_bytes` |
"""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from zoo.errors import ZooError
from zoo.serving.catalogue import whole_card
from zoo.serving.operations import TYPES, Headers, Response, headers_of, unless_known
from zoo.serving.servable import status_of_errors
from zoo.serving.status import invalid_argument
from zoo.signatures import FEATURES, preparation

if TYPE_CHECKING:
    from zoo.serving.manager import Manager
    from zoo.serving.servable import Servable

PAGE = "index.html"
_PREPARE = re.compile(r"/prepare/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?", re.ASCII)


class Playground:
    """Answers what lies outside `/v1/`.

    Args:
        manager: The models.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._files = read_files()
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
            return 200, headers_of(".json"), await in_thread(self.prepare, unquote(found["model"]), version, label, await body())
        if method not in ("GET", "HEAD"):
            return None
        return unless_known(scope, *self._files[path]) if path in self._files else None

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
            card = whole_card(servable)
            key = (*card.input_shape, card.light_on_dark, card.dataset)
            with self._lock:
                if key not in self._preparations:
                    files = tf.TensorSpec((1,), tf.string)
                    self._preparations[key] = tf.function(preparation(card), input_signature=[files], autograph=False).get_concrete_function()
                return self._preparations[key]
        except (ZooError, TypeError, ValueError) as error:
            raise invalid_argument(f"Images cannot be prepared for this model: {error}") from None


def read_files() -> dict[str, tuple[Headers, bytes]]:
    """Returns the page's files by the paths at which they are served."""
    found = {}
    for file in files("zoo.serving").joinpath("static").iterdir():
        suffix = Path(file.name).suffix
        if suffix in TYPES:
            found["/" if file.name == PAGE else f"/static/{file.name}"] = (headers_of(suffix), file.read_bytes())
    return found
