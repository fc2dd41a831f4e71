"""The engine's ports, against those that are taken here.

CRIU binds every socket with SO_REUSEADDR and SO_REUSEPORT set (criu: sk-inet.c, open_inet_sk), by which two engines
restored in one network namespace get the same port, and each half of the requests.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from contextlib import suppress

import psutil

from dynamo_entry.criu.rewrite.sockets import Bound
from dynamo_entry.errors import Incompatible


def check_ports(sockets: Iterable[Bound]) -> None:
    """Raises Incompatible that names a port of the engine which is taken, and by whom."""
    for bound in sockets:
        if _is_taken(bound):
            raise Incompatible(
                f"{bound.protocol} port {bound.port} of the engine on {bound.address} is taken here by "
                f"{_owner(bound)}",
                hint="pods with hostNetwork, and containers of one pod, need ports of their own",
                reason="PortTaken",
            )


def _is_taken(bound: Bound) -> bool:
    """Whether the engine itself, with the options of its socket, could not bind it here.

    TCP is always asked with SO_REUSEADDR: what is left of closed connections does not count. Other errors than
    this one are CRIU's to tell.
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
            if bound.interface:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound.interface.encode())
            probe.bind((str(bound.address), bound.port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _owner(bound: Bound) -> str:
    """Who has it, as far as it can be seen from inside a container."""
    with suppress(OSError, psutil.Error):
        for row in psutil.net_connections(bound.protocol.lower()):
            if row.pid and row.laddr and row.laddr.port == bound.port:
                return f"process {row.pid}: {' '.join(psutil.Process(row.pid).cmdline())[:200]}"
    return "a process outside this container"
