"""Which servers are reached by which proxy, as programs written in Go take HTTPS_PROXY and NO_PROXY."""

import pytest
from servers.answering import Answering

from dynamo_entry.errors import StorageDenied, StorageUnavailable
from dynamo_entry.storage.http import Connections
from dynamo_entry.storage.proxies import Proxy, is_direct, proxy_for


@pytest.mark.parametrize(
    ("server", "exceptions", "direct"),
    [
        ("registry.example.com", "", False),
        ("registry.example.com", "*", True),
        ("registry.example.com", "example.com", True),
        ("registry.example.com", "registry.example.com", True),
        ("Registry.Example.com.", "EXAMPLE.com", True),
        ("registry.example.com", ".example.com", True),
        ("registry.example.com", "*.example.com", True),
        ("example.com", ".example.com", False),
        ("example.com", "*.example.com", False),
        ("badexample.com", "example.com", False),
        ("minio.storage.svc", "10.0.0.0/8, .svc ,.cluster.local", True),
        ("registry.example.com", "registry.example.com:443", True),
        ("registry.example.com", "registry.example.com:5000", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.3", "0.1.2.3", False),
        ("fd00::1", "fd00::1", True),
        ("fd00::1", "[fd00::1]", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "[fd00::1]:80", False),
        ("fd00::1", "fd00::/8", True),
        ("fe00::1", "fd00::/8", False),
        ("fd00::1", "10.0.0.0/8", False),
        ("registry.example.com", "10.0.0.0/8,no/network,,", False),
        ("localhost", "", True),
        ("127.8.8.8", "", True),
        ("::1", "", True),
    ],
)
def test_no_proxy(server, exceptions, direct):
    assert is_direct(server, 443, exceptions) is direct


def test_without_a_proxy_there_is_none():
    assert proxy_for("registry.example.com", 443, {}) is None
    assert proxy_for("registry.example.com", 443, {"HTTPS_PROXY": ""}) is None


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128, {})),
        ("http://proxy", Proxy("proxy", 80, {})),
        ("proxy:3128", Proxy("proxy", 3128, {})),
        ("http://[fd00::1]:3128/", Proxy("fd00::1", 3128, {})),
        ("http://me:p%40ss@proxy:1", Proxy("proxy", 1, {"Proxy-Authorization": "Basic bWU6cEBzcw=="})),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_the_proxy(name, url, proxy):
    assert proxy_for("registry.example.com", 443, {name: url}) == proxy


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@proxy:1", "socks5://proxy:1", "http://", "http://proxy:0x1", "http://[fd00::1:3128",
        "http://me:secret#1@proxy:1", "http://me:secret/1@proxy:1", "https://me:secret/1@proxy:1", "me:secret?@proxy:1",
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_named(url):
    """Without its password."""
    with pytest.raises(StorageDenied, match="HTTPS_PROXY") as caught:
        proxy_for("registry.example.com", 443, {"HTTPS_PROXY": url})
    assert caught.value.reason == "ProxyInvalid"
    assert "secret" not in str(caught.value)


@pytest.fixture
def refusing(monkeypatch):
    """A proxy that answers every CONNECT with the status it was given."""
    status, seen = [407], []

    class Refusing(Answering):
        def answer(self, request, _body):
            seen.append((request.path, request.headers["Proxy-Authorization"]))
            return status[0], b"", ()

    server = Refusing()
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass@127.0.0.1:{server.port}")
    yield status, seen
    server.stop()


def ask():
    pool = Connections(stall_s=10, ca_file="")
    with pool.exchange("oci://x: get", "GET", "https://registry.example.com/", {}):
        """Never reached."""


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (407, StorageDenied, "USER:PASSWORD"),
        (403, StorageDenied, "NO_PROXY"),
        (502, StorageUnavailable, "NO_PROXY"),
    ],
)
def test_a_proxy_that_refuses_is_named(refusing, answer, kind, hint):
    status, seen = refusing
    status[0] = answer
    with pytest.raises(kind, match=f"the proxy 127.0.0.1:[0-9]+ answered with {answer}") as caught:
        ask()
    assert caught.value.reason == "ProxyRefused"
    assert hint in caught.value.hint
    assert seen == [("registry.example.com:443", "Basic bWU6cGFzcw==")]


def test_a_proxy_that_is_down_is_named(monkeypatch):
    """The error is about the proxy, not about the server behind it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(
        StorageUnavailable, match=r"the proxy 127.0.0.1:9 cannot be reached: Connection refused"
    ) as caught:
        ask()
    assert caught.value.reason == "ProxyUnreachable"
