"""The one codec of CRIU's images. The protobuf messages are those of pycriu, which comes with CRIU in the same version.

An image is one or two magic numbers, and then records: a 32-bit length and a protobuf message each, followed by raw
bytes in some kinds of image (criu: include/magic.h, lib/pycriu/images/images.py). Only pycriu's message modules are
imported, which takes 20 ms, and 0.1 ms for each thread of the engine. All of pycriu would take 80 ms, and its
dictionaries 5 ms for each thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from dynamo_entry.criu import density
from dynamo_entry.errors import CheckpointError, Corrupt

_LENGTH = struct.Struct("<I")

#: In front of the image's own magic number (criu/include/magic.h).
_COMMON, _SERVICE = 0x54564319, 0x55105940


class Server(Enum):
    """What gives CRIU an image at a restore if it is not served as it is in the archive."""

    REWRITER = "criu/rewrite: it says what is called otherwise here"
    SKELETON = "fill/served: without what we fill ourselves"


#: Name of an image, or the prefix of a kind of images → what serves it; any other is served as it is in the archive.
SERVERS = {
    "core-": Server.REWRITER,
    "fdinfo-": Server.REWRITER,
    "fifo-data.img": Server.REWRITER,
    "files.img": Server.REWRITER,
    "ghost-file-": Server.SKELETON,
    "mm-": Server.REWRITER,
    "pagemap-": Server.SKELETON,
    "pages-": Server.SKELETON,
    "pipes-data.img": Server.REWRITER,
}


def kind(name: str) -> str:
    """The key of SERVERS that an image belongs to; an empty string if there is none."""
    return next((key for key in SERVERS if name.startswith(key)), "")


def message(module: str, name: str) -> Any:
    """A message class of pycriu's, e.g. ``message("pagemap", "pagemap_entry")``.

    Raises CheckpointError, with the package to install.
    """
    found = importlib.util.find_spec("pycriu")
    for directory in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(directory, "images")
        if path not in sys.path:
            sys.path.append(path)  # where the modules look for each other
    try:
        return getattr(importlib.import_module(f"{module}_pb2"), name)
    except ImportError as error:
        raise CheckpointError(
            f"pycriu cannot be imported: {error}",
            hint="install the distribution's python3-pycriu of the same version as criu",
            reason="PycriuMissing",
            retry=False,
        ) from None


@contextmanager
def decoding(location: str) -> Iterator[None]:
    """Around code that decodes what an archive holds. Raises Corrupt if the creator cannot have written that."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise Corrupt(
            f"cannot decode the CRIU images in {location}, or what the manifest says of them: "
            f"{type(error).__name__}: {error}",
            hint="use a CRIU at least as new as the one that created the archive", reason="ImagesInvalid",
        ) from error  # fmt: skip


def head_length(image: bytes) -> int:
    """How many bytes the magic numbers take. Raises ValueError if the data is not an image."""
    if len(image) < 8:
        raise ValueError("too short for an image")
    return 8 if _LENGTH.unpack_from(image)[0] in (_COMMON, _SERVICE) else 4


def record(data: bytes, at: int) -> tuple[bytes, int]:
    """The message of the record that begins at ``at``, and where it ends. Raises ValueError if it is cut off."""
    begin = at + _LENGTH.size
    if begin > len(data) or (end := begin + _LENGTH.unpack_from(data, at)[0]) > len(data):
        raise ValueError("an image ends inside a record")
    return data[begin:end], end


def split(image: bytes) -> tuple[bytes, list[bytes]]:
    """The magic numbers, and each record's message. Raises ValueError if the data is not such an image."""
    at = head_length(image)
    head, found = image[:at], []
    while at < len(image):
        message, at = record(image, at)
        found.append(message)
    return head, found


def join(head: bytes, records: list[bytes]) -> bytes:
    """The reverse of ``split``."""
    return head + b"".join(_LENGTH.pack(len(record)) + record for record in records)


class Image:
    """One image: its messages, and for each the raw bytes that follow it in some kinds of image."""

    def __init__(self, data: bytes, message: Any, extra: Callable[[Any], int] = lambda _: 0) -> None:
        """``message`` is the class; ``extra`` gives the number of raw bytes that follow a message.

        Raises ValueError if the data is not such an image.
        """
        at = head_length(data)
        self._head = data[:at]
        self.entries: list[tuple[Any, bytes]] = []
        while at < len(data):
            body, at = record(data, at)
            (entry,) = parse(message, [body])
            end = at + extra(entry)
            if end > len(data):
                raise ValueError("an image ends inside what follows a record")
            self.entries.append((entry, data[at:end]))
            at = end

    @property
    def messages(self) -> list[Any]:
        """The messages alone; changing one changes the image."""
        return [message for message, _ in self.entries]

    def encode(self) -> bytes:
        """The image as CRIU reads it."""
        parts = [self._head]
        for message, extra in self.entries:
            body = message.SerializeToString()
            parts += (_LENGTH.pack(len(body)), body, extra)
        return b"".join(parts)


def parse(message: Any, records: Iterable[bytes]) -> list[Any]:
    """Records as messages of that class. Raises ValueError for one that is not, or would take far more memory."""
    records = list(records)
    for one in records:
        density.check(message, one)
    try:
        found = list(map(message.FromString, records))
    except Exception as error:  # protobuf's own hierarchy, which is not ours to import
        raise ValueError(f"no {message.__name__}: {error}") from error
    for one in found:
        if not one.IsInitialized():  # protobuf's implementations differ: some take what they would not write
            raise ValueError(f"no {message.__name__}: it lacks {', '.join(one.FindInitializationErrors())}")
    return found


def core(data: bytes) -> Image:
    """A ``core-*.img``: a task or a thread."""
    return Image(data, message("core", "core_entry"))


def memory(data: bytes) -> Image:
    """A ``mm-*.img``: the mappings of a task."""
    return Image(data, message("mm", "mm_entry"))


def files(data: bytes) -> Image:
    """``files.img``: every open file description, and every mapped file."""
    return Image(data, message("fdinfo", "file_entry"))


def descriptors(data: bytes) -> Image:
    """A ``fdinfo-*.img``: the descriptors of a task."""
    return Image(data, message("fdinfo", "fdinfo_entry"))


def object_ids(data: bytes) -> Image:
    """An ``ids-*.img``: which descriptor table a task has, among others."""
    return Image(data, message("core", "task_kobj_ids_entry"))


def tree(data: bytes) -> Image:
    """``pstree.img``: the tasks, their groups, sessions and threads."""
    return Image(data, message("pstree", "pstree_entry"))


def remaps(data: bytes) -> Image:
    """``remap-fpath.img``: open files that have lost the name by which they were opened."""
    return Image(data, message("remap_file_path", "remap_file_path_entry"))


def filters(data: bytes) -> Image:
    """``seccomp.img``: one message with every seccomp filter of the tree, each naming the one below it."""
    return Image(data, message("seccomp", "seccomp_entry"))


def clocks(data: bytes) -> Image:
    """``timens-0.img``: what the engine's clocks said when it was frozen."""
    return Image(data, message("timens", "timens_entry"))


def locks(data: bytes) -> Image:
    """``filelocks.img``: every lock on a file, by the descriptor that holds it."""
    return Image(data, message("file_lock", "file_lock_entry"))


def packets(data: bytes) -> Image:
    """``sk-queues.img``: messages in unix sockets that were not received yet."""
    return Image(data, message("sk_packet", "sk_packet_entry"), lambda entry: int(entry.length))


def pipe_data(data: bytes) -> Image:
    """``pipes-data.img`` or ``fifo-data.img``: what was in the pipes, not read yet."""
    return Image(data, message("pipe_data", "pipe_data_entry"), lambda entry: int(entry.bytes))
