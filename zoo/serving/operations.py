"""What those who run a server ask it, outside `/v1/`, where TF Serving has nothing.

| request | answer |
|---|---|
| `GET /healthz` | 200 as long as the process can answer |
| `GET /readyz` | 200 when every model has a version that answers, and the server is not about to stop; else 503 and why |
| `GET /models` | the models: versions, states, labels, engines, inputs, outputs, classes, cards |
| `GET /openapi.json` | the REST interface of these models, in OpenAPI's words |
| `GET /shadow` | how the versions that get a copy of the traffic differ from those that answer |
| `GET /metrics` | counts and times by model, version, signature and engine, in Prometheus's format |

The first two need no token, and are answered when no other request may wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.serving.catalogue import Catalogue
from zoo.serving.openapi import document

if TYPE_CHECKING:
    from zoo.serving.manager import Manager
    from zoo.serving.shadow import Shadow

Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may do: load its own files and ask its own server. Data cannot become markup, and no other page may frame it."""
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}
_COMMON = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for again: the answer is short where nothing changed
}
OPEN = frozenset(("/healthz", "/readyz"))
"""What is answered without a token."""


class Operations:
    """Answers those who run the server.

    Args:
        manager: The models.
        metrics: Returns the page of `/metrics`, or None where there is none.
        with_tokens: Whether requests need a token, for the description of the interface.
        shadow: What copies requests, or None.
    """

    def __init__(
        self,
        manager: Manager,
        metrics: Callable[[], Awaitable[str]] | None = None,
        with_tokens: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        self.draining, self._shadow = False, shadow
        self._manager, self._metrics, self._with_tokens = manager, metrics, with_tokens
        self._catalogue = Catalogue(manager)

    async def answer(self, scope: Mapping[str, Any], path: str, in_thread: Callable[..., Awaitable[bytes]]) -> Response | None:
        """Answers a request, or returns None where it is for others.

        Args:
            scope: The request, as ASGI has it.
            path: Its path, without the query.
            in_thread: Runs a function in a thread.
        """
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if path == "/healthz":
            return 200, headers_of(".json"), b'{"status": "alive"}'
        if path == "/readyz":
            reasons = self.reasons()
            status = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
            return 503 if reasons else 200, headers_of(".json"), json.dumps(status).encode()
        if path == "/models":
            return unless_known(scope, headers_of(".json"), await in_thread(self.models))
        if path == "/openapi.json":
            return unless_known(scope, headers_of(".json"), await in_thread(self.openapi))
        if path == "/shadow":
            return 200, headers_of(".json"), await in_thread(self.shadow)
        if path == "/metrics" and self._metrics is not None:
            return 200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], (await self._metrics()).encode()
        return None

    def reasons(self) -> list[str]:
        """Returns why no requests should be sent here; nothing where they may."""
        if self.draining:
            return ["the server is about to stop"]
        failures = self._manager.failures()
        found = []
        for source in self._manager.sources:
            if not self._manager.loaded(source.name):
                errors = [message for name, message in failures.items() if name.rpartition("/")[0] == source.name]
                found.append(f"{source.name}: {errors[0] if errors else source.missing()}")
        return found

    def models(self) -> bytes:
        """Returns the served models as JSON."""
        return json.dumps({"models": self._catalogue.models()}).encode()

    def shadow(self) -> bytes:
        """Returns how shadows differ as JSON; an empty list where there are none."""
        return json.dumps({"shadows": [] if self._shadow is None else self._shadow.report()}).encode()

    def openapi(self) -> bytes:
        """Returns the description of the REST interface as JSON."""
        return json.dumps(document(self._catalogue.models(), self._with_tokens)).encode()


def headers_of(suffix: str) -> Headers:
    """Returns the headers of an answer to a browser, by its kind of file."""
    return [(name.encode(), value.encode()) for name, value in {"content-type": TYPES[suffix], **_COMMON}.items()]


def unless_known(scope: Mapping[str, Any], headers: Headers, content: bytes) -> Response:
    """Returns an answer with content, or the short one where the client has that already."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'.encode()
    unchanged = any(name == b"if-none-match" and tag in value for name, value in scope["headers"])
    return 304 if unchanged else 200, [*headers, (b"etag", tag)], b"" if unchanged else content
