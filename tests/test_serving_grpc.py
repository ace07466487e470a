"""gRPC: TF Serving's contract as a table of cases, asked by the official stubs."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import RELAXED, TYPES, Running, contract_server, half_plus, repository, serving
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from zoo.errors import ServingError
from zoo.serving.grpc_server import start_grpc
from zoo.serving.inference import Options
from zoo.serving.metrics import PATH, Metrics
from zoo.serving.repository import ModelSource
from zoo.serving.service import Service

HALF, V1 = "half_plus_two", "half_plus_two_v1"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
Code = grpc.StatusCode
SIZE = "input size does not match signature"
ALIAS = "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided."


@pytest.fixture(scope="module")
def server() -> Running:
    return contract_server()


def spec(name: str = "", version: int | None = None, label: str | None = None, signature: str = "") -> ModelSpec:
    made = ModelSpec(name=name, signature_name=signature)
    if version is not None:
        made.version.value = version
    if label is not None:
        made.version_label = label
    return made


def predict_request(model_spec: ModelSpec | None, inputs: Mapping[str, Any], outputs: Sequence[str] = ()) -> PredictRequest:
    request = PredictRequest(model_spec=model_spec, output_filter=outputs)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(value if isinstance(value, tf.make_tensor_proto(0).__class__) else tf.make_tensor_proto(value))
    return request


def floats(*values: float) -> numpy.ndarray:
    return numpy.array(values, "float32")


def examples(*features: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Input:
    made = [example(feature) for feature in features]
    if context is None:
        return Input(example_list={"examples": made})
    return Input(example_list_with_context={"examples": made, "context": example(context)})


def example(features: Mapping[str, Any]) -> tf.train.Example:
    made = tf.train.Example()
    for name, value in features.items():
        kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(value)]
        getattr(made.features.feature[name], kind).value.append(value)
    return made


def fails(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        call(request, timeout=30)
    return failure.value.code(), failure.value.details()


@pytest.mark.parametrize(
    ("model_spec", "inputs", "outputs", "answer", "version"),
    [
        (spec(HALF), {"x": floats(1, 2)}, (), {"y": [3.5, 4.0]}, 2),
        (spec(HALF), {"x": floats(1)}, ("y",), {"y": [3.5]}, 2),
        (spec(HALF), {"x": numpy.float32(1)}, (), {"y": 3.5}, 2),
        (spec(HALF), {"x": floats(1, 2).reshape(2, 1)}, (), {"y": [[3.5], [4.0]]}, 2),
        (spec(HALF), {"x": numpy.zeros((0,), "float32")}, (), {"y": []}, 2),
        (spec(HALF, version=1), {"x": floats(1)}, (), {"y": [2.5]}, 1),
        (spec(HALF, label="stable"), {"x": floats(1)}, (), {"y": [2.5]}, 1),
        (spec(HALF, label="canary"), {"x": floats(1)}, (), {"y": [3.5]}, 2),
        (spec(HALF, signature="again"), {"x": floats(1)}, (), {"y": [3.5]}, 2),
        (spec(V1), {"x": floats(1)}, (), {"y": [2.5]}, 123),
        (spec(V1), {"x": floats(1, 2).reshape(1, 2)}, (), {"y": [[2.5, 3.0]]}, 123),
        (spec(V1, signature="odd_method"), {"x": floats(1)}, (), {"y": [2.5]}, 123),
        (spec("defaults"), {"x": floats(1), "factor": numpy.float32(3)}, (), {"y": [3.0]}, 1),
        (spec("defaults"), {"x": floats(1)}, (), {"y": [10.0]}, 1),
        (spec("several", signature="uneven"), {"x": floats(1)}, ("b",), {"b": [1.0, 1.0]}, 1),
        (spec("several", signature="uneven"), {"x": floats(1)}, ("b", "a"), {"a": [1.0], "b": [1.0, 1.0]}, 1),
        (spec("several", signature="total"), {"x": numpy.array([[1, 44]], "uint8")}, (), {"y": [[1, 44]], "total": 45.0}, 1),
        (
            spec("several"),
            {"text": numpy.array([b"a"], object), "number": numpy.array([1], "int64"), "flag": numpy.array([True])},
            ("number", "raw_bytes"),
            {"number": [2], "raw_bytes": [b"a"]},
            1,
        ),
        # A regression's and a classification's signatures can be predicted with, too.
        (spec(V1, signature="regress_x_to_y"), {"inputs": [example({"x": 1.0}).SerializeToString()]}, (), {"outputs": [[2.5]]}, 123),
    ],
)
def test_predict_answers(server: Running, model_spec: ModelSpec, inputs: Any, outputs: Sequence[str], answer: Any, version: int) -> None:
    response = server.prediction.Predict(predict_request(model_spec, inputs, outputs), timeout=30)
    assert {name: tf.make_ndarray(proto).tolist() for name, proto in response.outputs.items()} == answer
    expected = spec(model_spec.name, version, signature=model_spec.signature_name or "serving_default")
    assert response.model_spec == expected


@pytest.mark.parametrize(
    ("model_spec", "inputs", "outputs", "code", "message"),
    [
        (None, {}, (), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (spec(), {"x": floats(1)}, (), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (spec("nobody"), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        (spec("nobody", 3), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Specific(nobody, 3)"),
        (spec(HALF, 9), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 9)"),
        (spec(HALF, 0), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 0)"),
        (spec(HALF, -1), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, -1)"),
        (spec(HALF, label="x"), {"x": floats(1)}, (), Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (spec("nobody", label="x"), {"x": floats(1)}, (), Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (spec(HALF, label=""), {"x": floats(1)}, (), Code.INVALID_ARGUMENT, "Unrecognized servable version label: "),
        (spec(HALF, label="next"), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 7)"),
        (spec("broken"), {"x": floats(1)}, (), Code.NOT_FOUND, "Servable not found for request: Latest(broken)"),
        (spec(HALF, signature="x"), {"x": floats(1)}, (), Code.FAILED_PRECONDITION, 'Serving signature key "x" not found.'),
        (spec("types"), {"x": floats(1)}, (), Code.FAILED_PRECONDITION, 'Serving signature key "serving_default" not found.'),
        (
            spec(HALF),
            {},
            (),
            Code.INVALID_ARGUMENT,
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            spec(HALF),
            {"x": floats(1), "a": floats(1)},
            (),
            Code.INVALID_ARGUMENT,
            "input size does not match signature: 2!=1 len({a,x}) != len({x}). Sent extra: {a}. Missing but required: {}.",
        ),
        (
            spec("several"),
            {"text": "a", "z": 1},
            (),
            Code.INVALID_ARGUMENT,
            f"{SIZE}: 2!=3 len({{text,z}}) != len({{flag,number,text}}). Sent extra: {{z}}. Missing but required: {{flag,number}}.",
        ),
        (
            spec(HALF),
            {"z": floats(1)},
            (),
            Code.INVALID_ARGUMENT,
            f"{ALIAS} Inputs expected to be in the request {{z}}, or default input alias set: ",
        ),
        (
            spec("defaults"),
            {"factor": numpy.float32(1)},
            (),
            Code.INVALID_ARGUMENT,
            f"{ALIAS} Inputs expected to be in the request {{factor}}, or default input alias set: factor",
        ),
        (
            spec("defaults"),
            {"x": floats(1), "z": floats(1)},
            (),
            Code.INVALID_ARGUMENT,
            "Inputs contains invalid name. Used request inputs: x, request input: x,z",
        ),
        (
            spec(HALF),
            {"x": floats(1)},
            ("z",),
            Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        (spec(HALF), {"x": floats(1)}, ("y", "y"), Code.INVALID_ARGUMENT, "duplicate output tensor alias: y"),
        (spec(HALF), {"x": numpy.array([1])}, (), Code.INVALID_ARGUMENT, "Expects arg[0] to be float but int64 is provided"),
        (spec(HALF), {"x": numpy.array([1.0])}, (), Code.INVALID_ARGUMENT, "Expects arg[0] to be float but double is provided"),
        (spec(HALF), {"x": "text"}, (), Code.INVALID_ARGUMENT, "Expects arg[0] to be float but string is provided"),
        (
            spec("several", signature="product"),
            {"x": numpy.ones((1, 2), "float32"), "y": numpy.ones((3, 1), "float32")},
            (),
            Code.INVALID_ARGUMENT,
            "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,1]",
        ),
    ],
)
def test_predict_errors(server: Running, model_spec: ModelSpec, inputs: Any, outputs: Sequence[str], code: grpc.StatusCode, message: str) -> None:
    got = fails(server.prediction.Predict, predict_request(model_spec, inputs, outputs))
    assert got[0] == code
    assert got[1].startswith(message) if message.endswith("[3,1]") else got[1] == message


@pytest.mark.parametrize(
    "proto",
    [
        "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: 'abc'",
        "dtype: DT_FLOAT tensor_shape { unknown_rank: true } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1",
        "dtype: DT_INVALID tensor_shape { dim { size: 1 } } float_val: 1",
        "dtype: DT_STRING tensor_shape { dim { size: 1 } } tensor_content: 'a'",
        "dtype: DT_RESOURCE tensor_shape { dim { size: 1 } }",
        "dtype: DT_FLOAT tensor_shape { dim { size: 4000000000000000000 } dim { size: 4000000000000000000 } } float_val: 1",
        "",
    ],
)
def test_protos_that_are_no_tensors(server: Running, proto: str) -> None:
    request = predict_request(spec(HALF), {"x": text_format.Parse(proto, tf.make_tensor_proto(0).__class__())})
    assert fails(server.prediction.Predict, request) == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


@pytest.mark.parametrize(
    ("proto", "answer"),
    [
        ("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: 2", [4.0, 4.0, 4.0]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: 2 float_val: 4", [4.0, 5.0, 5.0]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } }", [3.0, 3.0]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 float_val: 4", [4.0]),
        ("dtype: DT_FLOAT tensor_shape { } float_val: 2", 4.0),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } tensor_content: '\\000\\000\\200?'", [3.5]),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 0 } }", []),
    ],
)
def test_protos_are_read_as_tensorflow_reads_them(server: Running, proto: str, answer: Any) -> None:
    request = predict_request(spec(HALF), {"x": text_format.Parse(proto, tf.make_tensor_proto(0).__class__())})
    assert tf.make_ndarray(server.prediction.Predict(request, timeout=30).outputs["y"]).tolist() == answer


FIELDS = {
    **dict.fromkeys(("int32", "int16", "int8", "uint8", "uint16"), "int_val"),
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "string": "string_val",
    "float16": "half_val",
    "bfloat16": "half_val",
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_passes_through_in_its_own_field(server: Running, name: str) -> None:
    value = tf.constant(["a", "\0b", ""]) if name == "string" else tf.cast(tf.constant([[0, 1], [2, 100]]), getattr(tf, name))
    response = server.prediction.Predict(predict_request(spec("types", signature=name), {"x": tf.make_tensor_proto(value.numpy())}), timeout=30)
    proto = response.outputs["y"]
    assert len(getattr(proto, FIELDS[name])) == value.shape.num_elements()
    assert not proto.tensor_content
    assert tf.make_ndarray(proto).tolist() == value.numpy().tolist()


def test_tensors_as_content_on_demand() -> None:
    with serving([ModelSource("types", repository() / "types")], options=Options(tensor_content=True)) as server:
        for name in TYPES:
            value = tf.constant(["a"]) if name == "string" else tf.cast(tf.constant([1, 2]), getattr(tf, name))
            request = predict_request(spec("types", signature=name), {"x": tf.make_tensor_proto(value.numpy())})
            proto = server.prediction.Predict(request, timeout=30).outputs["y"]
            assert bool(proto.tensor_content) == (name != "string"), name
            assert tf.make_ndarray(proto).tolist() == value.numpy().tolist()


def test_long_messages_are_cut(server: Running) -> None:
    request = predict_request(spec("several", signature="numbers"), {"text": ["q" * 3000]})
    code, message = fails(server.prediction.Predict, request)
    assert code == Code.INVALID_ARGUMENT
    assert len(message) == 1024 + len("...TRUNCATED")
    assert message.startswith("StringToNumberOp could not correctly convert string: qqq")
    assert message.endswith("qqq...TRUNCATED")


@pytest.mark.parametrize(
    ("model_spec", "given", "answer"),
    [
        (spec(V1, signature="regress_x_to_y"), examples({"x": 1.0}, {"x": 2.0}), [2.5, 3.0]),
        (spec(V1, 123, signature="regress_x_to_y2"), examples({"x": 1.0}), [3.5]),
        (spec(V1, signature="regress_x_to_y"), examples({}, {"x": 2.0}, context={"x": 4.0}), [4.0, 3.0]),
        (spec(HALF, signature="regress"), examples({"x": 1.0}), [3.5]),
        (spec(HALF, label="stable", signature="regress"), examples({"x": 1.0}), [2.5]),
    ],
)
def test_regress(server: Running, model_spec: ModelSpec, given: Input, answer: Any) -> None:
    response = server.prediction.Regress(RegressionRequest(model_spec=model_spec, input=given), timeout=30)
    assert [regression.value for regression in response.result.regressions] == answer
    version = 123 if model_spec.name == V1 else 1 if model_spec.version_label else 2
    assert response.model_spec == spec(model_spec.name, version, signature=model_spec.signature_name)


@pytest.mark.parametrize(
    ("model_spec", "given", "answer"),
    [
        (spec(V1, signature="classify_x_to_y"), examples({"x": 1.0}, {"x": 2.0}), [[("", 2.5)], [("", 3.0)]]),
        (spec(HALF, signature="classify"), examples({"x": 1.0}), [[("less", 3.5), ("more", 4.5)]]),
        (spec(HALF, 1, signature="classify"), examples({"x": 1.0}), [[("less", 2.5), ("more", 3.5)]]),
        (spec(HALF, signature="labels"), examples({"x": 1.0}), [[("1.0", 0.0)]]),
    ],
)
def test_classify(server: Running, model_spec: ModelSpec, given: Input, answer: Any) -> None:
    response = server.prediction.Classify(ClassificationRequest(model_spec=model_spec, input=given), timeout=30)
    got = [[(entry.label, entry.score) for entry in classes.classes] for classes in response.result.classifications]
    assert got == answer
    version = 123 if model_spec.name == V1 else 1 if model_spec.HasField("version") else 2
    assert response.model_spec == spec(model_spec.name, version, signature=model_spec.signature_name)


ONE = examples({"x": 1.0})


@pytest.mark.parametrize("method", ["Classify", "Regress"])
@pytest.mark.parametrize(
    ("model_spec", "given", "code", "message"),
    [
        (None, ONE, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (spec(), ONE, Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (spec("nobody"), ONE, Code.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        (spec(HALF, 9), ONE, Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 9)"),
        (spec(HALF, label="x"), ONE, Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (spec(HALF, signature="x"), ONE, Code.INVALID_ARGUMENT, "No signature was found with the name: x"),
        (spec("types"), ONE, Code.INVALID_ARGUMENT, "No signature was found with the name: serving_default"),
        (spec("several"), ONE, Code.INVALID_ARGUMENT, "Expected one input Tensor."),
    ],
)
def test_errors_of_classify_and_regress(
    server: Running, method: str, model_spec: ModelSpec, given: Input, code: grpc.StatusCode, message: str
) -> None:
    kind = {"Classify": ClassificationRequest, "Regress": RegressionRequest}[method]
    assert fails(getattr(server.prediction, method), kind(model_spec=model_spec, input=given)) == (code, message)


@pytest.mark.parametrize(
    ("method", "model_spec", "given", "code", "message"),
    [
        ("Classify", spec(HALF, signature="classify"), Input(), Code.INVALID_ARGUMENT, "Input is empty."),
        ("Regress", spec(HALF, signature="regress"), Input(), Code.INVALID_ARGUMENT, "Input is empty."),
        ("Regress", spec(HALF, signature="regress"), examples(), Code.INVALID_ARGUMENT, "Input is empty."),
        ("Regress", spec(HALF, signature="regress"), examples(context={"x": 1.0}), Code.INVALID_ARGUMENT, "Input is empty."),
        ("Regress", spec(V1), ONE, Code.FAILED_PRECONDITION, "No regression inputs found in SignatureDef: inputs {"),
        ("Classify", spec(V1), ONE, Code.FAILED_PRECONDITION, "No classification inputs found in SignatureDef: inputs {"),
        ("Regress", spec(V1, signature="classify_x_to_y"), ONE, Code.FAILED_PRECONDITION, "No regression outputs found in SignatureDef: inputs {"),
        (
            "Classify",
            spec(V1, signature="regress_x_to_y"),
            ONE,
            Code.FAILED_PRECONDITION,
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: inputs {',
        ),
        ("Regress", spec(HALF, signature="classify"), ONE, Code.INVALID_ARGUMENT, "Expected one output Tensor."),
        (
            "Classify",
            spec(HALF, signature="flat"),
            ONE,
            Code.INVALID_ARGUMENT,
            "Expected Tensor shape: [batch_size num_classes] but got [1]",
        ),
        ("Regress", spec(HALF, signature="integers"), ONE, Code.INVALID_ARGUMENT, "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
        (
            "Regress",
            spec(HALF, signature="wide"),
            ONE,
            Code.INVALID_ARGUMENT,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
        ),
    ],
)
def test_signatures_that_do_not_fit(server: Running, method: str, model_spec: ModelSpec, given: Input, code: grpc.StatusCode, message: str) -> None:
    kind = {"Classify": ClassificationRequest, "Regress": RegressionRequest}[method]
    got = fails(getattr(server.prediction, method), kind(model_spec=model_spec, input=given))
    assert got[0] == code
    assert got[1].startswith(message)


def tasks(*entries: tuple[ModelSpec | None, str], given: Input = ONE) -> MultiInferenceRequest:
    request = MultiInferenceRequest(input=given)
    for model_spec, method in entries:
        request.tasks.add(model_spec=model_spec, method_name=method)
    return request


def test_multi_inference(server: Running) -> None:
    request = tasks((spec(V1, signature="regress_x_to_y"), REGRESS), (spec(V1, signature="classify_x_to_y"), CLASSIFY), given=examples({"x": 2.0}))
    first, second = server.prediction.MultiInference(request, timeout=30).results
    assert [regression.value for regression in first.regression_result.regressions] == [3.0]
    assert [entry.score for entry in second.classification_result.classifications[0].classes] == [3.0]
    assert first.model_spec == spec(V1, 123, signature="regress_x_to_y")
    assert second.model_spec == spec(V1, 123, signature="classify_x_to_y")


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (tasks(), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (tasks((None, REGRESS)), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (tasks((spec("nobody"), REGRESS)), Code.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        (tasks((spec(V1, label="x"), REGRESS)), Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (
            tasks((spec(V1, signature="regress_x_to_y"), REGRESS), (spec(), CLASSIFY)),
            Code.INVALID_ARGUMENT,
            "Found ModelSpec with an empty model name.",
        ),
        (
            tasks((spec(V1, signature="regress_x_to_y"), REGRESS), (spec(HALF), CLASSIFY)),
            Code.INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            tasks((spec(V1, signature="regress_x_to_y"), REGRESS), (spec(V1, signature="regress_x_to_y"), REGRESS)),
            Code.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        (tasks((spec(V1, signature="x"), REGRESS)), Code.INVALID_ARGUMENT, "Requested signature not found in model graph: x"),
        (
            tasks((spec(V1, signature="regress_x_to_y"), "tensorflow/serving/predict")),
            Code.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (tasks((spec(V1, signature="regress_x_to_y"), REGRESS), given=Input()), Code.INVALID_ARGUMENT, "Input is empty."),
        (
            tasks((spec(V1, signature="regress_x_to_y"), REGRESS), (spec(V1, signature="regress_x2_to_y3"), REGRESS)),
            Code.INVALID_ARGUMENT,
            "Input tensor must be the same for all Signatures.",
        ),
    ],
)
def test_errors_of_multi_inference(server: Running, request_: MultiInferenceRequest, code: grpc.StatusCode, message: str) -> None:
    assert fails(server.prediction.MultiInference, request_) == (code, message)


def test_metadata(server: Running) -> None:
    request = GetModelMetadataRequest(model_spec=spec(HALF, label="stable"), metadata_field=["signature_def"])
    response = server.prediction.GetModelMetadata(request, timeout=30)
    assert response.model_spec == spec(HALF, 1), "the signature's name stays empty"
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "serving_default_x:0"


@pytest.mark.parametrize(
    ("model_spec", "fields", "code", "message"),
    [
        (None, ["signature_def"], Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (spec(), ["signature_def"], Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (spec(HALF), [], Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"),
        (spec(HALF), ["signature_def", "more"], Code.INVALID_ARGUMENT, "Metadata field %s is not supportedmore"),
        (spec("nobody"), ["signature_def"], Code.NOT_FOUND, "Servable not found for request: Latest(nobody)"),
        (spec(HALF, 9), ["signature_def"], Code.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 9)"),
        (spec(HALF, label="x"), ["signature_def"], Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
    ],
)
def test_errors_of_metadata(server: Running, model_spec: ModelSpec, fields: list[str], code: grpc.StatusCode, message: str) -> None:
    request = GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)
    assert fails(server.prediction.GetModelMetadata, request) == (code, message)


def test_status(server: Running) -> None:
    response = server.models.GetModelStatus(GetModelStatusRequest(model_spec=spec(HALF)), timeout=30)
    assert [entry.version for entry in response.model_version_status] == [2, 1], "the newest first"
    assert {entry.state for entry in response.model_version_status} == {ModelVersionStatus.AVAILABLE}
    assert {(entry.status.error_code, entry.status.error_message) for entry in response.model_version_status} == {(0, "")}
    one = server.models.GetModelStatus(GetModelStatusRequest(model_spec=spec(HALF, 1)), timeout=30)
    assert [entry.version for entry in one.model_version_status] == [1]
    labelled = server.models.GetModelStatus(GetModelStatusRequest(model_spec=spec(HALF, label="whatever")), timeout=30)
    assert labelled == response, "a label is ignored"
    broken = server.models.GetModelStatus(GetModelStatusRequest(model_spec=spec("broken")), timeout=30)
    assert [(entry.state, entry.status.error_code) for entry in broken.model_version_status] == [(ModelVersionStatus.END, 5)]


@pytest.mark.parametrize(
    ("model_spec", "code", "message"),
    [
        (None, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (spec(), Code.NOT_FOUND, "Could not find any versions of model "),
        (spec("nobody"), Code.NOT_FOUND, "Could not find any versions of model nobody"),
        (spec(HALF, 9), Code.NOT_FOUND, "Could not find version 9 of model half_plus_two"),
        (spec("nobody", 1), Code.NOT_FOUND, "Could not find version 1 of model nobody"),
    ],
)
def test_errors_of_status(server: Running, model_spec: ModelSpec, code: grpc.StatusCode, message: str) -> None:
    assert fails(server.models.GetModelStatus, GetModelStatusRequest(model_spec=model_spec)) == (code, message)


def reload(*models: str) -> ReloadConfigRequest:
    return text_format.Parse(f"config {{ model_config_list {{ {' '.join(f'config {{ {model} }}' for model in models)} }} }}", ReloadConfigRequest())


def test_reload_is_declarative(tmp_path: Path) -> None:
    for name in ("a", "b"):
        half_plus(tmp_path / name / "1", 1)
    half_plus(tmp_path / "a" / "2", 2)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    base = f"model_platform: 'tensorflow' base_path: '{tmp_path}"
    a, b = f"name: 'a' {base}/a'", f"name: 'b' {base}/b'"
    with serving([ModelSource("a", tmp_path / "a")]) as server:

        def answers(model_spec: ModelSpec) -> Any:
            return tf.make_ndarray(server.prediction.Predict(predict_request(model_spec, {"x": floats(2)}), timeout=30).outputs["y"]).tolist()

        def status(name: str) -> dict[int, str]:
            response = server.models.GetModelStatus(GetModelStatusRequest(model_spec=spec(name)), timeout=30)
            return {entry.version: ModelVersionStatus.State.Name(entry.state) for entry in response.model_version_status}

        assert answers(spec("a")) == [3.0]
        response = server.models.HandleReloadConfigRequest(reload(a, b), timeout=60)
        assert (response.status.error_code, response.status.error_message) == (0, "")
        assert (answers(spec("a")), answers(spec("b"))) == ([3.0], [2.0])
        both = f"{a} model_version_policy {{ all {{}} }}"
        server.models.HandleReloadConfigRequest(reload(both), timeout=60)
        assert (status("a"), status("b")) == ({2: "AVAILABLE", 1: "AVAILABLE"}, {1: "END"})
        assert fails(server.prediction.Predict, predict_request(spec("b"), {"x": floats(2)}))[0] == Code.NOT_FOUND
        server.models.HandleReloadConfigRequest(reload(f"{both} version_labels {{ key: 'old' value: 1 }}"), timeout=60)
        assert answers(spec("a", label="old")) == [2.0]
        server.models.HandleReloadConfigRequest(reload(f"{both} version_labels {{ key: 'old' value: 2 }}"), timeout=60)
        assert answers(spec("a", label="old")) == [3.0]
        moved = reload(f"{both} version_labels {{ key: 'old' value: 3 }}")
        assert fails(server.models.HandleReloadConfigRequest, moved) == (
            Code.FAILED_PRECONDITION,
            "Request to assign label to version 3 of model a, which is not currently available for inference",
        )
        assert answers(spec("a", label="old")) == [3.0]
        server.models.HandleReloadConfigRequest(reload(f"{a} model_version_policy {{ specific {{ versions: 1 }} }}"), timeout=60)
        assert status("a") == {2: "END", 1: "AVAILABLE"}
        for request, code, message in [
            (ReloadConfigRequest(), Code.INVALID_ARGUMENT, "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList"),
            (reload(a, a), Code.INVALID_ARGUMENT, "Illegal to list model a multiple times in config list"),
            (reload("name: 'a' base_path: '/x'"), Code.INVALID_ARGUMENT, "Illegal setting neither ModelServerConfig::model_type"),
            (
                reload("name: 'a' base_path: 'x' model_platform: 'tensorflow'"),
                Code.INVALID_ARGUMENT,
                "Expected model a to have an absolute path or URI",
            ),
            (reload("name: 'a' base_path: '/x' model_platform: 'other'"), Code.INVALID_ARGUMENT, "Model a requests unsupported platform other"),
            (reload(a, f"name: 'c' {base}/nowhere'"), Code.INVALID_ARGUMENT, f"Could not find base path {tmp_path}/nowhere for servable c"),
            (reload(a, f"name: 'bad' {base}/bad'"), Code.UNKNOWN, "1 model(s) did not become available: {{{name: bad version: 1} due to error: "),
        ]:
            got = fails(server.models.HandleReloadConfigRequest, request)
            assert (got[0], got[1][: len(message)]) == (code, message)
        assert answers(spec("a")) == [3.0], "it goes on with the models that it has"


def test_deadlines_and_many_clients(server: Running) -> None:
    slow = predict_request(spec("several", signature="slow"), {"steps": numpy.array([200], "int32")})
    with pytest.raises(grpc.RpcError) as failure:
        server.prediction.Predict(slow, timeout=0.2)
    assert failure.value.code() == Code.DEADLINE_EXCEEDED

    def ask(number: int) -> Any:
        response = server.prediction.Predict(predict_request(spec(HALF), {"x": floats(number)}), timeout=30)
        return tf.make_ndarray(response.outputs["y"]).tolist()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(64))) == [[number / 2 + 3.0] for number in range(64)]


def test_too_many_requests_at_a_time() -> None:
    slow = predict_request(spec("several", signature="slow"), {"steps": numpy.array([100], "int32")})
    with serving([ModelSource("several", repository() / "several")], grpc_limits=(1, 1)) as server:
        calls = [server.prediction.Predict.future(slow, timeout=30) for _ in range(5)]
        codes = sorted(call.code().name for call in calls)
        assert codes == ["OK", "OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
        late = server.prediction.Predict.future(slow, timeout=30)
        gone = server.prediction.Predict.future(slow, timeout=0.3)
        assert (gone.code(), late.code()) == (Code.DEADLINE_EXCEEDED, Code.OK)


def test_a_large_message(server: Running) -> None:
    """Two million numbers, 8 MB: twice what gRPC takes by default."""
    request = predict_request(spec(HALF), {"x": numpy.ones(2_000_000, "float32")})
    assert tf.make_ndarray(server.prediction.Predict(request, timeout=60).outputs["y"]).sum() == 7_000_000


@given(
    name=st.sampled_from([HALF, "types", "several", ""]),
    signature=st.sampled_from(["", "float32", "string", "int64", "bool", "classify", "uneven"]),
    proto=st.builds(
        dict,
        dtype=st.integers(0, 25),
        shape=st.lists(st.integers(-2, 3), max_size=3),
        float_val=st.lists(st.floats(width=32), max_size=3),
        string_val=st.lists(st.binary(max_size=3), max_size=3),
        int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        half_val=st.lists(st.integers(0, 2**16 - 1), max_size=2),
        scomplex_val=st.lists(st.floats(width=32), max_size=3),
        tensor_content=st.binary(max_size=12),
    ),
)
@settings(RELAXED, max_examples=150)
def test_no_message_is_a_server_error(server: Running, name: str, signature: str, proto: dict[str, Any]) -> None:
    request = PredictRequest(model_spec=spec(name, signature=signature))
    tensor = request.inputs["x"]
    for size in proto.pop("shape"):
        tensor.tensor_shape.dim.add(size=size)
    tensor.MergeFrom(type(tensor)(**proto))
    try:
        code = server.prediction.Predict(request, timeout=30) and Code.OK
    except grpc.RpcError as error:
        code = error.code()
    assert code in (Code.OK, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED)


def test_bytes_that_are_no_message(server: Running) -> None:
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff", timeout=30)
    with pytest.raises(grpc.RpcError) as failure:
        server.channel.unary_unary("/tensorflow.serving.PredictionService/Nothing")(b"", timeout=30)
    assert failure.value.code() == Code.UNIMPLEMENTED
    server.prediction.Predict(predict_request(spec(HALF), {"x": floats(1)}), timeout=30)


def test_an_address_in_use(server: Running) -> None:
    with pytest.raises(ServingError, match=rf"gRPC cannot listen on {server.address}: is it in use\? Choose another with --port"):
        start_grpc(Service(server.manager), [server.address], threads=1)
    with pytest.raises(ServingError, match="--grpc_channel_arguments takes name=value,name=value"):
        start_grpc(Service(server.manager), ["127.0.0.1:0"], threads=1, channel_arguments="nonsense")


def test_a_unix_socket_and_channel_arguments(server: Running, tmp_path: Path) -> None:
    arguments = "grpc.max_connection_age_ms=2000,grpc.primary_user_agent=zoo"
    grpc_server, _ = start_grpc(Service(server.manager), [f"unix:{tmp_path}/socket"], threads=1, channel_arguments=arguments)
    with grpc.insecure_channel(f"unix:{tmp_path}/socket") as channel:
        stub = type(server.prediction)(channel)
        response = stub.Predict(predict_request(spec(HALF), {"x": floats(1)}), timeout=30)
    grpc_server.stop(5).wait()
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.5]


def test_encryption(server: Running, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    config = tmp_path / "ssl.config"
    config.write_text(f"server_key: {key.read_text()!r} server_cert: {certificate.read_text()!r} client_verify: false")
    grpc_server, (port,) = start_grpc(Service(server.manager), ["localhost:0"], threads=1, ssl_config=config)
    with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(certificate.read_bytes())) as channel:
        response = type(server.prediction)(channel).Predict(predict_request(spec(HALF), {"x": floats(1)}), timeout=30)
    grpc_server.stop(5).wait()
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.5]
    config.write_text("server_key: 3")
    with pytest.raises(ServingError, match=r"Error parsing text-format tensorflow\.serving\.SSLConfig"):
        start_grpc(Service(server.manager), ["localhost:0"], threads=1, ssl_config=config)


def test_metrics_on_demand() -> None:
    metrics = Metrics()
    with serving([ModelSource(V1, repository() / V1)], metrics=metrics, metrics_path=PATH) as server:
        server.prediction.Predict(predict_request(spec(V1), {"x": floats(1)}), timeout=30)
        fails(server.prediction.Predict, predict_request(None, {}))
        server.prediction.MultiInference(tasks((spec(V1, signature="regress_x_to_y"), REGRESS)), timeout=30)
    lines = metrics.page().splitlines()
    assert f':tensorflow:serving:request_count{{model_name="{V1}",status="OK"}} 2' in lines
    assert ':tensorflow:serving:request_count{model_name="",status="INVALID_ARGUMENT"} 1' in lines
    assert f':tensorflow:serving:request_latency_count{{model_name="{V1}",API="MultiInference",entrypoint="GRPC"}} 1' in lines
    assert f':tensorflow:serving:runtime_latency_count{{model_name="{V1}",API="Predict",runtime="TF1"}} 1' in lines
