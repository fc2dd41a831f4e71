"""Refuses what CRIU does not dump in the queues of sockets: it would fail, or lose what comes after.

Most of it is there only for a moment, so the engine gets a little time to take it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from contextlib import suppress

from dynamo_entry.checks import dump
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, sock_diag, sockets
from dynamo_entry.linux.sock_diag import Unix

#: What CRIU takes for the kernel's part of a buffer (criu: sk-queue.c).
_HEAD = 32

#: linux/udp.h
_UDP_CORK = 1


def check(pids: Iterable[int]) -> None:
    """Raises NotDumpable that names the process, the descriptor and what lies there."""
    pids = list(pids)
    dump.if_it_lasts(lambda: _check_now(pids))


def _check_now(pids: list[int]) -> None:
    try:
        waiting = unaccepted(sock_diag.unix())
    except OSError:
        waiting = {}  # a kernel without sock_diag for unix sockets
    for pid, table in proc.tables(pids).items():
        for descriptor, target in table.items():
            if not target.startswith("socket:["):
                continue
            if what := waiting.get(int(target[8:-1])) or _lies_in(pid, descriptor):
                raise NotDumpable(
                    f"process {pid} has {what} (descriptor {descriptor}), which CRIU cannot dump",
                    hint="let the engine, or PRE_DUMP, take what was sent to it before the dump",
                    reason="QueueNotEmpty",
                )


def unaccepted(there: Iterable[Unix]) -> dict[int, str]:
    """Inodes of listening unix sockets, with what CRIU cannot dump of the clients that wait there; pure."""
    rows = {row.inode: row for row in there}
    found = {}
    for row in rows.values():
        if 0 in row.waiting:
            found[row.inode] = "a unix socket with a client that is gone and was not accepted"
        elif any(client in rows and rows[client].unread for client in row.waiting):
            found[row.inode] = "a unix socket with a client that was not accepted and has sent something"
    return found


def _lies_in(pid: int, descriptor: int) -> str:
    with suppress(OSError), sockets.of_process(pid, descriptor) as found:
        if found.family == socket.AF_NETLINK and sockets.has_data(found):
            return "a netlink socket with messages that it has not read"
        if found.family == socket.AF_UNIX and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return _of_unix(found)
        if found.proto == socket.IPPROTO_UDP and found.getsockopt(socket.IPPROTO_UDP, _UDP_CORK):
            return "a UDP socket that holds back what is written to it (UDP_CORK)"
    return ""


def _of_unix(found: socket.socket) -> str:
    first, is_stream = sockets.first_message(found), found.type == socket.SOCK_STREAM
    if first is None or (is_stream and not first.size):  # nothing is there, or the end of the stream
        return ""
    if first.control - {(socket.SOL_SOCKET, socket.SCM_RIGHTS)}:
        return "a unix socket that asks who sends (SO_PASSCRED and the like), and an unread message"
    if not first.size and not _is_shut_down(found):
        return "a unix socket with an unread message that is empty"
    if not is_stream and first.size > found.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _HEAD:
        return (
            "a unix socket with an unread message that is larger than what it could send itself (SO_SNDBUF)"
        )
    return ""


def _is_shut_down(found: socket.socket) -> bool:
    poll = select.poll()
    poll.register(found, select.POLLRDHUP)
    return bool(poll.poll(0))
