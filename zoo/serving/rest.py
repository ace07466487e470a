"""TF Serving's REST interface: paths, methods, statuses and messages."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from zoo.errors import ServingError
from zoo.serving import json_codec
from zoo.serving.json_codec import BadRequest
from zoo.serving.repository import ModelSource
from zoo.serving.servable import Servable

if TYPE_CHECKING:
    from collections.abc import Iterable

MAXIMUM_BODY = 100 * 1024 * 1024
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<method>predict|classify|regress)", re.IGNORECASE)
_METADATA = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}/metadata", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}", re.IGNORECASE)


class RestError(Exception):
    """An answer that is an error: an HTTP status and TF Serving's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class ServedModel:
    """A model's loaded versions, and why others could not be loaded."""

    source: ModelSource
    loaded: dict[int, Servable] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class Models:
    """The models that a server has loaded, by name."""

    def __init__(self, sources: Iterable[ModelSource]) -> None:
        self.served: dict[str, ServedModel] = {}
        for source in sources:
            model = ServedModel(source)
            self.served[source.name] = model
            for version in self._versions(model):
                try:
                    model.loaded[version] = Servable(source.base_path / str(version))
                except ServingError as error:
                    model.failed[version] = str(error)

    @staticmethod
    def _versions(model: ServedModel) -> list[int]:
        try:
            return model.source.versions()
        except ServingError as error:
            model.failed[0] = str(error)
            return []

    def select(self, groups: Mapping[str, str | None]) -> tuple[int, Servable]:
        """Returns the version that a path asks for, or raises as TF Serving does."""
        name = unquote(groups["model"] or "")
        model = self.served.get(name)
        if groups["label"] is not None:
            label = unquote(groups["label"])
            if model is None or label not in model.source.labels:
                raise RestError(400, f"Unrecognized servable version label: {label}")
            wanted: int | None = model.source.labels[label]
        else:
            wanted = None if groups["version"] is None else int(groups["version"])
        if model is None or not model.loaded or (wanted is not None and wanted not in model.loaded):
            raise RestError(404, f"Servable not found for request: {f'Latest({name})' if wanted is None else f'Specific({name}, {wanted})'}")
        version = max(model.loaded) if wanted is None else wanted
        return version, model.loaded[version]

    def status(self, groups: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns the states of a model's versions, the newest first."""
        name = unquote(groups["model"] or "")
        model = self.served.get(name)
        states = {} if model is None else {**dict.fromkeys(model.loaded, ""), **{number: text for number, text in model.failed.items() if number}}
        if not states:
            raise RestError(404, f"Could not find any versions of model {name}")
        if groups["version"] is not None:
            wanted = int(groups["version"])
            if wanted not in states:
                raise RestError(404, f"Could not find version {wanted} of model {name}")
            states = {wanted: states[wanted]}
        return {"model_version_status": [_state(version, states[version]) for version in sorted(states, reverse=True)]}

    def close(self) -> None:
        """Frees every session."""
        for model in self.served.values():
            for servable in model.loaded.values():
                servable.close()


def _state(version: int, error: str) -> dict[str, Any]:
    status = {"error_code": "UNKNOWN", "error_message": error} if error else {"error_code": "OK", "error_message": ""}
    return {"version": str(version), "state": "END" if error else "AVAILABLE", "status": status}


def application(models: Models, maximum_body: int = MAXIMUM_BODY) -> Starlette:
    """Returns the ASGI application that answers for the models.

    Args:
        models: What it serves.
        maximum_body: Bytes; a larger body, also once it is unpacked, is answered with 413.
    """

    async def answer(request: Request) -> Response:
        try:
            return await _answer(models, request, maximum_body)
        except RestError as error:
            return _json({"error": error.message}, error.status)
        except BadRequest as error:
            return _json({"error": str(error)}, 400)
        except ClientDisconnect:
            return _json({"error": "The client closed the connection"}, 499)

    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


async def _answer(models: Models, request: Request, maximum_body: int) -> Response:
    path = request.scope.get("raw_path", b"").decode("ascii", errors="replace").partition("?")[0] or request.url.path
    query = f"?{request.url.query}" if request.url.query else ""
    malformed = RestError(400, f"Malformed request: {request.method} {path}{query}")
    if not path.lower().startswith("/v1/"):
        raise RestError(404, "Not Found")
    if request.method == "POST" and not query and (match := _PREDICT.fullmatch(path)):
        body = await _body(request, maximum_body)
        if match["method"].lower() != "predict":
            raise RestError(501, f"{match['method']} is not supported by this server; use predict")
        return Response(await run_in_threadpool(_predict, models, match.groupdict(), body), media_type="application/json")
    if request.method == "GET" and not query and (match := _METADATA.fullmatch(path)):
        return Response(_metadata(models, match.groupdict()), media_type="application/json")
    if request.method == "GET" and (match := _STATUS.fullmatch(path)):
        groups = match.groupdict()
        return _json(models.status({**groups, "model": (groups["model"] or "") + query}))
    if request.method == "GET" and path.lower().rstrip("/") == "/v1/models":
        raise RestError(400, "Missing model name in request.")
    raise malformed


async def _body(request: Request, maximum: int) -> bytes:
    """Reads the request's body, unpacked, and never more of it than the maximum."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > maximum:
            raise RestError(413, f"The request's body is larger than {maximum} bytes")
        chunks.append(chunk)
    body = b"".join(chunks)
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return body
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(body, maximum + 1)
    except (zlib.error, gzip.BadGzipFile):
        return b""
    if len(unpacked) > maximum:
        raise RestError(413, f"The request's body is larger than {maximum} bytes when unpacked")
    return unpacked


def _predict(models: Models, groups: Mapping[str, str | None], body: bytes) -> bytes:
    import tensorflow as tf

    document = json_codec.parse(body)
    signature = json_codec.signature_name(document)
    _, servable = models.select(groups)
    if signature not in servable.signatures:
        raise RestError(400, f'Serving signature name: "{signature}" not found in signature def')
    arrays, rows = json_codec.decode(document, servable.inputs(signature))
    try:
        return json_codec.encode(servable.run(signature, arrays), rows)
    except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError, tf.errors.OutOfRangeError) as error:
        raise RestError(400, _brief(error)) from None
    except tf.errors.UnimplementedError as error:
        raise RestError(501, _brief(error)) from None
    except ValueError as error:  # the session refuses an array of the wrong rank before any operation runs
        raise RestError(400, str(error).partition("\n")[0]) from None


def _brief(error: Any) -> str:
    """An operation's message, cut as TF Serving cuts it."""
    message = str(error.message)
    return message if len(message) <= 1024 else f"{message[:1024]}...TRUNCATED"


def _metadata(models: Models, groups: Mapping[str, str | None]) -> bytes:
    from google.protobuf import json_format

    version, servable = models.select(groups)
    signatures = {
        name: json_format.MessageToDict(signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, signature in servable.signatures.items()
    }
    spec = {"name": unquote(groups["model"] or ""), "signature_name": "", "version": str(version)}
    return json.dumps({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}, indent=1).encode()


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.dumps(data, indent=4), status, media_type="application/json")
