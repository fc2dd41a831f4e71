"""Files that the engine has leased for writing (F_SETLEASE): nobody else may open them, so that they cannot be archived.

To open such a file would not only fail: the kernel would ask the engine to give the lease up, by a signal that ends a process
which does not expect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc


def check(tables: proc.Tables, travelling: Callable[[], Iterable[str]]) -> None:
    """Raises NotDumpable that names the process and a leased file that is among those which will be archived.

    ``travelling`` looks for them, as long as that takes, so it is called only if there is a lease.
    """
    if not any(map(_is_lease, _locks())):
        return
    leased = {path: pid for pid, path in _leased(tables)}
    with suppress(OSError):  # the same search fails again when files are archived, and then says more
        for path in travelling() if leased else ():
            if path in leased:
                raise NotDumpable(
                    f"process {leased[path]} holds a write lease on {path} (F_SETLEASE): no other process can open it",
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
    """Whether a line of /proc/locks, or of fdinfo, is a lease for writing (proc_locks(5))."""
    return b" LEASE " in line and b" WRITE " in line
