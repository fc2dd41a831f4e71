"""Unix sockets that lead out of the engine are told from those that do not."""

import os
import socket

from dynamo_entry.checks import connections
from dynamo_entry.checks.connections import Unix

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


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
        rows = {row.inode: row for row in connections._sockets()}
        inodes = [os.fstat(end.fileno()).st_ino for end in (one, other)]
        assert [rows[inode].peer for inode in inodes] == inodes[::-1]
