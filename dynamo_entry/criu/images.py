"""CRIU's images as messages: read, changed, written back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from dynamo_entry.criu import records


class Image:
    """One image: its messages, and for each the raw bytes that follow it in some kinds of image."""

    def __init__(self, data: bytes, message: Any, extra: Callable[[Any], int] = lambda _: 0) -> None:
        """``message`` is the class; ``extra`` tells how many raw bytes follow one that was read.

        Raises ValueError for what is no such image.
        """
        at = records.head_length(data)
        self._head = data[:at]
        self.entries: list[tuple[Any, bytes]] = []
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            at += 4 + length
            entry = _parsed(message, data[at - length : at])
            follows = extra(entry)
            self.entries.append((entry, data[at : at + follows]))
            at += follows

    @property
    def messages(self) -> list[Any]:
        """The messages alone; changing one changes the image."""
        return [message for message, _ in self.entries]

    def encode(self) -> bytes:
        """The image as CRIU reads it."""
        parts = [self._head]
        for message, extra in self.entries:
            body = message.SerializeToString()
            parts += (struct.pack("<I", len(body)), body, extra)
        return b"".join(parts)


def _parsed(message: Any, data: bytes) -> Any:
    try:
        return message.FromString(data)
    except Exception as error:  # protobuf's own hierarchy, which is not ours to import
        raise ValueError(f"no {message.__name__}: {error}") from error


def core(data: bytes) -> Image:
    """A ``core-*.img``: a task or a thread."""
    return Image(data, records.message("core", "core_entry"))


def files(data: bytes) -> Image:
    """``files.img``: every open file description, and every mapped file."""
    return Image(data, records.message("fdinfo", "file_entry"))


def descriptors(data: bytes) -> Image:
    """A ``fdinfo-*.img``: the descriptors of a task."""
    return Image(data, records.message("fdinfo", "fdinfo_entry"))


def object_ids(data: bytes) -> Image:
    """An ``ids-*.img``: which descriptor table a task has, among others."""
    return Image(data, records.message("core", "task_kobj_ids_entry"))


def tree(data: bytes) -> Image:
    """``pstree.img``: the tasks, their groups, sessions and threads."""
    return Image(data, records.message("pstree", "pstree_entry"))


def remaps(data: bytes) -> Image:
    """``remap-fpath.img``: files that are found by another name than they were opened by, or by none."""
    return Image(data, records.message("remap_file_path", "remap_file_path_entry"))


def filters(data: bytes) -> Image:
    """``seccomp.img``: one message with every seccomp filter of the tree, each with the one below it."""
    return Image(data, records.message("seccomp", "seccomp_entry"))


def clocks(data: bytes) -> Image:
    """``timens-0.img``: what the engine's clocks said when it was frozen."""
    return Image(data, records.message("timens", "timens_entry"))


def pipe_data(data: bytes) -> Image:
    """``pipes-data.img`` or ``fifo-data.img``: what was in the pipes and not yet read."""
    return Image(data, records.message("pipe_data", "pipe_data_entry"), lambda entry: int(entry.bytes))
