"""What was in pipes and not yet read is put back by us (``pipes-data.img``, ``fifo-data.img``).

CRIU would use vmsplice, which podman's default seccomp profile denies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dynamo_entry.criu import images
from dynamo_entry.errors import RestoreFailed


class Refill(NamedTuple):
    """Bytes for the pipe behind descriptor ``descriptor`` of task ``pid``."""

    pid: int
    descriptor: int
    data: bytes


def places(entries: Iterable[Any], tables: Mapping[int, images.Image]) -> dict[int, tuple[int, int]]:
    """Pipe id → a task and a descriptor of it that lead to the pipe, from files.img and each task's fdinfo."""
    pipes = {entry.id: entry.pipe.pipe_id for entry in entries if entry.HasField("pipe")}
    pipes |= {entry.id: entry.fifo.pipe_id for entry in entries if entry.HasField("fifo")}
    found: dict[int, tuple[int, int]] = {}
    for pid, table in tables.items():
        for descriptor in table.messages:
            if descriptor.id in pipes:
                found.setdefault(pipes[descriptor.id], (pid, descriptor.fd))
    return found


def drained(
    data: bytes, places: Mapping[int, tuple[int, int]], dropped: frozenset[int]
) -> tuple[bytes, list[Refill]]:
    """The image without the bytes that we put back, and those bytes.

    ``dropped`` are pipes whose other end is outside: what is in there was for the old place's log. A pipe
    that no descriptor leads to (it is in flight over a unix socket) is left to CRIU.
    """
    image = images.pipe_data(data)
    refills: list[Refill] = []
    kept: list[tuple[Any, bytes]] = []
    for entry, content in image.entries:
        if entry.pipe_id in dropped:
            continue
        if entry.pipe_id in places:
            if content:
                refills.append(Refill(*places[entry.pipe_id], content))
            entry.bytes, content = 0, b""  # noqa: PLW2901 - CRIU still sets the pipe's size
        kept.append((entry, content))
    image.entries = kept
    return image.encode(), refills


def refill(refills: Iterable[Refill]) -> None:
    """Write the bytes into the restored tasks' pipes. Raises RestoreFailed."""
    for pid, descriptor, data in refills:
        path = f"/proc/{pid}/fd/{descriptor}"
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                written = os.write(pipe, data)
            finally:
                os.close(pipe)
        except OSError as error:
            raise RestoreFailed(
                f"the pipe {path} cannot be refilled: {error.strerror}", reason="PipeNotRefilled"
            ) from None
        if written != len(data):
            raise RestoreFailed(
                f"the pipe {path} takes {written} of {len(data)} bytes", reason="PipeNotRefilled"
            )
