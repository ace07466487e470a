"""TensorProto to arrays and back, for the server and for a client without TensorFlow.

The functions take any message class with TensorProto's fields: TensorFlow's own, or those of `zoo.serving.messages`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy


@dataclass(frozen=True)
class TensorType:
    """One of TensorFlow's types.

    Attributes:
        number: DataType's number.
        name: As TensorFlow's messages spell it.
        numpy_name: NumPy's (or ml_dtypes') name; `object` for strings, None where arrays cannot hold the type.
        field: TensorProto's field for its values.
        tag: The field's number where its packed values are the array's own bytes, else 0.
    """

    number: int
    name: str
    numpy_name: str | None
    field: str
    tag: int = 0

    @cached_property
    def dtype(self) -> numpy.dtype | None:
        """The arrays' dtype, or None."""
        if self.numpy_name is None:
            return None
        if self.numpy_name == "bfloat16":
            import ml_dtypes

            return numpy.dtype(ml_dtypes.bfloat16)
        return numpy.dtype(self.numpy_name)


_TYPES = (
    TensorType(1, "float", "float32", "float_val", 5),
    TensorType(2, "double", "float64", "double_val", 6),
    TensorType(3, "int32", "int32", "int_val"),
    TensorType(4, "uint8", "uint8", "int_val"),
    TensorType(5, "int16", "int16", "int_val"),
    TensorType(6, "int8", "int8", "int_val"),
    TensorType(7, "string", "object", "string_val"),
    TensorType(8, "complex64", "complex64", "scomplex_val"),
    TensorType(9, "int64", "int64", "int64_val"),
    TensorType(10, "bool", "bool", "bool_val"),
    TensorType(14, "bfloat16", "bfloat16", "half_val"),
    TensorType(17, "uint16", "uint16", "int_val"),
    TensorType(18, "complex128", "complex128", "dcomplex_val"),
    TensorType(19, "half", "float16", "half_val"),
    TensorType(22, "uint32", "uint32", "uint32_val"),
    TensorType(23, "uint64", "uint64", "uint64_val"),
)
BY_NUMBER = {type.number: type for type in _TYPES}
_BY_NUMPY = {type.numpy_name: type for type in _TYPES}
STRING = BY_NUMBER[7]


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature.

    Attributes:
        tensor: The tensor's name in the graph.
        type: Its type.
        shape: Its shape, -1 for an open dimension; None where the rank is open.
    """

    tensor: str
    type: TensorType
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, info: Any) -> TensorInfo:
        """Reads a TensorInfo message."""
        shape = info.tensor_shape
        unknown = TensorType(info.dtype, f"unknown dtype enum ({info.dtype})", None, "")
        return cls(info.name, BY_NUMBER.get(info.dtype, unknown), None if shape.unknown_rank else tuple(dimension.size for dimension in shape.dim))


def type_of(array: numpy.ndarray) -> TensorType:
    """Returns the type of an array's elements.

    Raises:
        ValueError: TensorFlow has no such type.

    Example:
        >>> type_of(numpy.zeros(3, "float32")).name, type_of(numpy.array(["a"])).name
        ('float', 'string')
    """
    if array.dtype.kind in "SUO":
        return STRING
    try:
        return _BY_NUMPY[array.dtype.name]
    except KeyError:
        raise ValueError(f"arrays of {array.dtype} cannot be sent") from None


def from_proto(proto: Any) -> numpy.ndarray:
    """Returns a TensorProto as an array.

    As in TensorFlow, a list of values that is too short is continued with its last value, and an empty one stands for
    zeros.

    Raises:
        ValueError: Type, shape and values do not make a tensor.
    """
    shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
    kind = BY_NUMBER.get(proto.dtype)
    if kind is None or kind.dtype is None or proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("not a tensor")
    size = math.prod(shape)
    if content := proto.tensor_content:
        if kind is STRING or len(content) != size * kind.dtype.itemsize:
            raise ValueError("the content does not fit the shape")
        return numpy.frombuffer(content, kind.dtype).reshape(shape)
    if size > 2**28:
        raise ValueError("the shape is too large")
    values = getattr(proto, kind.field)
    return _fill(_values(kind, values), size, kind.dtype).reshape(shape)


def _values(kind: TensorType, values: Any) -> numpy.ndarray:
    assert kind.dtype is not None
    if kind is STRING:
        array = numpy.empty(len(values), dtype=object)
        array[:] = values
        return array
    if kind.field == "half_val":
        return numpy.array(values, "int64").astype("uint16").view(kind.dtype)
    if kind.field in ("scomplex_val", "dcomplex_val"):
        pairs = numpy.array(values, "float32" if kind.field == "scomplex_val" else "float64")
        return pairs[: len(pairs) // 2 * 2].view(kind.dtype)
    if kind.field == "int_val" and kind.name != "int32":
        return numpy.array(values, "int32").astype(kind.dtype)
    return numpy.array(values, kind.dtype)


def _fill(values: numpy.ndarray, size: int, dtype: numpy.dtype) -> numpy.ndarray:
    """Cuts or continues values to a size."""
    if len(values) >= size:
        return values[:size]
    blank: Any = b"" if dtype.kind == "O" else 0
    array = numpy.full(size, values[-1] if len(values) else blank, dtype=dtype)
    array[: len(values)] = values
    return array


def fill_proto(proto: Any, array: numpy.ndarray, *, as_content: bool = False) -> None:
    """Writes an array into an empty TensorProto.

    Args:
        proto: The message.
        array: Any shape; strings as `bytes`, `str` or NumPy's string types.
        as_content: Whether numbers go into `tensor_content`, as raw bytes, and not into the typed field.

    Raises:
        ValueError: TensorFlow has no such type.
    """
    kind = type_of(array)
    proto.dtype = kind.number
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if kind is STRING:
        proto.string_val.extend(item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist())
    elif as_content:
        proto.tensor_content = array.tobytes()
    elif kind.tag:  # the values of a packed field are the array's bytes: ten times faster than extend
        content = array.tobytes()
        proto.MergeFromString(bytes((kind.tag << 3 | 2,)) + _varint(len(content)) + content)
    elif kind.field == "half_val":
        proto.half_val.extend(numpy.ascontiguousarray(array).view("uint16").reshape(-1).tolist())
    elif kind.field in ("scomplex_val", "dcomplex_val"):
        parts = numpy.ascontiguousarray(array).reshape(-1)
        getattr(proto, kind.field).extend(numpy.stack([parts.real, parts.imag], axis=-1).reshape(-1).tolist())
    else:
        getattr(proto, kind.field).extend(array.reshape(-1).tolist())


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
