"""Archives of hundreds of GiB: what describes them stays small, and is found in two reads."""

import os
import random

import pytest
from archive_store import MemoryStore

from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head, codec
from dynamo_entry.archive.manifest import CHUNK_SIZE
from dynamo_entry.storage import ObjectStat, Writer
from dynamo_entry.storage.oci import artifact
from dynamo_entry.storage.oci.artifact import SMALLEST_BYTES as LAYER_BYTES
from dynamo_entry.storage.oci.writer import OciWriter
from dynamo_entry.storage.s3.writer import MOST_PARTS, part_size, parts_in_flight

MIB, GIB, TB = 1 << 20, 1 << 30, 10**12


class Sparse(Writer):
    """Keeps all that is written but the data of chunks."""

    def __init__(self):
        self.size = 0
        self.kept = {}

    def append(self, *buffers):
        for buffer in buffers:
            if len(buffer) < CHUNK_SIZE:
                self.kept[self.size] = bytes(buffer)
            self.size += len(buffer)

    def commit(self):
        raise NotImplementedError

    def abort(self):
        raise NotImplementedError


class SparseStore(MemoryStore):
    def __init__(self, sparse):
        super().__init__()
        self.sparse = sparse

    def stat(self):
        return ObjectStat(self.sparse.size, "1")

    def read_range(self, offset, length):
        self.reads.append((offset, length))
        data = bytearray(length)
        for start, piece in self.sparse.kept.items():
            if start < offset + length and offset < start + len(piece):
                part = piece[max(0, offset - start) : offset + length - start]
                at = max(0, start - offset)
                data[at : at + len(part)] = part
        return bytes(data)


@pytest.fixture
def large(monkeypatch):
    """200 GiB in 16 streams, as the archive writer writes them; their chunks are neither digested nor kept."""
    digest = codec.digest
    noise = os.urandom(1 << 20)

    def quick(stored):
        if len(stored) < CHUNK_SIZE:
            return digest(stored)
        start = random.randrange(len(noise) - codec.DIGEST_BYTES)
        return noise[start : start + codec.DIGEST_BYTES]

    monkeypatch.setattr(codec, "digest", quick)
    sink = Sparse()
    writer = ArchiveWriter(sink, compression=Compression.parse("none"), threads=2)
    for number in range(16):
        stream = writer.stream(f"criu/pages-{number}.img")
        while stream.size < 200 * GIB // 16:
            space = stream.buffer()
            space[0] = 1
            stream.advance(len(space))
        stream.close()
    writer.finish(Head(hash="d936422b4f953f99"))
    return sink


def test_an_archive_of_200_gib_is_inspected_by_two_small_reads(large):
    assert large.size > 200 * GIB
    store = SparseStore(large)
    with Archive.open(store, expected_hash="d936422b4f953f99") as archive:
        assert sum(archive.size_of(name) for name in archive.names()) == 200 * GIB
    assert len(store.reads) <= 2
    assert sum(length for _, length in store.reads) < 8 * MIB


def test_as_an_artifact_it_fits_into_what_registries_take():
    """4 MiB of manifest (distribution specification, "Pushing Manifests")."""
    layers = [artifact.Layer(f"sha256:{os.urandom(32).hex()}", LAYER_BYTES)] * (200 * GIB // LAYER_BYTES)
    assert len(artifact.encoded(artifact.manifest(layers, b"{}", {}))) < 2 * MIB


@pytest.mark.parametrize(
    ("expected", "reached"), [(0, 250 * GIB), (GIB, 250 * GIB), (200 * GIB, 500 * GIB), (2 * TB, 5 * TB)]
)
def test_as_an_artifact_it_fits_into_the_layers_that_registries_take(expected, reached):
    """Amazon's takes 4200. Also where it is larger than anybody expected: an engine may write its model beside itself."""
    writer = OciWriter(None, "tag", lambda: None, replace=True, expected_size=expected)
    done = count = 0
    while done < reached:
        size, _ = writer.next_part(count, done)
        done, count = done + size, count + 1
    writer.abort()
    assert count <= 4_200


@pytest.mark.parametrize(
    ("expected", "reached"),
    [(0, 5 * TB), (GIB, 5 * TB), (33 * GIB, TB), (200 * GIB, TB), (45 * TB, 50 * TB)],
)
def test_as_an_object_it_fits_into_the_parts_that_s3_allows(expected, reached):
    """Also where it is several times larger than anybody expected."""
    done = count = 0
    while done < reached:
        size = part_size(done, expected)
        assert 5 * MIB <= size <= 5 * GIB
        done, count = done + size, count + 1
    assert count <= MOST_PARTS


def test_parts_in_flight_take_little_memory():
    assert at_once(200 * GIB, 200 * GIB) <= 128 * MIB
    assert at_once(100 * GIB, 0) <= 128 * MIB


def at_once(done, expected):
    size = part_size(done, expected)
    return size * parts_in_flight(size)
