"""TFRecord files, as TensorFlow writes and reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import RELAXED

from zoo.serving.status import StatusError
from zoo.serving.tfrecord import read_records


def write(path: Path, records: list[bytes]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def outcome(path: Path) -> list[bytes] | str:
    try:
        return list(read_records(path))
    except StatusError as error:
        return f"{error.code.value} {error.message}"


def tensorflows(path: Path) -> list[bytes] | str:
    try:
        return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except tf.errors.OpError as error:
        return f"{error.error_code} {error.message.partition('}} ')[2].partition(' [Op:')[0]}"


@given(records=st.lists(st.binary(max_size=70), max_size=3))
@settings(RELAXED, max_examples=60)
def test_what_tensorflow_writes_is_read(tmp_path: Path, records: list[bytes]) -> None:
    assert list(read_records(write(tmp_path / "records", records))) == records


def test_a_long_record(tmp_path: Path) -> None:
    record = bytes(range(256)) * 300
    assert list(read_records(write(tmp_path / "records", [record]))) == [record]


WHOLE = [b"hello world", b"a second record"]


@pytest.mark.parametrize("position", [*range(0, 58, 3), None])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_fails_as_in_tensorflow(tmp_path: Path, position: int | None, damage: str) -> None:
    path = write(tmp_path / "records", WHOLE)
    content = bytearray(path.read_bytes())
    if position is not None and damage == "cut":
        content = content[:position]
    elif position is not None:
        content[position] ^= 1
    path.write_bytes(content)
    assert outcome(path) == tensorflows(path)
    assert (outcome(path) == WHOLE) == (position is None)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert outcome(tmp_path) == tensorflows(tmp_path) == f"9 {tmp_path}; Is a directory"
