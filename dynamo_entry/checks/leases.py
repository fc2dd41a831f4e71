"""Files that the engine has leased for writing (F_SETLEASE): nobody else may open them, so that they cannot be archived.

To try would not only fail: it would call upon the engine to give the lease up, by a signal that ends whoever does not
expect it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc


def check(tables: proc.Tables, roots: list[str], excluded: tuple[str, ...], since_ns: int) -> None:
    """Raises NotDumpable that names the process and the file, if it has changed since that time and travels."""
    if not any(map(_is_lease, _locks())):
        return
    here = mounts.read()
    for pid, path in _leased(tables):
        with suppress(OSError):  # it is gone
            travels = not mounts.volume_of(path, here, roots) and not mounts.is_below(path, excluded)
            if travels and os.stat(path).st_ctime_ns >= since_ns:
                raise NotDumpable(
                    f"process {pid} has a lease on {path} (F_SETLEASE), which nobody else may read",
                    hint="let the engine, or PRE_DUMP, give it up before the dump, or leave the file out by EXCLUDE_PATHS",
                    reason="FileLeased",
                )


def _leased(tables: proc.Tables) -> Iterator[tuple[int, str]]:
    for pid, table in tables.items():
        for descriptor, path in table.items():
            if path.startswith("/") and any(
                map(_is_lease, proc.read(pid, f"fdinfo/{descriptor}").splitlines())
            ):
                yield pid, path


def _locks() -> list[bytes]:
    try:
        with open("/proc/locks", "rb") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _is_lease(line: bytes) -> bool:
    """Of /proc/locks, or of fdinfo (proc_locks(5))."""
    return b" LEASE " in line and b" WRITE " in line
