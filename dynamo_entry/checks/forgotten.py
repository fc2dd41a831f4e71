"""What CRIU leaves out without a word, and what can be seen of it: named at creation, lost at a restore."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_entry.linux import proc

REMEDY = (
    "set them anew after the restore, by POST_RESTORE for example; let the engine wait for its asynchronous I/O before it is "
    "frozen"
)


def find(pids: Iterable[int]) -> list[str]:
    """A sentence each."""
    return [f"{thing} of process {pid}" for pid in pids for thing in _of(pid)]


def _of(pid: int) -> list[str]:
    """Asynchronous I/O as it may be under way (io_submit(2)), numa_maps(5), and KSM as asked for by prctl(2)."""
    found = []
    if any(line.endswith(("/[aio] (deleted)", "/[aio]")) for line in proc.maps(pid)):
        found.append("asynchronous I/O (io_submit), as far as it is under way,")
    policies = {
        line.split()[1] for line in proc.read(pid, "numa_maps").decode("ascii", "replace").splitlines()
    }
    if other := sorted(policies - {"default"}):
        found.append(f"the memory policy {', '.join(other)}")
    if b"ksm_merge_any: yes" in proc.read(pid, "ksm_stat"):
        found.append("the merging of pages (KSM)")
    return found
