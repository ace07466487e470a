"""TensorProto to arrays and back, and the messages that are declared without TensorFlow."""

from __future__ import annotations

import importlib

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


THEIRS = {
    "tensorflow.serving": ["predict", "classification", "regression", "model", "input", "get_model_status", "get_model_metadata", "status"],
    "tensorflow": ["framework.tensor", "framework.tensor_shape", "example.example", "example.feature", "protobuf.meta_graph"],
}


def test_the_declared_messages_are_the_official_ones() -> None:
    """Every field has the official number, kind of value and label."""
    official = {}
    for package, names in THEIRS.items():
        for name in names:
            module = f"tensorflow_serving.apis.{name}_pb2" if package == "tensorflow.serving" else f"tensorflow.core.{name}_pb2"
            for descriptor in importlib.import_module(module).DESCRIPTOR.message_types_by_name.values():
                official[descriptor.full_name] = descriptor
                official.update({nested.full_name: nested for nested in descriptor.nested_types})
    checked = 0
    pool, names = messages._pool()
    for name in names.values():
        if name not in official:
            continue
        for field in pool.FindMessageTypeByName(name).fields:
            theirs = official[name].fields_by_name[field.name]
            kinds = {field.type, theirs.type}
            assert (field.number, field.is_repeated) == (theirs.number, theirs.is_repeated), f"{name}.{field.name}"
            assert len(kinds) == 1 or kinds == {field.TYPE_INT32, field.TYPE_ENUM}, f"{name}.{field.name}: an enum is read as its number"
            checked += 1
    assert checked > 70
