"""Protocol buffer messages that are declared here, in a pool of their own.

TF Serving's Python package holds the messages of its services, but importing them imports TensorFlow; a client has no need
for it, nor has a server whose models run in another runtime. And it holds none of the configuration messages behind
`--batching_parameters_file`, `--ssl_config_file` and `--monitoring_config_file`. All are declared here field by field, as far
as they are used, under TF Serving's names and in its order, which is the order in which JSON shows them. The pool keeps them
apart from TensorFlow's own where both are loaded; between the two a message goes as bytes.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Mapping
from typing import Any

from zoo.serving.status import Code

_DECLARATIONS = """
google.protobuf.Int64Value: int64 value = 1
google.protobuf.StringValue: string value = 1
google.protobuf.BoolValue: bool value = 1
google.protobuf.Any: string type_url = 1; bytes value = 2
tensorflow.TensorShapeProto.Dim: int64 size = 1; string name = 2
tensorflow.TensorShapeProto: repeated tensorflow.TensorShapeProto.Dim dim = 2; bool unknown_rank = 3
tensorflow.TensorProto: tensorflow.DataType dtype = 1; tensorflow.TensorShapeProto tensor_shape = 2; int32 version_number = 3; \
bytes tensor_content = 4; repeated int32 half_val = 13; repeated float float_val = 5; repeated double double_val = 6; \
repeated int32 int_val = 7; repeated bytes string_val = 8; repeated float scomplex_val = 9; repeated int64 int64_val = 10; \
repeated bool bool_val = 11; repeated double dcomplex_val = 12; repeated uint32 uint32_val = 16; repeated uint64 uint64_val = 17
tensorflow.BytesList: repeated bytes value = 1
tensorflow.FloatList: repeated float value = 1
tensorflow.Int64List: repeated int64 value = 1
tensorflow.Feature: tensorflow.BytesList bytes_list = 1; tensorflow.FloatList float_list = 2; tensorflow.Int64List int64_list = 3
tensorflow.Features: map tensorflow.Feature feature = 1
tensorflow.Example: tensorflow.Features features = 1
tensorflow.TensorInfo.CooSparse: string values_tensor_name = 1; string indices_tensor_name = 2; string dense_shape_tensor_name = 3
tensorflow.TensorInfo.CompositeTensor: repeated tensorflow.TensorInfo components = 2
tensorflow.TensorInfo: string name = 1; tensorflow.TensorInfo.CooSparse coo_sparse = 4; tensorflow.TensorInfo.CompositeTensor composite_tensor = 5; \
tensorflow.DataType dtype = 2; tensorflow.TensorShapeProto tensor_shape = 3
tensorflow.SignatureDef: map tensorflow.TensorInfo inputs = 1; map tensorflow.TensorInfo outputs = 2; string method_name = 3; \
map tensorflow.TensorProto defaults = 4
tensorflow.AttrValue: tensorflow.TensorProto tensor = 8
tensorflow.NodeDef: string name = 1; string op = 2; map tensorflow.AttrValue attr = 5
tensorflow.FunctionDef: repeated tensorflow.NodeDef node_def = 3
tensorflow.FunctionDefLibrary: repeated tensorflow.FunctionDef function = 1
tensorflow.GraphDef: repeated tensorflow.NodeDef node = 1; tensorflow.FunctionDefLibrary library = 2
tensorflow.SaverDef: string filename_tensor_name = 1
tensorflow.MetaGraphDef.MetaInfoDef: repeated string tags = 4
tensorflow.MetaGraphDef: tensorflow.MetaGraphDef.MetaInfoDef meta_info_def = 1; tensorflow.GraphDef graph_def = 2; \
tensorflow.SaverDef saver_def = 3; map tensorflow.SignatureDef signature_def = 5
tensorflow.SavedModel: int64 saved_model_schema_version = 1; repeated tensorflow.MetaGraphDef meta_graphs = 2
tensorflow.serving.ModelSpec: string name = 1; google.protobuf.Int64Value version = 2; string version_label = 4; string signature_name = 3
tensorflow.serving.PredictRequest: tensorflow.serving.ModelSpec model_spec = 1; \
map tensorflow.TensorProto inputs = 2; repeated string output_filter = 3
tensorflow.serving.PredictResponse: tensorflow.serving.ModelSpec model_spec = 2; map tensorflow.TensorProto outputs = 1
tensorflow.serving.ExampleList: repeated tensorflow.Example examples = 1
tensorflow.serving.ExampleListWithContext: repeated tensorflow.Example examples = 1; tensorflow.Example context = 2
tensorflow.serving.Input: tensorflow.serving.ExampleList example_list = 1; tensorflow.serving.ExampleListWithContext example_list_with_context = 2
tensorflow.serving.Class: string label = 1; float score = 2
tensorflow.serving.Classifications: repeated tensorflow.serving.Class classes = 1
tensorflow.serving.ClassificationResult: repeated tensorflow.serving.Classifications classifications = 1
tensorflow.serving.ClassificationRequest: tensorflow.serving.ModelSpec model_spec = 1; tensorflow.serving.Input input = 2
tensorflow.serving.ClassificationResponse: tensorflow.serving.ModelSpec model_spec = 2; tensorflow.serving.ClassificationResult result = 1
tensorflow.serving.Regression: float value = 1
tensorflow.serving.RegressionResult: repeated tensorflow.serving.Regression regressions = 1
tensorflow.serving.RegressionRequest: tensorflow.serving.ModelSpec model_spec = 1; tensorflow.serving.Input input = 2
tensorflow.serving.RegressionResponse: tensorflow.serving.ModelSpec model_spec = 2; tensorflow.serving.RegressionResult result = 1
tensorflow.serving.InferenceTask: tensorflow.serving.ModelSpec model_spec = 1; string method_name = 2
tensorflow.serving.InferenceResult: tensorflow.serving.ModelSpec model_spec = 1; \
tensorflow.serving.ClassificationResult classification_result = 2; tensorflow.serving.RegressionResult regression_result = 3
tensorflow.serving.MultiInferenceRequest: repeated tensorflow.serving.InferenceTask tasks = 1; tensorflow.serving.Input input = 2
tensorflow.serving.MultiInferenceResponse: repeated tensorflow.serving.InferenceResult results = 1
tensorflow.serving.SignatureDefMap: map tensorflow.SignatureDef signature_def = 1
tensorflow.serving.GetModelMetadataRequest: tensorflow.serving.ModelSpec model_spec = 1; repeated string metadata_field = 2
tensorflow.serving.GetModelMetadataResponse: tensorflow.serving.ModelSpec model_spec = 1; map google.protobuf.Any metadata = 2
tensorflow.serving.StatusProto: tensorflow.error.Code error_code = 1; string error_message = 2
tensorflow.serving.ModelVersionStatus: int64 version = 1; tensorflow.serving.ModelVersionStatus.State state = 2; \
tensorflow.serving.StatusProto status = 3
tensorflow.serving.GetModelStatusRequest: tensorflow.serving.ModelSpec model_spec = 1
tensorflow.serving.GetModelStatusResponse: repeated tensorflow.serving.ModelVersionStatus model_version_status = 1
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest: uint32 num_versions = 1
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.All:
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific: repeated int64 versions = 1
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy: \
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest latest = 100; \
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.All all = 101; \
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific specific = 102
tensorflow.serving.LogCollectorConfig: string type = 1; string filename_prefix = 2
tensorflow.serving.SamplingConfig: double sampling_rate = 1; int32 attributes = 2
tensorflow.serving.LoggingConfig: tensorflow.serving.LogCollectorConfig log_collector_config = 1; \
tensorflow.serving.SamplingConfig sampling_config = 2; google.protobuf.Any custom_logging_config = 3
tensorflow.serving.ModelConfig: string name = 1; string base_path = 2; tensorflow.serving.ModelType model_type = 3; string model_platform = 4; \
tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy model_version_policy = 7; map int64 version_labels = 8; \
tensorflow.serving.LoggingConfig logging_config = 6
tensorflow.serving.ModelConfigList: repeated tensorflow.serving.ModelConfig config = 1
tensorflow.serving.ModelServerConfig: tensorflow.serving.ModelConfigList model_config_list = 1; google.protobuf.Any custom_model_config = 2
tensorflow.serving.ReloadConfigRequest: tensorflow.serving.ModelServerConfig config = 1; repeated string metric_names = 2
tensorflow.serving.ReloadConfigResponse: tensorflow.serving.StatusProto status = 1
tensorflow.serving.ClassifyLog: tensorflow.serving.ClassificationRequest request = 1; tensorflow.serving.ClassificationResponse response = 2
tensorflow.serving.RegressLog: tensorflow.serving.RegressionRequest request = 1; tensorflow.serving.RegressionResponse response = 2
tensorflow.serving.PredictLog: tensorflow.serving.PredictRequest request = 1; tensorflow.serving.PredictResponse response = 2
tensorflow.serving.PredictStreamedLog: repeated tensorflow.serving.PredictRequest request = 1; \
repeated tensorflow.serving.PredictResponse response = 2
tensorflow.serving.MultiInferenceLog: tensorflow.serving.MultiInferenceRequest request = 1; tensorflow.serving.MultiInferenceResponse response = 2
tensorflow.serving.SessionRunLog:
tensorflow.serving.PredictionLog: tensorflow.serving.ClassifyLog classify_log = 2; tensorflow.serving.RegressLog regress_log = 3; \
tensorflow.serving.PredictLog predict_log = 6; tensorflow.serving.PredictStreamedLog predict_streamed_log = 7; \
tensorflow.serving.MultiInferenceLog multi_inference_log = 4; tensorflow.serving.SessionRunLog session_run_log = 5
tensorflow.serving.BatchingParameters: google.protobuf.Int64Value max_batch_size = 1; google.protobuf.Int64Value batch_timeout_micros = 2; \
google.protobuf.Int64Value max_enqueued_batches = 3; google.protobuf.Int64Value num_batch_threads = 4; \
google.protobuf.StringValue thread_pool_name = 5; repeated int64 allowed_batch_sizes = 6; bool pad_variable_length_inputs = 7; \
google.protobuf.BoolValue enable_large_batch_splitting = 8; google.protobuf.Int64Value max_execution_batch_size = 9
tensorflow.serving.SSLConfig: string server_key = 1; string server_cert = 2; string custom_ca = 3; bool client_verify = 4
tensorflow.serving.PrometheusConfig: bool enable = 1; string path = 2
tensorflow.serving.MonitoringConfig: tensorflow.serving.PrometheusConfig prometheus_config = 1
"""
_ONEOFS = {
    "tensorflow.Feature": ("kind", ("bytes_list", "float_list", "int64_list")),
    "tensorflow.TensorInfo": ("encoding", ("name", "coo_sparse", "composite_tensor")),
    "tensorflow.AttrValue": ("value", ("tensor",)),
    "tensorflow.serving.Input": ("kind", ("example_list", "example_list_with_context")),
    "tensorflow.serving.ModelSpec": ("version_choice", ("version", "version_label")),
    "tensorflow.serving.InferenceResult": ("result", ("classification_result", "regression_result")),
    "tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy": ("policy_choice", ("latest", "all", "specific")),
    "tensorflow.serving.ModelServerConfig": ("config", ("model_config_list", "custom_model_config")),
    "tensorflow.serving.PredictionLog": (
        "log_type",
        ("classify_log", "regress_log", "predict_log", "predict_streamed_log", "multi_inference_log", "session_run_log"),
    ),
}
"""Message -> its oneof, and the fields in it."""
# fmt: off
_DATA_TYPES = (
    "INVALID", "FLOAT", "DOUBLE", "INT32", "UINT8", "INT16", "INT8", "STRING", "COMPLEX64", "INT64", "BOOL", "QINT8", "QUINT8", "QINT32",
    "BFLOAT16", "QINT16", "QUINT16", "UINT16", "COMPLEX128", "HALF", "RESOURCE", "VARIANT", "UINT32", "UINT64", "FLOAT8_E5M2",
    "FLOAT8_E4M3FN", "FLOAT8_E4M3FNUZ", "FLOAT8_E4M3B11FNUZ", "FLOAT8_E5M2FNUZ", "INT4", "UINT4", "INT2", "UINT2", "FLOAT4_E2M1FN",
)
# fmt: on
_ENUMS = {
    "tensorflow.DataType": {f"DT_{name}": number for number, name in enumerate(_DATA_TYPES)}
    | {f"DT_{name}_REF": number + 100 for number, name in enumerate(_DATA_TYPES) if number},
    "tensorflow.error.Code": {code.name: code.value for code in sorted(Code)},
    "tensorflow.serving.ModelType": {"MODEL_TYPE_UNSPECIFIED": 0, "TENSORFLOW": 1, "OTHER": 2},
    "tensorflow.serving.ModelVersionStatus.State": {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50},
}
_FIELD = re.compile(r"(?:(repeated|map) )?(\S+) (\w+) = (\d+)")
_SCALARS = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
_MESSAGE, _ENUM = 11, 14
_WRAPPERS = "google/protobuf/wrappers.proto"
"""By this name of their file JSON's writer knows the messages that it shows as bare values."""
_making = threading.Lock()


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

    with _making:  # of two pools, neither would take the other's messages
        pool, names = _pool()
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(names[name]))


def as_declared(name: str, other: Any) -> Any:
    """Returns TensorFlow's own message as one of those that are declared here."""
    return message(name).FromString(other.SerializeToString())


@functools.cache
def _pool() -> tuple[Any, dict[str, str]]:
    from google.protobuf import descriptor_pb2, descriptor_pool

    lines = [line.partition(":")[::2] for line in _DECLARATIONS.strip().splitlines()]
    paths = {"google.protobuf": _WRAPPERS, "tensorflow.error": "error.proto", "tensorflow": "tensorflow.proto", "tensorflow.serving": "serving.proto"}
    files = {package: descriptor_pb2.FileDescriptorProto(name=path, package=package, syntax="proto3") for package, path in paths.items()}
    files["tensorflow.serving"].dependency.extend(list(paths.values())[:-1])
    for name, fields in lines:
        _declare(_place(files, name), name, fields)
    for name, values in _ENUMS.items():
        for value, number in values.items():
            _place(files, name).value.add(name=value, number=number)
    pool = descriptor_pool.DescriptorPool()
    for file in files.values():
        pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return pool, {name.rpartition(".")[2]: name for name, _ in lines}


def _place(files: Mapping[str, Any], name: str) -> Any:
    """Returns the declaration of a message or an enum, within its file or within the messages that its name says."""
    package = max((package for package in files if name.startswith(f"{package}.")), key=len)
    *outer, last = name.removeprefix(f"{package}.").split(".")
    found, messages = files[package], files[package].message_type
    for part in outer:
        found = _named(messages, part)
        messages = found.nested_type
    return _named(found.enum_type if name in _ENUMS else messages, last)


def _named(declarations: Any, name: str) -> Any:
    return next((found for found in declarations if found.name == name), None) or declarations.add(name=name)


def _declare(declared: Any, name: str, fields: str) -> None:
    oneof, members = _ONEOFS.get(name, ("", ()))
    if oneof:
        declared.oneof_decl.add(name=oneof)
    for label, kind, field, number in _FIELD.findall(fields):
        added = declared.field.add(name=field, number=int(number), label=3 if label else 1)
        if label == "map":
            entry = declared.nested_type.add(name=f"{''.join(part.title() for part in field.split('_'))}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=1, type=9)
            _set_type(entry.field.add(name="value", number=2, label=1), kind)
            added.type, added.type_name = _MESSAGE, f".{name}.{entry.name}"
        else:
            _set_type(added, kind)
        if field in members:
            added.oneof_index = 0


def _set_type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _ENUM if kind in _ENUMS else _MESSAGE, f".{kind}"
