"""TF Serving's JSON: requests to arrays or examples, arrays to answers.

A predict request holds either `instances`, a list of rows, or `inputs`, whole tensors by name. A row, or `inputs` itself, may
drop the name where the signature has one input. `{"b64": "..."}` stands for bytes. A classify or regress request holds
`examples`, objects of features, and may hold a `context` that they share.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from zoo.serving.json_parser import dump, type_name
from zoo.serving.messages import message
from zoo.serving.status import StatusError, invalid_argument, unimplemented
from zoo.serving.tensors import STRING, TensorInfo, TensorType, type_of

MAXIMUM_RANK = 64
"""What NumPy's arrays can have."""
LARGEST_INTEGER = {"float": 2**24 - 1, "double": 2**53 - 1}
LIMITS = {  # the integers that the parser takes for each type; what does not fit the type itself wraps around
    **dict.fromkeys(("int32", "int16", "int8", "uint8"), (-(2**31), 2**31 - 1)),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_LARGEST_FLOAT = {"float": float(numpy.finfo("float32").max), "double": float(numpy.finfo("float64").max)}
_WRITABLE = frozenset(("float", "double", "int32", "int16", "int8", "uint8", "string", "int64", "bool", "uint32", "uint64"))


def signature_name(document: Mapping[str, Any]) -> str:
    """Returns the signature that a request asks for, the empty string for the default one."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(f"JSON Value: {dump(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return name


def decode(document: Mapping[str, Any], inputs: Mapping[str, TensorInfo], body: bytes = b"true") -> tuple[dict[str, numpy.ndarray], bool]:
    """Turns a predict request into arrays.

    Args:
        document: The parsed body.
        inputs: The signature's inputs.
        body: The body itself: where it holds neither `true` nor `false`, numbers need no search for them.

    Returns:
        Input name -> array, and whether the request was in row format.

    Raises:
        StatusError: A name, type or shape does not fit.
    """
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise _misformatted(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if not rows and not columns:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    reader = _Reader(inputs, booleans=b"true" in body or b"false" in body)
    try:
        if columns:
            return reader.columns(document["inputs"]), False
        if not isinstance(document["instances"], list):
            raise _misformatted(document, "Excepting 'instances' to be an list/array")
        if not document["instances"]:
            raise _misformatted(document, "No values in 'instances' array")
        return reader.rows(document["instances"]), True
    except RecursionError:
        raise invalid_argument("JSON Value: lists are nested too deeply") from None


class _Reader:
    """Reads the tensors of one request."""

    def __init__(self, inputs: Mapping[str, TensorInfo], booleans: bool) -> None:
        self._inputs, self._booleans = inputs, booleans

    def columns(self, value: Any) -> dict[str, numpy.ndarray]:
        if not isinstance(value, dict) or _is_base64(value):
            if len(self._inputs) > 1:
                raise invalid_argument(
                    "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
                )
            name = next(iter(self._inputs))
            return {name: self._tensor(name, value)}
        arrays = {}
        for name in self._inputs:
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
            arrays[name] = self._tensor(name, value[name])
        return arrays

    def rows(self, instances: list[Any]) -> dict[str, numpy.ndarray]:
        named = isinstance(instances[0], dict) and not _is_base64(instances[0])
        if not isinstance(instances[0], dict) and len(self._inputs) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
            )
        if named:
            return self._named_rows(instances)
        name = next(iter(self._inputs))
        if (array := self._numbers(name, instances)) is not None:
            return {name: array}
        for index, row in enumerate(instances):
            if isinstance(row, dict) and not _is_base64(row):
                raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        return {name: self._stack(name, instances)}

    def _named_rows(self, instances: list[Any]) -> dict[str, numpy.ndarray]:
        for index, row in enumerate(instances):
            if not isinstance(row, dict) or _is_base64(row):
                raise invalid_argument(f"Expecting object but got list at item {index} of input list")
            if row.keys() != self._inputs.keys():
                self._raise_first_error(instances[: index + 1])
        arrays = {}
        for name in self._inputs:
            values = [row[name] for row in instances]
            array = self._numbers(name, values)
            try:
                arrays[name] = self._stack(name, values) if array is None else array
            except StatusError:
                self._raise_first_error(instances)
                raise
        return arrays

    def _raise_first_error(self, instances: list[dict[str, Any]]) -> None:
        """Goes through rows as TF Serving does, key by key, so that the first error is the one reported."""
        seen: dict[str, tuple[int, ...]] = {}
        for index, row in enumerate(instances):
            for name, value in row.items():
                try:
                    if name not in self._inputs:
                        raise invalid_argument(f"JSON object: does not have named input: {name}")
                    shape = _fill(value, self._inputs[name].type, _shape(value), [])
                    seen[name] = _same_shape(seen.get(name), shape)
                except StatusError as error:
                    raise invalid_argument(f"Failed to process element: {index} key: {name} of 'instances' list. Error: {error}") from None
            if row.keys() != self._inputs.keys():
                keys = ",".join(sorted(self._inputs))
                raise invalid_argument(
                    f"Failed to process element: {index} of 'instances' list. JSON object: {dump(row)} keys must be equal to: {keys}"
                )

    def _stack(self, name: str, values: Sequence[Any]) -> numpy.ndarray:
        """Reads one value per row; all have to have one shape."""
        kind = self._inputs[name].type
        shape: tuple[int, ...] | None = None
        flat: list[Any] = []
        for index, value in enumerate(values):
            try:
                shape = _same_shape(shape, _fill(value, kind, _shape(value), flat))
            except StatusError as error:
                raise invalid_argument(f"Failed to process element: {index} of 'instances' list. Error: {error}") from None
        assert shape is not None
        return _array(flat, kind, (len(values), *shape))

    def _tensor(self, name: str, value: Any) -> numpy.ndarray:
        if (array := self._numbers(name, value)) is not None:
            return array
        kind, flat = self._inputs[name].type, list[Any]()
        return _array(flat, kind, _fill(value, kind, _shape(value), flat))

    def _numbers(self, name: str, value: Any) -> numpy.ndarray | None:
        """Reads a list of numbers in one step, or returns None where that could differ from reading them one by one."""
        kind = self._inputs[name].type
        if kind.dtype is None or kind.name not in _WRITABLE or kind is STRING or (self._booleans and kind.name != "bool"):
            return None
        try:
            array = numpy.asarray(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if array.size == 0:
            return array.astype(kind.dtype) if array.dtype.kind == "f" else None
        if kind.name == "bool":
            return array if array.dtype.kind == "b" else None
        if array.dtype.kind not in "iuf":
            return None
        if kind.name in LIMITS:
            lowest, highest = LIMITS[kind.name]
            if array.dtype.kind == "f" or int(array.min()) < lowest or int(array.max()) > highest:
                return None
            return array.astype(kind.dtype)
        largest = max(-float(numpy.fmin.reduce(array, axis=None)), float(numpy.fmax.reduce(array, axis=None)))
        return None if largest > LARGEST_INTEGER[kind.name] else array.astype(kind.dtype)


def _misformatted(value: Any, remark: str) -> StatusError:
    return invalid_argument(f"JSON Value: {dump(value)} {remark}")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape that a value's first elements suggest."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _same_shape(first: tuple[int, ...] | None, other: tuple[int, ...]) -> tuple[int, ...]:
    if first is None or first == other:
        return other
    sizes = [int(numpy.prod(shape)) for shape in (first, other)]
    if sizes[0] != sizes[1]:
        raise invalid_argument(f"Expecting tensor size: {sizes[0]} but got: {sizes[1]}")
    shapes = [f"[{','.join(map(str, shape))}]" for shape in (first, other)]
    raise invalid_argument(f"Expecting shape {shapes[0]} but got: {shapes[1]}")


def _fill(value: Any, kind: TensorType, shape: tuple[int, ...], flat: list[Any], level: int = 0) -> tuple[int, ...]:
    """Appends a tensor's values to a list, one by one; the lists have to have the shape."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {dump(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        flat.append(_scalar(value, kind))
        return shape
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for item in value:
        _fill(item, kind, shape, flat, level + 1)
    return shape


def _scalar(value: Any, kind: TensorType) -> Any:
    if isinstance(value, dict):
        if kind is not STRING:
            raise _type_error(value, kind.name)
        if not _is_base64(value):
            raise _misformatted(value, "not formatted correctly for base64 data")
        return decode_base64(value["b64"])
    if kind is STRING:
        if not isinstance(value, str):
            raise _type_error(value, kind.name)
        return value.encode("utf-8", "surrogateescape")
    if kind.name == "bool":
        if not isinstance(value, bool):
            raise _type_error(value, kind.name)
        return value
    number = _number(value)
    if kind.name in LIMITS:
        lowest, highest = LIMITS[kind.name]
        if type(number) is not int or not lowest <= number <= highest:
            raise _type_error(value, kind.name)
        return number
    if kind.name in LARGEST_INTEGER:
        if number is None:
            raise _type_error(value, kind.name)
        return _lossless(number, kind.name)
    raise unimplemented(f"Conversion of JSON Value: {dump(value)} to type: {kind.name}")


def _number(value: Any) -> float | int | None:
    """A JSON number as the parser holds it: an integer that no 64 bits can hold is a floating-point number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)


def _lossless(number: float, kind: str) -> float:
    largest = LARGEST_INTEGER[kind] if isinstance(number, int) else _LARGEST_FLOAT[kind]
    if math.isfinite(number) and abs(number) > largest:
        raise invalid_argument(f"Cannot convert JSON value: {dump(number)} to {kind} without loss of precision.")
    return number


def _type_error(value: Any, kind: str) -> StatusError:
    return invalid_argument(f"JSON Value: {dump(value)} Type: {type_name(value)} is not of expected type: {kind}")


def _array(flat: list[Any], kind: TensorType, shape: tuple[int, ...]) -> numpy.ndarray:
    assert kind.dtype is not None or not flat
    if len(shape) > MAXIMUM_RANK:
        raise invalid_argument(f"JSON Value: lists are nested deeper than {MAXIMUM_RANK} levels")
    if kind is STRING:
        array = numpy.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(shape)
    if kind.name in ("int16", "int8", "uint8"):
        return numpy.array(flat, "int32").astype(kind.dtype).reshape(shape)
    return numpy.array(flat, kind.dtype).reshape(shape)


def decode_base64(text: str) -> bytes:
    """Decodes base64; as in TF Serving white space is skipped and the padding may be missing.

    Raises:
        StatusError: It is not base64.
    """
    with contextlib.suppress(ValueError):  # the usual form, six times as fast
        return binascii.a2b_base64(text, strict_mode=True)
    stripped = re.sub(r"[ \t\n\v\f\r]", "", text)
    digits = stripped.rstrip("=.")
    padding = -len(digits) % 4
    if padding == 3 or len(stripped) - len(digits) not in (0, padding):
        raise invalid_argument("Unable to base64 decode")
    try:
        return base64.b64decode(digits + "=" * padding, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def decode_examples(document: Mapping[str, Any]) -> list[bytes]:
    """Turns a classify or regress request into serialized tf.Examples, the context in front of each.

    A whole number is an int64 feature, `1.0` a float one, and so is a list of them; they do not mix.

    Raises:
        StatusError: The request is not made as it has to be.
    """
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise _misformatted(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _misformatted(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _misformatted(document, "'examples' value is an empty array")
    return [context + _example(example) for example in examples]


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    example = message("Example")()
    for name, content in value.items():
        feature = example.features.feature[name.encode("utf-8", "replace").decode()]
        for item in content if isinstance(content, list) else [content]:
            _add_to_feature(item, name, feature)
    return example.SerializeToString()


def _add_to_feature(value: Any, name: str, feature: Any) -> None:
    item: Any
    if isinstance(value, bool):
        kind, item = "int64", int(value)
    elif isinstance(value, str):
        kind, item = "bytes", value.encode("utf-8", "surrogateescape")
    elif _is_base64(value):
        kind, item = "bytes", decode_base64(value["b64"])
    elif (number := _number(value)) is None:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    elif isinstance(number, float):
        kind, item = "float", _lossless(number, "float")
    elif number >= 2**63:
        raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    else:
        kind, item = "int64", number
    if (present := feature.WhichOneof("kind")) not in (None, f"{kind}_list"):
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {present.removesuffix('_list')}")
    getattr(feature, f"{kind}_list").value.append(item)


def encode(outputs: Mapping[str, numpy.ndarray], rows: bool) -> bytes:
    """Turns a signature's outputs into an answer, in the request's format.

    Raises:
        StatusError: JSON cannot hold an output, or row format was asked for and the outputs have no common first dimension.
    """
    for name, array in outputs.items() if rows else ():
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
    if rows and len(sizes := {len(array) for array in outputs.values()}) > 1:
        first = len(next(iter(outputs.values())))
        name = next(name for name, array in outputs.items() if len(array) != first)
        raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(outputs[name])} expecting: {first}")
    for array in outputs.values():
        if (kind := type_of(array)).name not in _WRITABLE:
            raise invalid_argument(f"Failed to write JSON value for tensor type: {kind.name}")
    finite = all(array.dtype.kind != "f" or bool(numpy.isfinite(array).all()) for array in outputs.values())
    values = {name: _values(name, array, finite) for name, array in outputs.items()}
    only = next(iter(values.values())) if len(values) == 1 else None
    if not rows:
        return _dump({"outputs": values if only is None else only}, finite)
    if only is not None:
        return _dump({"predictions": only}, finite)
    names, (size,) = tuple(values), sizes
    return _dump({"predictions": [{name: values[name][index] for name in names} for index in range(size)]}, finite)


def encode_results(results: Any) -> bytes:
    """Turns classifications, lists of `[label, score]`, or regressions, numbers, into an answer."""
    return _dump({"results": results}, finite=False)


def encode_error(message: str) -> bytes:
    """Turns a message into an error's answer."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")


def shortest(number: Any) -> float:
    """Returns a float32 as the double with the fewest digits, so that 0.1 is not shown as 0.10000000149."""
    return float(str(numpy.float32(number)))


def _values(name: str, array: numpy.ndarray, finite: bool) -> Any:
    """What the JSON writer takes: the array itself where it holds numbers, nested lists of strings or bytes otherwise."""
    if array.dtype.kind in "OSU":
        as_bytes = name.endswith("_bytes")
        return _nested([{"b64": base64.b64encode(item).decode()} if as_bytes else text(item) for item in array.reshape(-1).tolist()], array.shape)
    if finite:
        return numpy.ascontiguousarray(array) if array.ndim else array[()]
    return _plain(array)


def _plain(array: Any) -> Any:
    """An array as nested lists of Python's numbers."""
    if array.dtype == numpy.float32:
        return _nested([shortest(number) for number in numpy.reshape(array, -1)], array.shape)
    return array.tolist()


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    array = numpy.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape).tolist()


def text(item: Any) -> str:
    """Returns a string tensor's element as JSON text; bytes that are not UTF-8 stand as surrogate escapes."""
    return item if isinstance(item, str) else item.decode("utf-8", "surrogateescape")


def _dump(answer: Any, finite: bool) -> bytes:
    import orjson

    if finite:
        try:
            return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError:  # a string that is not UTF-8: its bytes go out as they are
            pass
    return json.dumps(answer, ensure_ascii=False, default=_plain).encode("utf-8", "surrogateescape")
