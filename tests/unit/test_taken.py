"""What somebody else has here is refused by name, with its owner."""

import errno
import fcntl
import os
import socket
import struct
from ipaddress import ip_address

import pytest

from dynamo_entry.checks import taken
from dynamo_entry.criu.rewrite.files import Lock
from dynamo_entry.criu.rewrite.sockets import Bound
from dynamo_entry.criu.rewrite.unix import Named
from dynamo_entry.errors import Incompatible


def refused(call, *arguments):
    with pytest.raises(Incompatible) as caught:
        call(*arguments)
    assert caught.value.hint
    return caught.value


def test_a_pid_that_is_taken_is_named_with_its_owner(tmp_path):
    (tmp_path / "1001").mkdir()
    (tmp_path / "1001" / "cmdline").write_bytes(b"nginx\0-g\0")
    error = refused(taken.check_pids, [1000, 1001], str(tmp_path))
    assert (error.reason, "1001" in error.message, "nginx -g" in error.message) == ("PidTaken", True, True)
    taken.check_pids([1000], str(tmp_path))


def bound_like(other, address="0.0.0.0", **options):
    """The engine's socket on the port of one that is there."""
    kind = "TCP" if other.type == socket.SOCK_STREAM else "UDP"
    port = other.getsockname()[1]
    engine = Bound(kind, ip_address(address), port, False, False, False, "")
    return engine._replace(**options)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", "::ffff:127.0.0.1"])
def test_a_port_that_is_taken_is_named_with_its_owner(address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = bound_like(server, address)
        error = refused(taken.check_ports, [engine])
        assert error.reason == "PortTaken"
        assert f"TCP port {engine.port}" in error.message
        assert f"process {os.getpid()}" in error.message


def test_a_port_is_free_again_when_its_owner_is_gone():
    failures = []
    for _ in range(5):  # somebody else may get the very port
        with socket.create_server(("127.0.0.1", 0)) as server:
            engine = bound_like(server)
        try:
            taken.check_ports([engine])
        except Incompatible as error:
            failures.append(error)
        else:
            return
    raise failures[-1]


def test_a_port_on_another_address_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken.check_ports([bound_like(server, "127.0.0.2"), bound_like(server, "::", is_v6_only=True)])


def test_udp_ports_are_taken_as_well():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert "UDP port" in refused(taken.check_ports, [bound_like(server)]).message
        taken.check_ports([bound_like(server, protocol="TCP")])


def test_an_address_that_is_not_here_is_named():
    """Of IPv6 CRIU binds to any (IP_FREEBIND)."""
    engine = Bound("TCP", ip_address("203.0.113.7"), 8000, False, False, False, "")
    error = refused(taken.check_ports, [engine])
    assert (error.reason, "203.0.113.7" in error.message) == ("AddressMissing", True)
    taken.check_ports([engine._replace(address=ip_address("2001:db8::7"))])


def test_a_port_that_both_share_on_purpose_is_free():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken.check_ports([bound_like(server, reuse_port=True)] * 4)
        refused(taken.check_ports, [bound_like(server)])


def test_what_is_left_of_closed_connections_takes_no_port():
    """A restart finds the port in TIME_WAIT."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = bound_like(server)
        with socket.create_connection(server.getsockname()[:2]) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first waits
            client.recv(1)
    taken.check_ports([engine])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_name_is_taken_by_a_socket_of_its_kind(kind):
    name = b"\0dynamo-entry-test-" + os.urandom(6).hex().encode()
    taken.check_names([Named(kind, name)])
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(name)
        with pytest.raises(Incompatible, match="@dynamo-entry-test") as caught:
            taken.check_names([Named(kind, name)])
    assert f"process {os.getpid()}" in str(caught.value)
    taken.check_names([Named(kind, name)])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_path_is_taken_by_a_live_socket_of_any_kind(tmp_path, monkeypatch, kind):
    """CRIU would replace it, and whoever connects then reaches the engine. The file of one that is gone is free."""
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    for other_kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, other_kind) as other:
            other.bind("socket")
            if other_kind != socket.SOCK_DGRAM:
                other.listen()
            assert refused(taken.check_names, [Named(kind, b"socket")]).reason == "NameTaken"
        taken.check_names([Named(kind, b"socket")])
        os.unlink("socket")


def test_a_path_is_taken_by_a_datagram_socket_that_talks_to_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        peer.bind("peer")
        other.bind("socket")
        other.connect("peer")
        assert refused(taken.check_names, [Named(socket.SOCK_DGRAM, b"socket")]).reason == "NameTaken"


@pytest.mark.parametrize("is_flock", [True, False])
def test_a_lock_is_held_elsewhere_if_it_does_not_go_with_ours(tmp_path, is_flock):
    path = str(tmp_path / "lock")
    with open(path, "w") as file:
        assert not Lock(path, is_flock, is_shared=False).is_held_elsewhere()
        if is_flock:
            fcntl.flock(file, fcntl.LOCK_SH)
        else:
            fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        assert Lock(path, is_flock, is_shared=False).is_held_elsewhere()
        assert Lock(path, is_flock, is_shared=True).is_held_elsewhere() is not is_flock


def test_a_lock_is_found_on_nfs_which_locks_exclusively_what_is_open_for_writing(tmp_path, monkeypatch):
    """Else CRIU would wait for the lock until STALL_TIMEOUT."""
    flock = fcntl.flock

    def as_on_nfs(descriptor, how):
        if how & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    path = str(tmp_path / "lock")
    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused(taken.check_locks, [Lock(path, True, is_shared=False)], ()).reason == "LockTaken"
    taken.check_locks([Lock(path, True, is_shared=False)], ())
