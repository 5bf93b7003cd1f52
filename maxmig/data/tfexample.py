"""Reads the bytes features of a serialised `tf.train.Example`, without TensorFlow.

ArrayRecord data sets made for MaxText hold such messages. Wire format:
https://protobuf.dev/programming-guides/encoding/; message: Example.features (1) is a map (1) from
name (1) to Feature (2), whose bytes_list is field 1, its values field 1.
"""

from __future__ import annotations

from collections.abc import Iterator

_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}


class NotExample(ValueError):
    """The bytes are not a serialised Example."""


def features(record: bytes) -> dict[str, list[bytes] | None]:
    """The features of an Example: lists of bytes, or None for one of another type.

    Raises:
        NotExample: The record has another format (plain text, for example).
    """
    message = _only(record, 1)
    found: dict[str, list[bytes] | None] = {}
    for number, entry in _fields(message):
        if number != 1:
            raise NotExample
        parts = dict(_fields(entry))
        if not set(parts) <= {1, 2} or 1 not in parts:
            raise NotExample
        try:
            name = parts[1].decode("utf-8")
        except UnicodeDecodeError as e:
            raise NotExample from e
        kinds = list(_fields(parts.get(2, b"")))
        is_bytes = bool(kinds) and kinds[-1][0] == 1
        found[name] = [value for _, value in _fields(kinds[-1][1])] if is_bytes else None
    return found


def _only(message: bytes, number: int) -> bytes:
    found = list(_fields(message))
    if len(found) != 1 or found[0][0] != number:
        raise NotExample
    return found[0][1]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, raw value) pairs of a message; raises NotExample where it is not one."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == _LENGTH_DELIMITED:
            size, start = _varint(message, at)
            at = start + size
        elif wire == 0:
            _, at = _varint(message, at)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise NotExample
        if number == 0 or at > len(message):
            raise NotExample
        yield number, message[start:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise NotExample
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotExample
