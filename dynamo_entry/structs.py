"""Lets msgspec analyse the types that threads decode before there are threads."""

from __future__ import annotations

from typing import TypeVar

import msgspec

_Kind = TypeVar("_Kind", bound=type[msgspec.Struct])


def decodable(kind: _Kind) -> _Kind:
    """Decorate a class, so that threads may decode it and all types in it.

    Up to 0.22, msgspec keeps its analysis of a type with the type before it is complete: of two threads that decode the type
    for the first time at once, one may crash.
    """
    msgspec.json.Decoder(kind)
    return kind
