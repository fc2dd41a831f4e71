"""Refuses by name, before the freeze, what CRIU cannot dump: CRIU would fail later, often without saying why."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dynamo_entry.checks import huge_pages
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import capabilities, io_uring, mounts, proc, sockets
from dynamo_entry.linux.pages import PAGE

IO_URING_REMEDY = (
    "an engine that takes one cannot be frozen: start it without --mlock and without the capability IPC_LOCK, so that "
    "it gets none, or add SYS_ADMIN to the creating pod"
)


def may_get_io_uring(argv: Sequence[str]) -> bool:
    """Whether the engine can use io_uring although a filter, or a limit of locked memory, should keep it from that."""
    if io_uring.may_filter():
        return False
    return io_uring.makes_rings(is_withheld=io_uring.may_withhold_memory(argv))


#: Anonymous inodes that CRIU 4.2 knows (criu: files.c, dump_one_file), as readlink shows them.
_INODES = frozenset(
    f"anon_inode:{name}"
    for name in ("[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "inotify", "[fanotify]", "[pidfd]")
)

#: Protocols that CRIU knows, by the kernel's names (socket(7) has no list: net/*/proto.name).
_PROTOCOLS = frozenset((
    "TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET",
    "PING", "PINGv6",
))  # fmt: skip

#: Major numbers of character devices that CRIU knows: memory, terminals. (Network tunnels only with their namespace.)
_MEMORY = 1
_TERMINALS = frozenset((4, 5, *range(128, 144)))

#: A CUDA process gives these up when its GPU memory is checkpointed.
_GPU = "/dev/nvidia"

#: What a pseudo terminal's master leads to (ptmx(4)).
_MASTERS = frozenset(("/dev/ptmx", "/dev/pts/ptmx"))

#: The device that CRIU may find mapped: /dev/zero.
_ZERO = os.makedev(1, 5)

#: What to do about kinds of files that engines are known to use.
_REMEDIES = {
    "io_uring": IO_URING_REMEDY,
    "MPTCP": "set GODEBUG=multipathtcp=0 for an engine written in Go",
    "MPTCPv6": "set GODEBUG=multipathtcp=0 for an engine written in Go",
}

#: Objects that are not files, as the kernel shows them: secret memory, SysV shared memory, pidfds, POSIX message
#: queues (linux/magic.h). They are always shown as deleted, so a file of a similar name is not taken for one.
_SECRETMEM = "/secretmem (deleted)"
_SYSV = re.compile(r"/SYSV[0-9a-f]{8} \(deleted\)")
_PIDFD, _FANOTIFY, _EVENTFD = "anon_inode:[pidfd]", "anon_inode:[fanotify]", "anon_inode:[eventfd]"
_MQUEUE_MAGIC = 0x19800202

#: The largest private mapping that CRIU restores, and the digits of an address that has so much behind it.
_LARGEST_BYTES, _LONG = PAGE << 31, 11

#: The longest line of maps that CRIU reads, less its end (criu: bfd.c).
_LINE_MAX = 4095

#: How long an obstacle has to last. The engine runs meanwhile, so what is there for a moment is none.
_LASTS_S = 2

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def if_it_lasts(check: Callable[[], None]) -> None:
    """Call ``check`` until it raises no NotDumpable; the last one is raised after two seconds."""
    deadline = time.monotonic() + _LASTS_S
    while True:
        try:
            return check()
        except NotDumpable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def check(tables: proc.Tables, effective: frozenset[int]) -> None:
    """Raises NotDumpable that names the process and what cannot be dumped."""
    may_not_override = capabilities.DAC_OVERRIDE not in effective
    masters = {pid for pid, table in tables.items() if not _MASTERS.isdisjoint(table.values())}
    for pid, table in tables.items():
        _check_openness(pid)
        program = proc.program(pid)
        if program.startswith("/memfd:"):
            raise NotDumpable(
                f"the program of process {pid} is a file in memory (memfd), which a restore cannot find",
                hint="let the engine run it from a file",
                reason="ProgramInMemory",
            )
        for descriptor, target in table.items():
            if target == program and proc.descriptor_state(pid, descriptor)[0] & os.O_PATH:
                raise _holds(pid, descriptor, f"its own program {target} by O_PATH", "ProgramHeld")
            if target == "/dev/tty" and masters - {pid}:
                what = "/dev/tty, and another process the other side of a terminal,"
                raise _holds(
                    pid, descriptor, what, "DeviceOpen", "open the terminal by its own name (ttyname)"
                )
            check_descriptor(pid, descriptor, target)
            if target == _FANOTIFY and capabilities.SYS_ADMIN not in effective:
                raise _holds(
                    pid,
                    descriptor,
                    "fanotify",
                    "AnonymousInode",
                    "use inotify, or add SYS_ADMIN to both pods",
                )
            if (
                target == _PIDFD
                and (theirs := proc.pidfd_target(pid, descriptor)) >= 0
                and theirs not in tables
            ):
                what = f"a pidfd of {theirs or 'a process'}, which is a thread or is outside of the engine,"
                raise _holds(pid, descriptor, what, "PidfdOutside")
        lines = proc.maps(pid)
        _check_lengths(pid, table, lines)
        check_maps(pid, lines)
        _check_rings(pid, table, lines)
        if may_not_override:
            for entry, target in proc.files(table, lines):
                check_reopening(pid, entry, target)
        _check_status(pid, effective)
        _check_threads(pid, effective)
        _check_namespaces(pid)


def _check_openness(pid: int) -> None:
    """Raises NotDumpable for a process that is not dumpable: its /proc belongs to root, so CRIU cannot read it."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        if not proc.has_ended(pid):
            raise NotDumpable(
                f"process {pid} lets nobody but root look at it (PR_SET_DUMPABLE, or a program with capabilities of its "
                "file)",
                hint="let the engine do without PR_SET_DUMPABLE and file capabilities, or run the creating pod as root",
                reason="ProcessHidden",
            ) from None
    except OSError:
        return  # it is gone


def check_maps(pid: int, lines: list[str]) -> None:
    """Raises NotDumpable for a mapping among ``lines`` of maps."""
    for line in lines:
        path = proc.mapped_file(line)
        if path == _SECRETMEM:
            raise NotDumpable(
                f"process {pid} has secret memory (memfd_secret), which no other process may read",
                hint="let the engine keep its keys in ordinary memory",
                reason="SecretMemory",
            )
        if huge_pages.is_private(line) and "w" not in line.split()[1]:
            raise NotDumpable(
                f"process {pid} has private huge pages (MAP_HUGETLB) that it may not write to, which a restore could not fill",
                hint="let the engine keep them writable, or use transparent huge pages (madvise)",
                reason="HugePages",
            )
        if _SYSV.fullmatch(path):
            raise NotDumpable(
                f"process {pid} maps SysV shared memory, which cannot be dumped from inside a container",
                hint="let the engine use POSIX shared memory",
                reason="SysvShm",
            )
        if _is_too_large(line):
            raise NotDumpable(
                f"process {pid} has reserved more than {_LARGEST_BYTES >> 40} TiB of memory at once, and CRIU restores no larger mapping",
                hint="let the engine reserve less, or without the right to write (PROT_NONE); sanitizers reserve as much",
                reason="MappingTooLarge",
            )
        if what := _unknown_object(pid, line):
            raise NotDumpable(
                f"process {pid} maps {what}, which CRIU cannot dump",
                hint="let the engine, or PRE_DUMP, give it up before the dump",
                reason="DeviceOpen" if what.startswith("/") else "AnonymousInode",
            )


def _check_lengths(pid: int, table: Mapping[int, str], lines: list[str]) -> None:
    """Raises NotDumpable for a path that readlink(2) does not show, or a line of ``maps`` that CRIU does not read."""
    held = [f"descriptor {number}" for number, target in table.items() if not target]
    if proc.works_too_deep(pid):
        held.append("its working directory")
    held += ["a mapped file" for line in lines if len(os.fsencode(line)) >= _LINE_MAX]
    if held:
        raise NotDumpable(
            f"process {pid} holds a file or directory whose path is too long for CRIU ({held[0]}): it knows 4095 bytes, of "
            "mapped files about 4000",
            hint="let the engine keep it in a directory that is less deep, or close it before the dump",
            reason="PathTooLong",
        )


def _check_rings(pid: int, table: Mapping[int, str], lines: list[str]) -> None:
    """Raises NotDumpable for a socket (a packet ring, see packet(7)) that is mapped, and not open in this very process.

    CRIU dumps one that another process has open, and then cannot map it (criu: sk-packet.c, open_socket_map).
    """
    for line in lines:
        target = line.split(None, 5)[5:]
        if target and target[0].startswith("socket:[") and target[0] not in table.values():
            raise NotDumpable(
                f"process {pid} maps the ring of a socket that it has closed, which CRIU cannot restore",
                hint="let the engine keep the socket open, or unmap its ring",
                reason="SocketKind",
            )


def _unknown_object(pid: int, line: str) -> str:
    """Return what a line of maps shows if it is neither memory nor a file, and CRIU does not know it; else an empty string."""
    fields = line.split(None, 5)
    if fields[4] == "0" or len(fields) < 6 or fields[5].startswith((_GPU, "/[aio]")):
        return ""
    with suppress(OSError):  # it is gone
        try:
            status = os.stat(f"/proc/{pid}/{proc.map_entry(line)}")
        except PermissionError:  # before Linux 5.9 without SYS_ADMIN
            status = os.stat(proc.mapped_file(line))
        is_known = stat.S_ISREG(status.st_mode) or stat.S_ISSOCK(status.st_mode) or status.st_rdev == _ZERO
        return "" if is_known else fields[5]
    return ""


def check_descriptor(pid: int, descriptor: int, target: str) -> None:
    """Raises NotDumpable for a kind of file that CRIU does not know."""
    path = f"/proc/{pid}/fd/{descriptor}"
    if target.startswith("anon_inode:"):
        if target not in _INODES:
            name = target.removeprefix("anon_inode:").strip("[]")
            raise _holds(pid, descriptor, name, "IoUring" if name == "io_uring" else "AnonymousInode")
        if target == _EVENTFD and b"eventfd-semaphore: 1" in proc.read(pid, f"fdinfo/{descriptor}"):
            what = "an eventfd that counts one at a time (EFD_SEMAPHORE)"
            raise _holds(pid, descriptor, what, "EventfdSemaphore", "use a POSIX semaphore, or a pipe")
    elif target.startswith("socket:"):
        protocol = proc.protocol(path)
        if protocol and protocol not in _PROTOCOLS:
            raise _holds(pid, descriptor, f"{protocol} socket", "SocketKind", _REMEDIES.get(protocol, ""))
        if _has_program(pid, descriptor):
            what = "a socket with a filter of eBPF (SO_ATTACH_BPF), which the kernel shows to nobody,"
            raise _holds(pid, descriptor, what, "SocketKind", "use a classic filter (SO_ATTACH_FILTER)")
        if protocol == "NETLINK" and (what := _netlink(pid, descriptor)):
            raise _holds(pid, descriptor, what, "SocketKind")
        if protocol in ("UDPv6", "UDPLITEv6") and _has_a_groups_address(pid, descriptor):
            what = "a socket bound to a multicast address of one link"
            raise _holds(pid, descriptor, what, "SocketKind", "bind it to [::], and join the group")
    elif target.startswith("pipe:"):
        if proc.descriptor_state(pid, descriptor)[0] & os.O_DIRECT:
            raise _holds(
                pid,
                descriptor,
                "a packet pipe (O_DIRECT)",
                "PacketPipe",
                "use a packet socket (SOCK_SEQPACKET)",
            )
    elif target == _SECRETMEM:
        raise _holds(pid, descriptor, "secret memory (memfd_secret)", "SecretMemory")
    elif target.count("/") == 1 and _is_queue(path):
        raise _holds(pid, descriptor, f"the POSIX message queue {target}", "PosixQueue")
    elif target.startswith("/") and not target.startswith(_GPU):
        _check_file(pid, descriptor, target)


#: netlink(7): a bitmap of the groups that a socket is in.
_SOL_NETLINK, _LIST_MEMBERSHIPS = 270, 9


def _netlink(pid: int, descriptor: int) -> str:
    """Return what CRIU does not know about a netlink socket, or an empty string."""
    with suppress(OSError), sockets.of_process(pid, descriptor) as found:
        groups = found.getsockopt(_SOL_NETLINK, _LIST_MEMBERSHIPS, 1024)
        if any(groups[4:]):
            return "a netlink socket in a group with a number above 32"
        if any(groups) and not found.getsockname()[0]:
            return "a netlink socket that is in a group and not bound"
    return ""


#: socket(7)
_SO_GET_FILTER = 26


def _has_program(pid: int, descriptor: int) -> bool:
    """Whether a socket has a filter that cannot be read. The kernel answers with the size of any other filter.

    The error is not SELinux's or AppArmor's: if these deny access, ``of_process`` has failed before.
    """
    with suppress(OSError), sockets.of_process(pid, descriptor) as found:
        room = ctypes.c_uint(0)
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.getsockopt(found.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(room))
        return bool(refused) and ctypes.get_errno() == errno.EACCES
    return False


def _has_a_groups_address(pid: int, descriptor: int) -> bool:
    """Whether a socket is bound to an address whose interface CRIU does not note: ff02::fb%eth0, for example."""
    with suppress(OSError), sockets.of_process(pid, descriptor) as found:
        address, _, _, scope = found.getsockname()
        return bool(scope) and address.startswith("ff")
    return False


def _check_file(pid: int, descriptor: int, target: str) -> None:
    """Raises NotDumpable for a device, wherever it lies, and for what is open by O_PATH and is a socket, a fifo or a memfd.

    CRIU takes a file that is open by O_PATH for the socket, the fifo or the memfd itself.
    """
    try:
        status = os.stat(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not _is_known(status.st_rdev)):
        raise _holds(pid, descriptor, target, "DeviceOpen")
    kind, remedy = "", "open its directory instead"
    if stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
        kind = "socket" if stat.S_ISSOCK(status.st_mode) else "fifo"
    elif target.startswith("/memfd:"):
        kind, remedy = "file in memory", "open it for reading"
    if kind and proc.descriptor_state(pid, descriptor)[0] & os.O_PATH:
        raise _holds(pid, descriptor, f"the {kind} {target} by O_PATH", "PathHeld", remedy)


def _is_too_large(line: str) -> bool:
    """Whether a mapping is larger than CRIU restores: it counts pages with 31 bits."""
    area, permissions, _ = line.split(" ", 2)
    start, _, end = area.partition("-")
    return len(end) >= _LONG and permissions[1::2] == "wp" and int(end, 16) - int(start, 16) > _LARGEST_BYTES


def check_reopening(pid: int, entry: str, target: str) -> None:
    """Raises NotDumpable for a file that this user may not open again.

    A process that makes a file may open it in any way. A restore opens it only as the modes of the file and its directories
    allow. The container's own output is not opened again.
    """
    path = f"/proc/{pid}/{entry}"
    with suppress(OSError):  # it was closed
        status = os.stat(path)
        is_opened_by_name = stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)
        if not is_opened_by_name or any(os.path.samestat(status, own) for own in _own_output()):
            return
        right = os.lstat(path).st_mode >> 6 & (os.R_OK | os.W_OK)  # proc_pid_fd(5): how it is open
        if right and (_is_out_of_reach(target) or not os.access(path, right, effective_ids=True)):
            raise NotDumpable(
                f"process {pid} has {target} open or mapped, and this user may not open it again in that way",
                hint="let the engine give its owner the right (chmod u+rw), or add DAC_OVERRIDE to both pods",
                reason="FileForbidden",
            )


def _is_out_of_reach(path: str) -> bool:
    """Whether one of the directories on the way may not be searched."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.EACCES
    return False


def _own_output() -> list[os.stat_result]:
    found = []
    for number in (1, 2):
        with suppress(OSError):
            found.append(os.fstat(number))
    return found


def _is_known(device: int) -> bool:
    return os.major(device) == _MEMORY or os.major(device) in _TERMINALS


def _holds(pid: int, descriptor: int, what: str, reason: str, remedy: str = "") -> NotDumpable:
    return NotDumpable(
        f"process {pid} holds {what} (descriptor {descriptor}), which CRIU cannot dump",
        hint=remedy or _REMEDIES.get(what, "") or "let the engine, or PRE_DUMP, close it before the dump",
        reason=reason,
    )


def _is_queue(path: str) -> bool:
    """Whether it is a message queue, by the type of its filesystem."""
    return mounts.filesystem(path)[0] == _MQUEUE_MAGIC


def _check_status(pid: int, effective: frozenset[int]) -> None:
    if not (status := proc.status(pid)):
        return  # it is gone
    if status.get("State", "").startswith("Z") and int(status.get("Threads", "1")) > 1:
        raise NotDumpable(
            f"the main thread of process {pid} has ended while others go on, which CRIU cannot dump",
            hint="let its main thread wait for the others",
            reason="MainThreadEnded",
        )
    for what, field, ours in (("user", "Uid", os.getuid()), ("group", "Gid", os.getgid())):
        found = dict(zip(("", "effective ", "saved "), status[field].split(), strict=False))
        other = next((kind for kind, number in found.items() if number != str(ours)), None)
        if other is None or capabilities.SYS_RESOURCE in effective:
            continue
        raise NotDumpable(
            f"the {other}{what} of process {pid} is {found[other]}, that of the launcher is {ours}: its limits cannot be read "
            "without SYS_RESOURCE",
            hint="run the whole engine as one user and group, without setuid, setgid and programs with these bits, or add "
            "SYS_RESOURCE to the creating pod's capabilities",
            reason="OtherUser",
        )


#: Lines in the status of nearly every thread.
_UNTRACED, _UNFILTERED = b"\nTracerPid:\t0\n", b"\nSeccomp:\t0\n"


def _check_threads(pid: int, effective: frozenset[int]) -> None:
    """Raises NotDumpable for a debugger or a seccomp filter, which may be those of one thread alone."""
    for thread in proc.threads(pid):
        text = proc.read(pid, f"task/{thread}/status")
        if text and _UNTRACED not in text:
            tracer = proc.status_fields(text).get("TracerPid", "")
            raise NotDumpable(
                f"{_shown(pid, thread)} is traced by process {tracer}",
                hint="detach the debugger",
                reason="Traced",
            )
        if text and _UNFILTERED not in text and capabilities.SYS_ADMIN not in effective:
            raise NotDumpable(
                f"{_shown(pid, thread)} has put itself under a seccomp filter, which only SYS_ADMIN can suspend",
                hint="switch the engine's sandbox off, or add SYS_ADMIN to the creating pod's capabilities",
                reason="SeccompFilter",
            )


def _shown(pid: int, thread: int) -> str:
    return f"process {pid}" if thread == pid else f"thread {thread} of process {pid}"


def _check_namespaces(pid: int) -> None:
    for name in _NAMESPACES:
        theirs = _namespace(pid, name)
        if theirs and theirs != os.readlink(f"/proc/self/ns/{name}"):
            raise NotDumpable(
                f"process {pid} is in a {name} namespace of its own, which needs more privileges to dump",
                hint="switch the engine's sandbox off",
                reason="OwnNamespace",
            )
    if proc.has_ended(pid):
        return  # a zombie has no namespaces for children
    for name in ("pid", "time"):
        own = _namespace(pid, name)
        if own and own != _namespace(pid, f"{name}_for_children"):
            raise NotDumpable(
                f"process {pid} has a {name} namespace for its children (unshare), which CRIU does not keep",
                hint="switch the engine's sandbox off",
                reason="OwnNamespace",
            )


def _namespace(pid: int, name: str) -> str:
    """The identity of a namespace; nothing if the process is gone, or if the pid namespace has no process yet."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""
