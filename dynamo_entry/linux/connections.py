"""Sockets of other processes, reached through pidfd_getfd(2)."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

#: asm-generic/unistd.h; the same on x86-64 and arm64.
_SYS_PIDFD_GETFD = 438


@contextmanager
def of(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """The socket behind a descriptor of a process that we may trace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        ours = libc.syscall(_SYS_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if ours < 0:
        raise OSError(
            ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"descriptor {descriptor} of {pid}"
        )
    with socket.socket(fileno=ours) as found:
        yield found


def shut_down(descriptors: Iterable[tuple[int, int]]) -> None:
    """Let who waits for a connection that is gone learn of it: reads end, writes fail (EPIPE)."""
    for pid, descriptor in descriptors:
        with suppress(OSError), of(pid, descriptor) as found:
            found.shutdown(socket.SHUT_RDWR)  # fails with ENOTCONN, and does what it is to do
