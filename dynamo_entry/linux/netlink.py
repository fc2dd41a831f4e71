"""Lists what the kernel tells over netlink(7), such as the addresses of this network namespace."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from dynamo_entry.value import NamedTuple

_DONE, _ERROR = 3, 2
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEAD = "=IHHII"

#: rtnetlink(7)
_ROUTE, _GET_ADDRESS = 0, 22
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

#: linux/if_addr.h: family, prefix length, flags, scope, index of the interface; and attributes
_ADDRESS_HEAD = struct.Struct("=BBBBI")
_ADDRESS, _LOCAL, _LABEL = 1, 2, 3


class Address(NamedTuple):
    """An address of an interface. ``interface`` is the label of an alias (eth0:1)."""

    interface: str
    address: str
    family: int


def listed(protocol: int, kind: int, body: bytes, name: str) -> Iterator[bytes]:
    """The messages that answer a request of a ``kind`` to a ``protocol``; errors call it ``name``. Raises OSError."""
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
    """By type, the attributes of a message, which follow its fixed part."""
    return dict(_split(data, "=HH", 4))


def _split(data: bytes, head: str, head_size: int) -> Iterator[tuple[int, bytes]]:
    """(type, contents) of messages or attributes, each padded to four bytes."""
    while len(data) >= head_size:
        length, kind = struct.unpack_from(head, data)[:2]
        yield kind, data[head_size:length]
        data = data[-(-max(length, head_size) // 4) * 4 :]


def addresses() -> list[Address]:
    """IPv4 and IPv6 addresses, interface by interface, in the kernel's order; none if it does not list them."""
    try:
        found = list(_addresses())
    except OSError:
        return []
    order = list(dict.fromkeys(entry.interface for entry in found))
    return sorted(found, key=lambda entry: order.index(entry.interface))


def _addresses() -> Iterator[Address]:
    for message in listed(_ROUTE, _GET_ADDRESS, _ADDRESS_HEAD.pack(0, 0, 0, 0, 0), "rtnetlink"):
        family, _, _, _, index = _ADDRESS_HEAD.unpack_from(message)
        has = attributes(message[_ADDRESS_HEAD.size :])
        # On a point-to-point link, IFA_ADDRESS is the peer's address, and IFA_LOCAL is our own.
        data = has.get(_LOCAL, has.get(_ADDRESS))
        if family in _FAMILIES and data:
            label = has.get(_LABEL, b"").rstrip(b"\0")
            name = os.fsdecode(label) if label else socket.if_indextoname(index)
            yield Address(name, socket.inet_ntop(family, data), family)
