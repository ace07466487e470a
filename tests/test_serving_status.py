"""Status codes: gRPC's own, and the HTTP statuses of the contract."""

from __future__ import annotations

import grpc
import pytest

from zoo.serving.status import Code, StatusError


def test_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("code", "http"),
    [
        (Code.OK, 200),
        (Code.CANCELLED, 499),
        (Code.UNKNOWN, 500),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.PERMISSION_DENIED, 403),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.FAILED_PRECONDITION, 400),
        (Code.ABORTED, 409),
        (Code.OUT_OF_RANGE, 400),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.DATA_LOSS, 500),
        (Code.UNAUTHENTICATED, 401),
    ],
)
def test_http_statuses(code: Code, http: int) -> None:
    assert StatusError(code, "").http == http


def test_an_unknown_code_is_unknown() -> None:
    assert StatusError(99, "x").code is Code.UNKNOWN


@pytest.mark.parametrize(("length", "cut"), [(1023, False), (1024, False), (1025, True), (5000, True)])
def test_long_messages_are_cut(length: int, cut: bool) -> None:
    brief = StatusError(3, "m" * length).brief
    assert brief == ("m" * 1024 + "...TRUNCATED" if cut else "m" * length)


def test_no_character_is_cut_in_half() -> None:
    assert StatusError(3, "a" + "ü" * 1000).brief == "a" + "ü" * 511 + "...TRUNCATED"
