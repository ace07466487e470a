"""TensorProto to arrays and back, and the messages that are declared without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from serving_models import RELAXED

from zoo.serving import messages
from zoo.serving.messages import message
from zoo.serving.tensors import BY_NUMBER, TensorInfo, fill_proto, from_proto, type_of

KINDS = [kind for kind in BY_NUMBER.values() if kind.name not in ("string", "bfloat16")]
PROTOS = [message("TensorProto"), tf.make_tensor_proto(0).__class__]


@pytest.mark.parametrize("proto_class", PROTOS, ids=["own", "tensorflow"])
@pytest.mark.parametrize("as_content", [False, True])
@given(data=st.data())
@settings(RELAXED, max_examples=120)
def test_arrays_come_back_and_tensorflow_reads_the_same(proto_class: type, as_content: bool, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    array = data.draw(arrays.arrays(kind.dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    proto = proto_class()
    fill_proto(proto, array, as_content=as_content)
    back = from_proto(proto)
    theirs = tf.make_ndarray(PROTOS[1].FromString(proto.SerializeToString()))
    for found in (back, theirs):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes() or numpy.array_equal(found, array, equal_nan=True)


@given(st.lists(st.binary(max_size=5), max_size=6))
@settings(RELAXED, max_examples=60)
def test_strings_come_back(items: list[bytes]) -> None:
    array = numpy.empty(len(items), dtype=object)
    array[:] = items
    for proto_class in PROTOS:
        proto = proto_class()
        fill_proto(proto, array)
        assert from_proto(proto).tolist() == items


def test_bfloat16() -> None:
    array = tf.constant([1.0, -2.5], tf.bfloat16).numpy()
    proto = message("TensorProto")()
    fill_proto(proto, array)
    assert proto.dtype == tf.bfloat16.as_datatype_enum
    assert from_proto(proto).tolist() == [1.0, -2.5]


def test_types_are_tensorflows() -> None:
    for number, kind in BY_NUMBER.items():
        assert tf.dtypes.as_dtype(number).as_datatype_enum == number
        assert numpy.dtype(tf.dtypes.as_dtype(number).as_numpy_dtype) == kind.dtype
    assert type_of(numpy.array(["a"])) is type_of(numpy.array([b"a"])) is BY_NUMBER[7]
    with pytest.raises(ValueError, match="arrays of datetime64"):
        type_of(numpy.array(["2020-01-01"], "datetime64[D]"))


def test_a_tensors_description() -> None:
    made = message("TensorInfo")(name="x:0", dtype=1)
    made.tensor_shape.dim.add().size = -1
    assert TensorInfo.of(made) == TensorInfo("x:0", BY_NUMBER[1], (-1,))
    made.tensor_shape.unknown_rank = True
    assert TensorInfo.of(made).shape is None
    assert TensorInfo.of(message("TensorInfo")(dtype=20)).type.dtype is None


UNPUBLISHED = {"BatchingParameters", "SSLConfig", "PrometheusConfig", "MonitoringConfig"}
"""Messages that TF Serving's Python package does not hold."""


def test_the_declared_messages_are_the_official_ones() -> None:
    """Every field has the official number, type, label and oneof; the order is the official one, and so are the values of enums."""
    import google.protobuf.any_pb2
    import google.protobuf.wrappers_pb2  # noqa: F401
    from google.protobuf import descriptor_pool
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: F401
    from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2  # noqa: F401
    from tensorflow_serving.config import model_server_config_pb2  # noqa: F401

    pool, names = messages._pool()
    for short in names.keys() - UNPUBLISHED:
        ours, theirs = (source.FindMessageTypeByName(names[short]) for source in (pool, descriptor_pool.Default()))
        declared = set(ours.fields_by_name)
        assert [described(field) for field in ours.fields] == [described(field) for field in theirs.fields if field.name in declared], short
    for name in messages._ENUMS:
        ours, theirs = (source.FindEnumTypeByName(name).values_by_name for source in (pool, descriptor_pool.Default()))
        theirs = {name: value.number for name, value in theirs.items() if not name.startswith("DO_NOT_USE")}
        assert {name: value.number for name, value in ours.items()} == theirs, name


def described(field: Any) -> tuple[Any, ...]:
    oneof = field.containing_oneof
    kind = field.message_type or field.enum_type
    return field.name, field.number, field.type, field.is_repeated, kind and kind.full_name, oneof and oneof.name


RACE = """
import sys, threading
sys.setswitchinterval(1e-6)
from zoo.serving.messages import message
gate, found = threading.Barrier(8), []
def make():
    gate.wait()
    found.append(message("SignatureDefMap")().signature_def["a"].__class__)
    found.append(message("SignatureDef"))
threads = [threading.Thread(target=make) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(found)) == 1, found
"""


def test_threads_that_come_first_at_the_same_time_get_the_same_classes() -> None:
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
