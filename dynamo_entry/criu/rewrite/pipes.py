"""Puts back what was in pipes, and not read yet (``pipes-data.img``, ``fifo-data.img``).

CRIU would use vmsplice for that, which podman's default seccomp profile denies.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dynamo_entry.criu.images import Image
from dynamo_entry.errors import RestoreFailed
from dynamo_entry.linux import sockets
from dynamo_entry.value import NamedTuple


class Place(NamedTuple):
    """Where a pipe is found: ``descriptor`` of task ``pid``, or one in flight to that unix socket, counted from 0."""

    pid: int
    descriptor: int
    on_its_way: int | None = None


class Refill(NamedTuple):
    """The bytes to put back into a pipe."""

    place: Place
    data: bytes


def sent(packets: Iterable[Any]) -> dict[int, list[int]]:
    """Id of a unix socket → ids of the files whose descriptors are in flight to it, in the order in which they arrive."""
    found: dict[int, list[int]] = {}
    for packet in packets:
        for message in packet.scm:
            if message.type == socket.SCM_RIGHTS:
                found.setdefault(packet.id_for, []).extend(message.rights)
    return found


def places(
    entries: Iterable[Any], tables: Mapping[int, Iterable[Any]], sent: Mapping[int, Sequence[int]]
) -> dict[int, Place]:
    """Pipe id → where the pipe is found, from files.img, each task's fdinfo, and descriptors in flight."""
    pipes = {entry.id: entry.pipe.pipe_id for entry in entries if entry.HasField("pipe")}
    pipes |= {entry.id: entry.fifo.pipe_id for entry in entries if entry.HasField("fifo")}
    found: dict[int, Place] = {}
    on_their_way: dict[int, Place] = {}
    for pid, table in tables.items():
        for row in table:
            if row.id in pipes:
                found.setdefault(pipes[row.id], Place(pid, row.fd))
            for position, number in enumerate(sent.get(row.id, ())):
                if number in pipes:
                    on_their_way.setdefault(pipes[number], Place(pid, row.fd, position))
    return on_their_way | found


def drain(image: Image, places: Mapping[int, Place], dropped: frozenset[int]) -> list[Refill]:
    """Take the bytes that we put back out of an image, and return them.

    ``dropped`` are pipes whose other end is outside: their bytes were for the old container's log. A pipe that is
    neither open in a task nor in flight is left to CRIU.
    """
    refills: list[Refill] = []
    kept: list[tuple[Any, bytes]] = []
    for entry, content in image.entries:
        if entry.pipe_id in dropped:
            continue
        if entry.pipe_id in places:
            if content:
                refills.append(Refill(places[entry.pipe_id], content))
            entry.bytes, content = 0, b""  # noqa: PLW2901 - CRIU still sets the pipe's size
        kept.append((entry, content))
    image.entries = kept
    return refills


def refill(refills: Iterable[Refill]) -> None:
    """Write the bytes into the restored tasks' pipes. Raises RestoreFailed."""
    for place, data in refills:
        shown = f"/proc/{place.pid}/fd/{place.descriptor}"
        try:
            with _path(place) as path:
                pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                written = os.write(pipe, data)
            finally:
                os.close(pipe)
        except OSError as error:
            raise RestoreFailed(
                f"the pipe {shown} cannot be refilled: {error.strerror}", reason="PipeNotRefilled"
            ) from None
        if written != len(data):
            raise RestoreFailed(
                f"the pipe {shown} takes {written} of {len(data)} bytes", reason="PipeNotRefilled"
            )


@contextmanager
def _path(place: Place) -> Iterator[str]:
    """The path by which the pipe can be opened. Raises OSError."""
    if place.on_its_way is None:
        yield f"/proc/{place.pid}/fd/{place.descriptor}"
        return
    with sockets.of_process(place.pid, place.descriptor) as found, sockets.on_their_way(found) as descriptors:
        if place.on_its_way >= len(descriptors):  # an empty message before it ends what can be looked at
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield f"/proc/self/fd/{descriptors[place.on_its_way]}"
