"""What the kernel knows about a task: its processors, its OOM score, and what it shares with others.

CRIU does not keep the processors: they are recorded, and threads are pinned again if the container has the same ones.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping


def record_affinity(pids: Iterable[int]) -> dict[str, list[int]]:
    """Each CPU mask that is narrower than ours, in hexadecimal, and the threads that have it."""
    everything = os.sched_getaffinity(0)
    found: dict[str, list[int]] = {}
    for pid in pids:
        try:
            for entry in os.listdir(f"/proc/{pid}/task"):
                processors = os.sched_getaffinity(int(entry))
                if processors != everything:
                    mask = sum(1 << number for number in processors)
                    found.setdefault(f"{mask:x}", []).append(int(entry))
        except OSError:
            continue
    return found


def pin(recorded: Mapping[str, Iterable[int]]) -> int:
    """Pin threads. Returns how many cannot be pinned, because this container does not have their processors."""
    everything = os.sched_getaffinity(0)
    missed = 0
    for text, threads in recorded.items():
        mask = int(text, 16)
        processors = {number for number in range(mask.bit_length()) if mask >> number & 1}
        for thread in threads:
            try:
                if not everything.issuperset(processors):
                    raise OSError
                os.sched_setaffinity(thread, processors)
            except OSError:
                missed += 1
    return missed


#: proc_pid_oom_score_adj(5)
_OOM_PATH = "/proc/self/oom_score_adj"

#: The worker is killed before PID 1, which only costs a cold start; but not before processes that the node values least.
_VOLUNTEER = 500


def volunteer_for_oom() -> None:
    """Let the OOM killer choose this process first, if it may be asked to. What is started from now on inherits it."""
    try:
        with open(_OOM_PATH, encoding="ascii") as file:
            before = int(file.read())
        with open(_OOM_PATH, "w", encoding="ascii") as file:
            file.write(str(max(before, _VOLUNTEER)))
    except OSError:
        pass


#: The number of kcmp(2), by machine.
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}

#: Memory, table of descriptors, working directory and root.
VM, FILES, FS = 1, 2, 3


def is_shared(one: int, other: int, kind: int) -> bool | None:
    """Whether two tasks share a resource; None if the kernel cannot say, or one of them is gone."""
    number = _SYS_KCMP.get(os.uname().machine)
    if number is None:
        return None
    result = ctypes.CDLL(None).syscall(number, one, other, kind, 0, 0)
    return None if result < 0 else result == 0
