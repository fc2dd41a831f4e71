"""Listings that the kernel gives over netlink(7)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_DONE, _ERROR = 3, 2
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEAD = "=IHHII"


def listed(protocol: int, kind: int, body: bytes, name: str) -> Iterator[bytes]:
    """The messages that answer a request of a ``kind`` to a ``protocol``, by ``name`` in errors. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        kernel.settimeout(5)
        head = struct.pack(_HEAD, 16 + len(body), kind, _REQUEST_DUMP, 1, 0)
        kernel.sendmsg([head + body])
        while True:
            for found, message in _split(kernel.recv(1 << 17), _HEAD, 16):
                if found not in (_DONE, _ERROR):
                    yield message
                elif number := -struct.unpack_from("=i", message)[0]:
                    raise OSError(number, os.strerror(number), name)
                else:
                    return


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, behind its fixed part, by type."""
    return dict(_split(data, "=HH", 4))


def _split(data: bytes, head: str, head_size: int) -> Iterator[tuple[int, bytes]]:
    """(type, contents) of messages or attributes, each padded to four bytes."""
    while len(data) >= head_size:
        length, kind = struct.unpack_from(head, data)[:2]
        yield kind, data[head_size:length]
        data = data[-(-max(length, head_size) // 4) * 4 :]
