"""A client for TF Serving and for `zoo serve`, without TensorFlow: arrays in, arrays out, over REST or gRPC."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError, ServingError, UsageError
from zoo.serving.status import Code

if TYPE_CHECKING:
    import numpy

Features = Mapping[str, Any]
_RETRIED = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 413: 3, 429: 8, 499: 1, 501: 12, 503: 14, 504: 4}
_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


class Client:
    """Asks a server for predictions.

    A request that the server turns away for the moment (429, 503, or RESOURCE_EXHAUSTED and UNAVAILABLE) is sent again,
    after a pause that doubles each time. A client may be used by several threads.

    Args:
        url: `http://host:port` for REST, `grpc://host:port` for gRPC; with certificates `https://` and `grpcs://`.
        timeout: Seconds that a call may take, its retries included.
        retries: How often a request is sent again.
        backoff: Seconds before the first retry.
        token: The bearer token that the server asks for, or None.
        certificate_authority: PEM file of the authorities that may have signed the server's certificate; None for those that this
            machine trusts.
        certificate: PEM files of this client's own certificate and of its key, or None.

    Raises:
        UsageError: The URL is of another form, or a file cannot be read.
        MissingExtraError: gRPC is asked for, and the extra `serve` is not installed.

    Example:
        >>> import zoo, zoo.serving, numpy
        >>> repository = zoo.export_model("relu_mlp.digits", to="repository").parent.parent
        >>> with zoo.serving.start(repository) as server, zoo.serving.Client(server.grpc) as client:
        ...     answer = client.predict("relu_mlp.digits", image=numpy.zeros((2, 8, 8, 1), "float32"))
        >>> answer["probabilities"].shape, answer["class_id"].dtype
        ((2, 10), dtype('int64'))
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 0.1,
        token: str | None = None,
        certificate_authority: str | os.PathLike[str] | None = None,
        certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
            raise UsageError(f"A server's URL is http://host:port or grpc://host:port, with certificates https:// or grpcs://. Received: {url!r}.")
        secrets = _Secrets(token, certificate_authority, certificate)
        self._wire: _Rest | _Grpc = _Grpc(parts, secrets) if parts.scheme.startswith("grpc") else _Rest(parts, secrets)
        self._timeout, self._retries, self._backoff = timeout, retries, backoff

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: Sequence[str] = (),
        **named: Any,
    ) -> dict[str, numpy.ndarray]:
        """Runs a signature.

        Args:
            model: The model's name.
            inputs: Input name -> what `numpy.asarray` takes; strings as `str` or `bytes`. Inputs may also be named arguments.
            version: A version; the newest where None.
            label: A version's label, in place of its number.
            signature: The signature; `serving_default` where empty.
            outputs: The outputs to return; all where there are none.

        Returns:
            Output name -> array, of the types that the signature names; strings as arrays of `bytes` objects.

        Raises:
            ServingError: The server refused the request or could not be reached; `code` says why.
        """
        from zoo.serving.tensors import type_of

        arrays = {name: _as_array(value) for name, value in {**(inputs or {}), **named}.items()}
        for name, array in arrays.items():
            try:
                type_of(array)
            except ValueError as error:
                raise UsageError(f"Input {name}: {error}.") from None
        return self._call(lambda left: self._wire.predict(_Target(model, version, label, signature), arrays, outputs, left))

    def classify(
        self,
        model: str,
        examples: Sequence[Features],
        *,
        context: Features | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
    ) -> list[list[tuple[str, float]]]:
        """Classifies examples.

        Args:
            model: The model's name.
            examples: For each its features: name -> number, string, bytes, or a list of them. Whole numbers are int64
                features, others float ones.
            context: Features that all examples share.
            version: A version; the newest where None.
            label: A version's label, in place of its number.
            signature: The signature; `serving_default` where empty.

        Returns:
            For each example its classes' labels and scores.

        Raises:
            ServingError: The server refused the request or could not be reached; `code` says why.
        """
        return self._call(lambda left: self._wire.classify(_Target(model, version, label, signature), examples, context, left))

    def regress(
        self,
        model: str,
        examples: Sequence[Features],
        *,
        context: Features | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
    ) -> numpy.ndarray:
        """Regresses examples, which are given as for `classify`.

        Returns:
            float32 `(examples,)`.

        Raises:
            ServingError: The server refused the request or could not be reached; `code` says why.
        """
        import numpy

        values = self._call(lambda left: self._wire.regress(_Target(model, version, label, signature), examples, context, left))
        return numpy.array(values, "float32")

    def status(self, model: str, *, version: int | None = None) -> dict[int, dict[str, Any]]:
        """Returns the states of a model's versions, the newest first.

        Returns:
            Version -> `state`, such as `AVAILABLE`, and `error`, the empty string where there is none.

        Raises:
            ServingError: There is no such model or version, or the server could not be reached; `code` says why.
        """
        return self._call(lambda left: self._wire.status(_Target(model, version), left))

    def signatures(self, model: str, *, version: int | None = None, label: str | None = None) -> dict[str, dict[str, Any]]:
        """Returns what a model can be asked.

        Returns:
            Signature -> `inputs` and `outputs`, each name -> `dtype`, NumPy's name, and `shape`, -1 for an open dimension or
            None for an open rank.

        Raises:
            ServingError: There is no such model or version, or the server could not be reached; `code` says why.
        """
        return self._call(lambda left: self._wire.signatures(_Target(model, version, label), left))

    def close(self) -> None:
        """Closes the connections."""
        self._wire.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, ask: Any) -> Any:
        """Asks, and asks again where the server could not answer for the moment."""
        deadline = time.monotonic() + self._timeout
        for attempt in range(self._retries + 1):
            left = deadline - time.monotonic()
            try:
                return ask(max(left, 0.001))
            except ServingError as error:
                pause = self._backoff * 2**attempt * random.uniform(0.5, 1.0)
                if error.code not in _RETRIED or attempt == self._retries or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("unreachable")


class _Target:
    """What a request is for."""

    def __init__(self, model: str, version: int | None = None, label: str | None = None, signature: str = "") -> None:
        if version is not None and label is not None:
            raise UsageError(f"Name a version or a label. Received: version {version} and label {label!r}.")
        self.model, self.version, self.label, self.signature = model, version, label, signature

    @property
    def path(self) -> str:
        path = f"/v1/models/{urllib.parse.quote(self.model, safe='')}"
        if self.version is not None:
            path += f"/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{urllib.parse.quote(self.label, safe='')}"

    def fill(self, spec: Any) -> None:
        spec.name, spec.signature_name = self.model, self.signature
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label


@dataclass(frozen=True)
class _Secrets:
    """What a client shows, and what it wants to see."""

    token: str | None
    certificate_authority: str | os.PathLike[str] | None
    certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Returns the authorities, the key and the certificate."""
        certificate, key = self.certificate or (None, None)
        try:
            authority, key_bytes, chain = (
                None if path is None else Path(path).read_bytes() for path in (self.certificate_authority, key, certificate)
            )
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from None
        return authority, key_bytes, chain

    def context(self) -> ssl.SSLContext:
        self.read()
        try:
            context = ssl.create_default_context(cafile=None if self.certificate_authority is None else os.fspath(self.certificate_authority))
            if self.certificate is not None:
                context.load_cert_chain(os.fspath(self.certificate[0]), os.fspath(self.certificate[1]))
        except ssl.SSLError as error:
            raise UsageError(f"The certificates cannot be used: {error.reason or error}.") from None
        return context


class _Rest:
    """The requests over REST. Each thread keeps a connection of its own."""

    def __init__(self, parts: urllib.parse.SplitResult, secrets: _Secrets) -> None:
        self._parts = parts
        self._context = secrets.context() if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", **({} if secrets.token is None else {"Authorization": f"Bearer {secrets.token}"})}
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._types: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}

    def predict(self, target: _Target, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str], timeout: float) -> dict[str, numpy.ndarray]:
        document = {"signature_name": target.signature, "inputs": {name: _to_json(array) for name, array in arrays.items()}}
        answer = self._post(f"{target.path}:predict", document, timeout)["outputs"]
        types = self._output_types(target, answer, timeout)
        values = {next(iter(types)): answer} if len(types) == 1 else answer
        if unknown := [name for name in outputs if name not in values]:
            raise ServingError(f"The signature has no output {unknown[0]!r}. It has: {', '.join(sorted(values))}.", Code.INVALID_ARGUMENT)
        return {name: _from_json(values[name], types[name]["dtype"]) for name in outputs or values}

    def classify(self, target: _Target, examples: Sequence[Features], context: Features | None, timeout: float) -> list[list[tuple[str, float]]]:
        results = self._post(f"{target.path}:classify", _examples_document(target, examples, context), timeout)["results"]
        return [[(label, score) for label, score in classes] for classes in results]

    def regress(self, target: _Target, examples: Sequence[Features], context: Features | None, timeout: float) -> list[float]:
        return self._post(f"{target.path}:regress", _examples_document(target, examples, context), timeout)["results"]

    def status(self, target: _Target, timeout: float) -> dict[int, dict[str, Any]]:
        entries = self._get(target.path, timeout)["model_version_status"]
        return {int(entry["version"]): {"state": entry["state"], "error": entry["status"]["error_message"]} for entry in entries}

    def signatures(self, target: _Target, timeout: float) -> dict[str, dict[str, Any]]:
        definitions = self._get(f"{target.path}/metadata", timeout)["metadata"]["signature_def"]["signature_def"]
        return {
            name: {side: {alias: _described(info) for alias, info in definition[side].items()} for side in ("inputs", "outputs")}
            for name, definition in definitions.items()
        }

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _output_types(self, target: _Target, answer: Any, timeout: float) -> dict[str, dict[str, Any]]:
        """JSON has no types: they come from the signature, which is asked for again when an answer does not fit it."""
        key = (target.model, target.version, target.label, target.signature)
        types = self._types.get(key)
        names = set(answer) if isinstance(answer, dict) and set(answer) != {"b64"} else None
        if types is None or (len(types) > 1) != (names is not None) or (names is not None and names != set(types)):
            types = self.signatures(target, timeout)[target.signature or "serving_default"]["outputs"]
            self._types[key] = types
        return types

    def _post(self, path: str, document: Mapping[str, Any], timeout: float) -> Any:
        return self._ask("POST", path, json.dumps(document).encode(), timeout)

    def _get(self, path: str, timeout: float) -> Any:
        return self._ask("GET", path, None, timeout)

    def _ask(self, method: str, path: str, body: bytes | None, timeout: float) -> Any:
        try:
            status, answer = self._exchange(method, path, body, timeout)
        except TimeoutError:
            raise ServingError(f"{self._parts.netloc} did not answer in time.", Code.DEADLINE_EXCEEDED) from None
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise ServingError(f"{self._parts.netloc} cannot be reached: {error or type(error).__name__}.", Code.UNAVAILABLE) from None
        try:
            content = json.loads(answer.decode("utf-8", "surrogateescape"))
        except ValueError:
            content = {"error": answer[:200].decode("utf-8", "replace")}
        if status == 200:
            return content
        message = content.get("error", "") if isinstance(content, dict) else str(content)
        raise ServingError(message or f"HTTP status {status}", _CODES.get(status, Code.UNKNOWN))

    def _exchange(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        for fresh in (False, True):
            connection = self._connection(timeout)
            try:
                connection.request(method, path, body, self._headers)
                response = connection.getresponse()
                return response.status, response.read()
            except TimeoutError:
                self._drop()
                raise
            except (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest):
                self._drop()
                if fresh:  # a connection that was kept may have been closed meanwhile; a new one tells the truth
                    raise
        raise AssertionError("unreachable")

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            if self._context is None:
                connection = http.client.HTTPConnection(host, port, timeout=timeout)
            else:
                connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)
            self._local.connection = connection
            self._connections.append(connection)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            with contextlib.suppress(ValueError):
                self._connections.remove(connection)
            self._local.connection = None


class _Grpc:
    """The requests over gRPC."""

    def __init__(self, parts: urllib.parse.SplitResult, secrets: _Secrets) -> None:
        try:
            import grpc
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"gRPC needs {error.name}: pip install 'neuron-zoo[serve]'") from None
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        if parts.scheme == "grpcs":
            channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(*secrets.read()), options=options)
        else:
            channel = grpc.insecure_channel(parts.netloc, options=options)
        self._grpc, self._channel = grpc, channel
        self._metadata = None if secrets.token is None else (("authorization", f"Bearer {secrets.token}"),)

    def predict(self, target: _Target, arrays: Mapping[str, numpy.ndarray], outputs: Sequence[str], timeout: float) -> dict[str, numpy.ndarray]:
        from zoo.serving.messages import message
        from zoo.serving.tensors import fill_proto, from_proto

        request = message("PredictRequest")(output_filter=outputs)
        target.fill(request.model_spec)
        for name, array in arrays.items():
            fill_proto(request.inputs[name], array, as_content=True)
        response = self._ask("PredictionService/Predict", request, "PredictResponse", timeout)
        return {name: from_proto(response.outputs[name]) for name in sorted(response.outputs)}

    def classify(self, target: _Target, examples: Sequence[Features], context: Features | None, timeout: float) -> list[list[tuple[str, float]]]:
        request = _examples_request("ClassificationRequest", target, examples, context)
        response = self._ask("PredictionService/Classify", request, "ClassificationResponse", timeout)
        return [[(entry.label, entry.score) for entry in classes.classes] for classes in response.result.classifications]

    def regress(self, target: _Target, examples: Sequence[Features], context: Features | None, timeout: float) -> list[float]:
        request = _examples_request("RegressionRequest", target, examples, context)
        response = self._ask("PredictionService/Regress", request, "RegressionResponse", timeout)
        return [regression.value for regression in response.result.regressions]

    def status(self, target: _Target, timeout: float) -> dict[int, dict[str, Any]]:
        from zoo.serving.messages import message

        request = message("GetModelStatusRequest")()
        target.fill(request.model_spec)
        response = self._ask("ModelService/GetModelStatus", request, "GetModelStatusResponse", timeout)
        return {
            entry.version: {"state": _STATES.get(entry.state, "UNKNOWN"), "error": entry.status.error_message}
            for entry in response.model_version_status
        }

    def signatures(self, target: _Target, timeout: float) -> dict[str, dict[str, Any]]:
        from zoo.serving.messages import message

        request = message("GetModelMetadataRequest")(metadata_field=["signature_def"])
        target.fill(request.model_spec)
        response = self._ask("PredictionService/GetModelMetadata", request, "GetModelMetadataResponse", timeout)
        definitions = message("SignatureDefMap").FromString(response.metadata["signature_def"].value).signature_def
        return {
            name: {side: {alias: _described(info) for alias, info in getattr(definitions[name], side).items()} for side in ("inputs", "outputs")}
            for name in definitions
        }

    def close(self) -> None:
        self._channel.close()

    def _ask(self, method: str, request: Any, answer: str, timeout: float) -> Any:
        from zoo.serving.messages import message

        call = self._channel.unary_unary(f"/tensorflow.serving.{method}", None, message(answer).FromString)
        try:
            return call(request.SerializeToString(), timeout=timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise ServingError(error.details() or error.code().name, error.code().value[0]) from None


def _as_array(value: Any) -> numpy.ndarray:
    import numpy

    array = numpy.asarray(value)
    if array.dtype.kind in "SU" and not isinstance(value, numpy.ndarray):
        return numpy.array(value, dtype=object)  # NumPy's own strings lose the zero bytes at their ends
    return array


def _examples_document(target: _Target, examples: Sequence[Features], context: Features | None) -> dict[str, Any]:
    document: dict[str, Any] = {"signature_name": target.signature, "examples": [_features_to_json(example) for example in examples]}
    return document if context is None else {**document, "context": _features_to_json(context)}


def _features_to_json(features: Features) -> dict[str, Any]:
    return {name: [_item_to_json(item) for item in _items(value)] for name, value in features.items()}


def _examples_request(name: str, target: _Target, examples: Sequence[Features], context: Features | None) -> Any:
    from zoo.serving.messages import message

    request = message(name)()
    target.fill(request.model_spec)
    made = request.input.example_list if context is None else request.input.example_list_with_context
    for example in examples:
        _fill_example(made.examples.add(), example)
    if context is not None:
        _fill_example(made.context, context)
    return request


def _fill_example(example: Any, features: Features) -> None:
    for name, value in features.items():
        items = _items(value)
        feature = example.features.feature[name]
        if any(isinstance(item, str | bytes) for item in items):
            feature.bytes_list.value.extend(item.encode() if isinstance(item, str) else item for item in items)
        elif any(isinstance(item, float) for item in items):
            feature.float_list.value.extend(items)
        else:
            feature.int64_list.value.extend(items)


def _items(value: Any) -> list[Any]:
    """A feature's values as a list of Python's own numbers, strings or bytes; whole numbers become floats beside one."""
    import numpy

    if isinstance(value, str | bytes):
        return [value]
    items: list[Any] = numpy.asarray(value).reshape(-1).tolist()
    return items


def _item_to_json(item: Any) -> Any:
    return {"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else item


def _to_json(array: numpy.ndarray) -> Any:
    def convert(value: Any) -> Any:
        return [convert(item) for item in value] if isinstance(value, list) else _item_to_json(value)

    return convert(array.tolist()) if array.dtype.kind in "SO" else array.tolist()


def _from_json(value: Any, dtype: str) -> numpy.ndarray:
    import numpy

    if dtype != "object":
        return numpy.array(value, dtype)
    shape, probe = [], value
    while isinstance(probe, list):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    flat: list[bytes] = []

    def collect(item: Any) -> None:
        if isinstance(item, list):
            for entry in item:
                collect(entry)
        else:
            flat.append(base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode("utf-8", "surrogateescape"))

    collect(value)
    array = numpy.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def _described(info: Any) -> dict[str, Any]:
    """A TensorInfo, as a message or as JSON."""
    from zoo.serving.tensors import BY_NUMBER

    if not isinstance(info, Mapping):
        kind = BY_NUMBER.get(info.dtype)
        shape = None if info.tensor_shape.unknown_rank else tuple(dimension.size for dimension in info.tensor_shape.dim)
    else:
        kind = next((kind for kind in BY_NUMBER.values() if f"DT_{kind.name.upper()}" == info["dtype"]), None)
        given = info["tensor_shape"]
        shape = None if given.get("unknown_rank") else tuple(int(dimension["size"]) for dimension in given.get("dim", ()))
    return {"dtype": (kind.numpy_name if kind else None) or "object", "shape": shape}
