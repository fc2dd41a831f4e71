"""The launcher's side of scripts/bench storage: one transfer, whose seconds are printed.

An upload begins in a store that was tried before, as a creation tries it before its engine starts.
"""

import os
import sys
import threading
import time

from dynamo_entry import storage
from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head

PIECE = 4 << 20
THREADS = len(os.sched_getaffinity(0))


def make(path, mib, content):
    """An archive of so many MiB, with the hash of its location."""
    with storage.open_store(path) as store:
        sink = store.open_writer()
        writer = ArchiveWriter(sink, compression=Compression.parse("auto"), threads=THREADS)
        stream = writer.stream("criu/pages-1.img")
        for _ in range(int(mib) << 20 >> 22):
            if content == "random":
                stream.write(os.urandom(PIECE))
            else:
                stream.write(b"".join(os.urandom(2048) + bytes(2048) for _ in range(PIECE >> 12)))
        stream.close()
        writer.finish(Head())
        sink.commit()


def get(location):
    """As a restore fills memory: as many threads as cores take verified chunks in any order."""
    with Archive.open(storage.open_store(location), threads=THREADS) as archive:
        chunks = archive.fetch(
            (name, index) for name in archive.names() for index in range(archive.count_of(name))
        )

        def take():
            while chunks.take():
                pass

        threads = [threading.Thread(target=take) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def stream(location):
    """As CRIU reads an image."""
    with Archive.open(storage.open_store(location)) as archive:
        for name in archive.names():
            for _ in archive.chunks(name, ahead=3):
                pass


def put(location, path):
    """What is there already, as a new object."""
    with storage.open_store(location) as store:
        store.check_writable()
        began.append(time.monotonic())
        sink = store.open_writer()
        for piece in pieces(path):
            sink.append(piece)
        sink.commit()


def archive(location, path):
    """The same bytes as the content of a new archive: digested, tried for compression."""
    with storage.open_store(location) as store:
        store.check_writable()
        began.append(time.monotonic())
        sink = store.open_writer()
        writer = ArchiveWriter(sink, compression=Compression.parse("auto"), threads=THREADS)
        into = writer.stream("criu/pages-1.img")
        for piece in pieces(path):
            into.write(piece)
        into.close()
        writer.finish(Head())
        sink.commit()


def pieces(path):
    buffer = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            yield buffer[:n]


began = [time.monotonic()]
{"make": make, "get": get, "stream": stream, "put": put, "archive": archive}[sys.argv[1]](*sys.argv[2:])
print(time.monotonic() - began[-1])
