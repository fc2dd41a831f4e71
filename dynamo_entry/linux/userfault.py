"""userfaultfd(2): puts pages where a process has none yet, which the kernel then need not clear first."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from dynamo_entry.linux.pages import PAGE, last_error, libc
from dynamo_entry.value import NamedTuple

#: asm/unistd.h, by machine
_NUMBERS = {"x86_64": 323, "aarch64": 282}


class _Copy(ctypes.Structure):
    """linux/userfaultfd.h: struct uffdio_copy."""

    _fields_ = (
        ("position", ctypes.c_uint64), ("source", ctypes.c_uint64), ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64), ("copied", ctypes.c_int64),
    )  # fmt: skip


class _Zero(ctypes.Structure):
    """struct uffdio_zeropage."""

    _fields_ = (
        ("position", ctypes.c_uint64), ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64), ("filled", ctypes.c_int64),
    )  # fmt: skip


class _Range(ctypes.Structure):
    """struct uffdio_range."""

    _fields_ = (("position", ctypes.c_uint64), ("length", ctypes.c_uint64))


#: asm-generic/ioctl.h: the number of a call by its direction and argument
_READ, _WRITE = 2 << 30, 1 << 30


def _call(direction: int, number: int, argument: type[ctypes.Structure]) -> int:
    return direction | ctypes.sizeof(argument) << 16 | 0xAA << 8 | number


_UNREGISTER = _call(_READ, 1, _Range)
_COPY, _ZEROPAGE = _call(_READ | _WRITE, 3, _Copy), _call(_READ | _WRITE, 4, _Zero)

#: struct uffd_msg, of a page fault: the event and the address
_MESSAGE = struct.Struct("=B7x8xQ8x")

#: ioctl(2) on a userfaultfd takes the address of a structure.
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Copied(NamedTuple):
    """How many bytes were put, and the error at the page after them, or 0."""

    length: int
    error: int


def is_allowed() -> bool:
    """Whether a process with the rights of this one gets a userfaultfd."""
    number = _NUMBERS.get(os.uname().machine)
    descriptor = -1 if number is None else libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


def copy(descriptor: int, position: int, address: int, length: int) -> Copied:
    """Put ``length`` bytes from ``address`` at ``position``, inside one mapping, up to the first page that exists."""
    done = 0
    while done < length:
        request = _Copy(position + done, address + done, length - done)
        if libc.ioctl(descriptor, _COPY, ctypes.byref(request)) == 0:
            break
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # it was interrupted, or the next call returns the error of a page
            return Copied(done, number)
        done += max(0, request.copied)
    return Copied(length, 0)


def zero(descriptor: int, position: int) -> None:
    """Put a page of zeros at ``position``, unless there is a page, or the mapping is gone. Raises OSError."""
    request = _Zero(position, PAGE)
    if libc.ioctl(descriptor, _ZEROPAGE, ctypes.byref(request)) < 0:
        failure = last_error()
        if failure.errno not in (errno.EEXIST, errno.ENOENT, errno.ESRCH):
            raise failure


def unregister(descriptor: int, start: int, end: int) -> None:
    """Let the kernel make pages there as it does elsewhere; does nothing if the range was not registered."""
    if libc.ioctl(descriptor, _UNREGISTER, ctypes.byref(_Range(start, end - start))) < 0:
        failure = last_error()
        if failure.errno != errno.EINVAL:
            raise failure


def awaited(descriptor: int) -> int | None:
    """The address of a page that a task waits for; None if no task waits."""
    try:
        _event, address = _MESSAGE.unpack(os.read(descriptor, _MESSAGE.size))
    except BlockingIOError:
        return None
    return int(address) // PAGE * PAGE
