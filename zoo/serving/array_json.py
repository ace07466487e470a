"""Predict requests that hold nothing but numbers, parsed straight into an array, and a batch's answers written at once.

simdjson reads such a body eight times as fast as a parser that makes lists of it. It flattens nested lists without a word, so
the body's brackets and commas are held against those that its shape asks for. Whatever is made otherwise, or wrong, is left to
`json_codec`, which takes everything and knows every message. What is answered here is answered with the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import orjson

from zoo.serving import json_codec
from zoo.serving.json_codec import LARGEST_INTEGER, LIMITS, text
from zoo.serving.tensors import TensorInfo

if TYPE_CHECKING:
    from zoo.serving.servable import Servable, Signature

_NUMBERS = b"0123456789.eE+- \t\r\n"
"""What is no part of a body's frame: the characters of numbers, and space between them."""
_SIMPLE = frozenset(("float32", "float64", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64"))


class Request(NamedTuple):
    """A predict request.

    Attributes:
        signature: What it asks for.
        name: Its input's name.
        array: Its input.
        rows: Whether it is in row format.
    """

    signature: Signature
    name: str
    array: numpy.ndarray
    rows: bool


class Parser:
    """Parses bodies, for one thread."""

    def __init__(self) -> None:
        import simdjson

        self._parser = simdjson.Parser()

    def parse(self, body: bytes, servable: Servable) -> Request | None:
        """Returns the predict request of a body, or None where that is for `json_codec` to read.

        Args:
            body: A request's body.
            servable: What the request is for.
        """
        try:
            return self._parse(body, servable)
        except Exception:  # simdjson has many ways to say what it does not take
            return None

    def _parse(self, body: bytes, servable: Servable) -> Request | None:
        document: Any = self._parser.parse(body)
        keys = list(document.keys())
        wanted = document["signature_name"] if "signature_name" in keys else ""
        signature = servable.signature(wanted)
        if signature is None or len(signature.inputs) != 1 or len(keys) != 1 + ("signature_name" in keys) or body.startswith(b"\xef"):
            return None
        ((name, info),) = signature.inputs.items()
        rows = "instances" in keys
        found = _read_rows(document["instances"], name, info) if rows else _read_whole(document["inputs"], name, info)
        if found is None:
            return None
        array, frame = found
        frames = {"signature_name": _quoted(wanted), "instances": frame, "inputs": frame}
        whole = b"{%b}" % b",".join(b"%b:%b" % (_quoted(key), frames[key]) for key in keys)
        return Request(signature, name, array, rows) if body.translate(None, _NUMBERS) == whole else None


def _read_rows(value: Any, name: str, info: TensorInfo) -> tuple[numpy.ndarray, bytes] | None:
    if not hasattr(value[0], "keys"):
        return _read(value, info)
    parts = [_read(row[name], info) for row in value]
    if None in parts:
        return None
    arrays, frames = zip(*(part for part in parts if part is not None), strict=True)
    key = _quoted(name)
    return numpy.stack(arrays), b"[%b]" % b",".join(b"{%b:%b}" % (key, frame) for frame in frames)


def _read_whole(value: Any, name: str, info: TensorInfo) -> tuple[numpy.ndarray, bytes] | None:
    if not hasattr(value, "keys"):
        return _read(value, info)
    found = _read(value[name], info)
    return None if found is None else (found[0], b"{%b:%b}" % (_quoted(name), found[1]))


def _read(value: Any, info: TensorInfo) -> tuple[numpy.ndarray, bytes] | None:
    """Reads an array of numbers, by the rules of `json_codec`, and the frame that it has to stand in."""
    shape, first = [], value
    while hasattr(first, "as_buffer"):
        shape.append(len(first))
        first = first[0]
    kind = info.type
    if kind.name in LIMITS:
        array = numpy.frombuffer(value.as_buffer(of_type="u" if kind.name == "uint64" else "i"), "uint64" if kind.name == "uint64" else "int64")
        lowest, highest = LIMITS[kind.name]
        if int(array.min()) < lowest or int(array.max()) > highest:
            return None
    elif kind.name in LARGEST_INTEGER:
        array = numpy.frombuffer(value.as_buffer(of_type="d"), "float64")
        if max(-float(array.min()), float(array.max())) > LARGEST_INTEGER[kind.name]:
            return None
    else:
        return None
    assert kind.dtype is not None
    return array.astype(kind.dtype).reshape(shape), _frame(tuple(shape))


@functools.lru_cache(maxsize=1024)
def _quoted(value: str) -> bytes:
    """What a string leaves in a frame."""
    return b'"%b"' % value.encode().translate(None, _NUMBERS)


@functools.lru_cache(maxsize=1024)
def _frame(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of nested lists.

    Example:
        >>> _frame((2, 3))
        b'[[,,],[,,]]'
    """
    return b"[%b]" % b",".join([_frame(shape[1:])] * shape[0]) if shape else b""


def encode_rows(outputs: Mapping[str, numpy.ndarray], sizes: Sequence[int]) -> list[bytes] | None:
    """Writes the answers, in row format, of requests that ran together.

    Args:
        outputs: Output name -> array, of the rows of all requests.
        sizes: How many rows each request has.

    Returns:
        The answers' bodies, or None where `json_codec` has to write them: an output has too few or too many rows, a number in
        it is not finite, or JSON cannot hold it.
    """
    total, columns = sum(sizes), list[Iterable[bytes]]()
    for name, array in outputs.items():
        if not array.ndim or len(array) != total or not array.size:
            return None
        column = _strings(name, array) if array.dtype.kind == "O" else _numbers(array)
        if column is None:
            return None
        columns.append(column)
    if len(columns) == 1:
        rows = list(columns[0])
    else:
        template = b"{%b}" % b",".join(b"%b:%%b" % orjson.dumps(name).replace(b"%", b"%%") for name in outputs)
        rows = [template % values for values in zip(*columns, strict=True)]
    answers, start = [], 0
    for size in sizes:
        answers.append(b'{"predictions":[%b]}' % b",".join(rows[start : start + size]))
        start += size
    return answers


def _numbers(array: numpy.ndarray) -> list[bytes] | None:
    """The rows of an array of numbers as JSON, all written in one step and then cut apart."""
    if array.dtype.name not in _SIMPLE or (array.dtype.kind == "f" and not numpy.isfinite(array).all()):
        return None
    written = orjson.dumps(numpy.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    inner = array.ndim - 1
    parts = written[1 + inner : len(written) - 1 - inner].split(b"]" * inner + b"," + b"[" * inner)
    return [b"[" * inner + part + b"]" * inner for part in parts] if inner else parts


def _strings(name: str, array: numpy.ndarray) -> list[bytes] | None:
    if array.ndim > 1 or name.endswith("_bytes"):
        return None
    try:
        return [_string(item) for item in array.tolist()]
    except (TypeError, UnicodeDecodeError):  # a string that is not UTF-8
        return None


@functools.lru_cache(maxsize=4096)
def _string(item: bytes | str) -> bytes:
    return orjson.dumps(text(item))


def encode(outputs: Mapping[str, numpy.ndarray], sizes: Sequence[int], rows: Sequence[bool]) -> list[bytes]:
    """Writes the answers of requests that ran together.

    Args:
        outputs: See `encode_rows`.
        sizes: See `encode_rows`.
        rows: Whether each request was in row format.

    Raises:
        StatusError: JSON cannot hold an output.
    """
    if all(rows) and (answers := encode_rows(outputs, sizes)) is not None:
        return answers
    if len(sizes) == 1:
        return [json_codec.encode(outputs, rows[0])]
    answers, start = [], 0
    for size, in_rows in zip(sizes, rows, strict=True):
        answers.append(json_codec.encode({name: array[start : start + size] for name, array in outputs.items()}, in_rows))
        start += size
    return answers
