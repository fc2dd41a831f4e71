"""What a restore takes elsewhere: the costs of a GiB measured here, and what they come to there.

What is filled takes the longest of three: the store delivers it, the cores verify and write it, and what threads
do one after another. The last is found by running the same with one thread and with all of them (Amdahl's law).
CRIU's part does not grow with the size; it is measured by `scripts/bench restore --size 64`.
"""

import argparse
import ctypes
import mmap
import os
import signal
import sys
import tempfile
import threading
import time

from blake3 import blake3

from dynamo_entry.fill.memory import Piece, Writer
from dynamo_entry.fill.plan import Task
from dynamo_entry.storage.posix import map_range

CHUNK = 4 << 20
GIB = 1 << 30


def target(size):
    """A process with ``size`` bytes that nobody touched yet: its pid and their address."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if (pid := os.fork()) == 0:
        signal.pause()
    return pid, address


def fill(descriptor, size, threads):
    """Seconds to verify ``size`` bytes of the page cache and write them into another process."""
    pid, address = target(size)
    offsets, lock, writer = iter(range(0, size, CHUNK)), threading.Lock(), Writer({})

    def run():
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            chunk = map_range(descriptor, offset, CHUNK)
            blake3(chunk).digest()
            writer.write(Task(pid), chunk, [Piece(0, CHUNK, address + offset)])

    pool = [threading.Thread(target=run) for _ in range(threads)]
    began = time.monotonic()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    seconds = time.monotonic() - began
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return seconds


def main():
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--cores", type=int, default=16, help="there (16)")
    made.add_argument(
        "--store", type=float, default=10, metavar="GB/S", help="what the store delivers there (10)"
    )
    made.add_argument("--sizes", default="10,20,50", metavar="GIB,…", help="engines (10,20,50)")
    made.add_argument("--fixed", type=float, default=0.3, metavar="S", help="what does not grow (0.3)")
    options = made.parse_args()
    here = len(os.sched_getaffinity(0))
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        for _ in range(GIB // CHUNK):
            file.write(os.urandom(CHUNK))
        file.flush()
        rounds = [[fill(file.fileno(), GIB, threads) for threads in (1, here)] for _ in range(5)]
    one, all_ = (sorted(column)[2] for column in zip(*rounds, strict=True))
    print(f"a GiB here: {one:.3f} s with one thread, {all_:.3f} s with {here}")
    if here < 2:
        sys.exit("with one core nothing can be said of more")
    serial = max(0.0, (all_ - one / here) / (1 - 1 / here))
    cores = serial + (one - serial) / options.cores
    store = GIB / (options.store * 1e9)
    print(
        f"of it one after another: {serial:.3f} s, so with {options.cores} cores {cores:.3f} s; the store: {store:.3f} s"
    )
    for size in options.sizes.split(","):
        print(f"{size} GiB: {options.fixed + float(size) * max(cores, store):.1f} s")


main()
