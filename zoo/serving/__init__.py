"""A server that speaks TF Serving's REST and gRPC protocols, for the same model repositories, and a client.

client.py         arrays in, arrays out, without TensorFlow
server.py         start, drain, stop
connection.py     connections within limits; hot_path.py: the short way of predict requests; array_json.py: its JSON
rest.py           paths, methods and statuses; json_parser.py and json_codec.py: TF Serving's JSON
grpc_server.py    TF Serving's two gRPC services
service.py        the services without the wire; inference.py: predict, classify, regress
manager.py        versions that come and go; warmup.py: their first requests; tfrecord.py: the file that holds them
servable.py       one loaded SavedModel; engines.py: LiteRT and ONNX in its place; batching.py: requests that run together
autotune.py       the parameters of batching from a measurement
repository.py     which models and versions there are: folders, models.config
tensors.py        TensorProto to arrays and back; messages.py: protocol buffers without TensorFlow
workers.py        several processes on the same ports
operations.py     health, readiness, models, metrics; catalogue.py: what is served; openapi.py: its description
security.py       certificates and tokens; access_log.py: a line for every request
status.py         the canonical status codes; metrics.py: counts and times
playground.py     the page at /, whose files lie in static/
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.serving.client import Client as Client
    from zoo.serving.server import ServerOptions as ServerOptions
    from zoo.serving.server import ServerProcess as ServerProcess
    from zoo.serving.server import serve as serve
    from zoo.serving.server import start as start

_HOMES = {"Client": "client", "ServerOptions": "server", "ServerProcess": "server", "serve": "server", "start": "server"}
__all__ = ["Client", "ServerOptions", "ServerProcess", "serve", "start"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.serving' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo.serving.{_HOMES[name]}"), name)
