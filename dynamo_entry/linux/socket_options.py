"""Options of other processes' sockets that CRIU does not keep: read before the dump, set again while the tasks are still held.

Interfaces are recorded by name, because their numbers and addresses differ from container to container.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from dynamo_entry.linux import netlink, proc
from dynamo_entry.linux.sockets import of_process
from dynamo_entry.value import NamedTuple

_IP, _IPV6, _TCP, _UDP = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP, socket.IPPROTO_UDP
_NETLINK = 270

#: Options that hold a number (socket(7), ip(7), ipv6(7), tcp(7), udp(7), netlink(7)). A socket may lack some of them.
_NUMBERS = {
    "SO_ZEROCOPY": (socket.SOL_SOCKET, 60),
    "SO_INCOMING_CPU": (socket.SOL_SOCKET, 49),
    "SO_PREFER_BUSY_POLL": (socket.SOL_SOCKET, 69),
    "SO_TIMESTAMP": (socket.SOL_SOCKET, 29),
    "SO_TIMESTAMPING": (socket.SOL_SOCKET, 37),
    "SO_NOFCS": (socket.SOL_SOCKET, 43),
    "SO_RCVMARK": (socket.SOL_SOCKET, 75),
    "SO_RCVPRIORITY": (socket.SOL_SOCKET, 82),
    "SO_TIMESTAMPNS": (socket.SOL_SOCKET, 35),
    "SO_RXQ_OVFL": (socket.SOL_SOCKET, 40),
    "SO_PEEK_OFF": (socket.SOL_SOCKET, 42),
    "SO_LOCK_FILTER": (socket.SOL_SOCKET, 44),
    "SO_WIFI_STATUS": (socket.SOL_SOCKET, 41),
    "SO_SELECT_ERR_QUEUE": (socket.SOL_SOCKET, 45),
    "SO_BUSY_POLL": (socket.SOL_SOCKET, 46),
    "SO_MAX_PACING_RATE": (socket.SOL_SOCKET, 47),
    "SO_TXREHASH": (socket.SOL_SOCKET, 74),
    "SO_PASSPIDFD": (socket.SOL_SOCKET, 76),
    "SO_PASSRIGHTS": (socket.SOL_SOCKET, 83),
    "IP_TOS": (_IP, 1),
    "IP_TTL": (_IP, 2),
    "IP_RECVOPTS": (_IP, 6),
    "IP_RETOPTS": (_IP, 7),
    "IP_PKTINFO": (_IP, 8),
    "IP_MTU_DISCOVER": (_IP, 10),
    "IP_RECVERR": (_IP, 11),
    "IP_RECVTTL": (_IP, 12),
    "IP_RECVTOS": (_IP, 13),
    "IP_PASSSEC": (_IP, 18),
    "IP_RECVORIGDSTADDR": (_IP, 20),
    "IP_TRANSPARENT": (_IP, 19),
    "IP_MINTTL": (_IP, 21),
    "IP_CHECKSUM": (_IP, 23),
    "IP_BIND_ADDRESS_NO_PORT": (_IP, 24),
    "IP_RECVFRAGSIZE": (_IP, 25),
    "IP_RECVERR_RFC4884": (_IP, 26),
    "IP_MULTICAST_TTL": (_IP, 33),
    "IP_MULTICAST_LOOP": (_IP, 34),
    "IP_MULTICAST_ALL": (_IP, 49),
    "IP_LOCAL_PORT_RANGE": (_IP, 51),
    "IPV6_2292PKTINFO": (_IPV6, 2),
    "IPV6_2292HOPOPTS": (_IPV6, 3),
    "IPV6_2292DSTOPTS": (_IPV6, 4),
    "IPV6_2292RTHDR": (_IPV6, 5),
    "IPV6_2292HOPLIMIT": (_IPV6, 8),
    "IPV6_FLOWINFO": (_IPV6, 11),
    "IPV6_UNICAST_HOPS": (_IPV6, 16),
    "IPV6_MULTICAST_HOPS": (_IPV6, 18),
    "IPV6_MULTICAST_LOOP": (_IPV6, 19),
    "IPV6_MTU_DISCOVER": (_IPV6, 23),
    "IPV6_RECVERR": (_IPV6, 25),
    "IPV6_MULTICAST_ALL": (_IPV6, 29),
    "IPV6_ROUTER_ALERT_ISOLATE": (_IPV6, 30),
    "IPV6_RECVERR_RFC4884": (_IPV6, 31),
    "IPV6_FLOWINFO_SEND": (_IPV6, 33),
    "IPV6_RECVPKTINFO": (_IPV6, 49),
    "IPV6_RECVHOPLIMIT": (_IPV6, 51),
    "IPV6_RECVHOPOPTS": (_IPV6, 53),
    "IPV6_RECVRTHDR": (_IPV6, 56),
    "IPV6_RECVDSTOPTS": (_IPV6, 58),
    "IPV6_RECVPATHMTU": (_IPV6, 60),
    "IPV6_DONTFRAG": (_IPV6, 62),
    "IPV6_RECVTCLASS": (_IPV6, 66),
    "IPV6_TCLASS": (_IPV6, 67),
    "IPV6_AUTOFLOWLABEL": (_IPV6, 70),
    "IPV6_ADDR_PREFERENCES": (_IPV6, 72),
    "IPV6_RECVORIGDSTADDR": (_IPV6, 74),
    "IPV6_RECVFRAGSIZE": (_IPV6, 77),
    "IPV6_MINHOPCOUNT": (_IPV6, 73),
    "TCP_SYNCNT": (_TCP, 7),
    "TCP_LINGER2": (_TCP, 8),
    "TCP_DEFER_ACCEPT": (_TCP, 9),
    "TCP_THIN_LINEAR_TIMEOUTS": (_TCP, 16),
    "TCP_USER_TIMEOUT": (_TCP, 18),
    "TCP_FASTOPEN": (_TCP, 23),
    "TCP_NOTSENT_LOWAT": (_TCP, 25),
    "TCP_SAVE_SYN": (_TCP, 27),
    "TCP_FASTOPEN_CONNECT": (_TCP, 30),
    "TCP_INQ": (_TCP, 36),
    "TCP_FASTOPEN_NO_COOKIE": (_TCP, 34),
    "TCP_TX_DELAY": (_TCP, 37),
    "TCP_RTO_MAX_MS": (_TCP, 44),
    "UDP_NO_CHECK6_TX": (_UDP, 101),
    "UDP_NO_CHECK6_RX": (_UDP, 102),
    "UDP_SEGMENT": (_UDP, 103),
    "UDP_GRO": (_UDP, 104),
    "NETLINK_PKTINFO": (_NETLINK, 3),
    "NETLINK_BROADCAST_ERROR": (_NETLINK, 4),
    "NETLINK_NO_ENOBUFS": (_NETLINK, 5),
    "NETLINK_CAP_ACK": (_NETLINK, 10),
    "NETLINK_EXT_ACK": (_NETLINK, 11),
    "NETLINK_GET_STRICT_CHK": (_NETLINK, 12),
}
#: Connections show these options, but refuse to have them set. The interface for multicast is another one of this kind.
_SHOWN_ONLY = {(socket.SOCK_STREAM, name) for name in ("IP_MULTICAST_TTL", "IPV6_MULTICAST_HOPS")}
_CONGESTION = 13

#: SO_TXTIME: struct sock_txtime of linux/net_tstamp.h.
_SEND_TIMES, _SEND_TIMES_BYTES = (socket.SOL_SOCKET, 61), 8
_LEVELS = {socket.AF_INET: _IP, socket.AF_INET6: _IPV6}

#: The options that other kinds of sockets have: a process may have thousands of unix sockets.
_FEW = {socket.AF_UNIX: {socket.SOL_SOCKET}, socket.AF_NETLINK: {socket.SOL_SOCKET, _NETLINK}}
_INTERFACE = {_IP: 32, _IPV6: 17}  # IP_MULTICAST_IF, IPV6_MULTICAST_IF
_JOIN, _FILTER = 42, 48  # MCAST_JOIN_GROUP, MCAST_MSFILTER of linux/in.h

#: struct group_filter: interface, group (a sockaddr_storage), mode, and how many sources follow.
_HEAD = struct.Struct("=I4x128sII")
_EXCLUDE, _MOST_SOURCES = 0, 64


class _Group(NamedTuple):
    """A multicast group that has a member in this network namespace, on an interface."""

    interface: str
    address: bytes  # a sockaddr_storage


def record(tables: proc.Tables) -> list[dict[str, Any]]:
    """A row for each of their sockets that has options other than those of a new socket."""
    groups = {family: _groups(family) for family in _LEVELS}
    fresh: dict[tuple[int, ...], dict[str, Any]] = {}
    rows, seen = [], set()
    for pid, table in tables.items():
        for descriptor, target in table.items():
            if not target.startswith("socket:") or target in seen:
                continue
            seen.add(target)
            with suppress(OSError), of_process(pid, descriptor) as found:
                if found.family not in (*_LEVELS, *_FEW):
                    continue
                if options := _of(found, groups.get(found.family, []), fresh):
                    rows.append({"pid": pid, "descriptor": descriptor, "options": options})
    return rows


def set_again(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Set the recorded options again; returns those that cannot be set here."""
    missed = []
    for row in rows:
        try:
            with of_process(row["pid"], row["descriptor"]) as found:
                missed += [
                    f"{name} of descriptor {row['descriptor']} of {row['pid']}"
                    for name in _set(found, row["options"])
                ]
        except OSError as error:
            missed.append(str(error))
    return missed


def _of(
    found: socket.socket, groups: list[_Group], fresh: dict[tuple[int, ...], dict[str, Any]]
) -> dict[str, Any]:
    kind = (found.family, found.type, found.proto)
    if kind not in fresh:
        with socket.socket(*kind) as new:
            fresh[kind] = dict(_values(new))
    options = {name: value for name, value in _values(found) if fresh[kind].get(name) != value}
    if groups and found.type == socket.SOCK_DGRAM and (joined := [*_joined(found, groups)]):
        options["groups"] = joined
    return options


def _values(found: socket.socket) -> Iterator[tuple[str, Any]]:
    few = _FEW.get(socket.AddressFamily(found.family))
    for name, (level, number) in _NUMBERS.items():
        if (few is not None and level not in few) or (found.type, name) in _SHOWN_ONLY:
            continue
        with suppress(OSError):
            yield name, found.getsockopt(level, number)
    if few is not None:
        return
    if found.proto == _TCP:
        with suppress(OSError):
            yield (
                "TCP_CONGESTION",
                found.getsockopt(_TCP, _CONGESTION, 16).rstrip(b"\0").decode("ascii", "replace"),
            )
    with suppress(OSError):
        yield "SO_TXTIME", found.getsockopt(*_SEND_TIMES, _SEND_TIMES_BYTES).hex()
    if found.type != socket.SOCK_STREAM:
        with suppress(OSError):
            yield "multicast interface", _interface(found)


def _interface(found: socket.socket) -> str:
    """The name of the interface that multicast is sent by, or nothing."""
    if found.family == socket.AF_INET6:
        number = found.getsockopt(_IPV6, _INTERFACE[_IPV6])
        return socket.if_indextoname(number) if number else ""
    address = found.getsockopt(_IP, _INTERFACE[_IP], 4)
    return _owner(socket.inet_ntoa(address)) if any(address) else ""


def _owner(address: str) -> str:
    """The name of the interface that has an address, or nothing."""
    return next((entry.interface for entry in netlink.addresses() if entry.address == address), "")


def _address(interface: str) -> str:
    """An IPv4 address of an interface. Raises OSError."""
    for entry in netlink.addresses():
        if (entry.interface, entry.family) == (interface, socket.AF_INET):
            return entry.address
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), interface)


def _joined(found: socket.socket, groups: list[_Group]) -> Iterator[dict[str, str]]:
    for group in groups:
        answer = _filter(found, group)
        if answer:
            yield {"interface": group.interface, "filter": answer.hex()}


def _filter(found: socket.socket, group: _Group) -> bytes:
    """The struct group_filter of a member; nothing if the socket is not a member."""
    buffer = ctypes.create_string_buffer(_HEAD.size + 128 * _MOST_SOURCES)
    _HEAD.pack_into(buffer, 0, socket.if_nametoindex(group.interface), group.address, 0, _MOST_SOURCES)
    size = ctypes.c_uint(len(buffer))
    level = _LEVELS[socket.AddressFamily(found.family)]
    if ctypes.CDLL(None).getsockopt(found.fileno(), level, _FILTER, buffer, ctypes.byref(size)):
        return b""
    sources = min(_HEAD.unpack_from(buffer)[3], _MOST_SOURCES)
    return buffer.raw[: _HEAD.size + 128 * sources]


def _set(found: socket.socket, options: dict[str, Any]) -> Iterator[str]:
    """Set options; returns the names of those that could not be set."""
    for name, value in options.items():
        try:
            if name in _NUMBERS:
                found.setsockopt(*_NUMBERS[name], int(value))
            elif name == "TCP_CONGESTION":
                found.setsockopt(_TCP, _CONGESTION, str(value).encode())
            elif name == "SO_TXTIME":
                found.setsockopt(*_SEND_TIMES, bytes.fromhex(value))
            elif name == "multicast interface":
                _go_out_by(found, value)
            elif name == "groups":
                for group in value:
                    _join(found, socket.if_nametoindex(group["interface"]), bytes.fromhex(group["filter"]))
        except OSError as error:
            yield f"{name} {value if name != 'groups' else ''} ({error.strerror})"


def _go_out_by(found: socket.socket, interface: str) -> None:
    if found.family == socket.AF_INET6:
        found.setsockopt(_IPV6, _INTERFACE[_IPV6], socket.if_nametoindex(interface))
    else:
        found.setsockopt(_IP, _INTERFACE[_IP], socket.inet_aton(_address(interface)))


def _join(found: socket.socket, number: int, recorded: bytes) -> None:
    level = _LEVELS[socket.AddressFamily(found.family)]
    _, address, mode, sources = _HEAD.unpack_from(recorded)
    found.setsockopt(level, _JOIN, struct.pack("=I4x128s", number, address))
    if mode != _EXCLUDE or sources:
        found.setsockopt(level, _FILTER, _HEAD.pack(number, address, mode, sources) + recorded[_HEAD.size :])


def _groups(family: int) -> list[_Group]:
    """The groups that have members, from /proc/net/igmp and igmp6 (proc(5))."""
    try:
        if family == socket.AF_INET6:
            with open("/proc/net/igmp6", encoding="ascii") as file:
                rows = [line.split() for line in file]
            return [_Group(row[1], _storage6(bytes.fromhex(row[2]))) for row in rows]
        with open("/proc/net/igmp", encoding="ascii") as file:
            return list(_groups4(file.read().splitlines()[1:]))
    except OSError:
        return []


def _groups4(lines: list[str]) -> Iterator[_Group]:
    name = ""
    for line in lines:
        words = line.split()
        if not line.startswith("\t"):
            name = words[1].rstrip(":")
        else:
            address = struct.pack("=I", int(words[0], 16))
            yield _Group(name, struct.pack("=H2x4s120x", socket.AF_INET, address))


def _storage6(address: bytes) -> bytes:
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, address, 0)
