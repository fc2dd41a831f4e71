"""Unix sockets that lead out of the engine are told from those that do not."""

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from subprocess import PIPE
from types import SimpleNamespace

import pytest

from dynamo_entry.checks import connections, socket_names
from dynamo_entry.checks.privileges import Privileges
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import sock_diag, sockets
from dynamo_entry.linux.sock_diag import End, Unix
from dynamo_entry.worker import freeze

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM

CLOSES_SOON = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()), server.accept()[0]:
        print("connected", flush=True)
        time.sleep(0.5)
    print("closed", flush=True)
    sys.stdin.read()
"""


def test_a_peer_in_another_network_namespace_is_outside():
    assert connections.leads_out([Unix(1, STREAM, peer=99)], frozenset([1])) == (
        1,
        "another container, or the node,",
    )


def test_a_named_peer_of_another_process_is_named():
    there = [Unix(1, STREAM, peer=2), Unix(2, STREAM, b"/run/log.sock\0", peer=1)]
    assert connections.leads_out(there, frozenset([1])) == (1, "/run/log.sock")
    assert connections.leads_out([there[0], Unix(2, STREAM, b"\0bus", peer=1)], frozenset([1])) == (1, "@bus")


def test_what_criu_can_dump_is_left_to_it():
    """Both ends, a connection that waits to be accepted, a descriptor in flight, datagrams to a name."""
    listener, both = Unix(3, STREAM, b"/tmp/s\0"), frozenset([1, 2, 3])
    assert connections.leads_out([Unix(1, STREAM, peer=2), Unix(2, STREAM, peer=1)], both) is None
    assert connections.leads_out([Unix(1, STREAM, peer=0)], both) is None
    assert connections.leads_out([Unix(1, STREAM, peer=4), Unix(4, STREAM, peer=1)], both) is None
    assert (
        connections.leads_out([listener, Unix(1, STREAM, peer=4), Unix(4, STREAM, b"/tmp/s\0")], both) is None
    )
    assert connections.leads_out([Unix(1, DATAGRAM, peer=9)], both) is None


def test_the_kernel_says_who_is_connected_to_whom():
    one, other = socket.socketpair()
    with one, other:
        rows = {row.inode: row for row in sock_diag.unix()}
        inodes = [os.fstat(end.fileno()).st_ino for end in (one, other)]
        assert [rows[inode].peer for inode in inodes] == inodes[::-1]


def present_names(*servers):
    """Of sockets of this process, in the same order."""
    inodes = [os.fstat(server.fileno()).st_ino for server in servers]
    found = socket_names.check(sock_diag.unix(), dict.fromkeys(inodes, os.getpid()))
    return [found.get(inode) for inode in inodes]


def listening(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    return server


@pytest.fixture
def directory():
    """One with a name that is short enough for the names of sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield path


def test_a_renamed_socket_is_found_although_another_has_its_first_name(directory):
    with listening(f"{directory}/new") as one:
        os.rename(f"{directory}/new", f"{directory}/ready")
        assert present_names(one) == [f"{directory}/ready"]
        with listening(f"{directory}/new") as other:
            os.link(f"{directory}/new", f"{directory}/link")
            assert present_names(one) == [f"{directory}/ready"]
            with pytest.raises(NotDumpable, match="another name"):
                present_names(other)
            os.unlink(f"{directory}/ready")
            assert present_names(one) == [None]


def test_a_name_that_is_no_unicode_is_lost_only_where_it_is_a_new_one(directory):
    bound = os.fsencode(directory) + b"/\xff"
    with listening(bound) as server:
        assert present_names(server) == [None]
        os.rename(bound, bound + b"2")
        with pytest.raises(NotDumpable, match="renamed to"):
            present_names(server)


def test_a_socket_that_nobody_can_reach_any_more_is_named(directory):
    """One that listens or takes datagrams: not a connection that it accepted, nor one that was renamed."""
    path = f"{directory}/socket"
    os.mkdir(f"{directory}/other")
    with ExitStack() as stack:

        def bound(kind=STREAM):
            held.append(stack.enter_context(socket.socket(socket.AF_UNIX, kind)))
            held[-1].bind(path)
            return held[-1]

        def out_of_reach():
            owners = {os.fstat(one.fileno()).st_ino: os.getpid() for one in held}
            return socket_names.out_of_reach(list(sock_diag.unix()), owners)

        held = []
        bound().listen()
        assert out_of_reach() == []
        os.rename(path, f"{path}2")
        assert out_of_reach() == []
        os.rename(f"{path}2", f"{directory}/other/socket")
        assert out_of_reach() == [path]
        held.clear()
        bound(DATAGRAM)
        os.unlink(path)
        assert out_of_reach() == [path]
        held.clear()
        listener = bound()
        listener.listen()
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(path)
        held[:] = [stack.enter_context(listener.accept()[0]), client]
        os.unlink(path)
        assert out_of_reach() == []


A, B, C = ("127.0.0.1", 5000), ("127.0.0.1", 40000), ("10.0.0.9", 2379)


def test_a_connection_with_both_ends_in_the_engine_is_told_from_one_that_leads_out():
    there = [End(1, A, B), End(2, B, A), End(3, B, C), End(9, C, ("10.0.0.8", 1))]
    found = connections.told_apart(there, {1: (11, 4), 2: (22, 5), 3: (22, 6)})
    assert [(row.pid, row.here, row.there) for row in found.inside] == [
        (11, "127.0.0.1:5000", "127.0.0.1:40000")
    ]
    assert [(row.pid, row.there) for row in found.outside] == [(22, "10.0.0.9:2379")]


def test_a_connection_that_nobody_has_accepted_leads_out():
    found = connections.told_apart([End(1, B, A), End(0, A, B)], {1: (11, 4)})
    assert (found.inside, len(found.outside)) == ([], 1)


def test_a_process_may_be_connected_to_itself():
    assert len(connections.told_apart([End(1, A, B), End(2, B, A)], {1: (11, 4), 2: (11, 5)}).inside) == 1


def test_the_kernel_lists_connections_a_mapped_address_as_that_of_ipv4():
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])) as one,
        server.accept()[0] as other,
    ):
        owners = {os.fstat(end.fileno()).st_ino: (1, 1) for end in (one, other)}
        assert len(connections.told_apart(sock_diag.tcp(), owners).inside) == 1


@pytest.mark.parametrize(
    ("may_keep", "lost"), [(True, ["10.0.0.9:2379"]), (False, ["10.0.0.9:2379", "127.0.0.1:5000"])]
)
def test_where_no_connection_may_be_lost_those_that_would_be_are_named(may_keep, lost):
    found = connections.told_apart(
        [End(1, A, B), End(2, B, A), End(3, B, C)], {1: (11, 4), 2: (22, 5), 3: (22, 6)}
    )
    with pytest.raises(NotDumpable) as refused:
        connections.check_tcp(found, "refuse", may_keep=may_keep, log=None)
    assert refused.value.reason == "ConnectionsOpen"
    assert all(address in refused.value.message for address in lost)
    assert f"has {len(lost)} TCP" in refused.value.message


def test_what_this_kernel_cannot_list_is_known():
    assert sock_diag.lacking().keys() <= {"raw", "netlink", "packet", "udp"}


def test_what_has_a_closed_connections_number_by_now_is_not_shut_down():
    """The engine goes on after its connections were recorded: what is to be shut down has no other end here."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as closed:
        with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as accepted:
            one, other = socket.socketpair()
            with one, other:
                found = (listening, client, accepted, one, closed)
                sockets.shut_down((os.getpid(), each.fileno()) for each in found)
                client.sendall(b"x")
                one.sendall(b"y")
                assert (accepted.recv(1), other.recv(1), closed.recv(1)) == (b"x", b"y", b"")
        socket.create_connection(listening.getsockname()).close()


def test_a_connection_that_is_closed_meanwhile_is_no_reason_to_refuse():
    """Such as that of a probe, or of the launcher's own question whether the engine is ready."""
    prepared = SimpleNamespace(have=Privileges(frozenset(), frozenset(), has_seccomp=False))
    with subprocess.Popen([sys.executable, "-c", CLOSES_SOON], stdin=PIPE, stdout=PIPE) as engine:
        assert engine.stdout.readline() == b"connected\n"
        settings = SimpleNamespace(engine_connections="refuse")
        found = freeze._check_connections(settings, prepared, [engine.pid], log=None)
        assert (engine.stdout.readline(), found["inside"]) == (b"closed\n", 0)
