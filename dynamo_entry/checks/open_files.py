"""Refuses kinds of open files that CRIU does not know, by name."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
from contextlib import suppress

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc, sockets

IO_URING_REMEDY = (
    "an engine that takes one cannot be frozen: start it without --mlock and without the capability IPC_LOCK, so that "
    "it gets none, or add SYS_ADMIN to the creating pod"
)

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
GPU = "/dev/nvidia"

#: What to do about kinds of files that engines are known to use.
_REMEDIES = {
    "io_uring": IO_URING_REMEDY,
    "MPTCP": "set GODEBUG=multipathtcp=0 for an engine written in Go",
    "MPTCPv6": "set GODEBUG=multipathtcp=0 for an engine written in Go",
}

#: Objects that are not files, as the kernel shows them: secret memory, which is always shown as deleted, so that a file of a
#: similar name is not taken for it; eventfds; and POSIX message queues (linux/magic.h).
SECRETMEM = "/secretmem (deleted)"
_EVENTFD = "anon_inode:[eventfd]"
_MQUEUE_MAGIC = 0x19800202


def check_descriptor(pid: int, descriptor: int, target: str) -> None:
    """Raises NotDumpable for a kind of file that CRIU does not know."""
    path = f"/proc/{pid}/fd/{descriptor}"
    if target.startswith("anon_inode:"):
        if target not in _INODES:
            name = target.removeprefix("anon_inode:").strip("[]")
            raise holds(pid, descriptor, name, "IoUring" if name == "io_uring" else "AnonymousInode")
        if target == _EVENTFD and b"eventfd-semaphore: 1" in proc.read(pid, f"fdinfo/{descriptor}"):
            what = "an eventfd that counts one at a time (EFD_SEMAPHORE)"
            raise holds(pid, descriptor, what, "EventfdSemaphore", "use a POSIX semaphore, or a pipe")
    elif target.startswith("socket:"):
        protocol = proc.protocol(path)
        if protocol and protocol not in _PROTOCOLS:
            raise holds(pid, descriptor, f"{protocol} socket", "SocketKind", _REMEDIES.get(protocol, ""))
        if _has_program(pid, descriptor):
            what = "a socket with a filter of eBPF (SO_ATTACH_BPF), which the kernel shows to nobody,"
            raise holds(pid, descriptor, what, "SocketKind", "use a classic filter (SO_ATTACH_FILTER)")
        if protocol == "NETLINK" and (what := _netlink(pid, descriptor)):
            raise holds(pid, descriptor, what, "SocketKind")
        if protocol in ("UDPv6", "UDPLITEv6") and _has_a_groups_address(pid, descriptor):
            what = "a socket bound to a multicast address of one link"
            raise holds(pid, descriptor, what, "SocketKind", "bind it to [::], and join the group")
    elif target.startswith("pipe:"):
        if proc.descriptor_state(pid, descriptor)[0] & os.O_DIRECT:
            what = "a packet pipe (O_DIRECT)"
            raise holds(pid, descriptor, what, "PacketPipe", "use a packet socket (SOCK_SEQPACKET)")
    elif target == SECRETMEM:
        raise holds(pid, descriptor, "secret memory (memfd_secret)", "SecretMemory")
    elif target.count("/") == 1 and _is_queue(path):
        raise holds(pid, descriptor, f"the POSIX message queue {target}", "PosixQueue")
    elif target.startswith("/") and not target.startswith(GPU):
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
        raise holds(pid, descriptor, target, "DeviceOpen")
    kind, remedy = "", "open its directory instead"
    if stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
        kind = "socket" if stat.S_ISSOCK(status.st_mode) else "fifo"
    elif target.startswith("/memfd:"):
        kind, remedy = "file in memory", "open it for reading"
    if kind and proc.descriptor_state(pid, descriptor)[0] & os.O_PATH:
        raise holds(pid, descriptor, f"the {kind} {target} by O_PATH", "PathHeld", remedy)


def _is_known(device: int) -> bool:
    return os.major(device) == _MEMORY or os.major(device) in _TERMINALS


def holds(pid: int, descriptor: int, what: str, reason: str, remedy: str = "") -> NotDumpable:
    """The error for an open file."""
    return NotDumpable(
        f"process {pid} holds {what} (descriptor {descriptor}), which CRIU cannot dump",
        hint=remedy or _REMEDIES.get(what, "") or "let the engine, or PRE_DUMP, close it before the dump",
        reason=reason,
    )


def _is_queue(path: str) -> bool:
    """Whether it is a message queue, by the type of its filesystem."""
    return mounts.filesystem(path)[0] == _MQUEUE_MAGIC
