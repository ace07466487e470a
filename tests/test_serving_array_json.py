"""Bodies parsed straight into arrays: whatever is taken is taken as the full reader takes it, and answered with its bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from serving_models import RELAXED

from zoo.serving import json_codec, json_parser
from zoo.serving.array_json import Parser, encode
from zoo.serving.status import StatusError
from zoo.serving.tensors import BY_NUMBER, TensorInfo

KINDS = {kind.name: kind for kind in BY_NUMBER.values()}
NUMBERS = ("float", "double", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
PARSER = Parser()


class Model:
    """As much of a loaded version as the parser looks at: two signatures of one input each."""

    def __init__(self, kind: str) -> None:
        self.inputs = {"x": TensorInfo("x:0", KINDS[kind], None)}

    def signature(self, name: str) -> Any:
        return SimpleNamespace(inputs=self.inputs, name=name) if name in ("", "again") else None


def read(body: bytes, kind: str) -> tuple[numpy.ndarray, bool] | None:
    """What the full reader makes of a body, or None where that is an error."""
    try:
        document = json_parser.parse(body)
        if Model(kind).signature(json_codec.signature_name(document)) is None:
            return None
        found, rows = json_codec.decode(document, Model(kind).inputs, body)
    except StatusError:
        return None
    return found["x"], rows


def check(body: bytes, kind: str) -> bool:
    """Whether a body was taken; if so, the full reader must make the same of it."""
    request = PARSER.parse(body, Model(kind))  # type: ignore[arg-type]
    if request is None:
        return False
    expected = read(body, kind)
    assert expected is not None, body
    array, rows = expected
    assert request.rows == rows
    assert (request.array.dtype, request.array.shape) == (array.dtype, array.shape)
    assert request.array.tobytes() == array.tobytes()
    return True


def bodies(value: Any) -> list[Any]:
    """A tensor in every form that a request may have."""
    rows = value if isinstance(value, list) else [value]
    return [
        {"instances": rows},
        {"instances": [{"x": row} for row in rows]},
        {"signature_name": "again", "instances": rows},
        {"instances": rows, "signature_name": ""},
        {"inputs": rows},
        {"inputs": {"x": rows}},
    ]


@given(st.data(), st.sampled_from(NUMBERS), SHAPES)
@settings(RELAXED, max_examples=150)
def test_requests_of_numbers_are_taken(data: st.DataObject, kind: str, shape: tuple[int, ...]) -> None:
    dtype = KINDS[kind].dtype
    assert dtype is not None
    limited = {"min_value": 0, "max_value": 100} if dtype.kind in "iu" else {"min_value": -1000, "max_value": 1000, "width": dtype.itemsize * 8}
    elements = arrays.from_dtype(dtype, **limited) if dtype.kind in "iu" else st.floats(**limited)
    value = data.draw(arrays.arrays(dtype, (data.draw(st.integers(1, 4)), *shape), elements=elements)).tolist()
    for document in bodies(value):
        for written in (json.dumps(document), json.dumps(document, indent=1), json.dumps(document, separators=(",", ":"))):
            named = isinstance(document.get("instances"), list) and isinstance(document["instances"][0], dict)
            taken = check(written.encode(), kind)
            assert taken or (named and not shape), written  # a row that is one number and has a name is rare


ODD = st.sampled_from(
    [
        "true",
        "null",
        '"1"',
        "1",
        "0",
        "-0",
        "-0.0",
        "1.0",
        "2.5",
        "1e3",
        "1e400",
        "NaN",
        "16777216",
        "16777217",
        "9223372036854775808",
        "-9223372036854775809",
    ]
) | st.just('{"b64": "YQ=="}')
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"), max_leaves=9)


@given(VALUES, st.sampled_from(("instances", "inputs")), st.sampled_from(NUMBERS), st.sampled_from(("%s", '{"x": %s}', '[{"x": %s}]', "[%s, %s]")))
@settings(RELAXED, max_examples=400)
def test_odd_values_are_taken_as_they_are_or_left(value: str, key: str, kind: str, form: str) -> None:
    check(f'{{"{key}": {form.replace("%s", value)}}}'.encode(), kind)


@given(st.data(), st.sampled_from(("float", "uint8")))
@settings(RELAXED, max_examples=400)
def test_damaged_bodies_are_left_or_taken_as_they_are(data: st.DataObject, kind: str) -> None:
    body = bytearray(data.draw(st.sampled_from(bodies([[1, 2, 3], [4, 5, 6]])).map(json.dumps)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at, sign = data.draw(st.integers(0, len(body) - 1)), data.draw(st.sampled_from(b'[]{},:" 1.-eE\\x'))
        how = data.draw(st.sampled_from(("replace", "insert", "delete", "swap")))
        if how == "delete":
            del body[at]
        elif how == "insert":
            body.insert(at, sign)
        elif how == "replace":
            body[at] = sign
        else:
            other = data.draw(st.integers(0, len(body) - 1))
            body[at], body[other] = body[other], body[at]
    check(bytes(body), kind)


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [[1, 2], [3]]}',
        '{"instances": [[1, 2], 3]}',
        '{"instances": [1, [2, 3]]}',
        '{"instances": []}',
        '{"instances": [[], []]}',
        '{"inputs": 1}',
        '{"instances": [1], "inputs": [1]}',
        '{"instances": [1], "instances": [2]}',
        '{"instances": [1], "signature_name": "again", "signature_name": ""}',
        '{"instances": [1], "signature_name": "unknown"}',
        '{"instances": [1], "signature_name": "a\\u0067ain"}',
        '{"instances": [1], "more": 1}',
        '{"instances": [{"y": [1]}]}',
        '{"instances": [{"x": [1], "y": [1]}]}',
        '{"instances": [{"x": [1]}, {"x": [1, 2]}]}',
        '{"instances": [{"x": [1]}, [2]]}',
        '{"instances": [1]} and more',
        '\ufeff{"instances": [1]}',
        '{"instances": [16777217]}',
        '{"instances": [NaN]}',
        '{"instances": [true]}',
        "[1]",
        "{}",
        "",
        "{",
    ],
)
def test_what_is_left_to_the_full_reader(body: str) -> None:
    assert PARSER.parse(body.encode(), Model("float")) is None  # type: ignore[arg-type]
    assert check(b'{"instances": [1.0]}', "float"), "the parser is fit for the next body"


OUTPUTS = st.dictionaries(
    st.sampled_from(["a", "b%b", 'c"', "ü"]),
    st.tuples(st.sampled_from(("float32", "float64", "int32", "uint8", "int64", "uint64", "bool", "O")), SHAPES),
    min_size=1,
    max_size=3,
)


@given(st.data(), OUTPUTS, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.booleans())
@settings(RELAXED, max_examples=300)
def test_answers_are_the_full_writers_bytes(data: st.DataObject, outputs: dict[str, Any], sizes: list[int], rows: bool) -> None:
    elements = {"O": st.sampled_from([b"", b"label", 'ü"\\'.encode(), b"\xff", "text"])}
    found = {
        name: data.draw(arrays.arrays(dtype, (sum(sizes), *shape), elements=elements.get(dtype), fill=st.nothing()))
        for name, (dtype, shape) in outputs.items()
    }
    answers = encode(found, sizes, [rows] * len(sizes))
    start = 0
    for size, answer in zip(sizes, answers, strict=True):
        assert answer == json_codec.encode({name: array[start : start + size] for name, array in found.items()}, rows)
        start += size


@pytest.mark.parametrize("values", [["inf", "-inf"], ["nan", "1"], ["inf", "0"]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_is_left_to_the_full_writer(values: list[str], dtype: str) -> None:
    outputs = {"y": numpy.array([values], dtype)}
    assert encode(outputs, [1], [True]) == [json_codec.encode(outputs, True)]


def test_requests_of_both_formats_in_one_batch() -> None:
    outputs = {"y": numpy.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], "float32")}
    assert encode(outputs, [1, 2], [True, False]) == [b'{"predictions":[[1.5,2.0]]}', b'{"outputs":[[3.0,4.0],[5.0,6.0]]}']
