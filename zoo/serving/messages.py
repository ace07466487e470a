"""Protocol buffer messages that are declared here, in a pool of their own.

TF Serving's Python package holds the messages of its services, but importing them imports TensorFlow; a client has no need
for it. And it holds none of the configuration messages behind `--batching_parameters_file`, `--ssl_config_file` and
`--monitoring_config_file`. Both are declared here field by field, as far as they are used, under the names that TF Serving
gives them. The pool keeps them apart from TensorFlow's own where both are loaded.
"""

from __future__ import annotations

import functools
import re
from typing import Any

_DECLARATIONS = """
google.protobuf.Int64Value: int64 value = 1
google.protobuf.Any: string type_url = 1; bytes value = 2
tensorflow.TensorShapeProto.Dim: int64 size = 1
tensorflow.TensorShapeProto: repeated tensorflow.TensorShapeProto.Dim dim = 2; bool unknown_rank = 3
tensorflow.TensorProto: int32 dtype = 1; tensorflow.TensorShapeProto tensor_shape = 2; bytes tensor_content = 4; repeated int32 half_val = 13; \
repeated float float_val = 5; repeated double double_val = 6; repeated int32 int_val = 7; repeated bytes string_val = 8; \
repeated float scomplex_val = 9; repeated int64 int64_val = 10; repeated bool bool_val = 11; repeated double dcomplex_val = 12; \
repeated uint32 uint32_val = 16; repeated uint64 uint64_val = 17
tensorflow.BytesList: repeated bytes value = 1
tensorflow.FloatList: repeated float value = 1
tensorflow.Int64List: repeated int64 value = 1
tensorflow.Feature: tensorflow.BytesList bytes_list = 1; tensorflow.FloatList float_list = 2; tensorflow.Int64List int64_list = 3
tensorflow.Features: map tensorflow.Feature feature = 1
tensorflow.Example: tensorflow.Features features = 1
tensorflow.TensorInfo: string name = 1; int32 dtype = 2; tensorflow.TensorShapeProto tensor_shape = 3
tensorflow.SignatureDef: map tensorflow.TensorInfo inputs = 1; map tensorflow.TensorInfo outputs = 2; string method_name = 3
tensorflow.serving.ModelSpec: string name = 1; google.protobuf.Int64Value version = 2; string signature_name = 3; string version_label = 4
tensorflow.serving.PredictRequest: tensorflow.serving.ModelSpec model_spec = 1; \
map tensorflow.TensorProto inputs = 2; repeated string output_filter = 3
tensorflow.serving.PredictResponse: map tensorflow.TensorProto outputs = 1; tensorflow.serving.ModelSpec model_spec = 2
tensorflow.serving.ExampleList: repeated tensorflow.Example examples = 1
tensorflow.serving.ExampleListWithContext: repeated tensorflow.Example examples = 1; tensorflow.Example context = 2
tensorflow.serving.Input: tensorflow.serving.ExampleList example_list = 1; tensorflow.serving.ExampleListWithContext example_list_with_context = 2
tensorflow.serving.Class: string label = 1; float score = 2
tensorflow.serving.Classifications: repeated tensorflow.serving.Class classes = 1
tensorflow.serving.ClassificationResult: repeated tensorflow.serving.Classifications classifications = 1
tensorflow.serving.ClassificationRequest: tensorflow.serving.ModelSpec model_spec = 1; tensorflow.serving.Input input = 2
tensorflow.serving.ClassificationResponse: tensorflow.serving.ClassificationResult result = 1; tensorflow.serving.ModelSpec model_spec = 2
tensorflow.serving.Regression: float value = 1
tensorflow.serving.RegressionResult: repeated tensorflow.serving.Regression regressions = 1
tensorflow.serving.RegressionRequest: tensorflow.serving.ModelSpec model_spec = 1; tensorflow.serving.Input input = 2
tensorflow.serving.RegressionResponse: tensorflow.serving.RegressionResult result = 1; tensorflow.serving.ModelSpec model_spec = 2
tensorflow.serving.SignatureDefMap: map tensorflow.SignatureDef signature_def = 1
tensorflow.serving.GetModelMetadataRequest: tensorflow.serving.ModelSpec model_spec = 1; repeated string metadata_field = 2
tensorflow.serving.GetModelMetadataResponse: tensorflow.serving.ModelSpec model_spec = 1; map google.protobuf.Any metadata = 2
tensorflow.serving.StatusProto: int32 error_code = 1; string error_message = 2
tensorflow.serving.ModelVersionStatus: int64 version = 1; int32 state = 2; tensorflow.serving.StatusProto status = 3
tensorflow.serving.GetModelStatusRequest: tensorflow.serving.ModelSpec model_spec = 1
tensorflow.serving.GetModelStatusResponse: repeated tensorflow.serving.ModelVersionStatus model_version_status = 1
google.protobuf.StringValue: string value = 1
google.protobuf.BoolValue: bool value = 1
tensorflow.serving.BatchingParameters: google.protobuf.Int64Value max_batch_size = 1; google.protobuf.Int64Value batch_timeout_micros = 2; \
google.protobuf.Int64Value max_enqueued_batches = 3; google.protobuf.Int64Value num_batch_threads = 4; \
google.protobuf.StringValue thread_pool_name = 5; repeated int64 allowed_batch_sizes = 6; bool pad_variable_length_inputs = 7; \
google.protobuf.BoolValue enable_large_batch_splitting = 8; google.protobuf.Int64Value max_execution_batch_size = 9
tensorflow.serving.SSLConfig: string server_key = 1; string server_cert = 2; string custom_ca = 3; bool client_verify = 4
tensorflow.serving.PrometheusConfig: bool enable = 1; string path = 2
tensorflow.serving.MonitoringConfig: tensorflow.serving.PrometheusConfig prometheus_config = 1
"""
_ONEOFS = {"tensorflow.Feature": "kind", "tensorflow.serving.Input": "kind"}
_FIELD = re.compile(r"(?:(repeated|map) )?(\S+) (\w+) = (\d+)")


@functools.cache
def message(name: str) -> Any:
    """Returns the class of a message.

    Args:
        name: The message's name without its package, such as `PredictRequest`.

    Example:
        >>> message("ModelSpec")(name="cnn.mnist").name
        'cnn.mnist'
    """
    from google.protobuf import message_factory

    pool, names = _pool()
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(names[name]))


@functools.cache
def _pool() -> tuple[Any, dict[str, str]]:
    from google.protobuf import descriptor_pb2, descriptor_pool

    lines = [line.split(": ", 1) for line in _DECLARATIONS.strip().splitlines()]
    names = {name for name, _ in lines}
    packages = ("google.protobuf", "tensorflow.serving", "tensorflow")
    files = {package: descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3") for package in packages}
    files["tensorflow"].dependency.append("google.protobuf.proto")
    files["tensorflow.serving"].dependency.extend(["google.protobuf.proto", "tensorflow.proto"])
    for name, fields in lines:
        package = next(package for package in packages if name.startswith(f"{package}."))
        _declare(files[package], package, name, fields, names)
    pool = descriptor_pool.DescriptorPool()
    for package in ("google.protobuf", "tensorflow", "tensorflow.serving"):
        pool.Add(files[package]) if hasattr(pool, "Add") else pool.AddSerializedFile(files[package].SerializeToString())
    return pool, {name.rpartition(".")[2]: name for name in names}


def _declare(file: Any, package: str, name: str, fields: str, names: set[str]) -> None:
    """Adds a message to a file; a name with a dot in it is nested in the message before the dot."""
    outer, _, inner = name.removeprefix(f"{package}.").rpartition(".")
    if outer:
        parent = next((message for message in file.message_type if message.name == outer), None) or file.message_type.add(name=outer)
        declared = parent.nested_type.add(name=inner)
    else:
        declared = next((message for message in file.message_type if message.name == inner), None) or file.message_type.add(name=inner)
    if name in _ONEOFS:
        declared.oneof_decl.add(name=_ONEOFS[name])
    for label, kind, field, number in _FIELD.findall(fields):
        added = declared.field.add(name=field, number=int(number), label=3 if label else 1)
        if label == "map":
            entry = declared.nested_type.add(name=f"{''.join(part.title() for part in field.split('_'))}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=1, type=9)
            entry.field.add(name="value", number=2, label=1, type=11, type_name=f".{kind}")
            added.type, added.type_name = 11, f".{name}.{entry.name}"
        elif kind in names:
            added.type, added.type_name = 11, f".{kind}"
        else:
            added.type = _SCALARS[kind]
        if name in _ONEOFS:
            added.oneof_index = 0


_SCALARS = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
