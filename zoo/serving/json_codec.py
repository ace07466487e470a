"""TF Serving's JSON: requests to arrays, arrays to answers.

A request holds either `instances`, a list of rows, or `inputs`, whole tensors by name. A row, or `inputs` itself, may drop
the name where the signature has one input. `{"b64": "..."}` stands for bytes; NaN, Infinity and -Infinity are plain words.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy

from zoo.serving.servable import TensorInfo


class BadRequest(ValueError):
    """The request does not fit the protocol or the signature."""


def parse(body: bytes) -> dict[str, Any]:
    """Parses a request's body; what follows the JSON document is ignored.

    Raises:
        BadRequest: The body is not a JSON object.
    """
    import orjson

    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_leniently(body)
    if not isinstance(document, dict):
        raise BadRequest("JSON Value: is not of expected type: object")
    return document


def _parse_leniently(body: bytes) -> Any:
    """Takes what TF Serving takes beyond the standard: non-finite numbers, a byte order mark, text after the document."""
    text = body.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if not text:
        raise BadRequest("JSON Parse error: The document is empty")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        raise BadRequest(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except RecursionError:
        raise BadRequest("JSON Parse error: the document is nested too deeply") from None


def signature_name(document: Mapping[str, Any]) -> str:
    """Returns the signature that a request asks for."""
    name = document.get("signature_name", "serving_default")
    if not isinstance(name, str):
        raise BadRequest("Invalid 'signature_name': expected a string")
    return name or "serving_default"


def decode(document: Mapping[str, Any], inputs: Mapping[str, TensorInfo]) -> tuple[dict[str, numpy.ndarray], bool]:
    """Turns a predict request into arrays.

    Args:
        document: The parsed body.
        inputs: The signature's inputs.

    Returns:
        Input name -> array, and whether the request was in row format.

    Raises:
        BadRequest: A name, type or shape does not fit.
    """
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise BadRequest("Not formatted correctly expecting only one of: instances or inputs keys to exist")
    if not rows and not columns:
        raise BadRequest("Missing 'inputs' or 'instances' key")
    values = _rows(document["instances"], inputs) if rows else _columns(document["inputs"], inputs)
    return {name: _array(name, value, inputs[name]) for name, value in values.items()}, rows


def _rows(instances: Any, inputs: Mapping[str, TensorInfo]) -> dict[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise BadRequest("JSON Value: 'instances' must be a list with at least one element")
    if not all(isinstance(row, dict) and set(row) != {"b64"} for row in instances):
        if any(isinstance(row, dict) and set(row) != {"b64"} for row in instances):
            raise BadRequest("Mixed named and unnamed values in the 'instances' list")
        if len(inputs) != 1:
            raise BadRequest(
                f"instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map: {sorted(inputs)}"
            )
        return {next(iter(inputs)): instances}
    for index, row in enumerate(instances):
        if set(row) != set(inputs):
            raise BadRequest(f"Failed to process element: {index} of 'instances' list. Expected the keys {sorted(inputs)}, received {sorted(row)}")
    return {name: [row[name] for row in instances] for name in inputs}


def _columns(values: Any, inputs: Mapping[str, TensorInfo]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) == {"b64"}:
        if len(inputs) != 1:
            raise BadRequest(
                f"inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map: {sorted(inputs)}"
            )
        return {next(iter(inputs)): values}
    if missing := sorted(set(inputs) - set(values)):
        raise BadRequest(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: values[name] for name in inputs}


def _array(name: str, value: Any, info: TensorInfo) -> numpy.ndarray:
    if info.dtype.name == "string":
        return _strings(name, value)
    expected = numpy.dtype(info.dtype.as_numpy_dtype)
    if info.dtype.name in ("float16", "bfloat16", "uint16") or expected.kind not in "biuf":
        raise BadRequest(f"Input tensor: {name} of type {info.dtype.name} is not supported in JSON")
    try:
        array = numpy.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise BadRequest(f"Tensor name: {name} has inconsistent shapes: its lists differ in length") from None
    if array.size and array.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[expected.kind]:
        raise BadRequest(f"Tensor name: {name}: JSON value is not of expected type: {info.dtype.name}")
    return array.astype(expected, order="C")


def _strings(name: str, value: Any) -> numpy.ndarray:
    shape: list[int] = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    flat = _flat(name, value, shape)
    array = numpy.empty(len(flat), dtype=object)
    array[:] = [_bytes(name, item) for item in flat]
    return array.reshape(shape)


def _flat(name: str, value: Any, shape: list[int]) -> list[Any]:
    if not shape:
        if isinstance(value, list):
            raise BadRequest(f"Tensor name: {name} has inconsistent shapes: its lists differ in length")
        return [value]
    if not isinstance(value, list) or len(value) != shape[0]:
        raise BadRequest(f"Tensor name: {name} has inconsistent shapes: its lists differ in length")
    return [entry for item in value for entry in _flat(name, item, shape[1:])]


def _bytes(name: str, item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, dict) and set(item) == {"b64"} and isinstance(item["b64"], str):
        try:
            return base64.b64decode(item["b64"], validate=True)
        except binascii.Error:
            raise BadRequest("Unable to base64 decode") from None
    raise BadRequest(f"Tensor name: {name}: JSON value is not of expected type: string")


def encode(outputs: Mapping[str, numpy.ndarray], rows: bool) -> bytes:
    """Turns a signature's outputs into an answer, in the request's format.

    Raises:
        BadRequest: Row format was asked for, but the outputs have no common first dimension.
    """
    finite = all(numpy.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f")
    values = {name: _values(name, array, finite) for name, array in outputs.items()}
    if not rows:
        answer: Any = {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    else:
        sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
        if None in sizes.values() or len(set(sizes.values())) != 1:
            raise BadRequest(f"Tensors in row format must have the same first dimension. Received: {sizes}. Use 'inputs' instead of 'instances'")
        if len(values) == 1:
            answer = {"predictions": next(iter(values.values()))}
        else:
            answer = {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}
    return _dump(answer, finite)


def _values(name: str, array: numpy.ndarray, finite: bool) -> Any:
    """What the JSON writer takes: the array itself where it holds numbers, nested lists of strings or bytes otherwise."""
    if array.dtype.kind == "O":
        as_bytes = name.endswith("_bytes")
        flat = [{"b64": base64.b64encode(item).decode()} if as_bytes else item.decode("utf-8", errors="replace") for item in array.reshape(-1)]
        result = numpy.empty(len(flat), dtype=object)
        result[:] = flat
        return result.reshape(array.shape).tolist()
    return numpy.ascontiguousarray(array) if finite and array.ndim else array.tolist()


def _dump(answer: Any, finite: bool) -> bytes:
    import orjson

    if finite:
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(answer, ensure_ascii=False).encode()  # orjson writes null for a number that is not finite
