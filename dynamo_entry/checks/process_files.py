"""Open files and working directories in /proc that lead to a process or a thread that CRIU does not find at a restore."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc

#: The process, the thread that is asked for through it, and what follows (proc(5)).
_PATH = re.compile(r"/proc/(\d+)(?:/task/(\d+))?(/.*| \(deleted\))?$")

#: PID 1 is there in every place; its directory as such is none that CRIU opens.
_INIT = 1


def check(pids: Collection[int]) -> None:
    """Raises NotDumpable that names the process and what it holds."""
    for pid in pids:
        for path, is_directory_to_work_in in _held(pid):
            if what := unknown(path, pids, is_directory_to_work_in=is_directory_to_work_in):
                raise NotDumpable(
                    f"process {pid} {'works in' if is_directory_to_work_in else 'holds'} {path}, {what}",
                    hint="let the engine, or PRE_DUMP, close it before the dump, and open it anew when it is asked for",
                    reason="ProcessFile",
                )


def unknown(path: str, pids: Collection[int], *, is_directory_to_work_in: bool) -> str:
    """Why CRIU will not find it, or nothing."""
    if not (found := _PATH.match(path)):
        return ""
    pid, thread, rest = int(found[1]), found[2], found[3] or ""
    if thread and int(thread) != pid:
        return "and threads are made after files are opened"
    if pid not in pids and os.path.exists(f"/proc/{pid}") and (pid != _INIT or not (thread or rest)):
        return "of a process outside of the engine"
    if is_directory_to_work_in and not thread and not rest.startswith("/"):
        return "which CRIU cannot dump"
    return ""


def _held(pid: int) -> Iterator[tuple[str, bool]]:
    for path in proc.descriptors(pid).values():
        yield path, False
    yield proc.working_directory(pid), True
