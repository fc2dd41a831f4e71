"""Bounds the memory that a protobuf message takes once it is decoded: two bytes on the wire can take 140."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

#: A message, a string or a list element takes more bytes of an image than this: a mapping, for example, at least 27.
_BYTES_A_PART = 16

#: The number of parts that a message of any size may have, and the size below which parts are not counted.
_FREE_PARTS = 256

_VARINT, _FIXED_64, _DELIMITED, _FIXED_32 = 0, 1, 2, 5


def check(message: Any, body: bytes) -> None:
    """Raises ValueError for a message of very many tiny parts, and for bytes that are not a message.

    It counts the fields that decode to objects of their own. A class without such fields takes as much memory as its bytes.
    """
    if len(body) <= _FREE_PARTS * _BYTES_A_PART or not (parts := _parts(message.DESCRIPTOR)):
        return
    _count(parts, body, 0, len(body), _FREE_PARTS + len(body) // _BYTES_A_PART)


def _count(parts: Mapping[int, Mapping[int, Any]], body: bytes, at: int, end: int, left: int) -> int:
    """Return how many of the ``left`` allowed parts remain after those between ``at`` and ``end``. Raises ValueError."""
    while at < end:
        tag, at = _varint(body, at, end)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(body, at, end)
        elif kind == _DELIMITED:
            length, at = _varint(body, at, end)
            if tag >> 3 in parts:
                if left == 0:
                    raise ValueError("more parts than a message of its size has")
                left -= 1
                if inner := parts[tag >> 3]:
                    left = _count(inner, body, at, min(at + length, end), left)
            at += length
        elif kind in (_FIXED_32, _FIXED_64):
            at += 4 if kind == _FIXED_32 else 8
        else:
            raise ValueError(f"a field of the kind {kind}")
    if at > end:
        raise ValueError("a field ends outside of its message")
    return left


@lru_cache(maxsize=256)
def _parts(descriptor: Any) -> Mapping[int, Mapping[int, Any]]:
    """By number, the fields that decode to objects: those that have such fields themselves, and those that do not."""
    found = {}
    for field in descriptor.fields:
        if field.type == field.TYPE_MESSAGE:
            # CRIU's messages do not contain themselves.
            found[field.number] = _parts(field.message_type)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            found[field.number] = {}
    return found


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at that position, and where it ends. Raises ValueError if it is cut off."""
    value = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
