"""What a version's folder holds, whether it loads, and whether it answers the requests that lie beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.check.graph import check_graph, check_signatures, signatures_of
from zoo.check.rules import Finding
from zoo.export import EXTRA
from zoo.golden import GOLDEN, MOST_WARMUP_RECORDS, WARMUP, golden_difference, golden_inputs, read_golden_requests
from zoo.signatures import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, SERVING_DEFAULT

TAG = "serve"
GOLDEN_TOLERANCE = 1e-3
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
PREVENT_LOADING = {"half-copied", "damaged-variables", "missing-asset", "missing-op", "contributed-op", "unknown-attribute"}
SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


def check_version(path: Path) -> Iterator[Finding]:
    """Yields what is wrong with a version's folder: first its files, then its graph, then it is loaded and asked."""
    if not any((path / name).is_file() for name in GRAPHS):
        yield _missing_graph(path)
        return
    yield from _check_files(path)
    graph = _read_graph(path)
    if isinstance(graph, Finding):
        yield graph
        return
    inside = [*_check_variables(path, graph), *_check_assets(path, graph), *check_graph(graph, path), *check_signatures(graph, path)]
    yield from inside
    if not any(finding.rule in PREVENT_LOADING for finding in inside):
        yield from _check_operation(path, graph)


def is_saved_model(path: Path) -> bool:
    """Whether a folder holds a SavedModel, whole or not."""
    return any((path / name).exists() for name in (*GRAPHS, "variables"))


def _missing_graph(path: Path) -> Finding:
    if (path / "variables").exists():
        return Finding("half-copied", path, "variables/ without saved_model.pb")
    held = ", ".join(sorted(child.name for child in path.iterdir())[:4])
    return Finding("no-saved-model", path, f"it holds {held or 'nothing'}")


def _check_files(path: Path) -> Iterator[Finding]:
    for file in sorted(path.rglob("*")):
        if file.name.startswith("tf_serving_warmup") and file != path / EXTRA / WARMUP:
            yield Finding("misplaced-warmup", file, "a warm-up where the server does not look for it")
    private = [file for file in [path, *sorted(path.rglob("*"))] if os.name != "nt" and not _is_public(file)]
    if private:
        yield Finding("private-files", private[0], f"{len(private)} of the version's files and folders can be read by their owner only")


def _is_public(file: Path) -> bool:
    wanted = 0o005 if file.is_dir() else 0o004
    return file.stat().st_mode & wanted == wanted


def _read_graph(path: Path) -> Any:
    """The MetaGraphDef for serving, or what keeps it from being read."""
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = next(path / name for name in GRAPHS if (path / name).is_file())
    try:
        binary = file.suffix == ".pb"
        saved_model = SavedModel.FromString(file.read_bytes()) if binary else text_format.Parse(file.read_text(encoding="utf-8"), SavedModel())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError):
        return Finding("truncated-graph", file, f"{file.stat().st_size:,} bytes that are no whole SavedModel")
    if not saved_model.meta_graphs:
        return Finding("truncated-graph", file, f"{file.stat().st_size:,} bytes without a graph")
    for graph in saved_model.meta_graphs:
        if list(graph.meta_info_def.tags) == [TAG]:
            return graph
    tags = "; ".join(", ".join(graph.meta_info_def.tags) or "none" for graph in saved_model.meta_graphs)
    return Finding("no-serve-tag", file, f"its graphs have the tags: {tags}")


def _check_variables(path: Path, graph: Any) -> Iterator[Finding]:
    import tensorflow as tf

    folder = path / "variables"
    if not graph.saver_def.restore_op_name:
        return
    if not (folder / "variables.index").is_file():
        if any(node.op in ("VarHandleOp", "Variable", "VariableV2") for node in graph.graph_def.node):
            yield Finding("half-copied", folder, "the graph has variables, and variables/variables.index is missing")
        return
    shards = [match for file in folder.iterdir() if (match := SHARD.fullmatch(file.name))]
    count = int(shards[0][2]) if shards else 1
    missing = sorted(set(range(count)) - {int(match[1]) for match in shards})
    if missing:
        yield Finding("half-copied", folder, f"variables.data-{missing[0]:05d}-of-{count:05d} is missing")
        return
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables"))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        yield Finding("damaged-variables", folder, _first_line(error))


def _check_assets(path: Path, graph: Any) -> Iterator[Finding]:
    for asset in graph.asset_file_def:
        file = path / "assets" / asset.filename
        if not file.exists():
            yield Finding("missing-asset", file, "an asset of the graph is missing")


def _first_line(error: Exception) -> str:
    """The first line of TensorFlow's message that says something."""
    lines = [line.strip() for line in str(getattr(error, "message", None) or error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Graph execution error", "Detected at node", "File "))]
    return (said or [type(error).__name__])[0][:300]


def _check_operation(path: Path, graph: Any) -> Iterator[Finding]:
    """Loads the version into a session, as TF Serving does, and sends it what lies beside it."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # to optimize would take longer than all the requests
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with session.graph.as_default():
            tf.compat.v1.saved_model.loader.load(session, [TAG], str(path))
        if empty := _uninitialized(session, graph):
            yield Finding("uninitialized-variable", path, f"{len(empty)} variables have no value, such as {empty[0]}")
        yield from _check_warmup(path, graph, session)
        yield from _check_golden(path, graph, session)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        yield Finding("fails-to-load", path, _first_line(error))
    finally:
        session.close()


def _uninitialized(session: Any, graph: Any) -> list[str]:
    """Variables without a value, of those that a signature reads: an export by Keras holds others, which nothing reads."""
    import tensorflow as tf

    outputs = {info.name.partition(":")[0] for signature in graph.signature_def.values() for info in signature.outputs.values() if info.name}
    waiting, read = [session.graph.get_operation_by_name(name) for name in outputs], set()
    while waiting:
        operation = waiting.pop()
        if operation not in read:
            read.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    with session.graph.as_default():
        handles = [operation for operation in read if operation.type == "VarHandleOp"]
        states = session.run([tf.raw_ops.VarIsInitializedOp(resource=handle.outputs[0]) for handle in handles])
    return sorted(handle.name for handle, initialized in zip(handles, states, strict=True) if not initialized)


def _check_warmup(path: Path, graph: Any, session: Any) -> Iterator[Finding]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    file = path / EXTRA / WARMUP
    if not file.is_file():
        yield Finding("no-warmup", path, f"there is no {EXTRA}/{WARMUP}")
        return
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    except tf.errors.OpError as error:
        yield Finding("broken-warmup", file, _first_line(error))
        return
    if len(records) > MOST_WARMUP_RECORDS:
        yield Finding("too-many-warmup-records", file, f"{len(records):,} records")
    for number, record in enumerate(records[:MOST_WARMUP_RECORDS], start=1):
        try:
            _replay(PredictionLog.FromString(record), graph, session)
        except DecodeError:
            yield Finding("broken-warmup", file, f"record {number} is no PredictionLog")
        except (_UnanswerableError, tf.errors.OpError, TypeError, ValueError) as error:
            yield Finding("failing-warmup", file, f"record {number}: {_first_line(error)}")


class _UnanswerableError(Exception):
    """A request does not fit the signatures."""


def _replay(log: Any, graph: Any, session: Any) -> None:
    """Answers a logged request as TF Serving would in a warm-up; raises where it would fail."""
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        signature = _signature(graph, request.model_spec, (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD))
        _run(session, signature, {alias: _array(tensor) for alias, tensor in request.inputs.items()})
    elif kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        signature = _signature(graph, request.model_spec, (CLASSIFY_METHOD if kind == "classify_log" else REGRESS_METHOD,))
        _run(session, signature, {"inputs": _examples(request.input)})
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        for task in request.tasks:
            _run(session, _signature(graph, task.model_spec, (task.method_name,)), {"inputs": _examples(request.input)})
    elif kind == "session_run_log":
        request = log.session_run_log.request
        session.run(list(request.fetch), {feed.name: _array(feed.tensor) for feed in request.feed})
    else:
        raise _UnanswerableError(f"the server cannot replay the kind {kind or 'none'}")


def _signature(graph: Any, spec: Any, methods: tuple[str, ...]) -> Any:
    name = spec.signature_name or SERVING_DEFAULT
    if name not in graph.signature_def:
        raise _UnanswerableError(f'Serving signature key "{name}" not found.')
    if graph.signature_def[name].method_name not in methods:
        raise _UnanswerableError(f"Expected signature method_name to be {' or '.join(methods)}. Was: {graph.signature_def[name].method_name}")
    return graph.signature_def[name]


def _array(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.make_ndarray(tensor)


def _examples(given: Any) -> list[bytes]:
    """The serialized examples of a request's Input, its context merged into each."""
    import tensorflow as tf

    if given.WhichOneof("kind") == "example_list":
        examples = [tf.train.Example.FromString(example.SerializeToString()) for example in given.example_list.examples]
    else:
        together = given.example_list_with_context
        examples = [tf.train.Example.FromString(together.context.SerializeToString()) for _ in together.examples]
        for merged, example in zip(examples, together.examples, strict=True):
            merged.MergeFromString(example.SerializeToString())
    if not examples:
        raise _UnanswerableError("Input is empty.")
    return [example.SerializeToString() for example in examples]


def _run(session: Any, signature: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    if set(inputs) != set(signature.inputs):
        raise _UnanswerableError(f"its inputs are {', '.join(sorted(inputs)) or 'none'}; the signature's are {', '.join(sorted(signature.inputs))}")
    for alias, values in inputs.items():
        given, expected = tf.as_dtype(getattr(values, "dtype", object)), tf.as_dtype(signature.inputs[alias].dtype)
        if given != expected:  # the server converts nothing
            raise _UnanswerableError(f"Expects {alias} to be {expected.name} but {given.name} is provided")
    fetches = {alias: info.name for alias, info in signature.outputs.items()}
    answer: dict[str, Any] = session.run(fetches, {signature.inputs[alias].name: values for alias, values in inputs.items()})
    return answer


def _check_golden(path: Path, graph: Any, session: Any) -> Iterator[Finding]:
    import numpy
    import tensorflow as tf

    try:
        requests = read_golden_requests(path / EXTRA / GOLDEN)
    except (OSError, ValueError) as error:
        yield Finding("golden-mismatch", path / EXTRA / GOLDEN, f"the golden requests cannot be read: {error}")
        return
    for name, (request, response) in requests.items():
        file = path / EXTRA / GOLDEN / f"{name}.request.json"
        signature = signatures_of(graph).get(name)
        if signature is None:
            yield Finding("golden-mismatch", file, f"the signature {name} is missing")
            continue
        try:
            inputs = {
                alias: numpy.array(values, tf.as_dtype(signature.inputs[alias].dtype).as_numpy_dtype)
                for alias, values in golden_inputs(request).items()
            }
            difference = golden_difference(name, _run(session, signature, inputs), response)
        except (_UnanswerableError, tf.errors.OpError, KeyError, TypeError, ValueError) as error:
            yield Finding("golden-mismatch", file, _first_line(error))
            continue
        if not difference <= GOLDEN_TOLERANCE:
            yield Finding("golden-mismatch", file, f"the answer differs by {difference:.1e}")
