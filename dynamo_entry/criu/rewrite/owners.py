"""Threads that get a signal when a file is ready (``F_SETOWN_EX``): CRIU sets the owner of a file before it makes any thread."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dynamo_entry.linux import sockets

#: linux/fcntl.h: struct f_owner_ex, and the type of an owner that is a thread.
_OWNER = struct.Struct("=iI")
_F_SETOWN_EX, _F_OWNER_TID = 15, 0


def without_threads(entries: Iterable[Any], processes: Collection[int]) -> dict[int, int]:
    """Leave out owners that are threads, and return them by the file's number. Main threads (``processes``) exist in time."""
    found = {}
    for entry in entries:
        for _, kind in entry.ListFields():
            owner = getattr(kind, "fown", None)
            if owner and owner.pid and owner.pid_type == _F_OWNER_TID and owner.pid not in processes:
                found[entry.id] = owner.pid
                owner.pid = 0
    return found


def set_again(owners: Mapping[int, int], tables: Mapping[int, Iterable[Any]]) -> list[str]:
    """Give files their threads; returns those that cannot be given. ``tables``: pid → rows of its ``fdinfo-*.img``.

    The signals are then sent with our own user's rights.
    """
    places = {row.id: (pid, row.fd) for pid, rows in tables.items() for row in rows if row.id in owners}
    missed = [
        f"one on its way between processes, for thread {thread}"
        for number, thread in owners.items()
        if number not in places
    ]
    for number, (pid, descriptor) in places.items():
        try:
            ours = sockets.copied(pid, descriptor)
            try:
                fcntl.fcntl(ours, _F_SETOWN_EX, _OWNER.pack(_F_OWNER_TID, owners[number]))
            finally:
                os.close(ours)
        except OSError as error:
            missed.append(f"descriptor {descriptor} of {pid}: {error.strerror}")
    return missed
