"""The client of S3 and registries, against a server of the standard library."""

import http.client
import http.server
import socket
import ssl
import threading

import pytest

from dynamo_entry.storage import http as storage_http
from dynamo_entry.storage.http import Pool, Server, authorities


class Handler(http.server.BaseHTTPRequestHandler):
    """Head and body go out apart."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"body")

    def log_message(self, *_words):
        """Not in the tests' output."""


@pytest.fixture
def connections():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = Pool(stall_s=10, ca_file="").to(Server("http", "127.0.0.1", server.server_port))
        yield made
        made.close()
        server.shutdown()


def test_every_answer_is_acknowledged_at_once(connections, monkeypatch):
    """Else a server that holds the body back until its head is acknowledged takes 40 ms an answer (tcp(7))."""
    modes = []
    original = http.client.HTTPConnection.getresponse

    def getresponse(connection):
        modes.append(connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
        return original(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)
    for _ in range(10):
        with connections.exchange("test", "GET", "/", {}) as response:
            assert response.read() == b"body"
    assert modes == [1] * 10


def test_private_authorities_are_not_refused_for_a_missing_extension(monkeypatch):
    """Python 3.13 and later are strict unless told otherwise, and every store asks this for its context."""
    default = ssl.create_default_context

    def strict(**arguments):
        context = default(**arguments)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    context = authorities("")
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_authorities_are_read_once_for_all_servers(monkeypatch):
    """A registry, its server of tokens and its store of blobs: the file takes longer to read than a request."""
    read = []
    monkeypatch.setattr(
        storage_http, "authorities", lambda ca_file: read.append(ca_file) or ssl.create_default_context()
    )
    pool = Pool(stall_s=10, ca_file="")
    contexts = {pool.to(Server("https", f"{name}.example.com", 443))._new(None)._context for name in "abc"}
    assert len(contexts) == len(read) == 1
