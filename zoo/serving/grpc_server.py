"""TF Serving's gRPC interface: PredictionService and ModelService."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from zoo.errors import ServingError
from zoo.serving.messages import message
from zoo.serving.repository import read_text_message
from zoo.serving.status import Code, StatusError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.serving.metrics import Metrics
    from zoo.serving.service import Service

logger = logging.getLogger(__name__)
MAXIMUM_MESSAGE = 2**31 - 1
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _services(service: Service, metrics: Metrics | None) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    """Service -> method -> its handler."""

    def handler(kind: str, answer: Callable[[Any], Any], api: str = "") -> grpc.RpcMethodHandler[Any, Any]:
        request, response = message(f"{kind}Request"), message(f"{kind}Response")
        method = _method(answer, api, metrics)
        return grpc.unary_unary_rpc_method_handler(method, request_deserializer=request.FromString, response_serializer=response.SerializeToString)

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
            "HandleReloadConfigRequest": handler("ReloadConfig", service.reload),
        },
    }


def _method(answer: Callable[[Any], Any], api: str, metrics: Metrics | None) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Hands a method's message to the service, and its error to gRPC."""

    def method(request: Any, context: grpc.ServicerContext) -> Any:
        began, status = time.perf_counter(), Code.INTERNAL
        try:
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
            if metrics is not None and api:
                metrics.request(_model(request), api, "GRPC", status.name, time.perf_counter() - began)

    return method


def _model(request: Any) -> str:
    spec = request.tasks[0].model_spec if hasattr(request, "tasks") and request.tasks else getattr(request, "model_spec", None)
    return spec.name if spec is not None else ""


def start_grpc(
    service: Service,
    addresses: Sequence[str],
    *,
    threads: int,
    waiting: int = 1000,
    channel_arguments: str = "",
    ssl_config: Path | None = None,
    shared: bool = False,
    metrics: Metrics | None = None,
) -> tuple[grpc.Server, list[int]]:
    """Starts the gRPC server.

    Args:
        service: The models and how requests are answered.
        addresses: `host:port`, port 0 for a free one, or `unix:path`.
        threads: How many requests are answered at the same time.
        waiting: How many more may wait for a thread; the next is RESOURCE_EXHAUSTED.
        channel_arguments: gRPC's own settings, as `name=value,name=value`.
        ssl_config: A file with an SSLConfig; None for no encryption.
        shared: Whether other processes may listen on the same ports.
        metrics: Where requests are recorded, or None.

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
    for name, handlers in _services(service, metrics).items():
        server.add_registered_method_handlers(f"tensorflow.serving.{name}", handlers)
    credentials = None if ssl_config is None else _credentials(ssl_config)
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
