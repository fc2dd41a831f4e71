"""Which private memory relatives have in common, copy on write: asked of the kernel while the tasks are frozen."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_entry.fill import ranges
from dynamo_entry.fill.ranges import Range


def record(pids: Iterable[int]) -> dict[str, list[Range]]:
    """pid → address ranges of mappings that have anonymous pages which another process maps, too.

    Where that cannot be read, a process is left out of the answer as if it shared nothing: its memory then
    becomes its own in a restore, which is right and only takes more room.
    """
    found = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
                found[str(pid)] = parse(file)
        except OSError:
            continue
    return found


def parse(lines: Iterable[str]) -> list[Range]:
    """The ranges of such mappings in a smaps file (proc_pid_smaps(5)).

    Shared_* counts pages that more than one process maps; files and shared memory are counted there as well,
    but have no business in the plan.
    """
    found: list[Range] = []
    current = (0, 0)
    for line in lines:
        field, _, rest = line.partition(" ")
        if field in ("Shared_Clean:", "Shared_Dirty:"):
            if not rest.strip().startswith("0 "):
                found.append(current)
        elif not field.endswith(":"):
            start, _, end = field.partition("-")
            current = (int(start, 16), int(end, 16))
    return ranges.union(found)
