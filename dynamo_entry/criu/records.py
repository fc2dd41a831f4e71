"""CRIU's images record by record, as protobuf messages of pycriu, which is part of CRIU, so of the same version.

An image is one or two magic numbers and then records: a 32-bit length and a protobuf message each
(criu: include/magic.h, lib/pycriu/images/images.py). pycriu's message modules are loaded by themselves:
importing all of it takes 80 ms and its dictionaries 5 ms a thread of the engine; this takes 20 ms and 0.1 ms.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
import sys
from typing import Any

from dynamo_entry.errors import CheckpointError

#: In front of the image's own magic number (criu/include/magic.h).
_COMMON, _SERVICE = 0x54564319, 0x55105940


def message(module: str, name: str) -> Any:
    """A message class of pycriu's, e.g. ``message("pagemap", "pagemap_entry")``.

    Raises CheckpointError, with the package to install.
    """
    found = importlib.util.find_spec("pycriu")
    for directory in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(directory, "images")
        if path not in sys.path:
            sys.path.append(path)  # where the modules look for each other
    try:
        return getattr(importlib.import_module(f"{module}_pb2"), name)
    except ImportError as error:
        raise CheckpointError(
            f"pycriu cannot be imported: {error}",
            hint="install the distribution's python3-pycriu of the same version as criu",
            reason="PycriuMissing",
        ) from None


def head_length(image: bytes) -> int:
    """How many bytes the magic numbers take. Raises ValueError for what is no image."""
    if len(image) < 8:
        raise ValueError("too short for an image")
    return 8 if struct.unpack_from("<I", image)[0] in (_COMMON, _SERVICE) else 4


def split(image: bytes) -> tuple[bytes, list[bytes]]:
    """The magic numbers, and each record's message. Raises ValueError for what is no such image."""
    at = head_length(image)
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
