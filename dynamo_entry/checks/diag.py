"""Kernel modules by which CRIU learns of sockets: a node that lacks one cannot dump an engine that has such sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, sock_diag

#: How the kernel names protocols (net/*/proto.name) → the listing that CRIU takes.
_LISTINGS = {
    "TCP": "tcp", "TCPv6": "tcp", "UDP": "udp", "UDPv6": "udp", "UDP-Lite": "udp", "UDPLITEv6": "udp",
    "RAW": "raw", "RAWv6": "raw", "UNIX": "unix", "UNIX-STREAM": "unix", "NETLINK": "netlink", "PACKET": "packet",
}  # fmt: skip


def check(processes: list[psutil.Process]) -> None:
    """Raises NotDumpable that names the modules."""
    if missing := needed(_protocols(processes), sock_diag.lacking()):
        raise NotDumpable(
            f"the kernel of this node lacks {', '.join(missing)}, without which CRIU cannot dump the engine's sockets",
            hint=remedy(missing),
            reason="KernelLacks",
        )


def needed(protocols: Iterable[str], lacking: Mapping[str, str]) -> list[str]:
    """The modules among ``lacking`` that sockets of ``protocols`` take; pure."""
    wanted = {_LISTINGS.get(protocol, "") for protocol in protocols}
    return sorted(module for listing, module in lacking.items() if listing in wanted)


def remedy(modules: Iterable[str]) -> str:
    """What makes them be there."""
    return f"load them on the node (modprobe {' '.join(modules)}), or create on a node whose kernel has them"


def _protocols(processes: list[psutil.Process]) -> set[str]:
    return {
        proc.protocol(f"/proc/{process.pid}/fd/{descriptor}")
        for process in processes
        for descriptor, target in proc.descriptors(process.pid).items()
        if target.startswith("socket:")
    }
