"""What CRIU leaves behind: objects of the IPC namespace, asynchronous I/O, memory policies, KSM, sandboxes, watches, mounts.

IPC objects belong to a namespace, not to a process, and do not exist in another container: those that were made since the
engine's start are taken to be the engine's, and refused. Everything else is named at creation, and lost at a restore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc
from dynamo_entry.value import NamedTuple

#: Kind of object → its file in /proc/sysvipc (proc(5)), and the reason of a refusal.
_SYSV = {
    "semaphores": ("sem", "SysvSemaphore"),
    "message queue": ("msg", "SysvQueue"),
    "shared memory": ("shm", "SysvShm"),
}


class Object(NamedTuple):
    """One object: its kind, its identity, and the reason to refuse it."""

    kind: str
    name: str
    reason: str


def ipc_objects() -> frozenset[Object]:
    """The objects in the IPC namespace of this process."""
    found = {
        Object(f"SysV {kind}", f"key {int(row[0]) & 0xFFFFFFFF:#x}, id {row[1]}", reason)
        for kind, (name, reason) in _SYSV.items()
        for row in _rows(f"/proc/sysvipc/{name}")
    }
    for point in {mount.point for mount in mounts.read() if mount.kind == "mqueue"}:
        found |= {Object("POSIX message queue", f"/{name}", "PosixQueue") for name in _names(point)}
    return frozenset(found)


def check_ipc(before: frozenset[Object], now: frozenset[Object]) -> None:
    """Raises NotDumpable that names an object which was made since ``before``."""
    for found in sorted(now - before):
        raise NotDumpable(
            f"the engine has made a {found.kind} ({found.name}), which a restore does not bring back",
            hint="let the engine use POSIX shared memory and semaphores, or sockets; do not share the IPC namespace "
            "with other containers of the pod, whose objects count as the engine's",
            reason=found.reason,
        )


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file][1:]
    except OSError:
        return []


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


#: By default memory comes from the nearest node. BLAS libraries ask for that by the name "local".
_USUAL = {"default", "local"}

#: The events of a watch in fdinfo (proc_pid_fdinfo(5)), and the flag IN_ONESHOT of linux/inotify.h.
_MASK = re.compile(rb"inotify wd:\w+ .*?mask:(\w+)")
_ONE_EVENT = 0x80000000

REMEDY = (
    "set them anew after the restore, by POST_RESTORE for example; let the engine wait for its asynchronous I/O before it is "
    "frozen"
)


def find(tables: proc.Tables) -> list[str]:
    """A sentence for each thing that a restore will not bring back."""
    return [f"{thing} of process {pid}" for pid, table in tables.items() for thing in _of(pid, table)]


def outside(root: int) -> list[str]:
    """Processes that the engine, whose root is ``root``, gave to its own parent (clone(2), CLONE_PARENT), a sentence each."""
    ours = (root, os.getpid())
    return [
        f"process {pid} ({' '.join(proc.command(pid))[:200]}), a child of the launcher and not of the engine,"
        for pid in proc.children(os.getppid())
        if pid not in ours
    ]


def mounts_made(before: Iterable[mounts.Mount], now: Iterable[mounts.Mount]) -> list[str]:
    """Return a phrase for each mount that the engine itself has made. Pure."""
    known = {mount.id for mount in before}
    return [
        f"the mount of {mount.kind} at {mount.point}"
        for mount in now
        if mount.id not in known and not mount.is_slave
    ]


def _of(pid: int, table: Mapping[int, str]) -> list[str]:
    """What a process will lose: I/O of io_submit(2) under way, numa_maps(5), KSM by prctl(2), landlock(7), watches."""
    found = []
    if any(line.endswith(("/[aio] (deleted)", "/[aio]")) for line in proc.maps(pid)):
        found.append("asynchronous I/O (io_submit), as far as it is under way,")
    rows = (line.split() for line in proc.read(pid, "numa_maps").split(b"\n"))
    policies = {row[1].decode("ascii", "replace") for row in rows if len(row) > 1}
    if other := sorted(policies - _USUAL):
        found.append(f"the memory policy {', '.join(other)}")
    if b"ksm_merge_any: yes" in proc.read(pid, "ksm_stat"):
        found.append("the merging of pages (KSM)")
    if _may_be_sandboxed(proc.status(pid), proc.status(os.getpid())):
        found.append("a Landlock sandbox, if there is one (no_new_privs was set),")
    return [*found, *_asked_for(pid, table)]


def _asked_for(pid: int, table: Mapping[int, str]) -> Iterator[str]:
    """Watches of inotify(7) for a single event, which become permanent; and triggers of pressure (psi(5))."""
    for descriptor, target in table.items():
        if target == "anon_inode:inotify" and any(
            int(mask, 16) & _ONE_EVENT for mask in _MASK.findall(proc.read(pid, f"fdinfo/{descriptor}"))
        ):
            yield f"the end of a watch after one event (IN_ONESHOT, descriptor {descriptor})"
        is_of_pressure = target.startswith("/proc/pressure/") or target.endswith(".pressure")
        if is_of_pressure and proc.descriptor_state(pid, descriptor)[0] & os.O_ACCMODE:
            yield f"what was asked of {target} (descriptor {descriptor})"


def _may_be_sandboxed(status: dict[str, str], ours: dict[str, str]) -> bool:
    """Whether a process may be in a Landlock domain, which no file of /proc shows: it must have given up new privileges.

    That is also done for a seccomp filter, which is restored.
    """
    gave_up = (status.get("NoNewPrivs"), ours.get("NoNewPrivs")) == ("1", "0")
    return gave_up and status.get("Seccomp") == "0"
