"""The JSON codec's properties: what goes in comes out, and nothing but a status is ever raised."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from serving_models import RELAXED

from zoo.serving import json_codec
from zoo.serving.json_parser import parse
from zoo.serving.status import StatusError
from zoo.serving.tensors import BY_NUMBER, TensorInfo

KINDS = {kind.name: kind for kind in BY_NUMBER.values()}
NUMBERS = [KINDS[name] for name in ("float", "double", "int32", "int16", "int8", "uint8", "int64", "uint32", "uint64", "bool")]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "b64", "z"]), inner, max_size=3),
    max_leaves=12,
)


def info(kind: Any) -> TensorInfo:
    return TensorInfo("x:0", kind, None)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(document: Any, inputs: dict[str, TensorInfo]) -> tuple[dict[str, numpy.ndarray], bool]:
    body = dumped(document)
    return json_codec.decode(parse(body), inputs, body)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the status that it raises; any other error is the test's."""
    try:
        return call()
    except StatusError as error:
        return error


def same(first: numpy.ndarray, second: numpy.ndarray) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and numpy.array_equal(first, second, equal_nan=first.dtype.kind == "f")


@given(st.data(), st.sampled_from(NUMBERS), SHAPES)
@settings(RELAXED, max_examples=200)
def test_numbers_come_back_as_they_went(data: st.DataObject, kind: Any, shape: tuple[int, ...]) -> None:
    array = data.draw(arrays.arrays(kind.dtype, shape))
    if kind.name == "float":  # the shortest text of the largest float is above it, and refused, as by TF Serving
        array[numpy.abs(array) == numpy.finfo("float32").max] = 1
    if 0 in shape:  # JSON knows no dimensions behind an empty list
        shape = shape[: shape.index(0) + 1]
        array = array.reshape(shape)
    content = json.loads(json_codec.encode({"y": array}, rows=False))["outputs"]
    back, rows = read({"inputs": content}, {"x": info(kind)})
    assert not rows
    assert same(back["x"], array)


@given(st.data(), st.sampled_from(NUMBERS), arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
@settings(RELAXED, max_examples=150)
def test_rows_and_columns_say_the_same(data: st.DataObject, kind: Any, shape: tuple[int, ...]) -> None:
    array = data.draw(arrays.arrays(kind.dtype, shape))
    inputs = {"x": info(kind)}
    content = json.loads(json_codec.encode({"y": array}, rows=True))["predictions"]
    for document in ({"instances": content}, {"inputs": content}, {"inputs": {"x": content}}, {"instances": [{"x": row} for row in content]}):
        assert same(read(document, inputs)[0]["x"], array)


@given(st.lists(st.binary(max_size=8), max_size=5), st.booleans())
@settings(RELAXED, max_examples=150)
def test_strings_and_bytes_come_back_as_they_went(items: list[bytes], named_bytes: bool) -> None:
    array = numpy.empty(len(items), dtype=object)
    array[:] = items
    body = json_codec.encode({"y_bytes" if named_bytes else "y": array}, rows=False).replace(b'"outputs"', b'"inputs"', 1)
    back, _ = json_codec.decode(parse(body), {"x": info(KINDS["string"])}, body)
    assert back["x"].tolist() == items


@given(st.floats(width=32) | st.floats())
@settings(RELAXED, max_examples=300)
def test_floats_keep_their_value_and_a_sign_that_they_are_floats(number: float) -> None:
    for dtype in ("float32", "float64"):
        with numpy.errstate(over="ignore"):
            array = numpy.array([number]).astype(dtype)
        text = json_codec.encode({"y": array}, rows=False).decode().replace(" ", "").removeprefix('{"outputs":[').removesuffix("]}")
        if not math.isfinite(array[0]):
            assert text in ("NaN", "Infinity", "-Infinity")
        else:
            assert "." in text or "e" in text
            assert numpy.array(float(text)).astype(dtype) == array[0]


@given(JSON | st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "examples", "context"]), JSON, max_size=3))
@settings(RELAXED, max_examples=200)
def test_a_document_is_answered_or_refused(document: Any) -> None:
    body = dumped(document)
    for kind in (*NUMBERS, KINDS["string"], KINDS["half"]):
        for inputs in ({"x": info(kind)}, {"x": info(kind), "y": info(KINDS["string"])}):
            made = outcome(lambda inputs=inputs: json_codec.decode(parse(body), inputs, body))
            if isinstance(made, StatusError):
                assert made.http in (400, 501)
            else:
                assert set(made[0]) <= set(inputs)
                assert all(array.dtype == inputs[name].type.dtype for name, array in made[0].items())
    for call in (lambda: json_codec.signature_name(parse(body)), lambda: json_codec.decode_examples(parse(body))):
        made = outcome(call)
        assert made.http == 400 if isinstance(made, StatusError) else isinstance(made, str | list)


@given(st.binary(max_size=60) | st.text('{}[]":,.eE+-0123456789\\ \n"nulltruefalsNaIifityb64\ud7ff', max_size=60).map(str.encode))
@settings(RELAXED, max_examples=500)
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    made = outcome(lambda: parse(body))
    if isinstance(made, StatusError):
        assert made.http == 400
        assert made.message.startswith(("JSON Parse error: ", "JSON Value: "))
    else:
        assert isinstance(made, dict)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.binary(max_size=6))
@settings(RELAXED, max_examples=200)
def test_what_pythons_parser_takes_is_read_the_same(document: dict[str, Any], tail: bytes) -> None:
    body = json.dumps(document, ensure_ascii=True).encode()

    def normal(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: normal(item) for key, item in value.items()}
        if isinstance(value, list):
            return [normal(item) for item in value]
        if isinstance(value, float):
            return "nan" if math.isnan(value) else value
        return float(value) if type(value) is int and not -(2**63) <= value < 2**64 else value

    assert normal(parse(b"\xef\xbb\xbf" + body + b" " + tail)) == normal(document)


@given(st.binary(max_size=30), st.booleans(), st.sampled_from(["", " ", "\n", "\t \r"]))
@settings(RELAXED, max_examples=150)
def test_base64_with_and_without_padding(data: bytes, padded: bool, space: str) -> None:
    text = base64.b64encode(data).decode()
    text = text if padded else text.rstrip("=")
    assert json_codec.decode_base64(space.join(text)) == data


@pytest.mark.parametrize("text", ["a", "!!!!", "YQ=", "YQ===", "=", "YQ==YQ==", "Y-_Q", "ü"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(StatusError, match="Unable to base64 decode"):
        json_codec.decode_base64(text)


def test_examples_are_tensorflows_own() -> None:
    import tensorflow as tf

    document = parse(b'{"context": {"c": "x"}, "examples": [{"a": [1, 2], "b": 0.5, "d": {"b64": "/w=="}, "e": [], "f": [true, 3]}]}')
    example = tf.train.Example.FromString(json_codec.decode_examples(document)[0])
    features = {
        name: (kind := feature.WhichOneof("kind")) and (kind, list(getattr(feature, kind).value))
        for name, feature in example.features.feature.items()
    }
    assert features == {
        "a": ("int64_list", [1, 2]),
        "b": ("float_list", [0.5]),
        "c": ("bytes_list", [b"x"]),
        "d": ("bytes_list", [b"\xff"]),
        "e": None,
        "f": ("int64_list", [1, 3]),
    }
