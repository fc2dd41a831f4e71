"""Random access to an archive: a read or two open it, then any thread can read any chunk, which is verified first."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import groupby, islice
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from dynamo_entry.archive import codec, manifest, tar
from dynamo_entry.archive.ahead import ChunkRef, OnDemand, ReadAhead, ReadPool, Source
from dynamo_entry.archive.keys import Keys
from dynamo_entry.archive.manifest import Head, Manifest
from dynamo_entry.archive.seal import ANYWHERE, Seal
from dynamo_entry.archive.streams import Part
from dynamo_entry.archive.tables import Recent, Table
from dynamo_entry.buffers import PRIVATE, SMALL_BYTES, Buffers, is_mapped
from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.pool import Pool, Promise
from dynamo_entry.storage.base import Bytes, Store
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

#: One read of the end gets trailer, manifest and the small streams, for most archives of up to 10 GiB.
_TAIL_BYTES = 1 << 20

#: Each thread may hold a stored and a decompressed chunk, 8 MiB.
_THREADS_LIMIT = 8

#: How many bytes may be on their way or waiting: for all streams that are read in order, and for all of ``fetch``.
_IN_ORDER_BYTES, _FETCH_BYTES = 64 << 20, 64 << 20

#: The decompressed chunks of one reader that wait. Chunks of other creators may be larger than ours.
_READY_BYTES = 32 << 20

#: The bound of streams that are read as a whole, and not chunk by chunk: far more than all small images together.
READ_BYTES = 256 << 20

_HINT = "the archive is damaged: remove it and create the checkpoint again"


class NearStore(Protocol):
    """A cache nearer than the store, whose bytes may be wrong: ``storage.node_cache``."""

    def read_range(self, offset: int, length: int) -> Bytes:
        """As the store's."""

    def read_again(self, offset: int, length: int) -> Bytes:
        """Read from the store, because the bytes of ``read_range`` were wrong."""

    def report(self) -> Mapping[str, int | str]:
        """What the cache has saved, as fields of a log line."""

    def stop_waiting(self) -> None:
        """Make every read return soon."""

    def close(self) -> None:
        """Close it; nobody may read any more."""


class Archive:
    """An archive in ``store``, which is closed with it. Any number of threads may use it at the same time.

    ``digest`` is that of the manifest, which has the digests of all chunks: so it identifies the archive's content.
    """

    def __init__(
        self, store: Store, end: _End, content: Manifest, near: NearStore | None,
        *, digest: str, seal: Seal | None, is_signed: bool, threads: int,
    ) -> None:  # fmt: skip
        self.location = store.location
        self.size = end.size
        self.digest = digest
        self.manifest = content
        self._store = store
        self.near = near
        self._end = end
        self._seal = seal
        self._is_signed = is_signed
        self._tables = {name: Table(stream, content.chunk_size) for name, stream in content.streams.items()}
        self._recent = Recent(content)
        self._threads = threads or max(2, min(_THREADS_LIMIT, len(os.sched_getaffinity(0))))
        self._pool = Pool(self._threads, "archive")
        # Somebody waits for what is read in order: it must not queue behind gigabytes that nobody waits for yet.
        self._in_order_lane = ReadPool(store, _IN_ORDER_BYTES)
        self._fetch_lane = ReadPool(store, _FETCH_BYTES)
        # ``Recent`` counts what it keeps by the chunks' lengths: those that are much smaller must not tie up whole buffers.
        small = max(SMALL_BYTES, content.chunk_size // 4)
        self._buffers = Buffers(content.chunk_size, keep=self._threads + 2, small=small)
        self._early: dict[int, Promise[Bytes]] = {}
        self._is_early = True
        # Every chunk of zeros is a view of this memory, which is never touched, and so takes none.
        self._zeros = memoryview(mmap.mmap(-1, content.chunk_size, flags=PRIVATE, prot=mmap.PROT_READ))

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        expected_hash: str = "",
        expected_digest: str = "",
        key: Keys | bytes | None = None,
        threads: int = 0,
        near: Callable[[Store, str, int], NearStore] | None = None,
    ) -> Archive:
        """Read and check the manifest; ``threads`` verify and decompress, by default one a processor, 2 to 8.

        ``near`` makes, from store, digest and size, the cache through which chunks are read; it is closed with the
        archive. A store that is not mapped is read by threads of its own, as many as ``Store.parallel_reads`` says.

        Raises Incompatible for another format version, key, hash or digest than the expected one, Corrupt for
        anything that is not a complete archive, StorageError otherwise. The store is closed then.
        """
        with ExitStack() as undone:
            undone.callback(store.close)
            found, data = store.read_end(_TAIL_BYTES)
            size = found.size
            # The end is copied: it is used until the archive is closed, and a mapped file may be cut short meanwhile.
            end = _End(size, bytes(data))
            location = manifest.find_manifest(end.data[-manifest.TRAILER_BYTES :], size)
            if location is None:
                raise _no_trailer(store, size)
            place = location.offset, location.length
            _check_digest(location.digest, expected_digest)
            body = bytes(end.piece(*place) or store.read_range(*place))
            store.check_manifest(body)
            keys = Keys.of(key)
            content, seal = manifest.parse(body, location, keys)
            _check_hash(content.head, expected_hash)
            nearer = near(store, location.digest, size) if near else None
            archive = cls(
                store, end, content, nearer, digest=location.digest, seal=seal, is_signed=bool(keys.verifiers),
                threads=threads,
            )  # fmt: skip
            undone.callback(archive.close)
            if manifest.is_sealed(content):
                archive._open_head()
            undone.pop_all()
        return archive

    def _open_head(self) -> None:
        data = self.read(manifest.HEAD_STREAM, most=manifest.HEAD_LIMIT_BYTES)
        self.manifest = manifest.open_head(self.manifest, data, self.size)

    def close(self) -> None:
        """Stop reading ahead and close the store."""
        self._shut_down()
        if self.near:
            self.near.close()
        self._store.close()

    def _shut_down(self) -> None:
        self._is_early = False
        if self.near:
            self.near.stop_waiting()
        for pool in (self._pool, self._in_order_lane.pool, self._fetch_lane.pool):
            pool.shutdown(cancel=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def names(self) -> list[str]:
        """The streams that hold the checkpoint, in the order in which they were begun."""
        return [name for name in self._tables if name != manifest.HEAD_STREAM]

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def size_of(self, name: str) -> int:
        """The raw size of a stream in bytes. Raises Corrupt if it is missing."""
        return self._table(name).size

    def count_of(self, name: str) -> int:
        """The number of chunks of a stream. Raises Corrupt if it is missing."""
        return self._table(name).count

    def parts(self, name: str, start: int, end: int) -> Iterator[Part]:
        """The chunks of a stream that hold its bytes from ``start`` to ``end``. Raises Corrupt if it is missing."""
        return self._table(name).layout.parts(start, end)

    def chunk(self, name: str, index: int) -> Bytes:
        """Chunk ``index`` of a stream, verified and decompressed; it may be a view of the stored bytes.

        Raises Corrupt if it is missing, damaged, or has another length than it should.
        """
        return self._raw(self._wanted(name, index), None)

    def read(self, name: str, *, most: int = READ_BYTES) -> bytes:
        """A whole stream. Raises Corrupt as ``chunk`` does, and if it has more than ``most`` bytes."""
        self._check_sizes([name], most)
        return b"".join(self.chunk(name, index) for index in range(self.count_of(name)))

    def chunks(self, name: str, *, ahead: int = 2) -> Iterator[Bytes]:
        """The chunks of a stream in order; up to ``ahead`` of them are made ready while the caller uses one.

        Raises Corrupt as ``chunk`` does; at once if the stream is missing.
        """
        jobs = ((name, index) for index in range(self.count_of(name)))
        return self._in_order(jobs, self._affordable(ahead))

    def ranges(self, name: str, wanted: list[tuple[int, int]], *, ahead: int = 2) -> Iterator[Bytes]:
        """The bytes of a stream in the ranges ``wanted``: (start, end), sorted and disjoint.

        Works as ``chunks``, but reads only what is needed.
        """
        return (piece for _, piece in self.ranges_of({name: wanted}, ahead=ahead))

    def ranges_of(
        self, wanted: Mapping[str, list[tuple[int, int]]], *, ahead: int = 2
    ) -> Iterator[tuple[str, Bytes]]:
        """As ``ranges``, for one stream after another: yields names and bytes."""
        slices = (
            ((name, part.number), max(start - part.start, 0), min(end - part.start, part.length))
            for name, ranges in wanted.items()
            for start, end in ranges
            for part in self.parts(name, start, end)
        )
        asked: deque[list[tuple[tuple[str, int], int, int]]] = deque()  # never all of a long stream

        def jobs() -> Iterator[tuple[str, int]]:
            for chunk, group in groupby(slices, key=lambda entry: entry[0]):
                asked.append(list(group))
                yield chunk

        for data in self._in_order(jobs(), self._affordable(ahead)):
            view = memoryview(data)
            for (name, _), first, last in asked.popleft():
                yield name, view[first:last]

    def read_all(self, names: Iterable[str], *, most: int = READ_BYTES) -> dict[str, bytes]:
        """Several whole streams, read in parallel. Raises Corrupt as ``read`` does; ``most`` is for all of them."""
        wanted = list(names)
        self._check_sizes(wanted, most)
        jobs = [(name, index) for name in wanted for index in range(self.count_of(name))]
        found: dict[str, list[Bytes]] = {name: [] for name in wanted}
        for (name, _), data in zip(jobs, self._in_order(iter(jobs), 4 * self._threads), strict=True):
            found[name].append(data)
        return {name: b"".join(pieces) for name, pieces in found.items()}

    def _check_sizes(self, names: list[str], most: int) -> None:
        size = sum(map(self.size_of, names))
        if size > most:
            what = names[0] if len(names) == 1 else f"{len(names)} streams"
            raise Corrupt(
                f"{what} of {size} bytes: at most {most} are allowed", hint=_HINT, reason="TooLarge"
            )

    def fetch(self, chunks: Iterable[tuple[str, int]]) -> Fetch:
        """Read chunks, given as (name, index), in about that order, for any number of threads to take."""
        self._is_early = False
        return Fetch(self._source(chunks, self._fetch_lane), self._raw)

    def start_threads(self) -> None:
        """Start all threads now, instead of one by one when there is something to read."""
        for pool in (self._pool, self._in_order_lane.pool, self._fetch_lane.pool):
            pool.start()

    def verify_early(self, prefix: str, most_bytes: int) -> None:
        """Let a thread verify chunks of the streams with that prefix, ``most_bytes`` at most, until ``fetch`` is called.

        Does nothing unless the archive is mapped: reads from a store would delay what is needed before these chunks.
        """
        if not self._store.read_bytes and not self.near:
            wanted = (
                ChunkRef(name, number, chunk)
                for name, table in self._tables.items()
                if name.startswith(prefix)
                for number, chunk in table.stored()
            )
            source = OnDemand(self._store, islice(wanted, most_bytes // self.manifest.chunk_size))
            # This is no thread of the pool, for which ``close`` waits: it may be in a read of a volume that hangs.
            threading.Thread(
                target=self._verify_early, args=(source,), name="verify-early", daemon=True
            ).start()

    def _verify_early(self, source: Source) -> None:
        while self._is_early and (arrival := source.take(in_order=True)):
            wanted, stored = arrival
            assert wanted.chunk is not None
            promise = self._early[wanted.chunk.offset] = Promise()
            promise.settle(self._verified, wanted, stored)

    def place_of(self, name: str, index: int) -> int | None:
        """The offset of chunk ``index`` of a stream in the archive; None for a chunk of zeros."""
        chunk = self._table(name).find(index)
        return None if chunk is None else chunk.offset

    def verify(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Read and check every chunk. ``progress`` is called with the stored bytes done so far and their total.

        Raises the first Corrupt.
        """
        once = {
            chunk.offset: (chunk, name, index)
            for name, table in self._tables.items()
            for index, chunk in table.stored()
        }
        found = [once[offset] for offset in sorted(once)]  # by place: disks and file servers read ahead
        total, done = sum(entry[0].stored_length for entry in found), 0
        results = self._in_order(((name, index) for _, name, index in found), self._threads)
        for (chunk, _, _), _ in zip(found, results, strict=True):
            done += chunk.stored_length
            progress(done, total)

    def _affordable(self, ahead: int) -> int:
        return min(ahead, _READY_BYTES // self.manifest.chunk_size)

    def _in_order(self, jobs: Iterator[tuple[str, int]], ahead: int) -> Iterator[Bytes]:
        source = self._source(jobs, self._in_order_lane)
        ready: deque[tuple[ChunkRef, Promise[Bytes]]] = deque()
        try:
            while True:
                while len(ready) <= ahead and (not ready or source.is_ready()):
                    arrival = source.take(in_order=True)
                    if arrival is None:
                        break
                    begin = partial(self._pool.submit, self._raw, *arrival)
                    length = self._table(arrival[0].name).layout.part(arrival[0].number).length
                    ready.append((arrival[0], self._recent.get(arrival[0], length, begin)))
                    del arrival, begin
                if not ready:
                    return
                yield ready.popleft()[1].result()
        finally:
            source.close()
            for wanted, promise in ready:
                if not self._recent.is_shared(wanted):
                    promise.cancel()

    def _source(self, jobs: Iterable[tuple[str, int]], lane: ReadPool) -> Source:
        wanted = (self._wanted(name, index) for name, index in jobs)
        if not self._store.read_bytes:
            return OnDemand(self._store, wanted)
        return ReadAhead(self._read, self._store.read_bytes, lane, wanted)

    def _read(self, offset: int, length: int) -> Bytes:
        piece = self._end.piece(offset, length)
        return (self.near or self._store).read_range(offset, length) if piece is None else piece

    def _wanted(self, name: str, index: int) -> ChunkRef:
        return ChunkRef(name, index, self._table(name).find(index))

    def _raw(self, wanted: ChunkRef, stored: Bytes | None) -> Bytes:
        """The chunk, verified and decompressed; read here if it was not read yet. Raises Corrupt, StorageError."""
        early = self._early.pop(wanted.chunk.offset, None) if wanted.chunk else None
        return early.result() if early else self._verified(wanted, stored)

    def _verified(self, wanted: ChunkRef, stored: Bytes | None) -> Bytes:
        name, index, chunk = wanted
        table = self._table(name)
        length = table.layout.part(index).length
        if chunk is None:
            return self._zeros[:length]
        where = f"chunk {index} of {name} at {chunk.offset}"
        if stored is None:
            stored = self._read(chunk.offset, chunk.stored_length)
        if self._is_signed and not self._seal and is_mapped(stored):
            stored = self._copied(stored)
        if not self._recent.is_verified(wanted) and codec.digest(stored) != chunk.digest:
            if self.near:
                stored = self.near.read_again(chunk.offset, chunk.stored_length)
            if not self.near or codec.digest(stored) != chunk.digest:
                raise Corrupt(f"{where} differs from its digest", hint=_HINT, reason="ChunkDigestMismatch")
        if not self.near and is_mapped(stored):
            self._recent.note_verified(wanted)
        kind = chunk.codec
        try:
            if self._seal:
                kind, stored = (
                    kind - codec.SEALED,
                    self._seal.decrypt(stored, *(ANYWHERE if table.is_cut else (name, index))),
                )
            raw = codec.decode(kind, stored, length, self._buffers)
        except Corrupt as error:
            raise Corrupt(f"{where}: {error.message}", hint=_HINT, reason=error.reason) from None
        if len(raw) != length:
            raise Corrupt(f"{where} has {len(raw)} bytes instead of {length}", hint=_HINT, reason="SizeLies")
        return raw

    def _copied(self, mapped: Bytes) -> Bytes:
        """A copy: whoever can write to the mapped file, but cannot sign, must not change bytes after they were verified."""
        own = self._buffers.take(len(mapped))
        own[:] = mapped
        return own

    def _table(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            raise Corrupt(f"the archive has no stream {name!r}", hint=_HINT, reason="StreamMissing") from None


class Fetch:
    """Chunks that are read before they are needed. Thread-safe."""

    def __init__(self, source: Source, raw: Callable[[ChunkRef, Bytes | None], Bytes]) -> None:
        self._source = source
        self._raw = raw

    def take(self) -> tuple[str, int, Bytes] | None:
        """Name, index and raw bytes of a chunk, verified in this thread; None if none is left.

        Raises Corrupt as ``Archive.chunk`` does, StorageError.
        """
        arrival = self._source.take(in_order=False)
        return None if arrival is None else (arrival[0].name, arrival[0].number, self._raw(*arrival))

    def close(self) -> None:
        """Stop reading: every ``take`` returns None, also one that waits. Idempotent."""
        self._source.close()


class _End(NamedTuple):
    """The end of an archive of ``size`` bytes, as read when it was opened."""

    size: int
    data: bytes

    def piece(self, offset: int, length: int) -> memoryview | None:
        """Bytes of the archive; None if they are not in its end."""
        start = offset - (self.size - len(self.data))
        return memoryview(self.data)[start : start + length] if start >= 0 else None


def _no_trailer(store: Store, size: int) -> Corrupt:
    if manifest.looks_like_ours(bytes(store.read_range(0, min(size, 2 * tar.BLOCK)))):
        return Corrupt("the archive is incomplete: its end is missing", hint=_HINT, reason="Incomplete")
    return Corrupt(f"{store.location} is not an archive of dynamo_entry", reason="NotAnArchive")


def _check_digest(found: str, expected: str) -> None:
    if expected and found != expected:
        raise Incompatible(
            f"the archive has digest {found}, expected {expected}",
            hint="it was replaced: DYNAMO_CHECKPOINT_DIGEST and the location do not belong together",
            reason="DigestMismatch",
        )


def _check_hash(head: Head, expected: str) -> None:
    if expected and head.hash != expected:
        raise Incompatible(
            f"the archive has hash {head.hash!r}, expected {expected!r}",
            hint="DYNAMO_CHECKPOINT_HASH and the location do not belong together",
            reason="HashMismatch",
        )
