"""TFRecord files, read and written without TensorFlow."""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

from zoo.serving.status import Code, StatusError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reversed


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file. As in TensorFlow, a header that is cut short is the end of the file.

    Raises:
        StatusError: The file cannot be read, or a record is not as it was written; the message is TensorFlow's.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        code = {errno.EISDIR: Code.FAILED_PRECONDITION, errno.EACCES: Code.PERMISSION_DENIED}.get(error.errno or 0, Code.UNKNOWN)
        raise StatusError(code, f"{path}; {error.strerror}") from None
    start = 0
    while start + 12 <= len(content):
        size, checksum = struct.unpack_from("<QI", content, start)
        if masked_crc32c(content[start : start + 8]) != checksum:
            raise StatusError(Code.DATA_LOSS, f"corrupted record at {start}{'' if start else ' (Is this even a TFRecord file?)'}")
        data, end = start + 12, start + 12 + size
        if end + 4 > len(content):
            raise StatusError(Code.DATA_LOSS, f"truncated record at {start}' failed with Read less bytes than requested")
        if masked_crc32c(content[data:end]) != struct.unpack_from("<I", content, end)[0]:
            raise StatusError(Code.DATA_LOSS, f"corrupted record at {data}")
        yield bytes(content[data:end])
        start = end + 4


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes a TFRecord file.

    Example:
        >>> write_records(Path("/tmp/example.tfrecord"), [b"one", b"two"])
        >>> list(read_records(Path("/tmp/example.tfrecord")))
        [b'one', b'two']
    """
    with path.open("wb") as file:
        for record in records:
            size = struct.pack("<Q", len(record))
            file.write(size + struct.pack("<I", masked_crc32c(size)) + record + struct.pack("<I", masked_crc32c(record)))


def masked_crc32c(data: bytes | memoryview) -> int:
    """Returns the checksum that stands beside a record: CRC-32C, turned and shifted.

    A CRC is linear. So the bytes' own are looked up all at once and joined by twos, each time with the left one moved on by
    as many zero bytes as the right one is long.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    size = len(data)
    levels = max(size - 1, 0).bit_length()
    padded = numpy.zeros(1 << levels, "uint8")  # zeros in front change nothing
    padded[len(padded) - size :] = numpy.frombuffer(data, "uint8")
    values = _bytes_table()[padded]
    for level in range(levels):
        values = _moved(values[::2], level) ^ values[1::2]
    start = numpy.array([0xFFFFFFFF], "uint32")
    for level in range(size.bit_length()):
        if size >> level & 1:
            start = _moved(start, level)
    crc = int(values[0] ^ start[0]) ^ 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _bytes_table() -> numpy.ndarray:
    """The CRC of every byte, uint32 `(256,)`."""
    values = numpy.arange(256, dtype="uint32")
    for _ in range(8):
        values = values >> 1 ^ numpy.where(values & 1, numpy.uint32(_POLYNOMIAL), numpy.uint32(0))
    return values


def _moved(values: numpy.ndarray, level: int) -> numpy.ndarray:
    """CRCs with `2**level` zero bytes behind what they are of."""
    tables = _move_tables(level)
    return tables[0][values & 255] ^ tables[1][values >> 8 & 255] ^ tables[2][values >> 16 & 255] ^ tables[3][values >> 24]


@functools.cache
def _move_tables(level: int) -> numpy.ndarray:
    """What each of a CRC's four bytes becomes when `2**level` zero bytes follow, uint32 `(4, 256)`."""
    values = numpy.arange(256, dtype="uint32") << numpy.array([[0], [8], [16], [24]], "uint32")
    if not level:
        return _bytes_table()[values & 255] ^ values >> 8
    return _moved(_moved(values, level - 1), level - 1)
