"""Resources of the engine that another process may have here: pids, ports, names of unix sockets, locks.

Pods with hostNetwork, and containers of one pod, share ports and abstract names. Replicas share locks on volumes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress

from dynamo_entry.criu.rewrite.files import Lock
from dynamo_entry.criu.rewrite.sockets import Bound
from dynamo_entry.criu.rewrite.unix import Named
from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import proc


def check_pids(pids: Iterable[int], proc: str = "/proc") -> None:
    """Raises Incompatible that gives a pid of the engine which is taken, and the process that has it."""
    for pid in pids:
        if os.path.exists(f"{proc}/{pid}"):  # a thread's id has an entry as well
            raise Incompatible(
                f"pid {pid} of the engine is taken here by {_command(f'{proc}/{pid}')}",
                hint="let the launcher start first, and do not share the pid namespace with other containers",
                reason="PidTaken",
            )


def _command(directory: str) -> str:
    try:
        with open(f"{directory}/cmdline", "rb") as file:
            return file.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip() or "a kernel thread"
    except OSError:
        return "another process"


#: Errors that mean that no interface has the address, or that the kernel has no IPv6.
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def check_ports(sockets: Iterable[Bound]) -> None:
    """Raises Incompatible that gives a port of the engine which is taken, and its owner, or which may not be bound."""
    for bound in sockets:
        refused = _bind(bound)
        if refused == errno.EACCES:
            raise Incompatible(
                f"{bound.protocol} port {bound.port} of the engine may not be bound here",
                hint="add NET_BIND_SERVICE to the capabilities, or let the engine listen above 1023",
                reason="PortReserved",
            )
        if refused in _NO_ADDRESS:
            raise Incompatible(
                f"{bound.protocol} port {bound.port} of the engine is bound to {bound.address}, and this pod has no such address",
                hint="attach the same networks to the pod, or let the engine listen on 0.0.0.0",
                reason="AddressMissing",
            )
        if refused == errno.EADDRINUSE:
            raise Incompatible(
                f"{bound.protocol} port {bound.port} of the engine on {bound.address} is taken here by "
                f"{_owner_of_port(bound)}",
                hint="give pods with hostNetwork, and containers of one pod, different ports",
                reason="PortTaken",
            )


#: linux/in.h
_IP_FREEBIND = 15


def _bind(bound: Bound) -> int:
    """The error that a socket with the same options gets when it is bound here; or 0.

    TCP is always tried with SO_REUSEADDR: remains of closed connections do not count.
    """
    family = socket.AF_INET if bound.address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if bound.protocol == "TCP" else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as probe:
            if bound.reuse_address or bound.protocol == "TCP":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bound.reuse_port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bound.is_v6_only)
                probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # as CRIU does, for IPv6 alone
            if bound.interface:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound.interface.encode())
            probe.bind((str(bound.address), bound.port))
    except OSError as error:
        return error.errno or 0
    return 0


def _owner_of_port(bound: Bound) -> str:
    """The owner, as far as it is visible from inside a container."""
    import psutil  # noqa: PLC0415 - 8 ms that only a refusal takes

    with suppress(OSError, psutil.Error):
        for row in psutil.net_connections(bound.protocol.lower()):
            if row.pid and row.laddr and row.laddr.port == bound.port:
                return f"process {row.pid}: {' '.join(psutil.Process(row.pid).cmdline())[:200]}"
    return "a process outside this container"


def check_names(names: Iterable[Named]) -> None:
    """Raises Incompatible for a name that is bound here; the error gives the owner."""
    for name in names:
        if _is_name_taken(name):
            raise Incompatible(
                f"the engine's unix socket {name.shown} is taken here by {_owner_of_name(name)}",
                hint="pods with hostNetwork, and containers of one pod, need names of their own"
                if name.is_abstract else "containers that share a volume need sockets of their own",
                reason="NameTaken",
            )  # fmt: skip


#: Errors of connect(2) that only a live socket causes: its queue is full, it is of another type, or it talks to another one.
_BOUND = (errno.EAGAIN, errno.EPROTOTYPE, errno.EPERM)


def _is_name_taken(name: Named) -> bool:
    """Whether a name is taken: an abstract one if it cannot be bound, a path if a socket answers there.

    The file of a process that has ended does not count: CRIU replaces it.
    """
    try:
        with socket.socket(socket.AF_UNIX, name.kind | socket.SOCK_NONBLOCK) as probe:
            if name.is_abstract:
                probe.bind(name.name)
                return False
            probe.connect(os.fsdecode(name.name))
    except OSError as error:
        return error.errno == errno.EADDRINUSE if name.is_abstract else error.errno in _BOUND
    return True


def _owner_of_name(name: Named) -> str:
    """The owner, as far as it is visible from inside a container (/proc/net/unix)."""
    import psutil  # noqa: PLC0415 - as above

    rows = (
        line.split(None, 7)
        for line in proc.read(os.getpid(), "net/unix").decode("utf-8", "replace").splitlines()
    )
    sockets = {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and row[7] == name.shown}
    for pid in psutil.pids():
        if sockets & {*proc.descriptors(pid).values()}:
            return f"process {pid}: {' '.join(proc.command(pid))[:200]}"
    return "a process outside this container"


def check_locks(locks: Iterable[Lock], travelling: Collection[str]) -> None:
    """Raises Incompatible if another process holds a lock of the engine on a file that does not travel with it."""
    for lock in locks:
        with suppress(OSError):  # a missing file is refused by ``files``
            if lock.path not in travelling and lock.is_held_elsewhere():
                raise Incompatible(
                    f"the engine holds a lock on {lock.path}, which another process holds here, maybe on another node",
                    hint="give every replica its own volume for files that it locks, or end the other one",
                    reason="LockTaken",
                )
