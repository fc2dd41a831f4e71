"""Requests to an engine: however its server listens, and why one is not answered as it should be."""

import json
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from servers import tls

from dynamo_entry.engine import hooks, http, readiness
from dynamo_entry.errors import NotReady


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: ``/STATUS``, or ``/STATUS/to/LOCATION``; a 200 repeats the request."""

    def do_GET(self):
        status, _, location = self.path[1:].partition("/to/")
        self.send_response(int(status))
        if location:
            self.send_header("Location", location.replace("PORT", str(self.server.server_address[1])))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        said = json.dumps({"method": self.command, "body": body, "headers": dict(self.headers)}).encode()
        said = said if self.path == "/200" else b""
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def serving(address="127.0.0.1", certificate=None):
    """Yields the port."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = Server((address, 0), Handler, bind_and_activate=False)
    if ":" in address:
        server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.server_bind()
    server.server_activate()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def port():
    with serving() as port:
        yield port


def why(url):
    return http.unanswered(url, limit_s=5)


def test_any_certificate_is_taken_in_this_pod(tmp_path):
    """As by a kubelet's probes; an engine's is seldom made out to a loopback address."""
    with serving(certificate=tls.issue(tmp_path)) as port:
        assert why(f"https://127.0.0.1:{port}/200") == ""
        hooks.call("PRE_DUMP", f"https://127.0.0.1:{port}/200", 5)
        assert why(f"http://127.0.0.1:{port}/200")


@pytest.mark.parametrize(
    ("peer", "own", "is_ours"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", True),
        ("::1", "::1", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::3", "fd00::3", True),
        ("10.1.2.4", "10.1.2.3", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
    ],
)
def test_the_pods_own_address_is_where_a_connection_leads_back(peer, own, is_ours):
    found = SimpleNamespace(getpeername=lambda: (peer, 8000), getsockname=lambda: (own, 40000))
    assert http.is_to_this_pod(found) is is_ours


def test_a_server_elsewhere_needs_a_certificate_that_is_trusted(tmp_path, monkeypatch):
    """Whoever answers in its place could say when an engine is frozen."""
    monkeypatch.setattr(http, "is_to_this_pod", lambda connection: False)
    issued = tls.issue(tmp_path)
    with serving(certificate=issued) as port:
        assert "CERTIFICATE_VERIFY_FAILED" in why(f"https://127.0.0.1:{port}/200")
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.ca))
        assert why(f"https://127.0.0.1:{port}/200") == ""
    with serving("127.0.0.2", certificate=issued) as port:
        assert "CERTIFICATE_VERIFY_FAILED" in why(f"https://127.0.0.2:{port}/200"), "it has another name"


def test_an_engine_without_tls_is_not_ready_by_https(port):
    assert "WRONG_VERSION" in why(f"https://127.0.0.1:{port}/200")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_server_on_all_addresses_may_take_ipv6_alone(host):
    """Those of uvicorn do."""
    with serving("::") as port:
        assert why(f"http://{host}:{port}/200") == ""


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/200", ""),
        ("/204", "HTTP status 204"),
        ("/503", "HTTP status 503"),
        ("/401", "HTTP status 401"),
        ("/307/to//200", ""),
        ("/302/to/http://127.0.0.1:PORT/200", ""),
        ("/302/to/http://127.0.0.1:9/200", "HTTP status 302"),
        ("/302/to/https://127.0.0.1:PORT/200", "HTTP status 302"),
        ("/302/to/ftp://127.0.0.1:PORT/200", "HTTP status 302"),
        ("/302/to/file:///etc/passwd", "HTTP status 302"),
        ("/302", "HTTP status 302"),
    ],
)
def test_only_200_is_ready_and_a_redirection_stays_with_the_server(port, path, says):
    assert why(f"http://127.0.0.1:{port}{path}") == says


@pytest.mark.parametrize(
    ("method", "status", "arrives"),
    [
        *(("GET", status, ("GET", "")) for status in (301, 302, 303, 307, 308)),
        ("POST", 303, ("GET", "")),
        ("POST", 307, ("POST", "{}")),
        ("POST", 308, ("POST", "{}")),
    ],
)
def test_a_question_follows_redirections_within_the_server(port, method, status, arrives):
    """As an engine sends /v1 to /v1/, and a POST to where a GET returns its outcome."""
    body = b"{}" if method == "POST" else None
    said = json.loads(
        http.ask(f"http://127.0.0.1:{port}/{status}/to//200", method=method, body=body, limit_s=5)
    )
    assert (said["method"], said["body"]) == arrives


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/307/to/http://127.0.0.1:9/200"),
        ("POST", "/303/to/http://127.0.0.1:9/200"),
        ("POST", "/303"),
        ("POST", "/301/to//200"),
        ("POST", "/302/to//200"),
    ],
)
def test_a_question_goes_to_no_other_server_and_does_not_become_another(port, method, path):
    with pytest.raises(http.Refused, match=path[1:4]):
        http.ask(f"http://127.0.0.1:{port}{path}", method=method, limit_s=5)


def test_redirections_have_an_end(port, monkeypatch):
    found = [f"http://127.0.0.1:{port}/302/to//{number}" for number in range(9)]
    monkeypatch.setattr(http, "_moved", lambda *_: found.pop())
    assert why(f"http://127.0.0.1:{port}/302") == "redirections without an end"


def test_who_does_not_answer_says_so():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert http.unanswered(f"http://127.0.0.1:{port}/", limit_s=0.1) == "timed out"
    assert why(f"http://127.0.0.1:{port}/") == "Connection refused"


def test_a_creation_tells_each_reason_once_and_names_the_last_one(port):
    """Nobody waits an hour to learn of a wrong path."""
    told = []
    log = SimpleNamespace(info=lambda event, **fields: told.append((event, fields["message"])))
    waiting = readiness.Waiting(f"http://127.0.0.1:{port}/404", "", log)
    with pytest.raises(NotReady, match=r"not ready within 0\.5 s: HTTP status 404"):
        readiness.wait_until(
            waiting.is_over, expected="x", limit_s=0.5, pause=lambda _: None, why=lambda: waiting.why
        )
    assert told == [("engine not ready yet", "HTTP status 404")]


def test_a_server_that_closes_without_an_answer_has_reset_the_connection():
    """As those of asyncio do with TLS, when they are asked without."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close():
            with server.accept()[0] as connection:
                connection.recv(65536)

        thread = threading.Thread(target=close)
        thread.start()
        assert why(f"http://127.0.0.1:{server.getsockname()[1]}/") == "Connection reset by peer"
        thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_engine_is_asked_by_the_host_and_port_of_its_url(address):
    host = f"[{address}]" if ":" in address else address
    with serving(address) as port:
        said = json.loads(http.ask(f"http://{host}:{port}/200", method="GET", limit_s=5))
    assert said["headers"]["Host"] == f"{host}:{port}"


@pytest.mark.parametrize(
    ("url", "host", "usual"),
    [
        ("http://[::1]/200", "[::1]", 80),
        ("http://localhost/200", "localhost", 80),
        ("https://[::1]/200", "[::1]", 443),
        ("https://[::1]:80/200", "[::1]:80", 80),
    ],
)
def test_a_url_without_a_port_means_the_schemes(port, monkeypatch, url, host, usual):
    """The usual port is not named to the server either."""
    asked = []

    def connected(parts, its_port, limit_s):
        asked.append(its_port)
        return socket.create_connection(("127.0.0.1", port), limit_s)

    monkeypatch.setattr(http, "_connected", connected)
    said = json.loads(http.ask(url, method="GET", limit_s=5))
    assert (said["headers"]["Host"], asked) == (host, [usual])


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (None, {}, None),
        (b"", {}, None),
        (b"{}", {}, "application/json"),
        (b"x", {"content-type": "text/plain"}, "text/plain"),
    ],
)
def test_only_a_body_has_a_type(port, body, headers, told):
    """Frameworks refuse a request of type JSON that has none in it."""
    url = f"http://127.0.0.1:{port}/200"
    said = json.loads(http.ask(url, method="POST", body=body, headers=headers, limit_s=5))
    assert {name.lower(): value for name, value in said["headers"].items()}.get("content-type") == told


def test_an_engine_that_answers_gets_its_signal_file(port, tmp_path):
    waiting = readiness.Waiting(f"http://127.0.0.1:{port}/200", f"{tmp_path}/d/ready", None)
    assert waiting.is_over()
    assert (tmp_path / "d" / "ready").exists()
    assert not readiness.Waiting("", f"{tmp_path}/none", None).is_over()
