"""Whether sockets of the engine's kinds can be made here: some take a capability, or a setting of the network."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from dynamo_entry.criu.rewrite.sockets import Kind
from dynamo_entry.errors import Incompatible

#: SO_MARK, and the highest priority that everybody may give (socket(7)).
_MARK, _EVERYBODYS_PRIORITY = 36, 6

_NAMES = {
    socket.AF_PACKET: "packet",
    socket.AF_NETLINK: "netlink",
    socket.AF_INET: "IPv4",
    socket.AF_INET6: "IPv6",
}


def check(kinds: Iterable[Kind]) -> None:
    """Makes one of each. Raises Incompatible that names what cannot be made."""
    for kind in kinds:
        shown = _shown(kind)
        try:
            made = socket.socket(kind.family, kind.type, kind.protocol)
        except OSError as error:
            raise _refused(f"a {shown}", error, _takes(kind)) from None
        with made:
            for name, number, value in _options(kind):
                try:
                    made.setsockopt(socket.SOL_SOCKET, number, value)
                except OSError as error:
                    raise _refused(
                        f"{name} of a {shown}", error, "add NET_ADMIN to the capabilities"
                    ) from None


def _options(kind: Kind) -> Iterable[tuple[str, int, int]]:
    if kind.mark:
        yield "the mark (SO_MARK)", _MARK, kind.mark
    if kind.priority > _EVERYBODYS_PRIORITY:
        yield f"priority {kind.priority} (SO_PRIORITY)", socket.SO_PRIORITY, kind.priority


def _shown(kind: Kind) -> str:
    name = _NAMES.get(socket.AddressFamily(kind.family), str(kind.family))
    if kind.family == socket.AF_NETLINK:
        return f"{name} socket of protocol {kind.protocol}"
    if kind.protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and kind.type == socket.SOCK_DGRAM:
        return f"{name} socket of ICMP (ping)"
    return f"raw {name} socket" if kind.type == socket.SOCK_RAW else f"{name} socket"


def _takes(kind: Kind) -> str:
    if kind.family == socket.AF_NETLINK:
        return (
            "the pod's seccomp profile, or the node's kernel, has no such protocol (usual profiles leave out 9, NETLINK_AUDIT): "
            "let the engine close the socket before the dump, or use a profile and a node as at creation"
        )
    if kind.type == socket.SOCK_RAW or kind.family == socket.AF_PACKET:
        return "add NET_RAW to the capabilities, as at creation"
    return "let the pod's network be as at creation: its IPv6, its net.ipv4.ping_group_range"


def _refused(what: str, error: OSError, hint: str) -> Incompatible:
    return Incompatible(
        f"the engine has {what}, which cannot be made here: {error.strerror}",
        hint=hint,
        reason="SocketForbidden",
    )
