"""The servers of operator and agent are reached in every cluster, and bear what anybody in it may send."""

import http.client
import socket
import threading

import pytest
from prometheus_client import CollectorRegistry

from dynamo_entry.kube import metrics
from dynamo_entry.kube.webhook import server as webhook


@pytest.fixture
def scraped():
    server = metrics.serve(CollectorRegistry(), 0, {"/healthz": lambda: ""})
    yield server
    server.shutdown()
    server.server_close()


def ask(address, port):
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


FAMILIES = [
    ("127.0.0.1", socket.AF_INET),
    pytest.param(
        "::1",
        socket.AF_INET6,
        marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here"),
    ),
]


@pytest.mark.parametrize(("address", "_family"), FAMILIES)
def test_probes_come_by_either_family(scraped, address, _family):
    """A pod of an IPv6-only cluster has no other address."""
    assert ask(address, scraped.server_port) == 200


@pytest.mark.parametrize(("address", "family"), FAMILIES)
def test_so_do_reviews(address, family):
    """The connection is taken; the handshake is another test's."""
    served = webhook.Server(0, None, {}, lambda *_: None, None)
    with socket.socket(family) as client:
        client.connect((address, served.server_address[1]))
    served.server_close()


def test_where_there_is_one_family(monkeypatch):
    """On a kernel without IPv6 the servers still listen."""
    monkeypatch.setattr(metrics._Server, "address_family", socket.AF_INET)
    server = metrics.serve(CollectorRegistry(), 0, {"/healthz": lambda: ""})
    assert ask("127.0.0.1", server.server_port) == 200
    server.shutdown()
    server.server_close()


def test_connections_without_a_request_keep_no_probe_out(scraped, monkeypatch):
    """Nor do they take a thread each for as long as they like."""
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", scraped.server_port)) for _ in range(100)]
    assert ask("127.0.0.1", scraped.server_port) == 200
    assert threading.active_count() - before <= metrics._Server.limit + 1
    for one in idle:
        one.close()


def test_half_a_request_is_given_up(monkeypatch):
    """After its time, or a scrape that hangs would hold a place for ever."""
    monkeypatch.setattr(metrics._Handler, "timeout", 0.2)
    server = metrics.serve(CollectorRegistry(), 0, {})
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
        client.sendall(b"GET /heal")
        assert client.recv(100) == b""
    server.shutdown()
    server.server_close()
