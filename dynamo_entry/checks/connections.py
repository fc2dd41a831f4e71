"""Unix sockets whose other end is outside of the engine: CRIU cannot dump half of a connection.

Asked of the kernel by sock_diag(7): /proc/net/unix does not say who is connected to whom.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import psutil

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLMSG_DONE, _NLMSG_ERROR = 4, 20, 3, 2
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_SHOW_NAME_AND_PEER = 0x1 | 0x4  # linux/unix_diag.h
_NAME, _PEER = 0, 2

_CONNECTED = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


class Unix(NamedTuple):
    """A unix socket of this network namespace. Inode 0: no peer, or one that nobody has accepted."""

    inode: int
    kind: int
    name: bytes = b""
    peer: int = 0


def check(processes: list[psutil.Process]) -> None:
    """Raises NotDumpable that names the process and where its connection leads."""
    owners = {
        int(target[8:-1]): process.pid
        for process in processes
        for target in proc.descriptors(process.pid).values()
        if target.startswith("socket:[")
    }
    try:
        there = list(_sockets())
    except OSError:
        return  # a kernel without sock_diag for unix sockets
    if found := leads_out(there, frozenset(owners)):
        inode, where = found
        raise NotDumpable(
            f"process {owners[inode]} has a unix socket connected to {where}, outside the engine; CRIU cannot dump one end of it",
            hint="let the engine, or PRE_DUMP, close it before the dump",
            reason="PeerOutside",
        )


def leads_out(there: Iterable[Unix], ours: frozenset[int]) -> tuple[int, str] | None:
    """The inode of one of ``ours`` that is connected to somebody else, and to whom; pure.

    Left to CRIU, which knows them: peers that are still to be accepted, or on their way to another process.
    """
    rows = {row.inode: row for row in there}
    names = {row.name for inode, row in rows.items() if inode in ours}
    for inode in sorted(ours & rows.keys()):
        row = rows[inode]
        if row.kind not in _CONNECTED or not row.peer or row.peer in ours:
            continue
        peer = rows.get(row.peer)
        if peer is None:
            return inode, "another container, or the node,"
        if peer.name and peer.name not in names:
            return inode, peer.name.rstrip(b"\0").replace(b"\0", b"@").decode("utf-8", "replace")
    return None


def _sockets() -> Iterator[Unix]:
    """Raises OSError."""
    body = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME_AND_PEER, 0xFFFFFFFF, 0xFFFFFFFF
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5)
        kernel.send(struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
        while True:
            for kind, message in _split(kernel.recv(1 << 17), "=IH", 16):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError("sock_diag")
                yield _parsed(message)


def _parsed(message: bytes) -> Unix:
    _, kind, _, _, inode = struct.unpack_from("=BBBBI", message)
    attributes = dict(_split(message[16:], "=HH", 4))
    (peer,) = struct.unpack("=I", attributes.get(_PEER, b"\0\0\0\0"))
    return Unix(inode, kind, attributes.get(_NAME, b""), peer)


def _split(data: bytes, head: str, head_size: int) -> Iterator[tuple[int, bytes]]:
    """(type, contents) of netlink messages or attributes, each padded to four bytes (netlink(7))."""
    while len(data) >= head_size:
        length, kind = struct.unpack_from(head, data)
        yield kind, data[head_size:length]
        data = data[-(-max(length, head_size) // 4) * 4 :]
