"""The addresses of this network namespace (rtnetlink(7))."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dynamo_entry.linux import netlink

_ROUTE, _GET_ADDRESS = 0, 22
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

#: linux/if_addr.h: family, prefix length, flags, scope, index of the interface; and attributes
_HEAD = struct.Struct("=BBBBI")
_ADDRESS, _LOCAL, _LABEL = 1, 2, 3


class Address(NamedTuple):
    """One of an interface; ``interface`` is the label of an alias (eth0:1)."""

    interface: str
    address: str
    family: int


def read() -> list[Address]:
    """IPv4 and IPv6, interface by interface, as the kernel lists them; none where it does not say."""
    try:
        found = list(_read())
    except OSError:
        return []
    order = list(dict.fromkeys(entry.interface for entry in found))
    return sorted(found, key=lambda entry: order.index(entry.interface))


def _read() -> Iterator[Address]:
    for message in netlink.listed(_ROUTE, _GET_ADDRESS, _HEAD.pack(0, 0, 0, 0, 0), "rtnetlink"):
        family, _, _, _, index = _HEAD.unpack_from(message)
        has = netlink.attributes(message[_HEAD.size :])
        # Of a tunnel the address is the other end's, and the local one this.
        data = has.get(_LOCAL, has.get(_ADDRESS))
        if family in _FAMILIES and data:
            label = has.get(_LABEL, b"").rstrip(b"\0")
            name = os.fsdecode(label) if label else socket.if_indextoname(index)
            yield Address(name, socket.inet_ntop(family, data), family)
