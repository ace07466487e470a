"""`zoo serve`: serves models over TF Serving's REST protocol."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import load_backend
from zoo.errors import ServingError, UsageError

if TYPE_CHECKING:
    from zoo.serving.repository import ModelSource
    from zoo.serving.rest import Models

HELP = "serve models over TF Serving's REST protocol"
EXAMPLES = """  zoo serve                                    the repository saved_models
  zoo serve /srv/models --port 9000
  zoo serve cnn_bn.mnist relu_mlp.mnist        pretrained models, exported on the fly
  zoo serve --rest_api_port=8501 --model_name=digits --model_base_path=/srv/models/digits"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", metavar="WHAT", nargs="*", help="a model repository, or pretrained names and run directories (default: saved_models)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", "--rest_api_port", type=int, default=8501, help="TCP port; 0 for a free one (default: 8501)")
    parser.add_argument("--model_name", default="default", help="as of tensorflow_model_server (default: default)")
    parser.add_argument("--model_base_path", type=Path, help="as of tensorflow_model_server: a folder of versions")
    parser.add_argument("--model_config_file", type=Path, help="as of tensorflow_model_server: a models.config")


def run(arguments: argparse.Namespace) -> int:
    if sum(bool(given) for given in (arguments.sources, arguments.model_base_path, arguments.model_config_file)) > 1:
        raise UsageError("Name what to serve once: WHAT, --model_base_path or --model_config_file.")
    load_backend()
    from zoo.serving.server import serve

    with tempfile.TemporaryDirectory(prefix="zoo-serve-") as temporary:
        serve(_sources(arguments, Path(temporary)), arguments.host, arguments.port, _announce)
    return 0


def _sources(arguments: argparse.Namespace, temporary: Path) -> list[ModelSource]:
    from zoo.export import export_model
    from zoo.factory import RUN_CARD
    from zoo.serving.repository import ModelSource, find_models, read_models_config

    if arguments.model_config_file:
        return read_models_config(arguments.model_config_file)
    if arguments.model_base_path:
        return [ModelSource(arguments.model_name, arguments.model_base_path)]
    names = arguments.sources or ["saved_models"]
    folders = [Path(name) for name in names if Path(name).is_dir() and not (Path(name) / RUN_CARD).is_file()]
    if folders:
        if len(names) > 1:
            raise UsageError(f"A repository is served alone. Received: {', '.join(names)}.")
        return find_models(folders[0])
    if not arguments.sources:
        raise ServingError("There is no model repository saved_models here. `zoo export NAME` makes one, and `zoo serve NAME` needs none.")
    for name in names:
        if os.sep in name and not Path(name).exists():
            raise ServingError(f"There is no model repository {name}. `zoo export NAME --to {name}` makes one.")
        export_model(name, temporary)
    return find_models(temporary)


def _announce(models: Models, url: str) -> None:
    """Prints what is served and where, and a request that works."""
    from zoo.serving.server import READY

    for name, model in models.served.items():
        for reason in model.failed.values():
            print(f"not served: {name}: {reason}", file=sys.stderr)
        if model.loaded:
            print(f"{name}: version {', '.join(str(version) for version in sorted(model.loaded))}")
    name, model = next((name, model) for name, model in models.served.items() if model.loaded)
    body = _example(model.loaded[max(model.loaded)])
    if body is not None:
        print(f"try:  python3 -c '{body}' | curl -s -d @- {url}/v1/models/{name}:predict")
    print(f"{READY}{url}", flush=True)


def _example(servable: Any) -> str | None:
    """Python that prints a request of one black image, where the model takes images."""
    signature = servable.signatures.get("serving_default")
    if signature is None or len(signature.inputs) != 1:
        return None
    ((_, info),) = signature.inputs.items()
    sizes = [dimension.size for dimension in info.tensor_shape.dim]
    if len(sizes) < 2 or sizes[0] != -1 or any(size < 1 for size in sizes[1:]):
        return None
    value = "0.0"
    for size in reversed(sizes[1:]):
        value = f"[{value}]*{size}"
    return f'import json; print(json.dumps({{"instances": [{json.loads(json.dumps(value))}]}}))'
