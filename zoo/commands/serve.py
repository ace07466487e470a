"""`zoo serve`: serves models over TF Serving's REST and gRPC protocols, with TF Serving's flags."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ServingError, UsageError

if TYPE_CHECKING:
    from zoo.serving.manager import Manager
    from zoo.serving.repository import ModelSource
    from zoo.serving.security import Tls
    from zoo.serving.server import Addresses, ServerOptions
    from zoo.serving.workers import Worker

HELP = "serve models over TF Serving's REST and gRPC protocols"
EXAMPLES = """  zoo serve                                    the repository saved_models
  zoo serve /srv/models --rest_api_port=9000
  zoo serve cnn_bn.mnist relu_mlp.mnist        pretrained models, exported on the fly
  zoo serve --port=8500 --rest_api_port=8501 --model_name=digits --model_base_path=/srv/models/digits
  zoo serve --model_config_file=/srv/models.config --model_config_file_poll_wait_seconds=30
  zoo serve saved_models --engine onnx         the ONNX form of every version that has one
  zoo serve saved_models --engine tensorflow_model_server
  zoo serve saved_models --autotune batching_parameters.txt     measured on this machine"""
ENGINES = ("auto", "tf", "litert", "onnx")
TF_SERVING = "tensorflow_model_server"
STDOUT = Path("-")
OWN_FLAGS = (
    "--engine",
    "--host",
    "--max_body_bytes",
    "--max_waiting_requests",
    "--workers",
    "--worker",
    "--tls_certificate",
    "--tls_key",
    "--tls_client_ca",
    "--token_file",
    "--access_log",
    "--drain_seconds",
    "--max_connections",
    "--read_timeout_in_ms",
    "--record-warmup",
    "--shadow",
    "--shadow_fraction",
    "--autotune",
)
OWN_SWITCHES = ("--no-playground", "--no-metrics")
# Flags of TF Serving that say how its C++ works inside: taken, and without effect here.
IGNORED = (
    "flush_filesystem_caches",
    "num_load_threads",
    "num_unload_threads",
    "platform_config_file",
    "use_alts_credentials",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "enable_profiler",
    "thread_pool_factory_config_file",
    "mixed_precision",
    "skip_initialize_tpu",
    "enable_grpc_healthcheck_service",
    "force_allow_any_version_labels_for_unavailable_models",
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", metavar="WHAT", nargs="*", help="a model repository, or pretrained names and run directories (default: saved_models)"
    )
    parser.add_argument(
        "--engine",
        choices=(*ENGINES, TF_SERVING),
        default=ENGINES[0],
        help="what answers: TensorFlow (tf), a version's LiteRT or ONNX form where its answers are the same, the fastest of them (auto, the "
        f"default), or TF Serving's binary ({TF_SERVING})",
    )
    parser.add_argument(
        "--autotune",
        type=Path,
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="measure the models instead of serving them, and write the parameters of batching that follow to FILE (default: print them); with "
        "--enable_per_model_batching_parameters, to each newest version's own batching_params.pbtxt",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--max_body_bytes", type=int, default=256 * 1024 * 1024, metavar="BYTES", help="largest REST body (default: 256 MiB)")
    parser.add_argument("--max_waiting_requests", type=int, default=1000, metavar="N", help="requests that may wait for their turn (default: 1000)")
    parser.add_argument("--tls_certificate", type=Path, metavar="FILE", help="certificate of both ports, PEM")
    parser.add_argument("--tls_key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--tls_client_ca", type=Path, metavar="FILE", help="authorities whose certificates clients have to show, PEM")
    parser.add_argument("--token_file", type=Path, metavar="FILE", help="bearer tokens that open the server, one per line")
    parser.add_argument("--access_log", metavar="FILE", help="write a line of JSON for every request to FILE, - for the terminal")
    parser.add_argument(
        "--drain_seconds", type=float, default=0.0, metavar="S", help="time from SIGTERM, and not being ready, to the end (default: 0)"
    )
    parser.add_argument("--no-metrics", dest="metrics", action="store_false", help="no metrics at /metrics")
    parser.add_argument(
        "--record-warmup",
        type=_records,
        default=0,
        metavar="N",
        help="keep the shapes of up to N different requests to each model, beside its versions, as warm-up requests of the next version",
    )
    parser.add_argument(
        "--shadow",
        action="append",
        default=[],
        metavar="NAME:VERSION",
        help="give this version a copy of the model's traffic, and show at /shadow how it differs; may be repeated",
    )
    parser.add_argument("--shadow_fraction", type=float, default=1.0, metavar="SHARE", help="how much of the traffic is copied (default: 1)")
    parser.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes that share the ports (default: 1)")
    parser.add_argument("--worker", type=_worker, help=argparse.SUPPRESS)  # which of them this process is
    parser.add_argument("--max_connections", type=int, default=10_000, metavar="N", help="clients that may be connected to REST (default: 10000)")
    parser.add_argument("--read_timeout_in_ms", type=int, default=60_000, metavar="MS", help="time for a REST request to arrive (default: a minute)")
    parser.add_argument("--no-playground", dest="playground", action="store_false", help="no page at /: answer there as TF Serving does")
    _configure_tf_serving(parser.add_argument_group("flags of tensorflow_model_server"))
    _tolerate_unknown_flags(parser)


def _configure_tf_serving(group: Any) -> None:
    def flag(name: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
        group.add_argument(f"--{name}", type=kind, default=default, help=text, metavar=kind.__name__.strip("_").upper())

    def switch(name: str, default: bool, text: str | None) -> None:
        group.add_argument(f"--{name}", type=_boolean, nargs="?", const=True, default=default, help=text, metavar="BOOL")

    flag("port", _port, 8500, "TCP port for gRPC; 0 for no gRPC, `any` for a free one (default: 8500)")
    flag("rest_api_port", _port, 8501, "TCP port for REST; 0 for no REST, `any` for a free one (default: 8501)")
    flag("rest_api_timeout_in_ms", int, 30000, "longest time that a REST request may take (default: 30000)")
    flag("rest_api_num_threads", int, None, "REST requests answered at the same time (default: 4 for each processor)")
    flag("grpc_max_threads", int, None, "gRPC requests answered at the same time (default: 4 for each processor)")
    flag("grpc_socket_path", Path, None, "UNIX socket for gRPC")
    flag("grpc_channel_arguments", str, "", "gRPC's own settings: name=value,name=value")
    flag("ssl_config_file", Path, None, "SSLConfig for gRPC")
    flag("model_name", str, "default", "name of the model in --model_base_path (default: default)")
    flag("model_base_path", Path, None, "a folder of versions")
    flag("model_config_file", Path, None, "a models.config")
    flag("model_config_file_poll_wait_seconds", float, 0, "time between two looks into it; 0 looks once (default: 0)")
    flag("file_system_poll_wait_seconds", float, 1, "time between two looks for new versions; 0 looks once (default: 1)")
    flag("max_num_load_retries", int, 5, "how often a failed load is tried again (default: 5)")
    flag("load_retry_interval_micros", int, 60_000_000, "time between two tries (default: a minute)")
    flag("saved_model_tags", str, "serve", "tags of the graph to load, with commas (default: serve)")
    flag("batching_parameters_file", Path, None, "BatchingParameters")
    flag("monitoring_config_file", Path, None, "MonitoringConfig")
    flag("num_request_iterations_for_warmup", int, 1, "how often each warm-up request is replayed (default: 1)")
    flag("tensorflow_session_parallelism", int, 0, "threads of a session (default: the model's size decides)")
    flag("tensorflow_intra_op_parallelism", int, 0, "threads within an operation")
    flag("tensorflow_inter_op_parallelism", int, 0, "operations at the same time")
    flag("tensorflow_session_config_file", Path, None, "ConfigProto to start from")
    flag("per_process_gpu_memory_fraction", float, 0.0, "share of a GPU's memory")
    switch("enable_batching", False, "join requests")
    switch("enable_per_model_batching_parameters", False, "join them as each version's own batching_params.pbtxt says; without one it is not batched")
    switch("enable_model_warmup", True, "replay a version's warm-up requests before it serves (default: true)")
    switch("allow_version_labels_for_unavailable_models", False, "let a new label name a version that is not loaded yet")
    switch("rest_api_enable_cors_support", False, "let web pages of other origins call REST")
    switch("enable_serialization_as_tensor_content", False, "answer gRPC with tensors as raw bytes")
    switch("enable_signature_method_name_check", False, "classify and regress only by signatures of that method")
    switch("version", False, "print the version and stop")
    for name in IGNORED:
        group.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)


def _tolerate_unknown_flags(parser: argparse.ArgumentParser) -> None:
    """Lets unknown flags pass with the usage printed, as TF Serving does, and keeps the arguments as they came."""
    parse = parser.parse_known_args

    def parse_known_args(arguments: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = parse(arguments, namespace)
        found.given = list(arguments if arguments is not None else sys.argv[1:])
        flags = [argument for argument in unknown if argument.startswith("--")]
        if flags:
            print(f"unknown argument: {' '.join(flags)}", file=sys.stderr)
            parser.print_usage(sys.stderr)
        return found, [argument for argument in unknown if argument not in flags]

    parser.parse_known_args = parse_known_args  # type: ignore[assignment]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, received {text!r}")
    return text.lower() in ("true", "1")


def _workers(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of processes, received {text!r}")
    return int(text)


def _records(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 1000, received {text!r}")
    return int(text)


def _worker(text: str) -> Worker:
    from zoo.serving.workers import Worker

    number, _, folder = text.partition(":")
    return Worker(int(number), Path(folder))


def _port(text: str) -> int | None:
    """A port as `ServerOptions` has it: None for none, 0 for a free one."""
    if text == "any":
        return 0
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, 0 for none, or any, received {text!r}")
    return int(text) or None


def run(arguments: argparse.Namespace) -> int:
    if arguments.version:
        import zoo

        print(f"TensorFlow ModelServer: neuron-zoo {zoo.__version__}")
        return 0
    if arguments.sources and (arguments.model_base_path or arguments.model_config_file):
        raise UsageError("Name what to serve once: WHAT, --model_base_path or --model_config_file.")
    if arguments.port and arguments.port == arguments.rest_api_port:
        raise UsageError(f"--rest_api_port cannot be same as --port. Received: {arguments.port} for both.")
    if arguments.batching_parameters_file and not arguments.enable_batching:
        raise UsageError("--batching_parameters_file is set without setting --enable_batching to true.")
    if arguments.autotune is not None:
        _check_autotune(arguments)
    with tempfile.TemporaryDirectory(prefix="zoo-serve-") as temporary:
        if arguments.autotune is not None:
            _autotune(arguments, Path(temporary))
            return 0
        if arguments.engine == TF_SERVING:
            return _run_tf_serving(arguments, Path(temporary))
        if arguments.workers > 1:
            return _run_workers(arguments, Path(temporary))
        _serve(arguments, Path(temporary))
    return 0


def _run_workers(arguments: argparse.Namespace, temporary: Path) -> int:
    """Runs the same command in several processes."""
    from zoo.serving.workers import require_shared_ports, supervise

    require_shared_ports()
    if arguments.grpc_socket_path:
        raise UsageError("--grpc_socket_path is one server's, and --workers are several. Leave one of them out.")
    given = _without(arguments.given, ("--workers", "--port", "--rest_api_port"), arguments.sources)
    if not arguments.model_base_path and not arguments.model_config_file:
        given.append(str(_repository(arguments, temporary)))
    command = [sys.executable, "-m", "zoo.cli", "serve", *given]
    return supervise(
        command, arguments.workers, arguments.host, arguments.rest_api_port, arguments.port, lambda line: print(line, end="", flush=True)
    )


def _without(given: Sequence[str], flags: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns a command line without flags and the values that follow them, and without other arguments."""
    kept, value_may_follow = [], False
    for argument in given:
        if argument.partition("=")[0] in flags:
            value_may_follow = "=" not in argument
            continue
        if not (value_may_follow and not argument.startswith("--")) and argument not in others:
            kept.append(argument)
        value_may_follow = False
    return kept


def _check_autotune(arguments: argparse.Namespace) -> None:
    if arguments.engine == TF_SERVING:
        raise UsageError(f"--autotune measures this package's engines, and not --engine {TF_SERVING}. Leave one of them out.")
    if arguments.workers > 1:
        raise UsageError("--autotune measures one process, and --workers are several. Leave one of them out.")
    if arguments.autotune.is_dir():
        raise UsageError(f"--autotune FILE is a folder: {arguments.autotune}. WHAT stands before --autotune.")
    if not arguments.enable_per_model_batching_parameters:
        return
    if arguments.autotune != STDOUT:
        raise UsageError(
            "With --enable_per_model_batching_parameters --autotune writes each version's own batching_params.pbtxt, and takes no FILE. "
            f"Received: {arguments.autotune}."
        )
    if arguments.sources and _repository_folder(arguments.sources) is None:
        raise UsageError(
            "With --enable_per_model_batching_parameters --autotune writes into the versions' folders, and models that are exported on the fly "
            f"have none that last. Name a repository. Received: {', '.join(arguments.sources)}."
        )


def _autotune(arguments: argparse.Namespace, temporary: Path) -> None:
    """Measures the models, and prints or writes the parameters of batching that follow."""
    _report_ignored(arguments)
    from zoo.serving.autotune import batching_parameters, measure, write_own_parameters, write_parameters

    parameters = _batching(arguments)
    callers = os.cpu_count() or 1 if parameters is None else max(parameters.num_batch_threads, 1)
    sources = _finder(arguments, temporary)()
    found = measure(sources, _manager_options(arguments), callers, functools.partial(print, file=sys.stderr, flush=True))
    if arguments.enable_per_model_batching_parameters:
        for measurement in found:
            print(f"written: {write_own_parameters(measurement, callers)}", flush=True)
        return
    curves = {f"{measurement.model} on {measurement.engine}": measurement.curve for measurement in found}
    text = batching_parameters(curves, callers=callers, threads=callers)
    if arguments.autotune == STDOUT:
        print(text, end="", flush=True)
        return
    write_parameters(arguments.autotune, text)
    print(f"written: {arguments.autotune}\nuse:     --enable_batching --batching_parameters_file={arguments.autotune}", flush=True)


def _report_ignored(arguments: argparse.Namespace) -> None:
    if ignored := [name for name in IGNORED if getattr(arguments, name) is not None]:
        print(f"without effect here: {', '.join(f'--{name}' for name in ignored)}", file=sys.stderr)


def _serve(arguments: argparse.Namespace, temporary: Path) -> None:
    _report_ignored(arguments)
    if arguments.enable_per_model_batching_parameters and not arguments.enable_batching:
        print("without effect here: --enable_per_model_batching_parameters without --enable_batching", file=sys.stderr)
    from zoo.serving.server import serve

    if arguments.worker is not None:
        arguments.worker.stop_with_parent()
    find = _finder(arguments, temporary)
    wait, announce = bool(arguments.model_base_path or arguments.model_config_file), functools.partial(_announce, playground=arguments.playground)
    serve(find(), _options(arguments), refresh=find, wait=wait, announce=announce)


def _finder(arguments: argparse.Namespace, temporary: Path) -> Callable[[], list[ModelSource]]:
    """Returns a function that says which models to serve, now and at every later look."""
    from zoo.serving.repository import ModelSource, find_models, read_models_config

    if arguments.model_config_file:
        return lambda: read_models_config(arguments.model_config_file)
    if arguments.model_base_path:
        return lambda: [ModelSource(arguments.model_name, arguments.model_base_path)]
    repository = _repository(arguments, temporary)
    return lambda: find_models(repository)


def _repository(arguments: argparse.Namespace, temporary: Path) -> Path:
    """Returns the repository that the command line names, or one with exports of the models that it names."""
    from zoo.console import load_backend
    from zoo.export import export_model

    sources: Sequence[str] = arguments.sources
    folder = _repository_folder(sources)
    if folder is not None:
        return folder
    if not sources:
        raise ServingError("There is no model repository saved_models here. `zoo export NAME` makes one, and `zoo serve NAME` needs none.")
    if arguments.record_warmup or arguments.shadow:
        flag = "--record-warmup" if arguments.record_warmup else "--shadow"
        raise UsageError(f"{flag} keeps its file beside a model's versions: name a repository. Received: {', '.join(sources)}.")
    for name in sources:
        if os.sep in name and not Path(name).exists():
            raise ServingError(f"There is no model repository {name}. `zoo export NAME --to {name}` makes one.")
        load_backend()
        export_model(name, temporary)
    return temporary


def _repository_folder(sources: Sequence[str]) -> Path | None:
    """Returns the repository that the command line names, or None where it names models to export."""
    from zoo.factory import RUN_CARD

    names = list(sources) or ["saved_models"]
    folders = [Path(name) for name in names if Path(name).is_dir() and not (Path(name) / RUN_CARD).is_file()]
    if folders and len(names) > 1:
        raise UsageError(f"A repository is served alone. Received: {', '.join(names)}.")
    return folders[0] if folders else None


def _tls(arguments: argparse.Namespace) -> Tls | None:
    from zoo.serving.security import Tls

    certificate, key, authority = arguments.tls_certificate, arguments.tls_key, arguments.tls_client_ca
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        missing = "--tls_certificate" if certificate is None else "--tls_key"
        raise UsageError(f"TLS takes --tls_certificate and --tls_key together. {missing} is missing.")
    if arguments.ssl_config_file is not None:
        raise UsageError("--ssl_config_file and --tls_certificate both name the certificate of gRPC. Leave one of them out.")
    return Tls(certificate, key, authority)


def _options(arguments: argparse.Namespace) -> ServerOptions:
    from zoo.serving.access_log import AccessLog
    from zoo.serving.security import Tokens
    from zoo.serving.server import ServerOptions
    from zoo.serving.shadow import Target

    threads = {
        name: count
        for name, count in (("rest_threads", arguments.rest_api_num_threads), ("grpc_threads", arguments.grpc_max_threads))
        if count is not None
    }
    return ServerOptions(
        host=arguments.host,
        rest_port=arguments.rest_api_port,
        grpc_port=arguments.port,
        grpc_socket=arguments.grpc_socket_path,
        grpc_channel_arguments=arguments.grpc_channel_arguments,
        ssl_config=arguments.ssl_config_file,
        tls=_tls(arguments),
        tokens=None if arguments.token_file is None else Tokens(arguments.token_file),
        access_log=None if arguments.access_log is None else AccessLog(arguments.access_log),
        body_bytes=arguments.max_body_bytes,
        timeout_seconds=max(arguments.rest_api_timeout_in_ms, 0) / 1000,
        waiting=arguments.max_waiting_requests,
        connections=arguments.max_connections,
        read_seconds=max(arguments.read_timeout_in_ms, 0) / 1000,
        cors=arguments.rest_api_enable_cors_support,
        metrics_path=_metrics_path(arguments.monitoring_config_file),
        metrics=arguments.metrics,
        drain_seconds=max(arguments.drain_seconds, 0),
        playground=arguments.playground,
        tensor_content=arguments.enable_serialization_as_tensor_content,
        check_methods=arguments.enable_signature_method_name_check,
        batching=_batching(arguments),
        record_warmup=arguments.record_warmup,
        shadows=[Target.of(text) for text in arguments.shadow],
        shadow_fraction=arguments.shadow_fraction,
        worker=arguments.worker,
        manager=_manager_options(arguments),
        **threads,
    )


def _manager_options(arguments: argparse.Namespace) -> Any:
    from zoo.serving.manager import ManagerOptions
    from zoo.serving.servable import SessionOptions
    from zoo.serving.shadow import Target

    both = arguments.tensorflow_session_parallelism
    polls = arguments.model_config_file_poll_wait_seconds if arguments.model_config_file else arguments.file_system_poll_wait_seconds
    return ManagerOptions(
        poll_seconds=arguments.file_system_poll_wait_seconds,
        config_poll_seconds=0 if arguments.model_base_path else polls,
        retries=arguments.max_num_load_retries,
        retry_seconds=max(arguments.load_retry_interval_micros, 0) / 1e6,
        warmup=arguments.enable_model_warmup,
        warmup_iterations=arguments.num_request_iterations_for_warmup,
        labels_for_unavailable=arguments.allow_version_labels_for_unavailable_models,
        engine=arguments.engine,
        shadows={target.model: target.version for target in map(Target.of, arguments.shadow)},
        per_model_batching=arguments.enable_batching and arguments.enable_per_model_batching_parameters,
        session=SessionOptions(
            tags=tuple(arguments.saved_model_tags.split(",")),
            intra_op_threads=arguments.tensorflow_intra_op_parallelism or both or None,
            inter_op_threads=arguments.tensorflow_inter_op_parallelism or both or None,
            gpu_memory_fraction=arguments.per_process_gpu_memory_fraction,
            config=_session_config(arguments.tensorflow_session_config_file),
        ),
    )


def _session_config(path: Path | None) -> bytes:
    if path is None:
        return b""
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    from zoo.serving.repository import read_text_message

    return bytes(read_text_message(path, ConfigProto()).SerializeToString())


def _batching(arguments: argparse.Namespace) -> Any:
    import dataclasses

    from zoo.serving.batching import BatchingParameters, read_batching_parameters

    if not arguments.enable_batching:
        return None
    parameters = read_batching_parameters(arguments.batching_parameters_file) if arguments.batching_parameters_file else BatchingParameters()
    return dataclasses.replace(parameters, queue_seconds=max(arguments.rest_api_timeout_in_ms, 0) / 1000)


def _metrics_path(path: Path | None) -> str | None:
    from zoo.serving.messages import message
    from zoo.serving.metrics import PATH
    from zoo.serving.repository import read_text_message

    if path is None:
        return None
    config = read_text_message(path, message("MonitoringConfig")()).prometheus_config
    return (config.path or PATH) if config.enable else None


def _announce(manager: Manager, addresses: Addresses, playground: bool) -> None:
    """Prints what is served and where, and a request that works."""
    from zoo.serving.server import READY

    for reason in [*manager.failures().values(), *manager.missing()]:
        print(f"not served: {reason}", file=sys.stderr)
    names = [source.name for source in manager.sources if manager.loaded(source.name)]
    for name in names:
        print(f"{name}: version {_versions(manager.loaded(name))}")
    for name, version in manager.options.shadows.items():
        state = "gets a copy of its traffic" if version in manager.loaded(name) else "is not there yet"
        print(f"{name}: version {version} {state}; how it differs: GET /shadow")
    if addresses.rest:
        loaded = manager.loaded(names[0])
        print(f"try:  {_example(loaded[max(loaded)], f'{addresses.rest}/v1/models/{names[0]}')}")
        if playground:
            print(f"page: {addresses.rest}/")
    print(f"{READY}{addresses}", flush=True)
    logging.getLogger("zoo.serving").setLevel(logging.INFO)  # from now on, versions that come and go are news


def _versions(loaded: Mapping[int, Any]) -> str:
    """The versions' numbers with their engines: `1, 2 on tf`, or `1 on tf, 2 on litert`."""
    engines = {servable.engine for servable in loaded.values()}
    if len(engines) == 1:
        return f"{', '.join(map(str, loaded))} on {engines.pop()}"
    return ", ".join(f"{number} on {servable.engine}" for number, servable in loaded.items())


def _example(servable: Any, url: str) -> str:
    """A command line that gets an answer: a prediction from zeros, where the model takes them, else the model's signatures."""
    from zoo.serving.status import StatusError

    signature = servable.signature()
    inputs = {} if signature is None else signature.inputs
    row = {name: _zeros(info) for name, info in inputs.items()}
    try:
        if signature is None or None in row.values():
            raise ValueError("no example")
        signature.run({name: _array(info) for name, info in inputs.items()})
    except (StatusError, ValueError):
        return f"curl -s {url}/metadata"
    value = next(iter(row.values())) if len(row) == 1 else f"{{{', '.join(f'{json.dumps(name)}: {zeros}' for name, zeros in row.items())}}}"
    document = f'{{"instances": [{value}]}}'
    if "*" not in document:
        return f"curl -s -d '{document}' {url}:predict"
    return f"python3 -c 'import json; print(json.dumps({document}))' | curl -s -d @- {url}:predict"


def _array(info: Any) -> Any:
    import numpy

    blank: Any = b"" if info.type.name == "string" else 0
    return numpy.full([max(size, 1) for size in info.shape], blank, info.type.dtype)


def _zeros(info: Any) -> str | None:
    """One row of an input as a Python expression that is also JSON where it is short, or None where JSON has none."""
    zero = {"string": '""', "bool": "false"}.get(info.type.name, "0.0" if info.type.name in ("float", "double") else "0")
    if info.shape is None or not info.shape or info.type.dtype is None or info.type.name in ("half", "bfloat16", "uint16"):
        return None
    for size in reversed(info.shape[1:]):
        zero = f"[{zero}]*{size}" if size > 1 else f"[{zero}]"
    return zero


def _run_tf_serving(arguments: argparse.Namespace, temporary: Path) -> int:
    """Runs TF Serving's binary with the same arguments, and passes signals on to it."""
    binary = shutil.which(TF_SERVING)
    if binary is None:
        raise ServingError(f"{TF_SERVING} is not on PATH. Without --engine this package serves the same models.")
    command = [binary, *_tf_serving_arguments(arguments, temporary)]
    started: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    for signal_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_, pass_on)
    started.append(subprocess.Popen(command))
    for number in received:  # what came before there was anyone to pass it on to
        started[0].send_signal(number)
    return started[0].wait()


def _tf_serving_arguments(arguments: argparse.Namespace, temporary: Path) -> list[str]:
    flags = _without(arguments.given, OWN_FLAGS, (*OWN_SWITCHES, *arguments.sources))
    if not any(flag.partition("=")[0] == "--rest_api_port" for flag in flags):
        flags.append(f"--rest_api_port={arguments.rest_api_port}")
    if not arguments.model_base_path and not arguments.model_config_file:
        from zoo.export import MODELS_CONFIG
        from zoo.serving.repository import find_models, write_config

        repository = _repository(arguments, temporary)
        flags.append(f"--model_config_file={write_config(temporary / MODELS_CONFIG, find_models(repository))}")
    return flags
