#!/usr/bin/env bash
# filelock 4.3.1: a lock that two asyncio tasks share, or that another thread releases, does not lock, or stays locked.
#
# Expected: as with asyncio.Lock and threading.Lock: the second task waits for the first, and a release by another thread releases,
# or raises.
# Seen: a lock counts how often its thread has taken it. All tasks of a loop are one thread, so each gets in: `async with` of one
# AsyncFileLock is entered twice at the same time. What asyncio.to_thread(lock.acquire) took, lock.release() of the loop leaves:
# no error, is_locked is False, and other processes time out until this one ends.
# Who meets it: servers that keep a lock as a global or an attribute, or take it in a thread because taking it may wait.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q filelock==4.3.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import subprocess
import sys

import filelock

folder = sys.argv[1]
OTHER = """
import filelock, sys
try:
    filelock.FileLock(sys.argv[1], timeout=0).acquire()
    print("free")
except filelock.Timeout:
    print("held")
"""


def for_others(path):
    return subprocess.run([sys.executable, "-c", OTHER, path], capture_output=True, text=True, check=True).stdout.strip()


async def most_inside(lock):
    inside = most = 0

    async def task():
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.05)
            inside -= 1

    await asyncio.gather(task(), task(), task())
    return most


async def main():
    tasks = await most_inside(filelock.AsyncFileLock(f"{folder}/tasks")), await most_inside(asyncio.Lock())
    lock = filelock.FileLock(f"{folder}/threads")
    await asyncio.to_thread(lock.acquire)
    lock.release()
    return *tasks, lock.is_locked, for_others(f"{folder}/threads")


seen = asyncio.run(main())
print("tasks inside: AsyncFileLock {}, asyncio.Lock {}; after release(): is_locked {}, {} for others".format(*seen))
assert seen == (3, 1, False, "held"), seen
PYTHON
