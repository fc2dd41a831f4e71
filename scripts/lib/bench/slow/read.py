"""Reads a file whole, from a cold page cache, and prints the seconds: read.py launcher|mapped|read FILE THREADS."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dynamo_entry.archive import Archive
from dynamo_entry.storage import open_store, posix

CHUNK = 4 << 20


def launcher(path, count):
    """What a restore fills memory from: verified chunks, in the order of the archive."""
    with Archive.open(open_store(path)) as archive, ThreadPoolExecutor(count) as pool:
        (name,) = archive.names()
        chunks = archive.fetch((name, number) for number in range(archive.count_of(name)))

        def take(_thread):
            while chunks.take() is not None:
                pass

        list(pool.map(take, range(count)))


def mapped(path, count):
    """Mappings that are faulted in, side by side."""
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size

    def take(offset):
        if posix.map_range(descriptor, offset, min(CHUNK, size - offset)) is None:
            raise OSError(f"{path} cannot be mapped at {offset}")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(take, range(0, size, CHUNK)))


def read(path, _count):
    """read(2) from front to back, as cat, tar and criu do."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


side, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path, "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
began = time.monotonic()
{"launcher": launcher, "mapped": mapped, "read": read}[side](path, threads)
print(time.monotonic() - began)
