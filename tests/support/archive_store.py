"""What the archive tests share: a store in memory, archives made of dictionaries, and a forger."""

import json
import random
import threading
from array import array

from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head, manifest, tar
from dynamo_entry.errors import AlreadyExists, Corrupt, NotFound
from dynamo_entry.storage import ObjectStat, Store, Writer

CHUNK = 4096


class MemoryStore(Store):
    """An object in memory that counts how it is read."""

    def __init__(self, data=None):
        self.location = "memory"
        self.data = data
        self.reads = []
        self.is_closed = False

    def close(self):
        self.is_closed = True

    def stat(self):
        if self.data is None:
            raise NotFound("nothing there")
        return ObjectStat(len(self.data), "1")

    def read_range(self, offset, length):
        self.reads.append((offset, length))
        if offset + length > len(self.data):
            raise Corrupt("too short", reason="Truncated")
        return self.data[offset : offset + length]

    def open_writer(self, *, replace=False):
        return MemoryWriter(self, replace)

    def delete(self):
        self.data = None

    def leftovers(self):
        return iter(())

    def remove_leftover(self, leftover):
        raise NotImplementedError

    def archives(self):
        raise NotImplementedError


class MemoryWriter(Writer):
    """Insists on being used by one thread at a time."""

    def __init__(self, store=None, replace=True):
        self.store, self.replace = store, replace
        self.data = bytearray()
        self.lock = threading.Lock()

    def append(self, *buffers):
        assert self.lock.acquire(blocking=False), "two appends at once"
        for buffer in buffers:
            self.data += buffer
        self.lock.release()

    def commit(self):
        if self.store.data is not None and not self.replace:
            raise AlreadyExists("there is one")
        self.store.data = bytes(self.data)
        return self.store.stat()

    def abort(self):
        self.data.clear()


def noise(length, seed=0):
    """Bytes that do not compress."""
    return random.Random(f"{seed}/{length}").randbytes(length)


def text(length):
    """Bytes that compress well and are no zeros."""
    return (b"the quick brown fox " * (length // 20 + 1))[:length]


def weights(length, seed=0):
    """Bytes as of bf16 weights: the upper halves of normally distributed floats."""
    dice = random.Random(f"{seed}/{length}")
    count = length // 2 + 1
    floats = array("f", (dice.gauss(0, 0.02) for _ in range(count))).tobytes()
    found = bytearray(2 * count)
    found[0::2], found[1::2] = floats[2::4], floats[3::4]
    return bytes(found[:length])


def build(streams, *, head=None, compression="auto", chunk_size=CHUNK, threads=3, key=None):
    """An archive of ``{name: bytes}``, as bytes."""
    sink = MemoryWriter()
    writer = ArchiveWriter(
        sink, compression=Compression.parse(compression), threads=threads, chunk_size=chunk_size, key=key
    )
    for name, data in streams.items():
        stream = writer.stream(name)
        stream.write(data)
        stream.close()
    finished = writer.finish(head or Head())
    assert finished.size == len(sink.data)
    return bytes(sink.data)


def open_bytes(data, **options):
    return Archive.open(MemoryStore(data), **options)


def contents(data):
    """All streams of an archive given as bytes."""
    with open_bytes(data) as archive:
        return {name: archive.read(name) for name in archive.names()}


def manifest_of(data):
    """The manifest of an intact archive as plain JSON values."""
    location = manifest.find_manifest(data[-manifest.TRAILER_BYTES :], len(data))
    return json.loads(data[location.offset : location.offset + location.length])


def forge(data, change=lambda document: document, *, replace=()):
    """Change the manifest, and bytes at ``(offset, bytes)``, and make every digest right again but the chunks'."""
    document = manifest_of(data)
    location = manifest.find_manifest(data[-manifest.TRAILER_BYTES :], len(data))
    start = location.offset - tar.BLOCK
    forged = bytearray(data[:start])
    for offset, piece in replace:
        forged[offset : offset + len(piece)] = piece
    return bytes(forged) + _end(len(forged), json.dumps(change(document) or document).encode())


def with_body(data, body):
    """An archive with another manifest, whatever it is, and every digest right."""
    start = manifest.find_manifest(data[-manifest.TRAILER_BYTES :], len(data)).offset - tar.BLOCK
    return data[:start] + _end(start, body)


def _end(start, body):
    """What follows the chunks, which end at ``start``."""
    place = manifest.Location(start + tar.BLOCK, len(body), manifest.digest_text(body))
    members = (manifest.MANIFEST_MEMBER, body), (manifest.TRAILER_MEMBER, manifest.trailer_json(place))
    return (
        b"".join(
            tar.header(name, len(content), 0) + content + tar.padding(len(content))
            for name, content in members
        )
        + tar.END
    )
