"""Sockets of other processes: a copy of their descriptor, and what is in their queues, which stays there."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from dynamo_entry.value import NamedTuple

#: asm-generic/unistd.h; the same on x86-64 and arm64.
_SYS_PIDFD_GETFD = 438


def copied(pid: int, descriptor: int) -> int:
    """Our own descriptor of what a process that we may trace has open by another. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        ours = libc.syscall(_SYS_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if ours < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"descriptor {descriptor} of {pid}")
    return int(ours)


@contextmanager
def of_process(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """The socket behind a descriptor of a process that we may trace. Raises OSError."""
    with socket.socket(fileno=copied(pid, descriptor)) as found:
        yield found


#: SCM_PIDFD, and the most that one message carries (unix(7)).
_SCM_PIDFD, _MOST_DESCRIPTORS = 4, 253
_SO_PEEK_OFF = 42


@contextmanager
def on_their_way(found: socket.socket) -> Iterator[list[int]]:
    """Copies of all descriptors that were sent to a unix socket, and not received yet; the messages stay there.

    The socket's owners must not run meanwhile: they would peek at other messages than they expect. Raises OSError.
    """
    before = found.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF)
    copies: list[int] = []
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        with suppress(BlockingIOError):
            while _peek(found, copies).size:
                pass
        yield copies
    finally:
        found.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, before)
        _close(copies)


@contextmanager
def first_on_their_way(found: socket.socket) -> Iterator[list[int]]:
    """The descriptors in the first message, at any time; none if the socket's owner uses SO_PEEK_OFF."""
    copies: list[int] = []
    try:
        _peek_first(found, copies)
        yield copies
    finally:
        _close(copies)


class Message(NamedTuple):
    """The next message of a socket: its size, and the (level, kind) of each control message with it (cmsg(3))."""

    size: int
    control: frozenset[tuple[int, int]]


def first_message(found: socket.socket) -> Message | None:
    """The next message, or None if there is none, or if the socket's owner uses SO_PEEK_OFF."""
    copies: list[int] = []
    try:
        return _peek_first(found, copies)
    finally:
        _close(copies)


def has_data(found: socket.socket) -> bool:
    """Whether there is data, and no error: to look at an error would take it from the owner."""
    poll = select.poll()
    poll.register(found, select.POLLIN)
    return any(not events & select.POLLERR for _, events in poll.poll(0))


def _peek_first(found: socket.socket, copies: list[int]) -> Message | None:
    """As ``_peek``, at any time: SO_PEEK_OFF would look at another message, and move on."""
    with suppress(BlockingIOError):
        if found.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) < 0 and has_data(found):
            return _peek(found, copies)
    return None


def _peek(found: socket.socket, copies: list[int]) -> Message:
    """Look at the next message, and add copies of its descriptors. Raises BlockingIOError if there is none."""
    size = struct.calcsize("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * size) + 3 * socket.CMSG_SPACE(64)
    data, control, *_ = found.recvmsg(1 << 20, room, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    for level, kind, content in control:
        numbers = struct.unpack(f"{len(content) // size}i", content[: len(content) // size * size])
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            copies.extend(numbers)
        elif (level, kind) == (socket.SOL_SOCKET, _SCM_PIDFD):
            _close(numbers)
    return Message(len(data), frozenset((level, kind) for level, kind, _ in control))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


#: linux/tcp_states.h, which TCP_INFO begins with.
_CLOSED = 7


def shut_down(descriptors: Iterable[tuple[int, int]]) -> None:
    """Tell the engine that a connection is gone: reads end, writes fail (EPIPE).

    After ``descriptors`` were recorded the engine may have closed some, and opened something else, which stays.
    """
    for pid, descriptor in descriptors:
        with suppress(OSError), of_process(pid, descriptor) as found:
            is_tcp = found.proto == socket.IPPROTO_TCP
            if is_tcp and found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED:
                found.shutdown(socket.SHUT_RDWR)  # takes effect although it fails with ENOTCONN
