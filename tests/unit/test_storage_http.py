"""The client of S3 and registries, against a server of the standard library."""

import http.client
import io
import socket
import ssl
import threading
from collections import deque
from contextlib import contextmanager
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from servers import tls
from servers.answering import Answering

from dynamo_entry.checks import taken
from dynamo_entry.criu.rewrite.sockets import Bound
from dynamo_entry.errors import Corrupt, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage import Retry, ranges
from dynamo_entry.storage import http as storage_http
from dynamo_entry.storage.failures import ANSWER_BYTES, unanswered
from dynamo_entry.storage.http import Connections, server_of


class Body(Answering):
    """Head and body go out apart; over TLS 1.3 with tickets that nobody asked for."""

    def answer(self, _request, _body):
        return 200, b"body", ()


class One:
    """Connections, of which one server is asked."""

    def __init__(self, url, ca_file=""):
        self.pool = Connections(stall_s=10, ca_file=ca_file)
        self.url = url

    def ask(self, path="/", headers=None):
        return self.pool.exchange("it", "GET", f"{self.url}{path}", headers or {})

    def idle(self):
        (kept,) = self.pool._idle.values()
        return kept


@pytest.fixture
def connections():
    server = Body()
    made = One(f"http://127.0.0.1:{server.port}")
    yield made
    made.pool.close()
    server.stop()


def test_every_answer_is_acknowledged_at_once(connections, monkeypatch):
    """Else a server that holds the body back until its head is acknowledged takes 40 ms an answer (tcp(7))."""
    modes = []
    original = http.client.HTTPConnection.getresponse

    def getresponse(connection):
        modes.append(connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
        return original(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)
    for _ in range(10):
        with connections.ask() as response:
            assert response.read() == b"body"
    assert modes == [1] * 10


def test_a_connections_own_port_can_be_listened_on(connections, monkeypatch):
    """The kernel has chosen it, and it may be one of the engine's."""
    ports = []
    original = http.client.HTTPConnection.getresponse

    def getresponse(connection):
        ports.append(connection.sock.getsockname()[1])
        taken.check_ports([Bound("TCP", ip_address("0.0.0.0"), ports[0], False, False, False, "")])
        return original(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)
    with connections.ask() as response:
        response.read()
    assert ports


@pytest.fixture
def secure(tmp_path):
    """A server over TLS, and connections to it."""
    issued = tls.issue(tmp_path)
    server = Body(issued)
    made = One(f"https://127.0.0.1:{server.port}", str(issued.ca))
    yield server, made
    made.pool.close()
    server.stop()


def test_a_connection_is_used_again_although_tickets_came(secure):
    server, connections = secure
    for _ in range(3):
        with connections.ask() as response:
            assert response.read() == b"body"
    assert server.accepted == 1
    assert connections.idle()[0].sock.gettimeout() == 10


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_connection_that_the_server_closed_is_not_used(request, kind):
    to = request.getfixturevalue("secure")[1] if kind == "tls" else request.getfixturevalue("connections")
    with to.ask() as response:
        response.read()
    sock = to.idle()[0].sock
    socket.socket.shutdown(sock, socket.SHUT_WR)  # the server reads the end, and closes
    assert storage_http._is_readable(sock, 10_000)
    with to.ask() as response:
        assert response.read() == b"body"


def test_another_thread_may_take_the_last_idle_connection(connections):
    """Between the look and the grasp."""

    class Emptied(deque):
        def __len__(self):
            return 1

    connections.pool._idle[server_of(connections.url)] = Emptied()
    with connections.ask() as response:
        assert response.read() == b"body"
    connections.pool.close()
    connections.pool.close()


def of_tls(kind, reason="", code=0):
    error = kind(1, "why")
    error.reason, error.verify_code, error.verify_message = reason, code, "why"
    return unanswered("it", error)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (10, "clock"),
        (9, "clock"),
        (62, "the name"),
        (64, "the name"),
        (20, "CA_FILE"),
        (18, "CA_FILE"),
        (19, "CA_FILE"),
    ],
)
def test_what_helps_against_a_certificate_depends_on_what_is_wrong_with_it(code, remedy):
    """X509_verify_cert_error_string(3)."""
    found = of_tls(ssl.SSLCertVerificationError, code=code)
    assert isinstance(found, StorageDenied)
    assert remedy in found.hint
    assert found.hint.count("CA_FILE") == (remedy == "CA_FILE")


@pytest.mark.parametrize("reason", ["WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "TLSV1_ALERT_PROTOCOL_VERSION",
                                    "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"])  # fmt: skip
def test_plain_http_is_the_remedy_only_where_that_is_what_the_server_speaks(reason):
    found = of_tls(ssl.SSLError, reason)
    assert isinstance(found, StorageUnavailable)
    assert found.reason == "TlsFailed"
    assert ("+http://" in found.hint) == (reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
    assert found.hint


def test_a_connection_that_ends_in_the_middle_of_tls_is_a_lost_one():
    assert of_tls(ssl.SSLEOFError, "UNEXPECTED_EOF_WHILE_READING").reason == "ConnectionLost"


@pytest.mark.parametrize("name", ["Authorization", "X-Amz-Security-Token"])
def test_a_login_that_cannot_be_sent_is_not_shown(connections, name):
    """A line break at the end of a token, as ``echo TOKEN | base64`` leaves one in a secret."""
    with (
        pytest.raises(StorageDenied, match=name) as caught,
        connections.ask(headers={name: "sesame\n"}),
    ):
        """Never reached."""
    assert "sesame" not in str(caught.value)
    assert "line break" in caught.value.hint


@pytest.mark.parametrize("target", ["/a b?signature=sesame", "/\u00e4?signature=sesame"])
def test_an_address_that_cannot_be_asked_for_is_not_shown(connections, target):
    """A server led there; it is signed."""
    with pytest.raises(StorageError) as caught, connections.ask(target):
        """Never reached."""
    assert (type(caught.value), caught.value.reason) == (StorageError, "BadLocation")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://a..example.com", "https://" + "x" * 64 + ".example.com"])
def test_a_server_that_cannot_be_is_an_error_like_any_other(url):
    """Locations name it, or servers lead there."""
    made = One(url)
    with pytest.raises(StorageError, match="not the address") as caught, made.ask():
        """Never reached."""
    assert not isinstance(caught.value, StorageUnavailable)
    assert caught.value.retry is False


def test_an_answer_that_drips_ends(connections, monkeypatch):
    """A byte now and then is no stall, and no end either."""
    monkeypatch.setattr(storage_http, "_STALLS", 1e-9)
    monkeypatch.setattr(storage_http, "_LEAST_BYTES_PER_S", 1 << 60)
    with pytest.raises(StorageUnavailable) as caught, connections.ask():
        """Never reached."""
    assert caught.value.reason == "Stalled"


class Drops:
    """A socket that receives one byte for every second that passes."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(storage_http.time, "monotonic", lambda: self.now)

    def gettimeout(self):
        return 10

    def recv_into(self, buffer):
        self.now += 1
        buffer[:1] = b"x"
        return 1


def test_how_slow_an_answer_may_be(monkeypatch):
    sock = Drops(monkeypatch)
    with pytest.raises(TimeoutError) as caught:
        io.BufferedReader(storage_http._Paced(sock, io.BytesIO())).read(1000)
    assert unanswered("it", caught.value).message == "it was too slow: 101 bytes in 101 s"
    assert sock.now == 101
    monkeypatch.setattr(storage_http, "_LEAST_BYTES_PER_S", 1)
    assert len(io.BufferedReader(storage_http._Paced(Drops(monkeypatch), io.BytesIO())).read(1000)) == 1000


class Said:
    """An answer of ``content``, from what the range says on, and no more than ``most`` bytes of it."""

    status = 206

    def __init__(self, content, range_, most):
        first, last = map(int, range_.removeprefix("bytes=").split("-"))
        if first >= len(content):
            raise StorageError("no such range", status=416)
        self._data = content[first : min(last + 1, first + most)]
        self._range = first, first + len(self._data) - 1, len(content)

    def content_range(self):
        return self._range

    def read_into(self, view, moved):
        view[:] = self._data
        moved(len(view))


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_server_that_gives_less_than_it_was_asked_for_is_asked_for_the_rest(most):
    content, asked = bytes(range(20)), []

    @contextmanager
    def request(range_):
        asked.append(range_)
        yield Said(content, range_, most)

    view = memoryview(bytearray(10))
    assert ranges.fill(Retry(), "it", 5, view, request)
    assert bytes(view) == content[5:15]
    assert len(asked) == -(-10 // most)
    for offset in (11, 20, 30):
        with pytest.raises(Corrupt) as caught:
            ranges.fill(Retry(), "it", offset, view, request)
        assert caught.value.reason == "Truncated"


def test_the_answer_of_a_proxy_is_bound_to_end(monkeypatch):
    """It is read while the connection is made, before any request is sent through it."""
    monkeypatch.setattr(storage_http, "_STALLS", 1e-9)
    monkeypatch.setattr(storage_http, "_LEAST_BYTES_PER_S", 1 << 60)
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer():
            with proxy.accept()[0] as accepted:
                accepted.recv(1 << 16)
                accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        asked = One("https://s3.example.com").ask()
        with pytest.raises(StorageUnavailable, match="it was too slow"), asked:
            """Never reached."""


def test_no_more_of_an_answer_is_read_than_it_may_have():
    """It may have no end."""
    asked = []
    endless = SimpleNamespace(
        status=200, length=None, read=lambda size=-1: asked.append(size) or bytes(max(size, 0))
    )
    with pytest.raises(StorageError, match="was answered with more than"):
        storage_http.Response("it", endless).read()
    assert asked == [ANSWER_BYTES + 1]
