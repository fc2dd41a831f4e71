"""The contract between an archive and the place it is kept in.

A store is bound to one object: one archive at one location. Reader and writer need no more than this.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamo_entry.errors import AlreadyExists, Corrupt

if TYPE_CHECKING:
    from typing_extensions import Self


Bytes = bytes | bytearray | memoryview


_NONE: Mapping[str, Any] = MappingProxyType({})


class Access(NamedTuple):
    """What a store is reached with, beside its location. Passed as an argument: nothing of it is ever put into the environment.

    ``variables`` are those of a mounted secret, which take precedence over the environment's. ``options`` are for the
    library of an fsspec backend, as they are.
    """

    ca_file: str = ""
    variables: Mapping[str, str] = _NONE
    options: Mapping[str, Any] = _NONE

    @property
    def environ(self) -> dict[str, str]:
        """The environment with the secret's variables."""
        return {**os.environ, **self.variables}


NOTHING = Access()


class ObjectStat(NamedTuple):
    """What a store says of an object: its size in bytes and a tag that changes with its content."""

    size: int
    version: str


class Leftover(NamedTuple):
    """What a killed creator left behind and nobody can see at the location: ``prune`` removes it."""

    name: str
    size: int
    age_s: float


class Neighbour(NamedTuple):
    """A published archive: its location, its size in bytes, how long it has been there, as far as can be told.

    ``version``, where it is not empty, is the same for two locations of one object: to delete it deletes both.
    """

    location: str
    size: int
    age_s: float
    version: str = ""


#: For stores that answer requests: two chunks of 4 MiB, with their headers and seals, rounded up to blocks of a node's cache.
REQUEST_BYTES = (8 << 20) + (512 << 10)


class Store(ABC):
    """One object at one location. Thread-safe."""

    #: for log lines and messages, without credentials
    location: str

    #: So many reads at once, of so many bytes each, keep this store busy. 0 bytes: any read is as good as another.
    parallel_reads: int = 1
    read_bytes: int = 0

    #: What killed writers may leave that ``leftovers`` cannot find, and who removes it: a sentence for people.
    out_of_reach: str = ""

    #: Where two creators may both succeed: a sentence for people.
    not_exclusive: str = ""

    def check_manifest(self, document: bytes) -> None:  # noqa: B027 - most locations pin nothing
        """Whether ``document``, the archive's manifest, is the one that the location pins. Raises Corrupt."""

    def begin(self) -> None:  # noqa: B027 - a volume is there
        """It is going to be read: connect and log in, in a thread, and return. What goes wrong is left to the read."""

    @abstractmethod
    def stat(self) -> ObjectStat:
        """Size and version of the published object.

        Raises NotFound only when the store says so; StorageDenied, StorageUnavailable otherwise.
        """

    @abstractmethod
    def read_range(self, offset: int, length: int) -> Bytes:
        """Exactly ``length`` bytes from ``offset``; may be a view of mapped memory.

        Raises Corrupt where the object ends earlier, StorageError otherwise.
        """

    def read_end(self, most: int) -> tuple[ObjectStat, Bytes]:
        """What ``stat`` says, and the last ``most`` bytes, or all where there are fewer. Raises as those two."""
        found = self.stat()
        return found, self.read_range(max(0, found.size - most), min(found.size, most))

    def will_read(self, offset: int, length: int) -> None:  # noqa: B027 - most stores have nothing to begin with
        """These bytes are wanted soon: begin to bring them in, and return. What goes wrong is left to the read."""

    @abstractmethod
    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> Writer:
        """Begin a new object that nobody sees before ``Writer.commit``.

        ``expected_size`` in bytes, where the caller knows about how large it will be, and rather too large.
        """

    def check_writable(self) -> None:
        """Fail early if nothing can be written here; leaves no trace.

        Raises StorageError, StorageDenied above all.
        """
        self.open_writer(replace=True).abort()

    @abstractmethod
    def delete(self) -> None:
        """Remove the published object; NotFound where there is none."""

    @abstractmethod
    def leftovers(self) -> Iterator[Leftover]:
        """What interrupted writers left for this location's directory, bucket prefix or repository."""

    @abstractmethod
    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove one of ``leftovers()``."""

    @abstractmethod
    def neighbours(self) -> Iterator[Neighbour]:
        """The archives in this location's directory, bucket prefix or repository, this one included."""

    def close(self) -> None:  # noqa: B027 - most stores keep nothing open
        """Free connections and descriptors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Writer(ABC):
    """A new object in the making, written once from front to back by one thread.

    Visible at the location after ``commit`` or never. After an error only ``abort`` may be called.
    """

    @abstractmethod
    def append(self, *buffers: Bytes) -> None:
        """Add the buffers at the end. The caller may re-use them as soon as this returns."""

    def describe(self, config: bytes, annotations: Mapping[str, str]) -> None:  # noqa: B027
        """What the object is, for stores that show it beside the object: a JSON document, and names with values.

        Before ``commit``. Most stores have no room for it.
        """

    @abstractmethod
    def commit(self) -> ObjectStat:
        """Make the object visible, whole and durable, in one step.

        Raises AlreadyExists when somebody else's object is there (and ``replace`` was not asked for);
        theirs is left untouched, ours is gone.
        """

    @abstractmethod
    def abort(self) -> None:
        """Forget everything written so far. Idempotent; also right after a failed append or commit."""


def already_there(name: str) -> AlreadyExists:
    """The error of whoever comes second."""
    return AlreadyExists(
        f"{name} is there already", hint="another creator was faster, or an older one was never removed"
    )


def too_short(name: str, offset: int, length: int) -> Corrupt:
    """The error for a range that an object does not have."""
    return Corrupt(
        f"{name} ends before {offset}+{length}",
        hint="it was cut short: remove it and create the checkpoint again",
        reason="Truncated",
    )
