"""JSON as TF Serving's parser takes it, which is more than the standard allows and less than Python does.

NaN, Inf and Infinity are numbers; of equal keys the first counts; what follows the document is ignored, and so is a byte
order mark. Three parsers share the work. orjson takes nearly every request. Python's takes what orjson refuses or hides:
numbers that are not finite, text behind the document, equal keys. The one in this module is slow, and finds the error's
name and place where there is one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from zoo.serving.status import invalid_argument

MAXIMUM_DEPTH = 200
MAXIMUM_SHOWN = 20_000
"""Characters of a request that a message repeats."""
_ENCODER = json.JSONEncoder(indent=4, ensure_ascii=False)
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE = b" \t\r\n"
_WORDS = {
    b"true": True,
    b"false": False,
    b"null": None,
    b"NaN": math.nan,
    b"Infinity": math.inf,
    b"Inf": math.inf,
    b"-NaN": math.nan,
    b"-Infinity": -math.inf,
    b"-Inf": -math.inf,
}
_WORD = re.compile(rb"-?(?:NaN|Infinity|Inf)|true|false|null")
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ESCAPES = {ord(key): value for key, value in zip('"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True)}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")


def parse(body: bytes) -> dict[str, Any]:
    """Parses a request's body.

    Returns:
        The document. In strings, bytes that are not UTF-8 stand as surrogate escapes.

    Raises:
        StatusError: The body holds no JSON object.
    """
    import orjson

    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    body = bytes(body)
    try:
        document = orjson.loads(body[3:] if body.startswith(_BOM) else body)
        if isinstance(document, dict) and not _keys_may_repeat(body, document):
            return document
    except orjson.JSONDecodeError:
        pass
    document = _parse_leniently(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {dump(document)} Is not object")
    return document


def dump(value: Any) -> str:
    """Shows a JSON value in a message, as TF Serving does, but not all of a large one."""
    parts, length = [], 0
    try:
        for part in _ENCODER.iterencode(value):
            parts.append(part)
            length += len(part)
            if length > MAXIMUM_SHOWN:
                break
    except RecursionError:
        length = MAXIMUM_SHOWN + 1
    text = "".join(parts) if length <= MAXIMUM_SHOWN else f"{''.join(parts)[:MAXIMUM_SHOWN]}..."
    return text.encode("utf-8", "replace").decode()


def type_name(value: Any) -> str:
    """Returns a JSON value's type as messages name it.

    Example:
        >>> type_name([]), type_name(True), type_name(1.5)
        ('Array', 'True', 'Number')
    """
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    return "Object" if isinstance(value, dict) else "Array" if isinstance(value, list) else "String" if isinstance(value, str) else "Number"


def _keys_may_repeat(body: bytes, document: dict[str, Any]) -> bool:
    """Whether orjson may have dropped the first of two equal keys: there are more colons than keys were found."""
    found = len(document)
    for value in document.values():
        if isinstance(value, dict):
            found += len(value)
        elif isinstance(value, list):
            found += sum(len(item) for item in value if type(item) is dict)
    return body.count(b":") != found


def _parse_leniently(body: bytes) -> Any:
    start = 3 if body.startswith(_BOM) else 0
    if not _SURROGATE.search(body):
        try:
            text = body[start:].decode("utf-8", "surrogateescape")
            return _DECODER.raw_decode(text.lstrip(" \t\r\n"))[0]
        except (ValueError, RecursionError):
            pass
    return _Parser(body, start).document()


def _first_of_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        members.setdefault(key, value)
    return members


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("too big")
    return number


def _whole(text: str) -> int | float:
    return int(text) if len(text) < 20 or -(2**63) <= _integer(text) < 2**64 else _float(text)


def _integer(text: str | bytes) -> int:
    return int(text) if len(text) <= 21 else 2**64


_DECODER = json.JSONDecoder(object_pairs_hook=_first_of_equal_keys, parse_float=_float, parse_int=_whole)


class _Parser:
    """A recursive descent with RapidJSON's errors."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body, self._at = body, start

    def document(self) -> Any:
        self._skip()
        if self._at == len(self._body):
            self._fail("The document is empty.")
        return self._value(0)

    def _fail(self, message: str, at: int | None = None) -> NoReturn:
        raise invalid_argument(f"JSON Parse error: {message} at offset: {self._at if at is None else at}")

    def _peek(self) -> int:
        return self._body[self._at] if self._at < len(self._body) else 0

    def _skip(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in _SPACE:
            self._at += 1

    def _value(self, depth: int) -> Any:
        if depth > MAXIMUM_DEPTH:
            self._fail(f"The document is nested deeper than {MAXIMUM_DEPTH} levels.")
        first = self._peek()
        if first == ord("{"):
            return _first_of_equal_keys(list(self._members(depth)))
        if first == ord("["):
            return list(self._elements(depth))
        if first == ord('"'):
            return self._string()
        if word := _WORD.match(self._body, self._at):
            self._at = word.end()
            return _WORDS[word[0]]
        return self._number()

    def _members(self, depth: int) -> Iterable[tuple[str, Any]]:
        self._at += 1
        self._skip()
        if self._peek() == ord("}"):
            self._at += 1
            return
        while True:
            if self._peek() != ord('"'):
                self._fail("Missing a name for object member.")
            key = self._string()
            self._skip()
            if self._peek() != ord(":"):
                self._fail("Missing a colon after a name of object member.")
            self._at += 1
            self._skip()
            yield key, self._value(depth + 1)
            self._skip()
            if self._ends(b",}", "Missing a comma or } after an object member."):
                return

    def _elements(self, depth: int) -> Iterable[Any]:
        self._at += 1
        self._skip()
        if self._peek() == ord("]"):
            self._at += 1
            return
        while True:
            yield self._value(depth + 1)
            self._skip()
            if self._ends(b",]", "Missing a comma or ] after an array element."):
                return

    def _ends(self, signs: bytes, message: str) -> bool:
        sign = self._peek()
        if sign not in signs:
            self._fail(message)
        self._at += 1
        self._skip()
        return sign == signs[1]

    def _string(self) -> str:
        start = self._at
        self._at += 1
        parts = bytearray()
        while True:
            plain = _PLAIN.match(self._body, self._at)
            assert plain is not None
            parts += plain[0]
            self._at = plain.end()
            sign = self._peek()
            if sign == ord('"'):
                self._at += 1
                return parts.decode("utf-8", "surrogateescape")
            if sign == ord("\\"):
                parts += self._escape()
            elif not sign:
                self._fail("Missing a closing quotation mark in string.", start)
            else:
                self._fail("Invalid encoding in string.")

    def _escape(self) -> bytes:
        start = self._at
        sign = self._body[start + 1] if start + 1 < len(self._body) else 0
        if sign in _ESCAPES:
            self._at += 2
            return bytes((_ESCAPES[sign],))
        if sign != ord("u"):
            self._fail("Invalid escape character in string.", start)
        code = self._hexadecimal(start)
        if 0xD800 <= code <= 0xDFFF:
            if code > 0xDBFF or self._body[self._at : self._at + 2] != b"\\u":
                self._fail("The surrogate pair in string is invalid.", start)
            low = self._hexadecimal(start)
            if not 0xDC00 <= low <= 0xDFFF:
                self._fail("The surrogate pair in string is invalid.", start)
            code = ((code - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
        return chr(code).encode()

    def _hexadecimal(self, start: int) -> int:
        digits = _HEX.match(self._body, self._at + 2)
        if digits is None:
            self._fail("Incorrect hex digit after \\u escape in string.", start)
        self._at = digits.end()
        return int(digits[0], 16)

    def _number(self) -> Any:
        start = self._at
        whole = _INTEGER.match(self._body, start)
        if whole is None:
            self._fail("Invalid value.")
        self._at = whole.end()
        double = False
        for sign, message in ((b".", "Miss fraction part in number."), (b"eE", "Miss exponent in number.")):
            if self._peek() in sign:
                double = True
                self._at += 1
                if sign == b"eE" and self._peek() in b"+-":
                    self._at += 1
                digits = re.compile(rb"[0-9]+").match(self._body, self._at)
                if digits is None:
                    self._fail(message)
                self._at = digits.end()
        text = self._body[start : self._at]
        if not double and len(text) < 20:
            return int(text)
        if math.isinf(float(text)):
            self._fail("Number too big to be stored in double.", start)
        return float(text) if double or not -(2**63) <= _integer(text) < 2**64 else int(text)
