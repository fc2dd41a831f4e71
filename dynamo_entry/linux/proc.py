"""What proc(5) says about processes. For a process that is gone the answer is empty, unless a function says otherwise."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from dynamo_entry.linux import loader

if TYPE_CHECKING:
    import psutil

#: pid → its open descriptors, and what each leads to
Tables = Mapping[int, Mapping[int, str]]


def tree(root: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    import psutil  # noqa: PLC0415 - 8 ms that nobody waits for: no restore needs it before the engine is back

    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def read(pid: int, name: str) -> bytes:
    """A whole file of the process's directory."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def status(pid: int) -> dict[str, str]:
    """The fields of proc_pid_status(5), without surrounding blanks."""
    return status_fields(read(pid, "status"))


def status_fields(text: bytes) -> dict[str, str]:
    """The fields of a status file, for example a thread's."""
    lines = text.decode("utf-8", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def threads(pid: int) -> list[int]:
    """Ids of its threads, its own among them."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for a signal."""
    return bool(int(status(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)


def command(pid: int) -> list[str]:
    """The command line (proc_pid_cmdline(5))."""
    return [word.decode("utf-8", "surrogateescape") for word in read(pid, "cmdline").split(b"\0")[:-1]]


def environment(pid: int) -> list[tuple[bytes, bytes]]:
    """(name, value) of the variables that the process was started with, in order; a name may occur twice. Raises OSError."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    return [(name, value) for name, found, value in entries if found]


def loader_variables(pid: int) -> dict[str, str]:
    """The variables of its environment that the dynamic loader reads; none if the environment cannot be read."""
    try:
        given = dict(environment(pid))
    except OSError:
        return {}
    return {os.fsdecode(name): os.fsdecode(given[name]) for name in loader.variables(given)}


def working_directory(pid: int) -> str:
    """The path of its working directory, as readlink(2) shows it."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def works_too_deep(pid: int) -> bool:
    """Whether the path of its working directory is too long to be shown."""
    try:
        os.readlink(f"/proc/{pid}/cwd")
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def descriptors(pid: int) -> dict[int, str]:
    """Its open descriptors, and what they lead to; an empty string for a path that is too long to be shown."""
    found = {}
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    found[int(entry)] = ""
    except OSError:
        pass
    return found


def tables(pids: Iterable[int]) -> Tables:
    """The descriptors of several processes."""
    return {pid: descriptors(pid) for pid in pids}


def descriptor_state(pid: int, number: int) -> tuple[int, bool]:
    """The flags of an open descriptor, and whether it holds a lock (proc_pid_fdinfo(5))."""
    text = read(pid, f"fdinfo/{number}").decode("ascii", "replace")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields.get("flags", "0"), 8), "lock" in fields


def maps(pid: int) -> list[str]:
    """The lines of its memory map (proc_pid_maps(5))."""
    return read(pid, "maps").decode("utf-8", "surrogateescape").split("\n")[:-1]


def mapped_file(line: str) -> str:
    """The path of the file or device in a line of ``maps``, or nothing."""
    path = line.partition(" /")[2].replace("\\012", "\n")
    return f"/{path}" if path else ""


def map_entry(line: str) -> str:
    """The entry below /proc/PID for a line of ``maps`` (proc_pid_map_files(5)). Unlike in ``maps``, it has no leading zeros."""
    start, end = line.partition(" ")[0].split("-")
    return f"map_files/{int(start, 16):x}-{int(end, 16):x}"


def files(table: Mapping[int, str], lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Files that a process has open or mapped, by its descriptors and the lines of ``maps``: (entry below /proc/PID, path)."""
    for descriptor, target in table.items():
        if target.startswith("/"):
            yield f"fd/{descriptor}", target
    for line in lines:
        if path := mapped_file(line):
            yield map_entry(line), path


def mapped_files(pids: Iterable[int]) -> set[str]:
    """Files and devices that are mapped into processes."""
    return {path for pid in pids for line in maps(pid) if (path := mapped_file(line))}


def open_paths(pids: Iterable[int]) -> set[str]:
    """The paths of files that processes have open or mapped; those of deleted files as the kernel shows them."""
    pids = list(pids)
    opened = {path for pid in pids for path in descriptors(pid).values() if path.startswith("/")}
    return opened | mapped_files(pids)


def own_memory_bytes(pid: int) -> int:
    """Its proportional share of anonymous and shared memory, swapped or not (proc_pid_smaps_rollup(5))."""
    rows = (line.split() for line in read(pid, "smaps_rollup").decode("ascii", "replace").splitlines())
    return sum(int(row[1]) << 10 for row in rows if row[0] in ("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))


def resident_bytes(pid: int) -> int:
    """Its memory that does not belong to a file: what a dump has to hold."""
    fields = status(pid)
    return sum(int(fields.get(name, "0 kB").split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def locked_bytes(pid: int) -> int:
    """Memory that is locked (mlock(2))."""
    return int(status(pid).get("VmLck", "0 kB").split()[0]) << 10


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or is a zombie."""
    return status(pid).get("State", "Z")[:1] in "ZX"


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal, or has ended."""
    return status(pid).get("State", "Z")[:1] in "TZX"


def held_by(tracer: int) -> list[int]:
    """The pids of all processes that ``tracer`` traces."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if status(pid).get("TracerPid") == str(tracer)]


def children(pid: int) -> list[int]:
    """The pids of its children."""
    import psutil  # noqa: PLC0415 - as above

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def steps(roots: Iterable[int]) -> int:
    """A number that changes while any of ``roots`` or their descendants works, and stays the same while all of them sleep.

    It counts processes, threads, page faults, the size of memory, and calls and bytes of read(2) and write(2).
    """
    return sum(_steps(process.pid) for root in roots for process in tree(root))


def _steps(pid: int) -> int:
    fields = read(pid, "stat").rpartition(b")")[2].split()
    io = read(pid, "io").split()[1:8:2]
    # minflt, majflt, num_threads, vsize, rss of proc_pid_stat(5); rchar, wchar, syscr, syscw of proc_pid_io(5)
    return 1 + sum(int(fields[number - 3]) for number in (10, 12, 20, 23, 24) if fields) + sum(map(int, io))


def shared_mappings(pid: int) -> list[tuple[int, int]]:
    """Address ranges of mappings with pages that another process maps as well (proc_pid_smaps(5)).

    If that cannot be read, the process is taken to share nothing: its memory becomes its own in a restore, which is
    correct and only takes more memory.
    """
    return parse_shared(read(pid, "smaps"))


#: In a smaps file: the line of a mapping that has shared pages, and the beginning of every mapping's second line.
_SHARED, _SIZE = re.compile(rb"\nShared_(?:Clean|Dirty): +[1-9]"), b"\nSize:"


def parse_shared(smaps: bytes) -> list[tuple[int, int]]:
    """The ranges of mappings with shared pages in a smaps file, which has 35 MB for 50 000 mappings: only matches are parsed.

    Shared_* also counts pages of files and of shared memory, which a plan does not use.
    """
    found: dict[tuple[int, int], None] = {}
    for one in _SHARED.finditer(smaps):
        end = smaps.rfind(_SIZE, 0, one.start())
        area, _, _ = smaps[smaps.rfind(b"\n", 0, end) + 1 : end].partition(b" ")
        first, _, last = area.partition(b"-")
        found[int(first, 16), int(last, 16)] = None
    return list(found)


def protocol(path: str) -> str:
    """The protocol of a socket (a path in a process's fd directory), as the kernel names it (net/*/proto.name)."""
    try:
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")
    except OSError:
        return ""


def program(pid: int) -> str:
    """The path of its program (proc_pid_exe(5)); ``/memfd:NAME (deleted)`` for one in memory."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def pidfd_target(pid: int, descriptor: int) -> int:
    """The process or thread that a pidfd leads to (pidfd_open(2)); 0 if outside this pid namespace, -1 if gone."""
    for line in read(pid, f"fdinfo/{descriptor}").splitlines():
        if line.startswith(b"Pid:"):
            return int(line.split()[1])
    return -1
