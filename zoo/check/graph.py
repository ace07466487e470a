"""What a graph and its signatures tell about themselves, without being run."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.check.rules import Finding
from zoo.signatures import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, SERVING_DEFAULT

if TYPE_CHECKING:
    pass

INTERNAL = {"__saved_model_init_op", "__saved_model_train_op"}
PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
XLA_OPS = {"XlaLaunch", "XlaLaunchV2", "XlaCallModule"}
CHANNELS_LAST_ONLY = {"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "MaxPool", "MaxPool3D", "AvgPool", "AvgPool3D"}
BATCH_NORMALIZATIONS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
CONTRIBUTED = re.compile(
    r"SimpleML|Sentencepiece|Wordpiece|WordShape|Wordpiece|RegexSplit|WhitespaceTokenize|UnicodeScript|NormalizeUTF8|CaseFoldUTF8"
)
REST_TYPES = {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "string"}
MADE_UP = re.compile(
    r"keras_tensor(_\d+)?|output_\d+|input_\d+|inputs_\d+|args_\d+(_\d+)?|arg_\d+|unknown(_\d+)?|"
    r"(dense|activation|flatten|softmax|re_lu|dropout|conv2d|lambda|batch_normalization|sequential|functional)(_\d+)?"
)


def signatures_of(graph: Any) -> dict[str, Any]:
    """Returns a MetaGraphDef's signatures by name, sorted, without TensorFlow's own."""
    return {name: graph.signature_def[name] for name in sorted(graph.signature_def) if name not in INTERNAL}


def check_graph(graph: Any, path: Path) -> Iterator[Finding]:
    """Yields what is wrong with a MetaGraphDef's operations.

    Args:
        graph: The MetaGraphDef.
        path: Where it comes from.
    """
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    everything = [*graph.graph_def.node, *(node for function in functions.values() for node in function.node_def)]
    missing = _names(node.op for node in everything if node.op not in functions and _definition(node.op) is None)
    contributed = [op for op in missing if CONTRIBUTED.search(op)]
    for op in missing:
        yield Finding("contributed-op" if op in contributed else "missing-op", path, f"the operation {op}")
    for node, attribute in _unknown_attributes(everything):
        yield Finding("unknown-attribute", path, f"the attribute {attribute} of {node.op}, which TensorFlow {_version()} does not know")
    used = list(_reachable(graph.graph_def.node, functions))
    for op in _names(node.op for node in used if node.op in PYTHON_OPS):
        yield Finding("python-op", path, f"the operation {op}")
    compiled = [node.op for node in used if node.op in XLA_OPS or _must_compile(node)]
    called = [name for name in _functions_of(used) if name in functions and _must_compile(functions[name])]
    for name in _names([*compiled, *called]):
        yield Finding("xla", path, f"{name} must be compiled")
    for op in _names(node.op for node in used):
        if op not in functions and _definition(op) is not None and not _runs_on_cpu(op):
            yield Finding("no-cpu-kernel", path, f"the operation {op}")
    for op in _names(node.op for node in used if node.op in CHANNELS_LAST_ONLY and node.attr["data_format"].s.startswith(b"NC")):
        yield Finding("gpu-layout", path, f"{op} on channels-first data")
    for device in _names(node.device for node in used if re.search(r"GPU|TPU", node.device, re.IGNORECASE)):
        yield Finding("pinned-device", path, f"operations are bound to {device}")
    if any(node.op in BATCH_NORMALIZATIONS and ("is_training" not in node.attr or node.attr["is_training"].b) for node in used):
        yield Finding("training-mode", path, "batch normalization in training mode")


def _must_compile(item: Any) -> bool:
    return "_XlaMustCompile" in item.attr and bool(item.attr["_XlaMustCompile"].b)


def _names(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _version() -> str:
    import tensorflow as tf

    return str(tf.__version__)


def _definition(op: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op)


@functools.cache
def _runs_on_cpu(op: str) -> bool:
    """Whether an operation has a CPU kernel, or none at all, as those have that the runtime replaces before it runs."""
    from tensorflow.python.framework import kernels

    devices = {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel}
    return not devices or bool(devices & {"CPU", "DEFAULT"})


@functools.cache
def _attributes(op: str) -> frozenset[str] | None:
    definition = _definition(op)
    return None if definition is None else frozenset(attribute.name for attribute in definition.attr)


def _unknown_attributes(nodes: Iterable[Any]) -> list[tuple[Any, str]]:
    found: dict[tuple[str, str], Any] = {}
    for node in nodes:
        known = _attributes(node.op)
        if known is not None:
            found |= {(node.op, name): node for name in node.attr if not name.startswith("_") and name not in known}
    return [(node, name) for (_, name), node in sorted(found.items(), key=lambda item: item[0])]


def _functions_of(nodes: Iterable[Any]) -> Iterator[str]:
    """The names of the functions that nodes call."""
    for node in nodes:
        yield node.op
        for attribute in node.attr.values():
            yield from (item.name for item in [attribute.func, *attribute.list.func] if item.name)


def _reachable(nodes: Iterable[Any], functions: dict[str, Any]) -> Iterator[Any]:
    """The graph's nodes and those of the functions that they call, however deep."""
    waiting = list(nodes)
    seen: set[str] = set()
    while waiting:
        yield from waiting
        called = {name for name in _functions_of(waiting) if name in functions} - seen
        seen |= called
        waiting = [node for name in sorted(called) for node in functions[name].node_def]


def check_signatures(graph: Any, path: Path) -> Iterator[Finding]:
    """Yields what is wrong with a MetaGraphDef's signatures."""
    signatures = signatures_of(graph)
    if not signatures:
        yield Finding("no-signature", path, "the graph has no signature")
    elif SERVING_DEFAULT not in signatures:
        yield Finding("no-serving-default", path, f"its signatures are {', '.join(signatures)}")
    nodes = {node.name: node for node in graph.graph_def.node}
    for name, signature in signatures.items():
        yield from _check_form(name, signature, path)
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            for alias in sorted(tensors):
                yield from _check_tensor(f"{kind} {alias!r} of the signature {name}", alias, tensors[alias], nodes, path)
        yield from _check_batch(name, signature, path)


def _check_form(name: str, signature: Any, path: Path) -> Iterator[Finding]:
    if signature.method_name not in (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD):
        yield Finding("unknown-method", path, f"the signature {name} has the method name {signature.method_name!r}")
    if not signature.outputs:
        yield Finding("no-outputs", path, f"the signature {name} has no output")
    if not signature.inputs:
        yield Finding("no-inputs", path, f"the signature {name} has no input")
    if signature.method_name == CLASSIFY_METHOD:
        misfits = _misfits(signature, {"classes": "string", "scores": "float32"}, (2,))
        yield from (Finding("classify-form", path, f"the signature {name} {what}") for what in misfits)
    if signature.method_name == REGRESS_METHOD:
        misfits = _misfits(signature, {"outputs": "float32"}, (1, 2))
        yield from (Finding("regress-form", path, f"the signature {name} {what}") for what in misfits)


def _misfits(signature: Any, wanted: dict[str, str], ranks: tuple[int, ...]) -> Iterator[str]:
    """How a signature differs from one input `inputs` of strings and the wanted outputs."""
    if list(signature.inputs) != ["inputs"]:
        yield f"has the inputs {', '.join(sorted(signature.inputs)) or 'none'}"
    elif _dtype(signature.inputs["inputs"]) != "string":
        yield f"takes {_dtype(signature.inputs['inputs'])}"
    if not signature.outputs or not set(signature.outputs) <= wanted.keys():
        yield f"has the outputs {', '.join(sorted(signature.outputs)) or 'none'}"
    for alias in sorted(set(signature.outputs) & wanted.keys()):
        info, shape = signature.outputs[alias], signature.outputs[alias].tensor_shape
        if _dtype(info) != wanted[alias]:
            yield f"gives {alias} as {_dtype(info)}"
        if not shape.unknown_rank and len(shape.dim) not in ranks:
            yield f"gives {alias} of rank {len(shape.dim)}"


def _check_tensor(where: str, alias: str, info: Any, nodes: dict[str, Any], path: Path) -> Iterator[Finding]:
    if MADE_UP.fullmatch(alias):
        yield Finding("unstable-name", path, f"the {where}")
    if _dtype(info) not in REST_TYPES:
        yield Finding("unsupported-dtype", path, f"the {where} is {_dtype(info)}")
    name, _, index = info.name.partition(":")
    if info.WhichOneof("encoding") != "name":
        return
    if name not in nodes:
        yield Finding("dangling-tensor", path, f"the {where} is {info.name}")
    elif (actual := _output_dtype(nodes[name], int(index or 0))) is not None and actual != _dtype(info):
        yield Finding("wrong-dtype", path, f"the {where} is said to be {_dtype(info)} and is {actual}")


def _dtype(info: Any) -> str:
    import tensorflow as tf

    try:
        return str(tf.as_dtype(info.dtype).name)
    except TypeError:
        return f"type {info.dtype}"


def _output_dtype(node: Any, index: int) -> str | None:
    """The type of a node's output; None where its definition does not settle it by one attribute."""
    import tensorflow as tf

    definition = _definition(node.op)
    if definition is None or index >= len(definition.output_arg):
        types = node.attr["Tout"].list.type
        return str(tf.as_dtype(types[index]).name) if index < len(types) else None
    output = definition.output_arg[index]
    if index == 0 and output.type_list_attr:
        types = node.attr[output.type_list_attr].list.type
        return str(tf.as_dtype(types[0]).name) if types else None
    if output.type_list_attr or output.number_attr:
        return None
    dtype = output.type or (node.attr[output.type_attr].type if output.type_attr else 0)
    return str(tf.as_dtype(dtype).name) if dtype else None


def _check_batch(name: str, signature: Any, path: Path) -> Iterator[Finding]:
    for alias in sorted(signature.inputs):
        dims = signature.inputs[alias].tensor_shape.dim
        if dims and dims[0].size > 0:
            yield Finding("fixed-batch", path, f"the input {alias!r} of the signature {name} takes {dims[0].size} rows, no more and no less")
    for alias in sorted(signature.outputs):
        shape = signature.outputs[alias].tensor_shape
        if not shape.unknown_rank and not shape.dim:
            yield Finding("no-batch-dimension", path, f"the output {alias!r} of the signature {name} is a scalar")
