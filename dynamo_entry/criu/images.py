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
from functools import cache
from typing import Any

from dynamo_entry.criu import density
from dynamo_entry.errors import CheckpointError, Corrupt
from dynamo_entry.value import NamedTuple

_LENGTH = struct.Struct("<I")

#: In front of the image's own magic number (criu/include/magic.h).
_COMMON, _SERVICE = 0x54564319, 0x55105940


class Server(Enum):
    """What gives CRIU an image at a restore."""

    ARCHIVE = "as it is in the archive"
    REWRITER = "criu/rewrite: names and numbers are those of this place"
    SKELETON = "fill/served: without what we fill ourselves"


class Kind(NamedTuple):
    """A kind of images: what serves it, and the message class of its records (pycriu's module and class).

    ``extra`` is the field that says how many raw bytes follow a record. Images of the SKELETON have several classes.
    """

    server: Server
    module: str = ""
    message: str = ""
    extra: str = ""


#: Name of an image, or the prefix of a kind of images. Any other is served as it is in the archive, and never decoded.
KINDS = {
    #: a task or a thread
    "core-": Kind(Server.REWRITER, "core", "core_entry"),
    #: the descriptors of a task
    "fdinfo-": Kind(Server.REWRITER, "fdinfo", "fdinfo_entry"),
    #: what was in named pipes, not read yet
    "fifo-data.img": Kind(Server.REWRITER, "pipe_data", "pipe_data_entry", "bytes"),
    #: every lock on a file, by the descriptor that holds it
    "filelocks.img": Kind(Server.ARCHIVE, "file_lock", "file_lock_entry"),
    #: every open file description, and every mapped file
    "files.img": Kind(Server.REWRITER, "fdinfo", "file_entry"),
    "ghost-file-": Kind(Server.SKELETON),
    #: which descriptor table a task has, among others
    "ids-": Kind(Server.ARCHIVE, "core", "task_kobj_ids_entry"),
    #: shared memory: memfds, and what has no name
    "memfd.img": Kind(Server.ARCHIVE, "memfd", "memfd_inode_entry"),
    #: the mappings of a task
    "mm-": Kind(Server.REWRITER, "mm", "mm_entry"),
    "pagemap-": Kind(Server.SKELETON),
    "pages-": Kind(Server.SKELETON),
    #: what was in pipes, not read yet
    "pipes-data.img": Kind(Server.REWRITER, "pipe_data", "pipe_data_entry", "bytes"),
    #: the tasks, their groups, sessions and threads
    "pstree.img": Kind(Server.ARCHIVE, "pstree", "pstree_entry"),
    #: open files that have lost the name by which they were opened
    "remap-fpath.img": Kind(Server.ARCHIVE, "remap_file_path", "remap_file_path_entry"),
    #: one message with every seccomp filter of the tree, each naming the one below it
    "seccomp.img": Kind(Server.ARCHIVE, "seccomp", "seccomp_entry"),
    #: messages in unix sockets that were not received yet
    "sk-queues.img": Kind(Server.ARCHIVE, "sk_packet", "sk_packet_entry", "length"),
    #: what the engine's clocks said when it was frozen
    "timens-0.img": Kind(Server.ARCHIVE, "timens", "timens_entry"),
}


def kind(name: str) -> str:
    """The key of KINDS that an image belongs to; an empty string if there is none."""
    return next((key for key in KINDS if name.startswith(key)), "")


def server(name: str) -> Server:
    """What gives CRIU an image of that name."""
    key = kind(name)
    return KINDS[key].server if key else Server.ARCHIVE


@cache
def message(module: str, name: str) -> Any:
    """A message class of pycriu's, e.g. ``message("pagemap", "pagemap_entry")``.

    Raises CheckpointError, with the package to install.
    """
    _find_modules()
    try:
        return getattr(importlib.import_module(f"{module}_pb2"), name)
    except ImportError as error:
        raise CheckpointError(
            f"pycriu cannot be imported: {error}",
            hint="install the distribution's python3-pycriu of the same version as criu",
            reason="PycriuMissing",
            retry=False,
        ) from None


@cache
def _find_modules() -> None:
    """Put pycriu's messages first in the search path: a restore imports sixty modules, and there are six other places."""
    found = importlib.util.find_spec("pycriu")
    for directory in (found.submodule_search_locations or ()) if found else ():
        sys.path.insert(0, os.path.join(directory, "images"))


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
    at, end = head_length(image), len(image)
    head, found, length = image[:at], [], _LENGTH.unpack_from
    while at < end:  # does what ``record`` does, without a call: there may be a hundred thousand records
        begin = at + _LENGTH.size
        if begin > end or (at := begin + length(image, at)[0]) > end:
            raise ValueError("an image ends inside a record")
        found.append(image[begin:at])
    return head, found


def join(head: bytes, records: list[bytes]) -> bytes:
    """The reverse of ``split``."""
    return head + b"".join(_LENGTH.pack(len(record)) + record for record in records)


class Image:
    """One image: its messages, and for each the raw bytes that follow it in some kinds of image."""

    def __init__(self, data: bytes, message: Any, extra: str = "") -> None:
        """``message`` is the class; ``extra`` is the field with the number of raw bytes that follow a message.

        Raises ValueError if the data is not such an image.
        """
        at = head_length(data)
        self._head = data[:at]
        self.entries: list[tuple[Any, bytes]] = []
        while at < len(data):
            body, at = record(data, at)
            (entry,) = parse(message, [body])
            end = at + (getattr(entry, extra) if extra else 0)
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
        if not one.IsInitialized():  # some implementations of protobuf parse what they would refuse to write
            raise ValueError(f"no {message.__name__}: it lacks {', '.join(one.FindInitializationErrors())}")
    return found


class Decoded:
    """The images of a checkpoint. Each is decoded once, when it is asked for first.

    All callers get the same messages, so whoever changes one changes it for all of them, and for CRIU. Not thread-safe: the main
    thread uses it until CRIU is served, and then only the thread that serves.
    """

    def __init__(self, names: frozenset[str], read: Callable[[str], bytes]) -> None:
        """``read`` returns an image as a whole; it raises KeyError for a name that is not among ``names``."""
        self.names = names
        self.read = read
        self._images: dict[str, Image] = {}

    def image(self, name: str) -> Image:
        """An image of a kind that has a message. Raises KeyError for any other, ValueError if it is no such image."""
        if name not in self._images:
            of = KINDS[kind(name)]
            if not of.module:
                raise KeyError(name)
            self._images[name] = Image(self.read(name), message(of.module, of.message), of.extra)
        return self._images[name]

    def messages(self, name: str) -> list[Any]:
        """The messages of an image; none if it is missing. Raises ValueError."""
        return self.image(name).messages if name in self.names else []


def tasks(decoded: Decoded) -> list[Any]:
    """The messages of pstree.img, in which the first thread of each is the process itself.

    CRIU writes anything there for a zombie, and does not read it. Raises KeyError, ValueError.
    """
    found = decoded.image("pstree.img").messages
    for task in found:
        if task.threads:
            task.threads[0] = task.pid
    return found
