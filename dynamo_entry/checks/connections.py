"""Connections that stay inside the engine and those that lead out of it; and the kernel modules that CRIU lists them with.

A unix socket whose other end is outside cannot be dumped: CRIU does not dump half of a connection. TCP connections that
lead out are closed; those inside are kept if the kernel allows it. The kernel is asked by sock_diag(7), because
/proc/net/unix does not say which sockets are connected to each other. If a node's kernel lacks one of its modules, an
engine that has sockets of that kind cannot be dumped.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynamo_entry.checks import control_planes, socket_names
from dynamo_entry.checks.control_planes import Plane
from dynamo_entry.checks.kept_connections import DO_NOT_RECONNECT, KEEP
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, sock_diag
from dynamo_entry.linux.sock_diag import End, Unix
from dynamo_entry.value import NamedTuple

_CONNECTED = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)

#: How many connections a message names.
_NAMED = 5

#: What to do with an engine that has registered.
FREEZE_EARLIER = (
    "what it registered is this pod's, and gone when it is restored: let it be ready before it registers, or let "
    "PRE_DUMP deregister it"
)


class Tcp(NamedTuple):
    """TCP connections of an engine: those with both ends in it, one row for each, and those that lead out of it."""

    inside: list[Connection]
    outside: list[Connection]


class Connection(NamedTuple):
    """A TCP connection: the process that has this end, its descriptor, and both addresses.

    Of a connection inside the engine, this end is the one with the lower port. ``plane`` is the control plane to which the
    connection leads, or empty.
    """

    pid: int
    descriptor: int
    here: str
    there: str
    plane: str = ""


def check(tables: proc.Tables, log: Any) -> dict[int, str]:
    """Return the present names of unix sockets that were renamed, by inode. Log those that nobody can reach any more.

    Raises NotDumpable that names the process and what its connection leads to.
    """
    owners = _owners(tables)
    try:
        there = list(sock_diag.unix())
    except OSError:
        return {}  # a kernel without sock_diag for unix sockets
    renamed = socket_names.check(there, {inode: pid for inode, (pid, _) in owners.items()})
    if found := leads_out(there, frozenset(owners)):
        inode, where = found
        raise NotDumpable(
            f"process {owners[inode][0]} has a unix socket connected to {where}, outside the engine; CRIU cannot dump one end of it",
            hint="let the engine, or PRE_DUMP, close it before the dump",
            reason="PeerOutside",
        )
    if names := socket_names.out_of_reach(there, owners):
        log.warning(
            "unix sockets have no file any more", names=names,
            hint="a restore brings them back without one: let the engine bind a socket in its final directory",
        )  # fmt: skip
    return renamed


def leads_out(there: Iterable[Unix], ours: frozenset[int]) -> tuple[int, str] | None:
    """The inode of one of ``ours`` whose peer is outside the engine, and the name of that peer. Pure.

    Peers that nobody has accepted yet, or that are on their way to another process, are left to CRIU, which handles them.
    """
    rows = {row.inode: row for row in there}
    names = {row.name for inode, row in rows.items() if inode in ours}
    for inode in sorted(ours & rows.keys()):
        row = rows[inode]
        if row.kind not in _CONNECTED or not row.peer or row.peer in ours:
            continue
        peer = rows.get(row.peer)
        if peer is None:
            return inode, "another container, or the node,"
        if peer.name and peer.name not in names:
            return inode, peer.name.rstrip(b"\0").replace(b"\0", b"@").decode("utf-8", "replace")
    return None


def tcp(tables: proc.Tables, environ: Mapping[str, str]) -> Tcp:
    """The engine's connections, in a pod with this environment; none if the kernel cannot list them."""
    try:
        there = list(sock_diag.tcp())
    except OSError:
        return Tcp([], [])
    return told_apart(there, _owners(tables), control_planes.known(environ))


def told_apart(
    there: Iterable[End], owners: Mapping[int, tuple[int, int]], planes: Sequence[Plane] = ()
) -> Tcp:
    """Connections of ``owners`` (inode → pid and descriptor), sorted by where the other end is. Pure.

    An end that waits to be accepted has no owner: it is dropped, whoever owns the other end.
    """
    ours = {(end.here, end.there): end for end in there if end.inode in owners}
    found = Tcp([], [])
    for (here, other), end in sorted(ours.items(), key=lambda item: (item[0][0][1], item[0])):
        row = Connection(*owners[end.inode], _address(here), _address(other))
        if (other, here) not in ours:
            found.outside.append(row._replace(plane=control_planes.name_of(other, planes)))
        elif (here[1], here) < (other[1], other):
            found.inside.append(row)
    return found


def check_tcp(found: Tcp, policy: str, *, may_keep: bool, log: Any) -> None:
    """Log which connections will be lost, or raise NotDumpable if none may be (``policy`` is refuse)."""
    lost = found.outside if may_keep else found.inside + found.outside
    registered = [row for row in found.outside if row.plane]
    if policy == "refuse" and lost:
        raise NotDumpable(
            f"the engine has {len(lost)} TCP connections that a restore does not bring back: {listed(lost)}",
            hint="let the engine, or PRE_DUMP, close them"
            + ("" if may_keep or not found.inside else f", or {KEEP}")
            + (f"; {FREEZE_EARLIER}" if registered else ""),
            reason="ConnectionsOpen",
        )
    if found.inside and may_keep:
        log.info("connections kept", count=len(found.inside), connections=listed(found.inside))
    elif found.inside:
        log.warning(
            "connections inside the engine will be closed", count=len(found.inside),
            connections=listed(found.inside), hint=f"{DO_NOT_RECONNECT}: {KEEP}",
        )  # fmt: skip
    if registered:
        log.warning(
            "engine is connected to a control plane", planes=sorted({row.plane for row in registered}),
            connections=listed(registered), hint=FREEZE_EARLIER,
        )  # fmt: skip
    if found.outside:
        log.warning("connections will be closed", count=len(found.outside), connections=listed(found.outside))


def record(found: Tcp, *, kept: bool) -> dict[str, Any]:
    """What a restore has to know about the connections."""
    ends = [(row.pid, row.descriptor) for row in found.outside]
    return {"inside": len(found.inside), "kept": kept, "outside": ends}


def listed(connections: list[Connection]) -> str:
    """The first few, for a message."""
    shown = ", ".join(
        f"{row.here} to {row.there} ({row.plane and f'{row.plane}, '}process {row.pid})"
        for row in connections[:_NAMED]
    )
    return f"{shown} and {len(connections) - _NAMED} more" if len(connections) > _NAMED else shown


def _address(end: tuple[str, int]) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _owners(tables: proc.Tables) -> dict[int, tuple[int, int]]:
    """Inode → pid and descriptor of every socket that the processes hold."""
    return {
        int(target[8:-1]): (pid, descriptor)
        for pid, table in tables.items()
        for descriptor, target in table.items()
        if target.startswith("socket:[")
    }


#: The kernel's names of protocols (net/*/proto.name) → the listing that CRIU uses.
_LISTINGS = {
    "TCP": "tcp", "TCPv6": "tcp", "UDP": "udp", "UDPv6": "udp", "UDP-Lite": "udp", "UDPLITEv6": "udp",
    "RAW": "raw", "RAWv6": "raw", "UNIX": "unix", "UNIX-STREAM": "unix", "NETLINK": "netlink", "PACKET": "packet",
}  # fmt: skip


def check_kernel_modules(tables: proc.Tables) -> None:
    """Raises NotDumpable that names the modules."""
    if missing := needed_modules(_protocols(tables), sock_diag.lacking()):
        raise NotDumpable(
            f"the kernel of this node lacks {', '.join(missing)}, without which CRIU cannot dump the engine's sockets",
            hint=modules_remedy(missing),
            reason="KernelLacks",
        )


def needed_modules(protocols: Iterable[str], lacking: Mapping[str, str]) -> list[str]:
    """The modules among ``lacking`` that sockets of ``protocols`` take; pure."""
    wanted = {_LISTINGS.get(protocol, "") for protocol in protocols}
    return sorted(module for listing, module in lacking.items() if listing in wanted)


def modules_remedy(modules: Iterable[str]) -> str:
    """What to do about missing modules."""
    return f"load them on the node (modprobe {' '.join(modules)}), or create on a node whose kernel has them"


def _protocols(tables: proc.Tables) -> set[str]:
    return {
        proc.protocol(f"/proc/{pid}/fd/{descriptor}")
        for pid, table in tables.items()
        for descriptor, target in table.items()
        if target.startswith("socket:")
    }
