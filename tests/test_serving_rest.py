"""REST: TF Serving's contract as a table of cases, over a real socket."""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import json
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import requests
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import RELAXED, TYPES, Running, contract_server, half_plus, repository, serving
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from zoo.serving.inference import Options
from zoo.serving.metrics import PATH, Metrics
from zoo.serving.repository import ModelSource
from zoo.serving.rest import Limits

JSON = Any
HALF = "half_plus_two:predict"
V1 = "half_plus_two_v1:predict"
REGRESS = "half_plus_two_v1:regress"
CLASSIFY = "half_plus_two_v1:classify"
MULTIPLE = "as multiple input tensors required as per tensorinfo_map"
ROW = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.fixture(scope="module")
def server() -> Running:
    return contract_server()


def post(server: Running, path: str, body: JSON, **kwargs: Any) -> requests.Response:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return requests.post(f"{server.url}/v1/models/{path}", data=data, timeout=30, **kwargs)


def get(server: Running, path: str) -> requests.Response:
    return requests.get(f"{server.url}{path}", timeout=30)


def typed(name: str, value: JSON, form: str = "inputs") -> JSON:
    return {"signature_name": name, form: value}


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        # Rows and columns, named and not.
        (HALF, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [3.5, 4.0, 5.5]}),
        (HALF, {"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [3.5, 4.0]}),
        (HALF, {"instances": [[1.0, 2.0], [3.0, 4.0]]}, {"predictions": [[3.5, 4.0], [4.5, 5.0]]}),
        (HALF, {"inputs": [1.0, 2.0]}, {"outputs": [3.5, 4.0]}),
        (HALF, {"inputs": 1.0}, {"outputs": 3.5}),
        (HALF, {"inputs": {"x": [1, 2], "extra": 3}}, {"outputs": [3.5, 4.0]}),
        (HALF, {"inputs": {"x": [[1], [2]]}}, {"outputs": [[3.5], [4.0]]}),
        (HALF, {"inputs": []}, {"outputs": []}),
        (HALF, {"inputs": [[], []]}, {"outputs": [[], []]}),
        (HALF, {"instances": [[], []]}, {"predictions": [[], []]}),
        (HALF, {"instances": [1.0], "anything": {"else": [1]}}, {"predictions": [3.5]}),
        # Signatures.
        (HALF, {"signature_name": "again", "instances": [1.0]}, {"predictions": [3.5]}),
        (HALF, {"signature_name": "", "instances": [1.0]}, {"predictions": [3.5]}),
        (HALF, {"signature_name": "serving_default", "instances": [1.0]}, {"predictions": [3.5]}),
        # Versions and labels.
        ("half_plus_two/versions/1:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half_plus_two/versions/2:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        ("half_plus_two/versions/0002:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        ("half_plus_two/labels/stable:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half_plus_two/labels/canary:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        ("half_plus_two/labels/%73table:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half_plus_two/VERSIONS/1:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
        ("half%5Fplus%5Ftwo:predict", {"instances": [1.0]}, {"predictions": [3.5]}),
        # The first form, whose input has another rank than the requests: shapes are not held against the signature.
        (V1, {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        (V1, {"instances": [1.0, 2.0]}, {"predictions": [2.5, 3.0]}),
        (V1, {"instances": [[1.0, 2.0], [3.0, 4.0]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ("half_plus_two_v1/versions/123:predict", {"instances": [[1.0]]}, {"predictions": [[2.5]]}),
        (V1, {"signature_name": "odd_method", "instances": [[1.0]]}, {"predictions": [[2.5]]}),
        # What the parser takes beyond the standard.
        (HALF, '{"instances": [1.0]} and more', {"predictions": [3.5]}),
        (HALF, '  \n\t{"instances": [1.0]}', {"predictions": [3.5]}),
        (HALF, '\ufeff{"instances": [1.0]}'.encode(), {"predictions": [3.5]}),
        (HALF, '\ufeff{"instances": [1.0]} more'.encode(), {"predictions": [3.5]}),
        (HALF, '{"instances": [1.0], "instances": [2.0]}', {"predictions": [3.5]}),
        (HALF, '{"signature_name": "again", "signature_name": 3, "instances": [1.0]}', {"predictions": [3.5]}),
        (HALF, '{"inputs": {"x": [1.0], "x": [2.0]}}', {"outputs": [3.5]}),
        (HALF, '{"instances": [{"x": 1.0, "x": 2.0}]}', {"predictions": [3.5]}),
        (HALF, '{"\\u0069nstances": [1e0]}', {"predictions": [3.5]}),
        (HALF, '{"instances": [1E0, 10e-1, 0.1e1]}', {"predictions": [3.5, 3.5, 3.5]}),
        # Several inputs and outputs.
        (
            "several:predict",
            {"instances": [{"text": "one", "number": 1, "flag": True}, {"text": {"b64": "dHdv"}, "number": 4, "flag": False}]},
            {
                "predictions": [
                    {"flag": True, "number": 2, "ratio": 1.0, "raw_bytes": {"b64": "b25l"}, "text": "one"},
                    {"flag": False, "number": 5, "ratio": 0.25, "raw_bytes": {"b64": "dHdv"}, "text": "two"},
                ]
            },
        ),
        (
            "several:predict",
            {"inputs": {"text": ["ä"], "number": [2], "flag": [True]}},
            {"outputs": {"flag": [True], "number": [3], "ratio": [0.5], "raw_bytes": [{"b64": "w6Q="}], "text": ["ä"]}},
        ),
        (
            "several:predict",
            {"inputs": {"text": {"b64": "YQ"}, "number": 1, "flag": False}},
            {"outputs": {"flag": False, "number": 2, "ratio": 1.0, "raw_bytes": {"b64": "YQ=="}, "text": "a"}},
        ),
        ("several:predict", {"signature_name": "total", "inputs": [[1, 300]]}, {"outputs": {"total": 45.0, "y": [[1, 44]]}}),
        ("several:predict", {"signature_name": "uneven", "inputs": [1.0]}, {"outputs": {"a": [1.0], "b": [1.0, 1.0]}}),
        # Types, in and out.
        ("types:predict", typed("float32", [1, 2.5, -0.0, 1e10]), {"outputs": [1.0, 2.5, 0.0, 1e10]}),
        ("types:predict", typed("float32", 16777216.0), {"outputs": 16777216.0}),
        ("types:predict", typed("float32", 16777215), {"outputs": 16777215.0}),
        ("types:predict", typed("float64", [0.1, 9007199254740991]), {"outputs": [0.1, 9007199254740991.0]}),
        ("types:predict", typed("int32", [-(2**31), 2**31 - 1]), {"outputs": [-(2**31), 2**31 - 1]}),
        ("types:predict", typed("int16", [32768, -32769]), {"outputs": [-32768, 32767]}),
        ("types:predict", typed("int8", [128, 200]), {"outputs": [-128, -56]}),
        ("types:predict", typed("uint8", [300, -1, 255]), {"outputs": [44, 255, 255]}),
        ("types:predict", typed("uint8", [300], "instances"), {"predictions": [44]}),
        ("types:predict", typed("int64", [2**63 - 1, -(2**63)]), {"outputs": [2**63 - 1, -(2**63)]}),
        ("types:predict", typed("uint32", 2**32 - 1), {"outputs": 2**32 - 1}),
        ("types:predict", typed("uint64", [2**64 - 1, 0]), {"outputs": [2**64 - 1, 0]}),
        ("types:predict", typed("bool", [True, False]), {"outputs": [True, False]}),
        ("types:predict", typed("string", ["a", "", 'ü\n"\\', {"b64": "YQ=="}]), {"outputs": ["a", "", 'ü\n"\\', "a"]}),
        ("types:predict", typed("string", [["a"], ["b"]], "instances"), {"predictions": [["a"], ["b"]]}),
        ("types:predict", typed("string", {"b64": "Y Q\n=="}), {"outputs": "a"}),
        ("types:predict", typed("string", {"b64": ""}), {"outputs": ""}),
        ("types:predict", '{"signature_name": "string", "inputs": "\\ud83d\\ude00 \\u00e4"}', {"outputs": "😀 ä"}),
        # A default in the signature: JSON's columns still ask for every input.
        ("defaults:predict", {"inputs": {"x": [1.0], "factor": 2.0}}, {"outputs": [2.0]}),
    ],
)
def test_predict_answers(server: Running, path: str, body: JSON, answer: JSON) -> None:
    response = post(server, path, body)
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        # Which model, which version, and that the JSON is parsed before.
        ("nobody:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
        ("nobody:predict", "not json", 400, "JSON Parse error: Invalid value. at offset: 0"),
        ("nobody:predict", "", 400, "JSON Parse error: The document is empty"),
        (
            "nobody:predict",
            {"signature_name": 3},
            400,
            "JSON Value: {\n    \"signature_name\": 3\n} not formatted correctly. 'signature_name' key must be a string value.",
        ),
        ("nobody:predict", {}, 404, "Servable not found for request: Latest(nobody)"),
        ("half_plus_two/versions/9:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("half_plus_two/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("nobody/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("half_plus_two/labels/next:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half_plus_two, 7)"),
        ("broken:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(broken)"),
        ("half_plus_two/versions/18446744073709551615:predict", {}, 400, "Failed to convert version: 18446744073709551615 to numeric."),
        ("half_plus_two/versions/9223372036854775808:predict", {}, 400, "Failed to convert version: 9223372036854775808 to numeric."),
        # Signatures.
        (HALF, {"signature_name": "x", "instances": [1.0]}, 400, 'Serving signature name: "x" not found in signature def'),
        (HALF, {"signature_name": "x"}, 400, 'Serving signature name: "x" not found in signature def'),
        ("types:predict", {"instances": [1.0]}, 400, 'Serving signature name: "serving_default" not found in signature def'),
        # The document.
        (HALF, "", 400, "JSON Parse error: The document is empty"),
        (HALF, "  ", 400, "JSON Parse error: The document is empty. at offset: 2"),
        (HALF, "[1, 2]", 400, "JSON Value: [\n    1,\n    2\n] Is not object"),
        (HALF, "1", 400, "JSON Value: 1 Is not object"),
        (HALF, "null", 400, "JSON Value: null Is not object"),
        (HALF, "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        (HALF, '{"instances" [1]}', 400, "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
        (HALF, '{"instances": [1}', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 16"),
        (HALF, '{"instances": [1] "a"', 400, "JSON Parse error: Missing a comma or } after an object member. at offset: 18"),
        (HALF, '{"instances": [nan]}', 400, "JSON Parse error: Invalid value. at offset: 15"),
        (HALF, '{"instances": [1.]}', 400, "JSON Parse error: Miss fraction part in number. at offset: 17"),
        (HALF, '{"instances": [1e]}', 400, "JSON Parse error: Miss exponent in number. at offset: 17"),
        (HALF, '{"instances": [1e999]}', 400, "JSON Parse error: Number too big to be stored in double. at offset: 15"),
        (HALF, '{"instances": ["a', 400, "JSON Parse error: Missing a closing quotation mark in string. at offset: 15"),
        (HALF, '{"instances": ["\\x"]}', 400, "JSON Parse error: Invalid escape character in string. at offset: 16"),
        (HALF, '{"instances": ["\\u12"]}', 400, "JSON Parse error: Incorrect hex digit after \\u escape in string. at offset: 16"),
        (HALF, '{"instances": ["\\ud800"]}', 400, "JSON Parse error: The surrogate pair in string is invalid. at offset: 16"),
        (HALF, "{'instances': [1]}", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        (HALF, '{"instances": [1,]}', 400, "JSON Parse error: Invalid value. at offset: 17"),
        (HALF, "instances = [1, 2]", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (HALF, "[" * 100_000, 400, "JSON Parse error: The document is nested deeper than 200 levels. at offset: 201"),
        (HALF, '{"instances": ' + "[" * 150 + "1" + "]" * 150 + "}", 400, "JSON Value: lists are nested deeper than 64 levels"),
        # Rows and columns.
        (HALF, {}, 400, "Missing 'inputs' or 'instances' key"),
        (
            HALF,
            {"inputs": [1], "instances": [1]},
            400,
            "    ]\n} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (HALF, {"instances": []}, 400, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (HALF, {"instances": 1.0}, 400, "JSON Value: {\n    \"instances\": 1.0\n} Excepting 'instances' to be an list/array"),
        (HALF, {"instances": {"x": 1.0}}, 400, "Excepting 'instances' to be an list/array"),
        (
            HALF,
            {"instances": [{"z": 1.0}]},
            400,
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        (HALF, {"instances": [{"x": 1.0, "z": 2.0}]}, 400, "Failed to process element: 0 key: z of 'instances' list."),
        (HALF, {"instances": [{}]}, 400, "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"),
        (HALF, {"instances": [{"x": 1.0}, 2.0]}, 400, "Expecting object but got list at item 1 of input list"),
        (HALF, {"instances": [2.0, {"x": 1.0}]}, 400, "Expecting value/list but got object at item 1 of input list"),
        (HALF, {"instances": ["one"]}, 400, ROW.format(0) + 'JSON Value: "one" Type: String is not of expected type: float'),
        (HALF, {"instances": [1.0, None]}, 400, ROW.format(1) + "JSON Value: null Type: Null is not of expected type: float"),
        (HALF, {"instances": [True]}, 400, ROW.format(0) + "JSON Value: true Type: True is not of expected type: float"),
        (HALF, {"instances": [1.0, False]}, 400, ROW.format(1) + "JSON Value: false Type: False is not of expected type: float"),
        (HALF, {"instances": [[1.0], [2.0, 3.0]]}, 400, ROW.format(1) + "Expecting tensor size: 1 but got: 2"),
        (HALF, {"instances": [[1.0], 2.0]}, 400, ROW.format(1) + "Expecting shape [1] but got: []"),
        (HALF, {"instances": [[[1.0]], [2.0]]}, 400, ROW.format(1) + "Expecting shape [1,1] but got: [1]"),
        (HALF, {"instances": [[1.0, [2.0]]]}, 400, ROW.format(0) + "Encountered list at unexpected level: 1 expected < 1"),
        (HALF, {"instances": [{"b64": "YQ=="}]}, 400, "Type: Object is not of expected type: float"),
        (HALF, {"inputs": {"z": 1.0}}, 400, "Missing named input: x in 'inputs' object."),
        (HALF, {"inputs": {}}, 400, "Missing named input: x in 'inputs' object."),
        (HALF, {"inputs": [[1.0], [2.0, 3.0]]}, 400, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (HALF, {"inputs": [[1.0], 2.0]}, 400, "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (HALF, {"inputs": None}, 400, "JSON Value: null Type: Null is not of expected type: float"),
        (HALF, {"inputs": "x"}, 400, 'JSON Value: "x" Type: String is not of expected type: float'),
        (HALF, {"instances": [16777216]}, 400, ROW.format(0) + "Cannot convert JSON value: 16777216 to float without loss of precision."),
        (HALF, {"inputs": [-16777216]}, 400, "Cannot convert JSON value: -16777216 to float without loss of precision."),
        (HALF, {"inputs": [1e39]}, 400, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        # Several inputs.
        (
            "several:predict",
            {"inputs": [1]},
            400,
            f"inputs is a plain value/list, but expecting an object {MULTIPLE}",
        ),
        (
            "several:predict",
            {"instances": [1]},
            400,
            f"instances is a plain list, but expecting list of objects {MULTIPLE}",
        ),
        ("several:predict", {"inputs": {"text": ["a"], "number": [1]}}, 400, "Missing named input: flag in 'inputs' object."),
        ("several:predict", {"instances": [{"text": "a", "number": 1}]}, 400, "keys must be equal to: flag,number,text"),
        (
            "several:predict",
            {"inputs": {"text": ["a"], "number": [1.0], "flag": [True]}},
            400,
            "JSON Value: 1.0 Type: Number is not of expected type: int64",
        ),
        ("several:predict", {"inputs": {"text": ["a"], "number": [1], "flag": [1]}}, 400, "JSON Value: 1 Type: Number is not of expected type: bool"),
        (
            "several:predict",
            {"inputs": {"text": [1], "number": [1], "flag": [True]}},
            400,
            "JSON Value: 1 Type: Number is not of expected type: string",
        ),
        ("several:predict", {"inputs": {"text": [{"b64": "???"}], "number": [1], "flag": [True]}}, 400, "Unable to base64 decode"),
        ("several:predict", {"inputs": {"text": [{"b64": "Y"}], "number": [1], "flag": [True]}}, 400, "Unable to base64 decode"),
        (
            "several:predict",
            {"inputs": {"text": [{"b65": "YQ=="}], "number": [1], "flag": [True]}},
            400,
            'JSON Value: {\n    "b65": "YQ=="\n} not formatted correctly for base64 data',
        ),
        ("several:predict", {"inputs": {"text": [{"b64": 1}], "number": [1], "flag": [True]}}, 400, "not formatted correctly for base64 data"),
        (
            "several:predict",
            {"instances": [{"text": "a", "number": 1, "flag": True}, {"text": "a", "number": 1.5, "flag": 3}]},
            400,
            "Failed to process element: 1 key: number of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.5 Type: Number is not of",
        ),
        # What rows cannot hold.
        ("several:predict", {"signature_name": "total", "instances": [[1]]}, 400, "Tensor name: total has no shape information "),
        ("several:predict", {"signature_name": "uneven", "instances": [1.0]}, 400, "Tensor name: b has inconsistent batch size: 2 expecting: 1"),
        # Types that JSON cannot carry.
        ("types:predict", typed("float16", 1.0), 501, "Conversion of JSON Value: 1.0 to type: half"),
        ("types:predict", typed("bfloat16", [1.0]), 501, "Conversion of JSON Value: 1.0 to type: bfloat16"),
        ("types:predict", typed("uint16", [1]), 501, "Conversion of JSON Value: 1 to type: uint16"),
        (
            "types:predict",
            typed("float16", [1.0], "instances"),
            400,
            "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1.0 to type: half",
        ),
        ("types:predict", typed("float16", []), 400, "Failed to write JSON value for tensor type: half"),
        # Integers.
        *[
            ("types:predict", typed(name, [value]), 400, f"JSON Value: {value} Type: Number is not of expected type: {name}")
            for name, value in [
                ("int32", 2**31),
                ("int32", 1.0),
                ("int16", -(2**31) - 1),
                ("int8", 2**40),
                ("uint8", 0.5),
                ("int64", 2**63),
                ("int64", 1.5),
                ("uint32", -1),
                ("uint32", 2**32),
                ("uint64", -1),
                ("uint64", 1.0),
                ("bool", 0),
                ("bool", 1),
                ("string", 1),
                ("string", 1.5),
            ]
        ],
        *[
            ("types:predict", typed(name, [value]), 400, f"JSON Value: {json.dumps(value)} Type: {kind} is not of expected type: {shown}")
            for name, shown in [("float32", "float"), ("float64", "double"), ("int32", "int32"), ("int64", "int64"), ("bool", "bool")]
            for value, kind in [("1", "String"), (None, "Null")]
        ],
        *[
            ("types:predict", typed(name, [True]), 400, f"JSON Value: true Type: True is not of expected type: {shown}")
            for name, shown in [("float32", "float"), ("float64", "double"), ("int32", "int32"), ("uint8", "uint8"), ("string", "string")]
        ],
        # Operations that fail.
        (
            "several:predict",
            {"signature_name": "product", "inputs": {"x": [[1, 2]], "y": [[1], [1], [1]]}},
            400,
            "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,1]",
        ),
        ("several:predict", {"signature_name": "numbers", "instances": ["one"]}, 400, "StringToNumberOp could not correctly convert string: one"),
    ],
)
def test_predict_errors(server: Running, path: str, body: JSON, status: int, message: str) -> None:
    response = post(server, path, body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": [2.0]}]}, [2.5, 3.0]),
        (REGRESS, {"signature_name": "regress_x_to_y2", "examples": [{"x": 1.0}]}, [3.5]),
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{}]}, [2.0]),
        (REGRESS, {"signature_name": "regress_x_to_y", "context": {"x": 4.0}, "examples": [{}, {"x": 2.0}]}, [4.0, 3.0]),
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0, "other": [1, 2], "more": "text", "bytes": {"b64": "YQ=="}}]}, [2.5]),
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0, "other": []}]}, [2.5]),
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0, "other": True}]}, [2.5]),
        (REGRESS, {"signature_name": "regress_x_to_y", "examples": [{"x": 0.2}]}, [2.1]),
        (REGRESS, '{"signature_name": "regress_x_to_y", "examples": [{"x": Infinity}, {"x": -Inf}]}', [math.inf, -math.inf]),
        ("half_plus_two_v1/versions/123:regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]}, [2.5]),
        ("half_plus_two:regress", {"signature_name": "regress", "examples": [{"x": 1.0}]}, [3.5]),
        ("half_plus_two/labels/stable:regress", {"signature_name": "regress", "examples": [{"x": 1.0}]}, [2.5]),
        (CLASSIFY, {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]}, [[["", 2.5]], [["", 3.0]]]),
        ("half_plus_two:classify", {"signature_name": "classify", "examples": [{"x": 1.0}]}, [[["less", 3.5], ["more", 4.5]]]),
        ("half_plus_two:classify", {"signature_name": "classify", "examples": [{"x": 0.2}]}, [[["less", 3.1], ["more", 4.1]]]),
        ("half_plus_two:classify", {"signature_name": "labels", "examples": [{"x": 1.0}]}, [[["1.0", 0.0]]]),
        ("half_plus_two/versions/1:classify", {"signature_name": "classify", "examples": [{"x": 1.0}]}, [[["less", 2.5], ["more", 3.5]]]),
    ],
)
def test_classify_and_regress_answers(server: Running, path: str, body: JSON, answer: JSON) -> None:
    response = post(server, path, body)
    assert (response.status_code, response.json()) == (200, {"results": answer})


EXAMPLES = {"examples": [{"x": 1.0}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("nobody:classify", EXAMPLES, 404, "Servable not found for request: Latest(nobody)"),
        ("nobody:regress", EXAMPLES, 404, "Servable not found for request: Latest(nobody)"),
        ("nobody:regress", {}, 400, "When method is classify, key 'examples' is expected and was not found"),
        (REGRESS, "", 400, "JSON Parse error: The document is empty"),
        (REGRESS, "x", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (REGRESS, {"examples": 1}, 400, "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array"),
        (REGRESS, {"examples": []}, 400, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        (REGRESS, {"examples": [1]}, 400, "Example must be JSON object but got JSON Number"),
        (REGRESS, {"examples": [[]]}, 400, "Example must be JSON object but got JSON Array"),
        (REGRESS, {"examples": [None]}, 400, "Example must be JSON object but got JSON Null"),
        (REGRESS, {"context": 1, "examples": [{}]}, 400, "Example must be JSON object but got JSON Number"),
        (REGRESS, {"signature_name": 1, "examples": [{}]}, 400, "'signature_name' key must be a string value."),
        (REGRESS, {"examples": [{"x": [1.0, 1]}]}, 400, "Unexpected element type in feature: x expecting type: float"),
        (REGRESS, {"examples": [{"x": [1, 1.0]}]}, 400, "Unexpected element type in feature: x expecting type: int64"),
        (REGRESS, {"examples": [{"x": ["a", 1.0]}]}, 400, "Unexpected element type in feature: x expecting type: bytes"),
        (REGRESS, {"examples": [{"x": [True, 1.0]}]}, 400, "Unexpected element type in feature: x expecting type: int64"),
        (REGRESS, {"examples": [{"x": [[1.0]]}]}, 400, "Feature: x has element with unexpected JSON type: Array"),
        (REGRESS, {"examples": [{"x": None}]}, 400, "Feature: x has element with unexpected JSON type: Null"),
        (REGRESS, {"examples": [{"x": {"y": 1}}]}, 400, "Feature: x has element with unexpected JSON type: Object"),
        (REGRESS, {"examples": [{"x": {"b64": "!"}}]}, 400, "Unable to base64 decode"),
        (REGRESS, {"examples": [{"x": 2**63}]}, 400, "Feature: x has uint64 element. Only int64 is supported."),
        (REGRESS, {"examples": [{"x": 1e39}]}, 400, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (
            REGRESS,
            {"signature_name": "regress_x_to_y", "examples": [{"x": 1}]},
            400,
            "Data types don't match. Data type: int64 but expected type: float",
        ),
        (REGRESS, {"signature_name": "x", **EXAMPLES}, 400, "No signature was found with the name: x"),
        (CLASSIFY, {"signature_name": "x", **EXAMPLES}, 400, "No signature was found with the name: x"),
        ("types:classify", EXAMPLES, 400, "No signature was found with the name: serving_default"),
        (REGRESS, EXAMPLES, 400, "No regression inputs found in SignatureDef: "),
        (CLASSIFY, EXAMPLES, 400, "No classification inputs found in SignatureDef: "),
        (
            CLASSIFY,
            {"signature_name": "regress_x_to_y", **EXAMPLES},
            400,
            'outputs to contain at least one of "classes" or "scores". Signature was: ',
        ),
        (REGRESS, {"signature_name": "classify_x_to_y", **EXAMPLES}, 400, "No regression outputs found in SignatureDef: "),
        ("half_plus_two:regress", {"signature_name": "classify", **EXAMPLES}, 400, "Expected one output Tensor."),
        ("several:classify", EXAMPLES, 400, "Expected one input Tensor."),
        ("several:regress", EXAMPLES, 400, "Expected one input Tensor."),
        ("half_plus_two:classify", {"signature_name": "flat", **EXAMPLES}, 400, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (
            "half_plus_two:regress",
            {"signature_name": "wide", **EXAMPLES},
            400,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
        ),
        ("half_plus_two:regress", {"signature_name": "integers", **EXAMPLES}, 400, "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
        ("half_plus_two/labels/x:regress", EXAMPLES, 400, "Unrecognized servable version label: x"),
        ("half_plus_two/versions/9:classify", EXAMPLES, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
    ],
)
def test_classify_and_regress_errors(server: Running, path: str, body: JSON, status: int, message: str) -> None:
    response = post(server, path, body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v1/foo",
        "/v1/models/",
        "/v1/models/a/b",
        "/v1/models/a/versions/b:predict",
        "/v1/models/a/version/5:predict",
        "/v1/models/a/label/b:predict",
        "/v1/models/a/versions/5/labels/b:predict",
        "/v1/models/a:explain",
        "/v1/models/a:PREDICT",
        "/v1/models/a:predict/",
        "/v1/models/half_plus_two:predict?a=b",
        "/v1/models/half_plus_two/metadata?a=b",
        "/v1/models/half_plus_two/versions/1?a=b",
        "/v1/models?a=b",
        "/v1/models/a/metadata/b",
    ],
)
def test_malformed_requests(server: Running, method: str, path: str) -> None:
    response = requests.request(method, server.url + path, data=b"{}", timeout=30)
    assert (response.status_code, response.json()) == (400, {"error": f"Malformed request: {method} {path}"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/half_plus_two:predict"),
        ("POST", "/v1/models/half_plus_two"),
        ("POST", "/v1/models/half_plus_two/metadata"),
        ("POST", "/v1/models"),
        ("PUT", "/v1/models/half_plus_two:predict"),
        ("DELETE", "/v1/models/half_plus_two"),
    ],
)
def test_the_wrong_method(server: Running, method: str, path: str) -> None:
    response = requests.request(method, server.url + path, data=b"{}", timeout=30)
    assert (response.status_code, response.json()) == (400, {"error": f"Malformed request: {method} {path}"})


@pytest.mark.parametrize("path", ["/", "/other", "/v1", "/v2/models", "/models/half_plus_two:predict", PATH])
def test_other_paths(server: Running, path: str) -> None:
    assert get(server, path).status_code == 404
    assert requests.post(server.url + path, data=b"{}", timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/metadata", 404, "Could not find any versions of model metadata"),
        ("/v1/models/versions/1", 400, "Missing model name in request."),
        ("/v1/models/nobody", 404, "Could not find any versions of model nobody"),
        ("/v1/models/nobody/versions/1", 404, "Could not find version 1 of model nobody"),
        ("/v1/models/half_plus_two?a=b", 404, "Could not find any versions of model half_plus_two?a=b"),
        ("/v1/models/half%20plus", 404, "Could not find any versions of model half plus"),
        ("/v1/models/half_plus_two/versions/9", 404, "Could not find version 9 of model half_plus_two"),
        ("/v1/models/half_plus_two/versions/99999999999999999999", 400, "Failed to convert version: 99999999999999999999 to numeric."),
        ("/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
        ("/v1/models/broken/metadata", 404, "Servable not found for request: Latest(broken)"),
        ("/v1/models/half_plus_two/versions/9/metadata", 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("/v1/models/half_plus_two/labels/x/metadata", 400, "Unrecognized servable version label: x"),
    ],
)
def test_status_and_metadata_errors(server: Running, path: str, status: int, message: str) -> None:
    response = get(server, path)
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_status(server: Running) -> None:
    ok = {"error_code": "OK", "error_message": ""}
    every = get(server, "/v1/models/half_plus_two").json()
    assert every == {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": ok} for version in ("2", "1")]}
    one = get(server, "/V1/MODELS/half_plus_two/versions/1").json()
    assert [entry["version"] for entry in one["model_version_status"]] == ["1"]
    assert get(server, "/v1/models/half_plus_two/labels/whatever").json() == every
    assert get(server, "/v1/models/half_plus_two/METADATA").json() == every, "the path ignores case, the word does not"
    broken = get(server, "/v1/models/broken")
    assert broken.status_code == 200
    (entry,) = broken.json()["model_version_status"]
    assert (entry["version"], entry["state"], entry["status"]["error_code"]) == ("1", "END", "NOT_FOUND")
    assert "broken/1 cannot be loaded" in entry["status"]["error_message"]


@pytest.mark.parametrize(("path", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")])
def test_metadata(server: Running, path: str, version: str) -> None:
    metadata = get(server, f"/v1/models/half_plus_two{path}/metadata").json()
    assert metadata["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": version}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "classify", "regress"}
    signature = signatures["serving_default"]
    assert signature["inputs"] == {
        "x": {"name": "serving_default_x:0", "dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
    }
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_numbers_that_are_not_finite_pass_both_ways(server: Running) -> None:
    response = post(server, HALF, '{"instances": [NaN, Infinity, -Infinity, Inf, -Inf, 1, 0.2]}')
    assert response.text.replace(" ", "") == '{"predictions":[NaN,Infinity,-Infinity,Infinity,-Infinity,3.5,3.1]}'
    assert math.isnan(response.json()["predictions"][0])


def test_whole_floats_keep_their_point_and_short_ones_stay_short(server: Running) -> None:
    assert post(server, HALF, {"instances": [-2.0, 0.2]}).text.replace(" ", "") == '{"predictions":[2.0,3.1]}'


def test_bytes_that_are_no_text_go_out_as_they_came(server: Running) -> None:
    body = {"signature_name": "string", "inputs": {"b64": base64.b64encode(b"\xff\xfe").decode()}}
    assert b'"\xff\xfe"' in post(server, "types:predict", body).content
    raw = b'{"signature_name": "string", "inputs": "\xff"}'
    assert b'"\xff"' in post(server, "types:predict", raw).content


def test_gzip_bodies(server: Running) -> None:
    packed, header = gzip.compress(b'{"instances": [1.0]}'), {"Content-Encoding": "gzip"}
    assert post(server, HALF, packed, headers=header).json() == {"predictions": [3.5]}
    assert post(server, HALF, packed, headers={"Content-Encoding": "x-gzip"}).json() == {"predictions": [3.5]}
    for damaged in (b"no gzip", b"", packed[:-12], packed[:10]):
        assert post(server, HALF, damaged, headers=header).json() == {"error": "JSON Parse error: The document is empty"}
    assert post(server, HALF, packed).status_code == 400, "without the header it is no gzip"
    bomb = gzip.compress(b'{"instances": [' + b" " * 1_000_000 + b"1]}")
    assert post(server, HALF, bomb, headers=header).status_code == 413


def test_the_content_type_does_not_matter(server: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        assert post(server, HALF, {"instances": [1.0]}, headers={"Content-Type": kind}).json() == {"predictions": [3.5]}


def test_a_body_that_is_too_large(server: Running) -> None:
    response = post(server, HALF, {"instances": [1.0] * 100_000})
    assert (response.status_code, response.json()) == (413, {"error": "The request's body is larger than 300000 bytes"})
    assert post(server, HALF, {"instances": [1.0]}).status_code == 200


def test_chunks_and_connections_that_end_early(server: Running) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"instances": '
        yield b"[1.0]}"

    assert requests.post(f"{server.url}/v1/models/{HALF}", data=chunks(), timeout=30).json() == {"predictions": [3.5]}
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (b"POST /v1/models/" + HALF.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"nonsense\r\n\r\n", b"GET"):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(sent)
    assert post(server, HALF, {"instances": [1.0]}).status_code == 200


def test_documents_that_are_deep_or_large(server: Running) -> None:
    deep = '{"instances": 1, "more": ' + "[" * 900 + "]" * 900 + "}"
    assert post(server, HALF, deep).status_code == 400
    response = post(server, HALF, {"instances": 1, "more": [1] * 50_000})
    assert response.status_code == 400
    assert len(response.json()["error"]) < 21_000, "a message does not repeat all of a large document"
    assert post(server, HALF, '{"instances": [' + "9" * 5000 + "]}").json() == {
        "error": "JSON Parse error: Number too big to be stored in double. at offset: 15"
    }


def test_head(server: Running) -> None:
    response = requests.head(f"{server.url}/v1/models/half_plus_two", timeout=30)
    assert (response.status_code, response.content) == (400, b"")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3) | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "text", "number", "flag", "b64"]), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=st.sampled_from(
        ["half_plus_two", "several", "types", "half_plus_two_v1", "defaults", "half_plus_two/labels/stable", "half_plus_two/versions/1"]
    ),
    method=st.sampled_from(["predict", "classify", "regress"]),
    signature=st.sampled_from(["serving_default", "classify", "regress", "uneven", "numbers", *TYPES]),
    document=st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "context"]), VALUES, max_size=2),
)
@settings(RELAXED, max_examples=150)
def test_no_document_is_a_server_error(server: Running, path: str, method: str, signature: str, document: dict[str, Any]) -> None:
    response = post(server, f"{path}:{method}", {"signature_name": signature, **document})
    assert response.status_code in (200, 400, 501), response.text
    assert isinstance(json.loads(response.content.decode("utf-8", "surrogateescape")), dict)


def test_requests_in_parallel(server: Running) -> None:
    def ask(number: int) -> Any:
        return post(server, HALF, {"instances": [float(number)] * 50}).json()["predictions"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [[number / 2 + 3.0] * 50 for number in range(64)]


def test_base64_of_binary_data_survives(server: Running) -> None:
    data = base64.b64encode(bytes(range(256))).decode()
    body = {"inputs": {"text": [{"b64": data}], "number": [1], "flag": [True]}}
    assert post(server, "several:predict", body).json()["outputs"]["raw_bytes"] == [{"b64": data}]


def several_source() -> ModelSource:
    return ModelSource("several", repository() / "several")


def slow(steps: int) -> JSON:
    return {"signature_name": "slow", "instances": [steps]}


def recovers(server: Running) -> bool:
    """Whether a short request is answered, now or as soon as a thread is free."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if post(server, "several:predict", slow(0)).status_code == 200:
            return True
    return False


def test_a_request_that_takes_too_long() -> None:
    with serving([several_source()], limits=Limits(timeout_seconds=0.5, threads=2)) as server:
        response = post(server, "several:predict", slow(150))
        assert (response.status_code, response.json()) == (504, {"error": "Timed out waiting for notification"})
        assert recovers(server)


def test_too_many_requests_at_a_time() -> None:
    with (
        serving([several_source()], limits=Limits(timeout_seconds=1.5, threads=1, waiting=2)) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: post(server, "several:predict", slow(300)), range(6)))
        assert sorted(answer.status_code for answer in answers) == [429, 429, 503, 503, 503, 504]
        assert {answer.json()["error"] for answer in answers} == {
            "The request queue is full: 2 requests are waiting.",
            "The request waited longer than 1500 ms for its turn.",
            "Timed out waiting for notification",
        }
        assert recovers(server)


def test_methods_of_signatures_are_checked_on_demand() -> None:
    was = "Was: tensorflow/serving/predict"
    sources = [ModelSource(name, repository() / name) for name in ("half_plus_two_v1", "half_plus_two")]
    with serving(sources, options=Options(check_methods=True)) as server:
        for path, body, message in [
            (
                "half_plus_two:classify",
                {"signature_name": "classify", **EXAMPLES},
                f"Expected classification signature method_name to be tensorflow/serving/classify. {was}",
            ),
            (
                "half_plus_two:regress",
                {"signature_name": "regress", **EXAMPLES},
                f"Expected regression signature method_name to be tensorflow/serving/regress. {was}",
            ),
        ]:
            response = post(server, path, body)
            assert (response.status_code, response.json()["error"]) == (400, message)
        odd = post(server, V1, {"signature_name": "odd_method", "instances": [[1.0]]})
        assert odd.status_code == 500, "the contract's own answer: INTERNAL"
        assert odd.json()["error"].startswith("Expected prediction signature method_name to be one of {tensorflow/serving/predict, ")
        assert post(server, REGRESS, {"signature_name": "regress_x_to_y", **EXAMPLES}).json() == {"results": [2.5]}


def test_cors_on_demand(server: Running) -> None:
    assert "access-control-allow-origin" not in get(server, "/v1/models/half_plus_two").headers
    with serving([several_source()], cors=True) as open_server:
        url = f"{open_server.url}/v1/models/several:predict"
        preflight = requests.options(url, headers={"Origin": "http://example.com"}, timeout=30)
        assert (preflight.status_code, preflight.content) == (200, b"")
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert preflight.headers["access-control-allow-methods"] == "POST, GET"
        assert preflight.headers["access-control-allow-headers"] == "Content-Type"
        assert requests.options(url, timeout=30).json() == {"error": "Origin header is missing in CORS preflight"}
        assert post(open_server, "several:predict", slow(0)).headers["access-control-allow-origin"] == "*"


def test_metrics_on_demand() -> None:
    metrics = Metrics()
    with serving([several_source()], metrics=metrics, metrics_path=PATH) as server:
        post(server, "several:predict", slow(0))
        post(server, "several:predict", {"instances": [1]})
        post(server, "nobody:regress", EXAMPLES)
        page = get(server, PATH)
        assert page.headers["content-type"].startswith("text/plain")
        lines = page.text.splitlines()
    assert ':tensorflow:serving:request_count{model_name="several",status="OK"} 1' in lines
    assert ':tensorflow:serving:request_count{model_name="several",status="INVALID_ARGUMENT"} 1' in lines
    assert ':tensorflow:serving:request_count{model_name="nobody",status="NOT_FOUND"} 1' in lines
    assert ':tensorflow:serving:request_latency_count{model_name="several",API="Predict",entrypoint="REST"} 1' in lines
    assert ':tensorflow:serving:runtime_latency_count{model_name="several",API="Predict",runtime="TF1"} 1' in lines
    assert ':tensorflow:serving:request_latency_bucket{model_name="several",API="Predict",entrypoint="REST",le="+Inf"} 1' in lines
    assert all(re.fullmatch(r"# TYPE \S+ (counter|histogram)|\S+\{\S+\} [0-9.e+]+", line) for line in lines)


def test_a_new_version_under_load(tmp_path: Any) -> None:
    """Versions come and go while clients ask by both protocols: none of them gets anything but an answer."""
    half_plus(tmp_path / "half" / "1", 1)
    later = half_plus(tmp_path / "later" / "2", 2)
    answers: list[Any] = []
    done = threading.Event()
    with serving([ModelSource("half", tmp_path / "half")]) as server:

        def ask_rest() -> None:
            with requests.Session() as session:
                while not done.is_set():
                    response = session.post(f"{server.url}/v1/models/half:predict", data='{"inputs": 2.0}', timeout=30)
                    answers.append(response.json().get("outputs", response.text))

        def ask_grpc() -> None:
            request = PredictRequest(model_spec={"name": "half"})
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(2.0))
            while not done.is_set():
                try:
                    answers.append(server.prediction.Predict(request, timeout=30).outputs["y"].float_val[0])
                except grpc.RpcError as error:
                    answers.append(error.details())

        threads = [threading.Thread(target=ask) for ask in (ask_rest, ask_rest, ask_grpc, ask_grpc)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        later.rename(tmp_path / "half" / "2")
        deadline = time.monotonic() + 30
        while set(server.manager.loaded("half")) != {2} and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        done.set()
        for thread in threads:
            thread.join()
        states = {number: version.state.name for number, version in server.manager.statuses("half").items()}
    assert states == {2: "AVAILABLE", 1: "END"}
    assert set(answers) == {2.0, 3.0}
    assert (answers[0], answers[-1]) == (2.0, 3.0)
