"""Sockets on every kind of address."""

from __future__ import annotations

import os
import socket
import struct

from messy.processes import Peer
from messy.things import Check, equal, thing


def pod_address(family: int = socket.AF_INET) -> str:
    """The address of this place's first interface that is not the loopback."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))
        return str(probe.getsockname()[0])


def _echo(listener: socket.socket, address: tuple[str, int]) -> None:
    """A fresh client reaches the listener at ``address``."""
    with socket.socket(listener.family) as client:
        client.settimeout(5)
        client.connect(address)
        server, _ = listener.accept()
        client.send(b"ping")
        equal(server.recv(10), b"ping")
        server.close()


def _listener(host: str, family: int = socket.AF_INET) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, 0))
    made.listen(16)
    made.settimeout(5)
    return made


@thing
def listening_on_loopback() -> Check:
    made = _listener("127.0.0.1")
    return lambda: _echo(made, made.getsockname())


@thing
def listening_on_any_address() -> Check:
    made = _listener("0.0.0.0")
    return lambda: [_echo(made, (host, made.getsockname()[1])) for host in ("127.0.0.1", pod_address())]


@thing
def listening_on_any_ipv6_address() -> Check:
    """Dual stack: IPv4 clients reach it as well."""
    made = _listener("::", socket.AF_INET6)
    port = made.getsockname()[1]
    return lambda: [
        _echo(made, (host, port)) for host in ("::1", "::ffff:127.0.0.1", f"::ffff:{pod_address()}")
    ]


@thing
def listening_on_the_pods_address() -> Check:
    """The new one, in a new place."""
    made = _listener(pod_address())

    def check() -> None:
        equal(made.getsockname()[0], pod_address())
        _echo(made, made.getsockname())

    return check


@thing
def listening_on_the_pods_mapped_address() -> Check:
    """An IPv6 socket bound to the pod's IPv4 address."""
    made = _listener(f"::ffff:{pod_address()}", socket.AF_INET6)

    def check() -> None:
        equal(made.getsockname()[0], f"::ffff:{pod_address()}")
        _echo(made, made.getsockname()[:2])

    return check


@thing
def listening_on_the_pods_ipv6_address() -> Check:
    made = _listener(pod_address(socket.AF_INET6), socket.AF_INET6)

    def check() -> None:
        equal(made.getsockname()[0], pod_address(socket.AF_INET6))
        _echo(made, made.getsockname()[:2])

    return check


@thing
def workers_that_share_a_port() -> Check:
    """SO_REUSEPORT, one socket a process."""

    def made(port: int) -> socket.socket:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("0.0.0.0", port))
        one.listen(64)
        one.settimeout(5)
        return one

    mine = made(0)
    port = mine.getsockname()[1]

    def listen() -> None:
        global theirs  # noqa: PLW0603 - in the child
        mine.close()
        theirs = made(port)
        theirs.setblocking(False)

    def accept(_: bytes) -> bytes:
        try:
            theirs.accept()[0].close()
        except BlockingIOError:
            return b"none"
        return b"accepted"

    peer = Peer(accept, listen)
    equal(peer.ask(), b"none")  # it listens

    def check() -> None:
        mine.setblocking(False)
        counts = {"mine": 0, "theirs": 0}
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                try:
                    mine.accept()[0].close()
                    counts["mine"] += 1
                except BlockingIOError:
                    counts["theirs"] += peer.ask() == b"accepted"
        equal(min(counts.values()) > 0, True)
        equal(sum(counts.values()), 60)

    return check


theirs: socket.socket


@thing
def established_connection() -> Check:
    """Both ends here: after a restore both are closed, at once and without a hang, and a new one is made."""
    listener = _listener("127.0.0.1")
    client, server = _pair(listener)

    def check() -> None:
        nonlocal client, server
        try:
            client.send(b"ping")
            equal(server.recv(10), b"ping")
        except OSError as error:
            equal(isinstance(error, BrokenPipeError | ConnectionError) or error.errno == 107, True)
            for one in (client, server):
                equal(one.recv(1) if one.getsockname()[1] else b"", b"")
            client, server = _pair(listener)
            check()

    return check


def _pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname(), timeout=5)
    server, _ = listener.accept()
    server.settimeout(5)
    return client, server


@thing
def connection_waiting_to_be_accepted() -> Check:
    """A probe that came in just before the freeze."""
    listener = _listener("127.0.0.1")
    waiting = [socket.create_connection(listener.getsockname())]

    def check() -> None:
        listener.settimeout(0.2)
        try:
            listener.accept()[0].close()
        except TimeoutError:
            pass
        listener.settimeout(5)
        _echo(listener, listener.getsockname())
        waiting[:] = [socket.create_connection(listener.getsockname())]

    return check


@thing
def connection_that_the_peer_closed() -> Check:
    """CLOSE_WAIT."""
    client, server = _pair(_listener("127.0.0.1"))
    client.close()
    return lambda: equal(server.recv(1), b"")


@thing
def udp_server() -> Check:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", 0))
    made.settimeout(5)

    def check() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"ping", (pod_address(), made.getsockname()[1]))
        equal(made.recv(10), b"ping")

    return check


@thing
def udp_server_on_the_pods_address() -> Check:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((pod_address(), 0))
    made.settimeout(5)

    def check() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"ping", (pod_address(), made.getsockname()[1]))
        equal(made.recv(10), b"ping")

    return check


@thing
def connected_udp_socket() -> Check:
    """A resolver's, a statsd client's: afterwards it is no longer connected, and can be connected again."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((pod_address(), 8125))

    def check() -> None:
        try:
            made.send(b"metric")
        except OSError:
            made.connect((pod_address(), 8125))
            made.send(b"metric")

    return check


@thing
def listening_on_an_interface() -> Check:
    """Tied to the pod's network (SO_BINDTODEVICE), as servers are that must not answer on another one."""
    made = _listener("0.0.0.0")
    interface = next(name for _, name in socket.if_nameindex() if name != "lo").encode()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
    return lambda: equal(
        made.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0"), interface
    )


@thing
def netlink_socket() -> Check:
    """Asks the kernel for its interfaces."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    made.bind((0, 0))
    made.settimeout(5)

    def check() -> None:
        made.send(struct.pack("=IHHII", 17, 18, 0x301, 1, 0) + b"\0")  # RTM_GETLINK, REQUEST|DUMP
        equal(b"lo\0" in made.recv(1 << 16), True)
        while struct.unpack_from("=IH", made.recv(1 << 16))[1] != 3:  # NLMSG_DONE
            pass

    return check


@thing
def socket_options() -> Check:
    made = _listener("127.0.0.1")
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)

    def check() -> None:
        equal(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
        equal(made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
        equal(made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 200_000)

    return check


@thing
def socket_that_is_not_bound_yet() -> Check:
    made = socket.socket()

    def check() -> None:
        nonlocal made
        made.bind(("127.0.0.1", 0))
        made = socket.socket()
        equal(os.fstat(made.fileno()).st_ino > 0, True)

    return check
