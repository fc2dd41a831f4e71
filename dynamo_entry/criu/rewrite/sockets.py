"""Moves sockets to the new pod's addresses (``files.img``, the only image that has inet addresses)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from dynamo_entry.errors import Incompatible
from dynamo_entry.value import NamedTuple

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address

#: linux/tcp_states.h, which UDP sockets use as well
_ESTABLISHED, _CLOSE = 1, 7
_TCP, _UDP = 6, 17


class Address(NamedTuple):
    """An address of an interface, here or where the engine was frozen."""

    interface: str
    address: str


def mapping(old: Iterable[Address], new: Iterable[Address]) -> dict[_IP, _IP]:
    """Old address → new address of the same family: the same one if it exists here, else that of the same interface.

    If the interface is missing, or has fewer addresses, the first address of the family takes its place.
    """
    here = [(entry.interface, parse(entry.address)) for entry in new]
    there = [(entry.interface, parse(entry.address)) for entry in old]
    found: dict[_IP, _IP] = {}
    for interface, address in there:
        kin = [(name, ip) for name, ip in here if _alike(ip, address)]
        same_interface = [ip for name, ip in kin if name == interface]
        siblings = [ip for name, ip in there if name == interface and _alike(ip, address)]
        if any(ip == address for _, ip in kin):
            found[address] = address
        elif same_interface:
            found[address] = same_interface[min(siblings.index(address), len(same_interface) - 1)]
        elif kin:
            found[address] = kin[0][1]
    return found


def parse(address: str) -> _IP:
    """The address of an interface."""
    return ipaddress.ip_address(address.partition("%")[0])


def _alike(one: _IP, other: _IP) -> bool:
    return (one.version, one.is_link_local) == (other.version, other.is_link_local)


class Network(NamedTuple):
    """The network that sockets find here: new addresses by old ones, and interfaces.

    ``lost`` are old addresses without a counterpart. ``is_reachable`` tells whether a UDP socket could be connected to
    (address, port, interface of a link's own address). ``keeps_connections``: TCP connections are not closed, but for those
    of ``close_what_leads_out``.
    """

    addresses: dict[_IP, _IP]
    lost: frozenset[_IP]
    interfaces: frozenset[str]
    is_reachable: Callable[[_IP, int, str], bool]
    keeps_connections: bool = False


def move(entries: Iterable[Any], network: Network) -> int:
    """Rewrite the inet sockets among ``entries`` of files.img; returns how many. Raises Incompatible.

    A UDP socket that was connected to a peer which cannot be reached comes back on its port, unconnected: one lost peer
    must not cost the whole restore. Sending then fails as it would after ECONNREFUSED.
    """
    changed = 0
    for entry in entries:
        if not entry.HasField("isk"):
            continue
        before = entry.SerializeToString()
        _move(entry.isk, network)
        changed += entry.SerializeToString() != before
    return changed


def _move(isk: Any, network: Network) -> None:
    is_closed = _is_closed(isk, network)
    # By SO_BINDTODEVICE, or as the scope of a link-local address.
    for interface in (isk.opts.so_bound_dev, "" if is_closed else isk.ifname):
        if interface and interface not in network.interfaces:
            raise Incompatible(
                f"a socket of the engine is bound to the interface {interface}, which does not exist here",
                hint="attach the same networks to the pod",
                reason="InterfaceMissing",
            )
    if isk.ifname and isk.ifname == isk.opts.so_bound_dev:
        isk.opts.ClearField("so_bound_dev")  # its address says the same; the option takes NET_RAW
    source, peer = _decoded(isk.src_addr), _decoded(isk.dst_addr)
    if isk.proto == _UDP and isk.state == _ESTABLISHED:
        peer = network.addresses.get(peer, peer) if peer else peer
        if peer is None or not network.is_reachable(peer, isk.dst_port, isk.ifname):
            isk.state, isk.dst_port = _CLOSE, 0
            isk.dst_addr[:] = [0] * len(isk.dst_addr)
        else:
            isk.dst_addr[:] = _encoded(peer, len(isk.dst_addr))
    if isk.proto == _TCP and peer in network.addresses:
        isk.dst_addr[:] = _encoded(network.addresses[peer], len(isk.dst_addr))
    if source in network.lost and not is_closed:
        raise Incompatible(
            f"the engine's port {isk.src_port} is bound to {source}, and this pod has no such address",
            hint="attach the same networks to the pod, or let the engine listen on 0.0.0.0",
            reason="AddressMissing",
        )
    if source in network.addresses:
        isk.src_addr[:] = _encoded(network.addresses[source], len(isk.src_addr))


def _is_closed(isk: Any, network: Network) -> bool:
    """Whether it is a TCP connection of which only the socket comes back, bound to nothing."""
    if isk.proto != _TCP:
        return False
    return not isk.src_port if network.keeps_connections else bool(isk.dst_port)


def close_what_leads_out(entries: Iterable[Any], *, keeps_half_closed: bool) -> frozenset[int]:
    """Let TCP connections come back as unconnected sockets, except those with both ends among ``entries``.

    Returns the numbers of sockets with both ends here that are closed all the same, unless ``keeps_half_closed``: one end was
    shut down. CRIU tells the other end by a raw socket.
    """
    ends = {
        (_decoded(isk.src_addr), isk.src_port, _decoded(isk.dst_addr), isk.dst_port): (number, isk)
        for number, isk in ((entry.id, entry.isk) for entry in entries if entry.HasField("isk"))
        if isk.proto == _TCP and isk.dst_port
    }
    closed, half_closed = [], set()
    for (source, source_port, peer, port), (number, isk) in ends.items():
        _, other = ends.get((peer, port, source, source_port), (0, None))
        if other is None:
            closed.append(isk)
        elif not keeps_half_closed and (isk.state, other.state) != (_ESTABLISHED, _ESTABLISHED):
            closed.append(isk)
            half_closed.add(number)
    for isk in closed:
        isk.state, isk.src_port, isk.dst_port = _CLOSE, 0, 0
    return frozenset(half_closed)


class Bound(NamedTuple):
    """A port that CRIU will bind a socket to, with the options that decide whether others may have it as well."""

    protocol: str
    address: _IP
    port: int
    reuse_address: bool
    reuse_port: bool
    is_v6_only: bool
    interface: str


def bound(entries: Iterable[Any]) -> list[Bound]:
    """The ports of ``entries`` of files.img. A TCP connection, which will be closed, has none."""
    return [
        Bound(
            "TCP" if isk.proto == _TCP else "UDP",
            _exact(isk.src_addr),
            isk.src_port,
            bool(isk.opts.reuseaddr),
            bool(isk.opts.so_reuseport),
            bool(isk.v6only),
            isk.opts.so_bound_dev,
        )
        for isk in (entry.isk for entry in entries if entry.HasField("isk"))
        if isk.src_port
        and len(isk.src_addr) in (1, 4)
        and (isk.proto == _UDP or (isk.proto == _TCP and not isk.dst_port))
    ]


def _exact(words: Any) -> _IP:
    """The address as the socket has it: of an IPv6 socket it may be a mapped one."""
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _decoded(words: Any) -> _IP | None:
    """The address from CRIU's words (network byte order in the machine's integers); mapped ones as IPv4."""
    data = struct.pack(f"={len(words)}I", *words)
    if len(data) == 4:
        return ipaddress.IPv4Address(data)
    if len(data) != 16:
        return None
    address = ipaddress.IPv6Address(data)
    return address.ipv4_mapped or address


def _encoded(address: _IP, words: int) -> list[int]:
    data = address.packed
    if words == 4 and len(data) == 4:
        data = ipaddress.IPv6Address(f"::ffff:{address}").packed
    return list(struct.unpack(f"={len(data) // 4}I", data))


def is_reachable(address: _IP, port: int, interface: str) -> bool:
    """Whether there is a route to that address, which may need an interface. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if address.is_link_local and address.version == 6:
                probe.connect((str(address), port or 9, 0, socket.if_nametoindex(interface)))
            else:
                probe.connect((str(address), port or 9))
    except OSError:
        return False
    return True


class Kind(NamedTuple):
    """The arguments with which CRIU will make a socket, and those of its options that take a capability; 0: not set."""

    family: int
    type: int
    protocol: int
    mark: int = 0
    priority: int = 0


def kinds(entries: Iterable[Any]) -> list[Kind]:
    """The kinds of the sockets among ``entries`` of files.img, each once."""
    found = {}
    for entry in entries:
        if entry.HasField("isk"):
            isk = entry.isk
            found[Kind(isk.family, isk.type, isk.proto, isk.opts.so_mark, isk.opts.so_priority)] = True
        elif entry.HasField("psk"):
            found[Kind(socket.AF_PACKET, entry.psk.type, entry.psk.protocol)] = True
        elif entry.HasField("nlsk"):
            found[Kind(socket.AF_NETLINK, socket.SOCK_RAW, entry.nlsk.protocol)] = True
    return list(found)
