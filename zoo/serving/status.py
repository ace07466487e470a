"""The canonical status codes, as both protocols show them."""

from __future__ import annotations

import enum

MESSAGE_LIMIT = 1024


class Code(enum.IntEnum):
    """gRPC's canonical codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_HTTP = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_VALUES = frozenset(Code)


class StatusError(Exception):
    """A request's failure: a canonical code and TF Serving's message.

    Example:
        >>> error = not_found("Could not find any versions of model m")
        >>> error.http, str(error)
        (404, 'NOT_FOUND: Could not find any versions of model m')
    """

    def __init__(self, code: int, message: str, http: int | None = None) -> None:
        super().__init__(message)
        self.code = Code(code) if code in _VALUES else Code.UNKNOWN
        self.message = message
        self.http = _HTTP.get(self.code, 500) if http is None else http

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    @property
    def brief(self) -> str:
        """The message as gRPC carries it: at most 1024 bytes, and a remark where more were cut."""
        encoded = self.message.encode("utf-8", errors="replace")
        if len(encoded) <= MESSAGE_LIMIT:
            return self.message
        return f"{encoded[:MESSAGE_LIMIT].decode('utf-8', errors='ignore')}...TRUNCATED"


def invalid_argument(message: str) -> StatusError:
    """Returns the error of a request that can never succeed."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> StatusError:
    """Returns the error of a request that does not fit what is loaded."""
    return StatusError(Code.FAILED_PRECONDITION, message)


def not_found(message: str) -> StatusError:
    """Returns the error of a request for something that is not there."""
    return StatusError(Code.NOT_FOUND, message)


def unimplemented(message: str) -> StatusError:
    """Returns the error of a request that the protocol has no answer to."""
    return StatusError(Code.UNIMPLEMENTED, message)
