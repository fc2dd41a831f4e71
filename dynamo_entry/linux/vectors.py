"""Memory that system calls take by address, without a copy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_entry.storage.base import Bytes

libc = ctypes.CDLL(None, use_errno=True)

_SPLICE_F_NONBLOCK = 2


class IoVec(ctypes.Structure):
    """An address and a length, as readv(2) takes them."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Buffer(ctypes.Structure):
    """Py_buffer (Include/pybuffer.h): ctypes gives no address of memory that Python may not write to."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("rest", ctypes.c_byte * 64),
    )  # fmt: skip


libc.vmsplice.restype = ctypes.c_ssize_t
libc.vmsplice.argtypes = [ctypes.c_int, ctypes.POINTER(IoVec), ctypes.c_ulong, ctypes.c_uint]


@contextmanager
def address_of(data: Bytes) -> Iterator[int]:
    """Where ``data`` lies, for as long as the context lasts."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(buffer), 0)
    try:
        yield buffer.buf
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def splice(pipe: int, data: Bytes) -> int:
    """Put pages of ``data`` into a pipe, as many as it takes (vmsplice(2)): a reader sees their content at the time of the read."""
    with address_of(data) as address:
        written = libc.vmsplice(pipe, ctypes.byref(IoVec(address, len(data))), 1, _SPLICE_F_NONBLOCK)
    if written < 0:
        raise last_error()
    return int(written)


def last_error() -> OSError:
    """What the last call of ``libc`` failed with."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
