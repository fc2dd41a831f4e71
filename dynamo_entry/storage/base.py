"""The contract between an archive and its store.

A store is bound to one object: one archive at one location. Reader and writer need nothing else.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from dynamo_entry.errors import AlreadyExists, Corrupt
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self


Bytes = bytes | bytearray | memoryview


_NONE: Mapping[str, Any] = MappingProxyType({})


class Access(NamedTuple):
    """How to reach a store, besides its location: credentials, certificates, limits, options.

    It is passed as an argument; nothing of it ever enters the environment. ``variables`` are those of a
    mounted secret and take precedence over the environment; ``read`` reads them again. ``options`` go to the
    library of an fsspec backend unchanged.
    """

    ca_file: str = ""
    variables: Mapping[str, str] = _NONE
    options: Mapping[str, Any] = _NONE
    read: Callable[[], Mapping[str, str]] | None = None

    def renewed(self) -> Access:
        """Return the same with the variables that the secret has now. Raises StorageDenied."""
        return self._replace(variables=self.read()) if self.read else self

    @property
    def environ(self) -> dict[str, str]:
        """The environment, with the secret's variables on top."""
        return {**os.environ, **self.variables}


NOTHING = Access()


class ObjectStat(NamedTuple):
    """The size of an object in bytes, and a version tag that changes with its content."""

    size: int
    version: str


class Leftover(NamedTuple):
    """What a killed creator left behind, invisible at the location; ``prune`` removes it."""

    name: str
    size: int
    age_s: float


class StoredArchive(NamedTuple):
    """A published archive: location, size in bytes, and age as far as it is known.

    Two locations with the same non-empty ``version`` are one object: deleting it deletes both.
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

    #: How many parallel reads, and of how many bytes, keep this store busy. 0 bytes: the size does not matter.
    parallel_reads: int = 1
    read_bytes: int = 0

    #: What killed writers may leave that ``leftovers`` cannot find, and who removes it; a sentence for people.
    out_of_reach: str = ""

    #: Why two creators may both succeed, if so; a sentence for people.
    not_exclusive: str = ""

    def check_manifest(self, document: bytes) -> None:  # noqa: B027 - most locations pin nothing
        """Check that ``document``, the archive's manifest, is the one that the location pins. Raises Corrupt."""

    @abstractmethod
    def stat(self) -> ObjectStat:
        """Return size and version of the published object.

        Raises NotFound only if the store says so, otherwise StorageDenied or StorageUnavailable.
        """

    @abstractmethod
    def read_range(self, offset: int, length: int) -> Bytes:
        """Return exactly ``length`` bytes from ``offset``; it may be a view of mapped memory.

        Raises Corrupt if the object ends earlier, StorageError otherwise.
        """

    def read_end(self, most: int) -> tuple[ObjectStat, Bytes]:
        """Return ``stat`` and the last ``most`` bytes of the object, or all of it if it is shorter.

        Raises as ``stat`` and ``read_range`` do.
        """
        found = self.stat()
        return found, self.read_range(max(0, found.size - most), min(found.size, most))

    def will_read(self, offset: int, length: int) -> None:  # noqa: B027 - most stores have nothing to begin with
        """Begin to fetch bytes that are needed soon, and return. The read reports what fails."""

    @abstractmethod
    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> Writer:
        """Begin a new object that stays invisible before ``Writer.commit``.

        ``expected_size`` in bytes is an estimate of the final size, if the caller has one; it should rather
        be too large.
        """

    def check_writable(self) -> None:
        """Fail early if nothing can be written here. Raises StorageError, above all StorageDenied.

        Leaves no trace, except missing directories on the way to the location.
        """
        self.open_writer(replace=True).abort()

    @abstractmethod
    def delete(self) -> None:
        """Remove the published object. Raises NotFound if there is none."""

    @abstractmethod
    def leftovers(self) -> Iterator[Leftover]:
        """Return what interrupted writers left in this location's directory, bucket prefix or repository."""

    @abstractmethod
    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove one of ``leftovers()``."""

    @abstractmethod
    def archives(self) -> Iterator[StoredArchive]:
        """Return the archives in this location's directory, bucket prefix or repository, this one included."""

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

    It becomes visible at the location with ``commit`` or never. After an error only ``abort`` may be called.
    """

    @abstractmethod
    def append(self, *buffers: Bytes) -> None:
        """Append the buffers. The caller may reuse them as soon as this returns."""

    def describe(self, config: bytes, annotations: Mapping[str, str]) -> None:  # noqa: B027
        """Describe the object by a JSON document and annotations, for stores that show them beside it.

        Call it before ``commit``. Most stores have no room for it and ignore it.
        """

    @abstractmethod
    def commit(self) -> ObjectStat:
        """Make the object visible, complete and durable, in one step.

        Raises AlreadyExists if somebody else's object is there (and ``replace`` was not requested): theirs is
        left untouched, ours is removed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Discard everything written so far. Idempotent; also allowed right after a failed append or commit."""


def already_there(name: str) -> AlreadyExists:
    """Return the error for a creator that comes second."""
    return AlreadyExists(
        f"{name} already exists", hint="another creator was faster, or an older one was never removed"
    )


def too_short(name: str, offset: int, length: int) -> Corrupt:
    """Return the error for a range that an object does not have."""
    return Corrupt(
        f"{name} ends before {offset}+{length}",
        hint="the archive was truncated: remove it and create the checkpoint again",
        reason="Truncated",
    )
