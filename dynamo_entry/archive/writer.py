"""Streams in, archive out: many streams at once, chunks compressed in parallel, one append at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from dynamo_entry import __version__
from dynamo_entry.archive import codec, manifest, tar
from dynamo_entry.archive.keys import Keys
from dynamo_entry.archive.manifest import Chunk, Head, Location, Manifest, SealRecord, Signature, Stream
from dynamo_entry.archive.seal import ANYWHERE, Seal, number
from dynamo_entry.buffers import SMALL_BYTES, Buffers
from dynamo_entry.errors import DumpFailed
from dynamo_entry.pool import Pool
from dynamo_entry.storage.base import Bytes, Writer
from dynamo_entry.value import NamedTuple

#: The memory that chunks in flight may take, with everything that compression needs. It limits the number of threads, at about
#: 10 MiB each. That does no harm: they still take several times what CRIU, which is one thread, delivers.
_WORKING_BYTES = 80 << 20

#: The suffix of a member's name, by codec.
_SUFFIXES = {codec.RAW: "", codec.ZSTD: ".zst", codec.PLANES: ".planes"}

_CREATOR = f"dynamo-entry {__version__}"

#: Streams of at most SMALL_BYTES, up to so many bytes of them together, are kept back and stored next to the manifest: a
#: restore needs all of them before anything else, and gets them in one read.
_KEPT_BACK_BYTES = 16 << 20


class Finished(NamedTuple):
    """A finished archive: its manifest, as a value and as JSON, the digest that identifies it, and its size."""

    manifest: Manifest
    document: bytes
    digest: str
    size: int


class _Record:
    """A chunk that may be used in several places, and the streams that wait until it is stored."""

    def __init__(self) -> None:
        self.chunk: Chunk | None = None
        self.waiting: list[tuple[StreamWriter, int]] = []


class _Encoded(NamedTuple):
    """A chunk as it will be stored, and the name of its member."""

    member: str
    stored: Bytes
    codec: int
    digest: bytes


class ArchiveWriter:
    """One archive in the making, appended to ``sink`` by up to ``threads`` threads, one at a time.

    With a ``key`` (see keys, seal) its chunks are encrypted and its manifest is authenticated, or signed.

    The first error, of a thread or of the sink, is raised by every later call on the archive or on one of its
    streams; the caller can then only ``abort``. Memory: about 80 MiB at the default compression, and one chunk for
    every open stream that is larger than 64 KiB.
    """

    def __init__(
        self,
        sink: Writer,
        *,
        compression: codec.Compression,
        threads: int,
        chunk_size: int = manifest.CHUNK_SIZE,
        key: Keys | bytes | None = None,
    ) -> None:
        self._sink = sink
        self._keys = Keys.of(key)
        self._seal = Seal.new(self._keys.secrets[0]) if self._keys.secrets else None
        self._version = manifest.SEALED_VERSION if self._seal else manifest.VERSION
        self._chunk_size = chunk_size
        each = chunk_size + compression.working_bytes(chunk_size)
        threads = max(1, min(threads, _WORKING_BYTES // each))
        self._encoder = codec.Encoder(compression)
        self._buffers = Buffers(chunk_size, keep=threads + 2)
        self._pool = Pool(threads, "archive")
        # One chunk more than threads, so that no thread is idle while the next chunk is handed over.
        self._slots = threading.Semaphore(threads + 1)
        self._streams: dict[str, StreamWriter] = {}
        self._records: dict[bytes, _Record] = {}
        self._lock = threading.Lock()
        self._kept_back_bytes = 0
        self._failure: BaseException | None = None
        self._position = 0
        self._time = int(time.time())
        self._append_member(manifest.FORMAT_MEMBER, manifest.format_json(_CREATOR, self._version))

    def stream(self, name: str, *, cuts: Sequence[int] = ()) -> StreamWriter:
        """Begin a stream. It replaces a closed one of the same name.

        ``cuts`` are rising positions at each of which a chunk ends. Equal chunks of all streams with cuts are stored
        once.

        Raises ValueError if the format does not allow the name, or if a stream of that name is open.
        """
        self.check()
        if not manifest.is_stream_name(name):
            raise ValueError(f"not a stream name: {name!r}")
        if name in self._streams and not self._streams[name].is_closed:
            raise ValueError(f"stream {name!r} is open already")
        self._streams[name] = StreamWriter(self, name, self._chunk_size, self._buffers, cuts)
        return self._streams[name]

    def finish(self, head: Head) -> Finished:
        """Wait for every chunk, then append manifest and trailer. The caller commits the sink.

        Raises ValueError while a stream is open, DumpFailed for a manifest that no reader would take.
        """
        self.check()
        if still_open := [name for name, stream in self._streams.items() if not stream.is_closed]:
            raise ValueError(f"streams are still open: {still_open}")
        facts = manifest.encode(head)
        if self._seal:
            sealed = self.stream(manifest.HEAD_STREAM)
            sealed.write(facts)
            sealed.close()
            head = manifest.shown(head)
        self._pool.shutdown()
        self.check()
        self._append_kept_back()
        if any(stream.is_cut for stream in self._streams.values()):
            self._version += manifest.SHARING
        result = Manifest(
            version=self._version,
            creator=_CREATOR,
            chunk_size=self._chunk_size,
            head=head,
            streams={name: stream.table() for name, stream in self._streams.items()},
        )
        body = manifest.encode(result)
        place = self._position + tar.BLOCK, len(body)
        try:
            manifest.check_written(body, facts, len(result.streams), place[0])
        except ValueError as error:
            raise DumpFailed(
                f"the manifest would be larger than a restore reads: {error}",
                hint="let the engine have fewer processes, threads and open files when it is dumped",
                reason="ManifestTooLarge",
                retry=False,
            ) from None
        location = Location(*place, manifest.digest_text(body), self._sealed(body), self._signed(body))
        self._append_member(manifest.MANIFEST_MEMBER, body)
        self._append_member(manifest.TRAILER_MEMBER, manifest.trailer_json(location, self._version))
        self._append(tar.END)
        return Finished(result, body, location.digest, self._position)

    def _sealed(self, body: bytes) -> SealRecord | None:
        if self._seal is None:
            return None
        return SealRecord(self._seal.salt, self._seal.mac(body), number(self._keys.secrets[0]))

    def _signed(self, body: bytes) -> Signature | None:
        signer = self._keys.signer
        return Signature(signer.number, signer.sign(body)) if signer else None

    def abort(self) -> None:
        """Stop, and return when no thread uses the sink any more. Idempotent."""
        self._fail(RuntimeError("the archive was aborted"))
        self._pool.shutdown()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._failure is not None:
            raise self._failure

    def submit(self, stream: StreamWriter, index: int, data: memoryview) -> None:
        """Hand a chunk over; waits while too many are in flight. The caller must not use ``data`` afterwards."""
        self._slots.acquire()
        try:
            self.check()
            self._pool.submit(self._process, stream, index, data)
        except BaseException:
            self._slots.release()  # the next one who waits here must wake up and learn of it, too
            raise

    def _process(self, stream: StreamWriter, index: int, data: memoryview) -> None:
        try:
            if self._failure is None and not codec.is_zero(data):
                store = self._store_once if stream.is_cut else self._store
                store(stream, index, data)
        except BaseException as error:  # a thread's outermost frame: whoever calls next gets it
            self._fail(error)
        finally:
            self._slots.release()

    def _store(self, stream: StreamWriter, index: int, data: memoryview) -> None:
        encoded = self._encode(stream, index, data)
        size = len(encoded.stored)
        is_small = index == 0 and len(data) <= SMALL_BYTES and len(data) < self._chunk_size
        with self._lock:
            self.check()
            if is_small and self._kept_back_bytes + size <= _KEPT_BACK_BYTES:
                stream.kept_back = encoded._replace(stored=bytes(encoded.stored))  # its buffer is larger
                self._kept_back_bytes += size
            else:
                stream.place(index, self._append_chunk(encoded))

    def _store_once(self, stream: StreamWriter, index: int, data: memoryview) -> None:
        raw_digest = codec.digest(data)
        with self._lock:
            known = self._records.get(raw_digest)
            if known is not None:
                if known.chunk is None:
                    known.waiting.append((stream, index))
                else:
                    stream.place(index, known.chunk)
                return
            record = self._records[raw_digest] = _Record()
        encoded = self._encode(stream, index, data, raw_digest)
        with self._lock:
            self.check()
            record.chunk = self._append_chunk(encoded)
            for other, number_there in [(stream, index), *record.waiting]:
                other.place(number_there, record.chunk)

    def _encode(
        self, stream: StreamWriter, index: int, data: memoryview, raw_digest: bytes | None = None
    ) -> _Encoded:
        kind, stored = self._encoder.encode(data)
        member = f"streams/{stream.name}/{index:08}{_SUFFIXES[kind]}"
        if self._seal:
            place = ANYWHERE if stream.is_cut else (stream.name, index)
            kind, stored = codec.SEALED + kind, self._seal.encrypt(stored, *place)
            member += ".aes"
        digest = raw_digest if raw_digest and kind == codec.RAW else codec.digest(stored)
        return _Encoded(member, stored, kind, digest)

    def _append_kept_back(self) -> None:
        for stream in self._streams.values():
            if stream.kept_back:
                stream.place(0, self._append_chunk(stream.kept_back))

    def _append_chunk(self, encoded: _Encoded) -> Chunk:
        member, stored, kind, digest = encoded
        head = tar.aligned_header(self._position, member, len(stored), self._time)
        offset = self._position + len(head)
        self._append(head, stored, tar.padding(len(stored)))
        return Chunk(offset, len(stored), kind, digest)

    def _append_member(self, name: str, body: bytes) -> None:
        self._append(tar.header(name, len(body), self._time), body, tar.padding(len(body)))

    def _append(self, *parts: Bytes) -> None:
        self._sink.append(*parts)
        self._position += sum(map(len, parts))

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error


class StreamWriter:
    """One stream of an archive. Each stream is filled by one thread; one thread may fill several."""

    def __init__(
        self, archive: ArchiveWriter, name: str, chunk_size: int, buffers: Buffers, cuts: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.size = 0
        self.is_cut = bool(cuts)
        self.is_closed = False
        self.kept_back: _Encoded | None = None
        self._archive = archive
        self._chunk_size = chunk_size
        self._buffers = buffers
        self._chunks: list[Chunk | None] = []
        self._sizes: list[list[int]] = []
        self._cuts = iter(cuts)
        self._cut = next(self._cuts, None)
        self._length = self._next_length()
        self._buffer: memoryview | None = None
        self._filled = 0

    def buffer(self) -> memoryview:
        """The free space of the current chunk, never empty, which is to be filled from its start.

        Valid until the next call of ``advance`` or ``close``.
        """
        self._archive.check()
        if self.is_closed:
            raise ValueError(f"stream {self.name!r} is closed")
        if self._buffer is None:
            # Most images of a dump are a few KiB: one that outgrows a small buffer is likely to go on.
            length = self._length if self._chunks else min(SMALL_BYTES, self._length)
            self._buffer = self._buffers.take(length)
        elif self._filled == len(self._buffer):
            large = self._buffers.take(self._length)
            large[: self._filled] = self._buffer
            self._buffer = large
        return self._buffer[self._filled :]

    def advance(self, n: int) -> None:
        """Note that the first ``n`` bytes of ``buffer()`` were filled. Waits while too many chunks are in flight."""
        if self._buffer is None or not 0 <= n <= len(self._buffer) - self._filled:
            raise ValueError(f"{n} bytes were not asked for")
        self._filled += n
        self.size += n
        if self._filled == self._length:
            self._hand_over()

    def write(self, data: Bytes) -> None:
        """Append a copy of ``data``."""
        rest = memoryview(data).cast("B")
        while rest:
            space = self.buffer()
            n = min(len(space), len(rest))
            space[:n] = rest[:n]
            rest = rest[n:]
            self.advance(n)

    def close(self) -> None:
        """Complete the stream. Idempotent."""
        if self.is_closed:
            return
        self._archive.check()
        if self._filled:
            self._hand_over()
        self._buffer = None
        self.is_closed = True

    def _hand_over(self) -> None:
        assert self._buffer is not None
        data, self._buffer = self._buffer[: self._filled], None
        self._chunks.append(None)
        if self.is_cut:
            self._note_size(self._filled)
        self._filled = 0
        self._length = self._next_length()
        self._archive.submit(self, len(self._chunks) - 1, data)

    def _next_length(self) -> int:
        """The raw length of the chunk that begins here, if the stream does not end before that."""
        while self._cut is not None and self._cut <= self.size:
            self._cut = next(self._cuts, None)
        return self._chunk_size if self._cut is None else min(self._chunk_size, self._cut - self.size)

    def _note_size(self, length: int) -> None:
        if self._sizes and self._sizes[-1][1] == length:
            self._sizes[-1][0] += 1
        else:
            self._sizes.append([1, length])

    def place(self, index: int, chunk: Chunk) -> None:
        """Note where a chunk was stored. One that is never placed is all zeros."""
        self._chunks[index] = chunk

    def table(self) -> Stream:
        """The stream as the manifest has it: a run of chunks of zeros becomes a number."""
        chunks: list[Chunk | int] = []
        for chunk in self._chunks:
            if chunk is not None:
                chunks.append(chunk)
            elif chunks and isinstance(chunks[-1], int):
                chunks[-1] += 1
            else:
                chunks.append(1)
        return Stream(self.size, chunks, [(count, length) for count, length in self._sizes])
