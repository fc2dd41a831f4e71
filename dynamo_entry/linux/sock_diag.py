"""What the kernel says about sockets beyond /proc: which ones are connected to each other (sock_diag(7))."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from dynamo_entry.linux import netlink
from dynamo_entry.value import NamedTuple

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_SHOW = 0x1 | 0x2 | 0x4 | 0x8 | 0x10  # linux/unix_diag.h: name, file, peer, who waits, lengths of queues
_NAME, _FILE, _PEER, _WAITING, _QUEUES = 0, 1, 2, 3, 4
_ALL = 0xFFFFFFFF
_NDIAG_PROTO_ALL = 255
_LISTEN = 10  # of linux/tcp_states.h
_ADDRESSES = struct.Struct("!HH16s16s")

#: What a listing of each kind needs: family and protocol, and the kernel's module for it.
_KINDS = {
    "unix": (socket.AF_UNIX, 0, "unix_diag"),
    "tcp": (socket.AF_INET, socket.IPPROTO_TCP, "tcp_diag"),
    "udp": (socket.AF_INET, socket.IPPROTO_UDP, "udp_diag"),
    "raw": (socket.AF_INET, socket.IPPROTO_RAW, "raw_diag"),
    "netlink": (socket.AF_NETLINK, _NDIAG_PROTO_ALL, "netlink_diag"),
    "packet": (socket.AF_PACKET, 0, "af_packet_diag"),
}


class Unix(NamedTuple):
    """A unix socket of this network namespace. Inode 0: no peer, or one that nobody has accepted yet.

    ``file``: the lower 32 bits of the inode of the file that it was bound to; 0 if there is none. ``waiting``: the inodes
    of clients that have not been accepted, 0 for one that is closed. ``unread``: bytes sent and not received.
    ``listens``: it takes connections.
    """

    inode: int
    kind: int
    name: bytes = b""
    peer: int = 0
    file: int = 0
    waiting: tuple[int, ...] = ()
    unread: int = 0
    listens: bool = False


class End(NamedTuple):
    """One end of a TCP connection. Inode 0: nobody has accepted it yet, or nobody has it open any more."""

    inode: int
    here: tuple[str, int]
    there: tuple[str, int]


def unix() -> Iterator[Unix]:
    """Every unix socket of this network namespace. Raises OSError."""
    body = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL, 0, _SHOW, _ALL, _ALL)
    for message in _listed(body):
        _, kind, state, _, inode = struct.unpack_from("=BBBBI", message)
        attributes = netlink.attributes(message[16:])
        (peer,) = struct.unpack("=I", attributes.get(_PEER, b"\0\0\0\0"))
        (file,) = struct.unpack_from("=I", attributes.get(_FILE, b"\0\0\0\0"))
        waiting = attributes.get(_WAITING, b"")
        (_, unread) = struct.unpack_from("=II", attributes.get(_QUEUES, bytes(8)))
        yield Unix(
            inode, kind, attributes.get(_NAME, b""), peer, file,
            struct.unpack(f"={len(waiting) // 4}I", waiting), unread, state == _LISTEN,
        )  # fmt: skip


def tcp() -> Iterator[End]:
    """Every end of a connection in this network namespace. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _listed(_inet(family, socket.IPPROTO_TCP, _ALL & ~(1 << _LISTEN))):
            source_port, port, source, address = _ADDRESSES.unpack_from(message, 4)
            (inode,) = struct.unpack_from("=I", message, 68)
            if port:
                yield End(inode, (_text(family, source), source_port), (_text(family, address), port))


def lacking() -> dict[str, str]:
    """Kinds of sockets (``unix``, ``tcp``, …) that this kernel cannot list, each with the module that is missing."""
    return {kind: module for kind, (family, protocol, module) in _KINDS.items() if not _has(family, protocol)}


def _has(family: int, protocol: int) -> bool:
    """Whether the kernel answers at all: ENOENT means that the module is missing."""
    body = {
        socket.AF_UNIX: struct.pack("=BBHIIIII", family, 0, 0, 0, 0, 0, _ALL, _ALL),
        socket.AF_INET: _inet(family, protocol, 0),
        socket.AF_NETLINK: struct.pack("=BBHIIII", family, protocol, 0, 0, 0, _ALL, _ALL),
        socket.AF_PACKET: struct.pack("=BBHIIII", family, 0, 0, 0, 0, _ALL, _ALL),
    }[socket.AddressFamily(family)]
    try:
        for _ in _listed(body):
            break
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def _inet(family: int, protocol: int, states: int) -> bytes:
    return struct.pack("=BBBBI", family, protocol, 0, 0, states) + bytes(48)


def _text(family: int, address: bytes) -> str:
    """An address; a mapped one as IPv4, because the other end may have it in that form."""
    if family == socket.AF_INET:
        return socket.inet_ntop(family, address[:4])
    return socket.inet_ntop(family, address).removeprefix("::ffff:")


def _listed(body: bytes) -> Iterator[bytes]:
    """The messages that answer a request. Raises OSError."""
    return netlink.listed(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, body, "sock_diag")
