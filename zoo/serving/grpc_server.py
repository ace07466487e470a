"""TF Serving's gRPC interface: PredictionService and ModelService."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from zoo.errors import ServingError
from zoo.serving.access_log import REQUEST_ID, request_id
from zoo.serving.messages import message
from zoo.serving.metrics import Facts
from zoo.serving.repository import read_text_message
from zoo.serving.servable import DEFAULT_SIGNATURE
from zoo.serving.status import Code, StatusError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.serving.access_log import AccessLog
    from zoo.serving.manager import Manager
    from zoo.serving.metrics import Metrics
    from zoo.serving.security import Tls, Tokens
    from zoo.serving.service import Service

logger = logging.getLogger(__name__)
MAXIMUM_MESSAGE = 2**31 - 1
_NO_MESSAGE = object()
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Observers:
    """What stands beside the methods.

    Attributes:
        manager: The models.
        metrics: Where requests are recorded, or None.
        tokens: Who may ask, or None where everyone may.
        access_log: Where requests are written down, or None.
    """

    manager: Manager
    metrics: Metrics | None = None
    tokens: Tokens | None = None
    access_log: AccessLog | None = None


def _services(service: Service, observers: Observers) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    """Service -> method -> its handler."""

    def handler(kind: str, answer: Callable[[Any], Any], api: str = "", name: str = "") -> grpc.RpcMethodHandler[Any, Any]:
        request, response = message(f"{kind}Request"), message(f"{kind}Response")
        method = _method(answer, name or api or f"Get{kind.removeprefix('Get')}", api, observers)
        parse = functools.partial(_parsed, request)
        return grpc.unary_unary_rpc_method_handler(method, request_deserializer=parse, response_serializer=response.SerializeToString)

    return {
        "PredictionService": {
            "Predict": handler("Predict", service.predict, "Predict"),
            "Classify": handler("Classification", service.classify, "Classify"),
            "Regress": handler("Regression", service.regress, "Regress"),
            "MultiInference": handler("MultiInference", service.multi_inference, "MultiInference"),
            "GetModelMetadata": handler("GetModelMetadata", service.metadata),
        },
        "ModelService": {
            "GetModelStatus": handler("GetModelStatus", service.status),
            "HandleReloadConfigRequest": handler("ReloadConfig", service.reload, name="HandleReloadConfigRequest"),
        },
    }


def _parsed(kind: Any, content: bytes) -> Any:
    """Parses a message. Where it is none, that is for the method to say: gRPC keeps 20 kB for each that it refuses itself."""
    try:
        return kind.FromString(content)
    except DecodeError:
        return _NO_MESSAGE


def _method(answer: Callable[[Any], Any], name: str, api: str, observers: Observers) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Hands a method's message to the service, and its error to gRPC."""

    def method(request: Any, context: grpc.ServicerContext) -> Any:
        began, status, response = time.perf_counter(), Code.INTERNAL, None
        if request is _NO_MESSAGE:
            return context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        try:
            if observers.tokens is not None and not observers.tokens.permits(_metadata(context, "authorization")):
                raise StatusError(Code.UNAUTHENTICATED, "This server needs a token: send the metadata authorization: Bearer TOKEN")
            if not context.is_active():  # it waited for a thread until its client had gone
                raise StatusError(Code.CANCELLED, "The client has gone")
            response = answer(request)
            status = Code.OK
            return response
        except StatusError as error:
            status = error.code
            return context.abort(_CODES[error.code], error.brief)
        except Exception as error:  # ours, and no request should cause one
            logger.exception("%s failed", api or type(request).__name__)
            return context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            seconds = time.perf_counter() - began
            if observers.metrics is not None and api:
                observers.metrics.request(_facts(request, response, observers.manager), api, "GRPC", status.name, seconds)
            if observers.access_log is not None:
                _log(observers.access_log, request, response, context, name, status, seconds)

    return method


def _spec(request: Any, response: Any = None) -> Any:
    """The ModelSpec of an answer, which says more than that of the request, or of the request."""
    if response is not None and getattr(response, "model_spec", None) is not None:
        return response.model_spec
    return request.tasks[0].model_spec if hasattr(request, "tasks") and request.tasks else getattr(request, "model_spec", None)


def _facts(request: Any, response: Any, manager: Manager) -> Facts:
    spec = _spec(request, response)
    if spec is None:
        return Facts("")
    version = spec.version.value if response is not None else 0
    servable = manager.loaded(spec.name).get(version)
    engine = "" if servable is None else servable.engine
    return Facts(spec.name, version, (spec.signature_name or DEFAULT_SIGNATURE) if version else "", engine)


def _metadata(context: grpc.ServicerContext, wanted: str) -> str | None:
    found = next((value for name, value in context.invocation_metadata() or () if name == wanted), None)
    return found.decode("latin-1") if isinstance(found, bytes) else found


def _log(access_log: AccessLog, request: Any, response: Any, context: grpc.ServicerContext, name: str, status: Code, seconds: float) -> None:
    spec = _spec(request, response)
    access_log.write(
        protocol="GRPC",
        client=context.peer(),
        method=name,
        path=None,
        model=spec.name if spec is not None else None,
        version=(str(spec.version.value) if spec.HasField("version") else spec.version_label or None) if spec is not None else None,
        status=status.name,
        milliseconds=round(seconds * 1000, 3),
        bytes_in=request.ByteSize(),
        bytes_out=0 if response is None else response.ByteSize(),
        request_id=request_id(_metadata(context, REQUEST_ID)),
    )


def start_grpc(
    service: Service,
    addresses: Sequence[str],
    *,
    threads: int,
    waiting: int = 1000,
    channel_arguments: str = "",
    ssl_config: Path | None = None,
    tls: Tls | None = None,
    shared: bool = False,
    observers: Observers | None = None,
) -> tuple[grpc.Server, list[int]]:
    """Starts the gRPC server.

    Args:
        service: The models and how requests are answered.
        addresses: `host:port`, port 0 for a free one, or `unix:path`.
        threads: How many requests are answered at the same time.
        waiting: How many more may wait for a thread; the next is RESOURCE_EXHAUSTED.
        channel_arguments: gRPC's own settings, as `name=value,name=value`.
        ssl_config: A file with an SSLConfig, or None.
        tls: The certificates, in place of an SSLConfig; None for no encryption where there is no SSLConfig either.
        shared: Whether other processes may listen on the same ports.
        observers: What stands beside the methods.

    Returns:
        The server and its ports, one for each address.

    Raises:
        ServingError: An address is in use, or a setting or the SSLConfig cannot be read.
    """
    options = [
        ("grpc.max_receive_message_length", MAXIMUM_MESSAGE),
        ("grpc.max_send_message_length", MAXIMUM_MESSAGE),
        ("grpc.so_reuseport", int(shared)),
    ]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
    server = grpc.server(pool, options=[*options, *_arguments(channel_arguments)], maximum_concurrent_rpcs=threads + waiting)
    for name, handlers in _services(service, observers or Observers(service.manager)).items():
        server.add_registered_method_handlers(f"tensorflow.serving.{name}", handlers)
    credentials = tls.for_grpc() if tls is not None else None if ssl_config is None else _credentials(ssl_config)
    ports = []
    for address in addresses:
        try:
            port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise ServingError(f"gRPC cannot listen on {address}: is it in use? Choose another with --port, or --port=any for a free one.")
        ports.append(port)
    server.start()
    return server, ports


def _arguments(text: str) -> list[tuple[str, int | str]]:
    """Reads `name=value,name=value`; a value that is a whole number is one."""
    arguments: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        name, sign, value = part.partition("=")
        if not sign:
            raise ServingError(f"--grpc_channel_arguments takes name=value,name=value. Received: {text}.")
        arguments.append((name, int(value) if value.lstrip("-").isdecimal() else value))
    return arguments


def _credentials(path: Path) -> grpc.ServerCredentials:
    config = read_text_message(path, message("SSLConfig")())
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
