"""CRIU's images record by record, as protobuf messages: what pycriu's dictionaries are too slow for.

An image is one or two magic numbers and then records: a 32-bit length and a protobuf message each
(criu: include/magic.h, lib/pycriu/images/images.py).
"""

from __future__ import annotations

import struct
from typing import Any

#: In front of the image's own magic number (criu/include/magic.h).
_COMMON, _SERVICE = 0x54564319, 0x55105940


def message(module: str, name: str) -> Any:
    """A message class of pycriu's, e.g. ``message("pagemap", "pagemap_entry")``."""
    import importlib  # noqa: PLC0415 - of the worker only

    return getattr(importlib.import_module(f"pycriu.images.{module}_pb2"), name)


def split(image: bytes) -> tuple[bytes, list[bytes]]:
    """The magic numbers, and each record's message. Raises ValueError for what is no such image."""
    if len(image) < 8:
        raise ValueError("too short for an image")
    at = 8 if struct.unpack_from("<I", image)[0] in (_COMMON, _SERVICE) else 4
    head, found = image[:at], []
    while at < len(image):
        if at + 4 > len(image):
            raise ValueError("an image ends inside a record")
        (length,) = struct.unpack_from("<I", image, at)
        at += 4 + length
        if at > len(image):
            raise ValueError("an image ends inside a record")
        found.append(image[at - length : at])
    return head, found


def join(head: bytes, records: list[bytes]) -> bytes:
    """The reverse of ``split``."""
    return head + b"".join(struct.pack("<I", len(record)) + record for record in records)
