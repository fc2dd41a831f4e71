"""What a registry, or somebody in its place, may lead to: https stays https, a pin holds, logins ask for no more."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from archive_store import build

from dynamo_entry.archive import Archive
from dynamo_entry.errors import Corrupt, StorageDenied, StorageError
from dynamo_entry.storage import Retry
from dynamo_entry.storage.http import server_of
from dynamo_entry.storage.oci import OciStore, artifact, layers, login
from dynamo_entry.storage.oci.client import Answer, Client
from dynamo_entry.storage.oci.location import parse
from dynamo_entry.storage.oci.login import Credentials


def client(url="oci://registry.example.com:5000/team/ck:tag"):
    return Client(parse(url), url, Retry(limit_s=1))


@pytest.mark.parametrize(
    "url",
    [
        "http://blobs.example.com/x",
        "http://registry.example.com:8080/v2/x",
        "http://token.example.com/token",
        "http://registry.example.com.evil.example/x",
        "http://me:secret@blobs.example.com/x",
    ],
)
def test_https_is_never_continued_in_the_clear(url):
    """An upload's place, a redirect, a server of tokens: they all go this way."""
    with pytest.raises(StorageDenied, match="not encrypted") as refused:
        client().url(url)
    assert refused.value.reason == "InsecureLocation"
    assert refused.value.exit_code == 176
    assert "secret" not in str(refused.value)
    with pytest.raises(StorageDenied):
        client()._fetch("GET", url, {"Authorization": "Basic secret"}, b"")


@pytest.mark.parametrize(
    "url",
    [
        "http://registry.example.com/v2/x?y=z",
        "http://registry.example.com:80/v2/x?y=z",
        "http://registry.example.com:5000/v2/x?y=z",
    ],
)
def test_a_registry_that_does_not_know_of_its_tls_proxy_is_understood(url):
    assert client().url(url) == "https://registry.example.com:5000/v2/x?y=z"


def test_other_hosts_over_https_are_fine():
    """Docker Hub gives tokens and blobs elsewhere."""
    assert client().url("https://auth.docker.io/token?a=b") == "https://auth.docker.io/token?a=b"


def test_plain_http_stays_possible_where_it_was_asked_for():
    plain = client("oci+http://localhost:5000/ck:tag")
    assert plain.url("http://localhost:5000/v2/x") == "http://localhost:5000/v2/x"


@pytest.mark.parametrize("url", ["ftp://x/y", "https://host:port/", "https://:1/", ""])
def test_what_is_not_a_url_is_refused(url):
    with pytest.raises(StorageError) as refused:
        client().url(url)
    assert refused.value.reason == "BadLocation"


@pytest.mark.parametrize("realm", ["https://", "//", "token", "/token", "ftp://x/y", ""])
def test_a_token_server_that_is_no_url_is_refused(realm):
    """It is not taken for a place in the registry, which would get the login."""
    with pytest.raises(StorageError) as refused:
        client()._fetch("GET", realm, {"Authorization": "Basic secret"}, b"")
    assert refused.value.reason == "BadLocation"


def test_an_insecure_upload_is_refused_before_the_engine_starts(monkeypatch):
    store = OciStore("oci://registry.example.com/ck:tag")
    answer = Answer(202, "http://elsewhere.example.com/upload", "", b"")
    monkeypatch.setattr(store._client, "once", lambda *_, **__: answer)
    with pytest.raises(StorageDenied, match="not encrypted"):
        store.check_writable()


BEARER = {"realm": "https://auth.example.com/token", "service": "registry.example.com"}


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://auth.example.com/token",service="registry.example.com"',
        'Basic realm="Basic, Bearer realm", Bearer realm="https://auth.example.com/token", service="registry.example.com"',
        'bearer realm="https://auth.example.com/token",service="registry.example.com", basic realm="x"',
        'Negotiate, Bearer realm="https://auth.example.com/token",service="registry.example.com"',
        "Bearer realm=https://auth.example.com/token,service=registry.example.com",
        'Bearer realm = "https://auth.example.com/token" , service = "registry.example.com"',
        'Negotiate abc==, Basic realm="x", BEARER Realm="https://auth.example.com/token",service=registry.example.com',
    ],
)
def test_challenges_come_in_any_order(challenge):
    assert login.parse(challenge)["bearer"] == BEARER


def test_a_challenge_without_parameters():
    assert login.parse("Basic") == {"basic": {}}
    assert login.parse("") == {}


@pytest.mark.parametrize(
    ("challenged", "default", "asked"),
    [
        ("repository:ck:pull", "repository:ck:pull,push", "repository:ck:pull"),
        ("", "repository:ck:pull", "repository:ck:pull"),
        ("", "repository:ck:pull,push", "repository:ck:pull,push"),
    ],
)
def test_a_token_is_asked_for_what_the_request_takes(challenged, default, asked):
    """A login that may only read is refused by some servers where it asks for more."""
    fetched = []

    def fetch(method, url, headers, body):
        fetched.append(url)
        return b'{"token": "t"}'

    asked_for = login.Authorization("x", default, lambda: Credentials("user", "password"), fetch)
    scope = f',scope="{challenged}"' if challenged else ""
    assert asked_for.challenged(f'Bearer realm="https://auth.example.com/token",service="s"{scope}', "")
    assert fetched[0].endswith("scope=" + asked.replace(":", "%3A").replace(",", "%2C"))


class Pinned(OciStore):
    """An artifact of a registry, without one: the layer holds ``data``."""

    def __init__(self, data, config, pin=None):
        self._data = data
        body = artifact.encoded(
            artifact.manifest([artifact.Layer(artifact.digest_of(data), len(data))], config, {})
        )
        digest = pin or artifact.digest_of(body)
        super().__init__(f"oci://registry.example.com/ck@{digest}")
        self._found = artifact.parse(body, "x", digest), None

    def stat(self):
        return SimpleNamespace(size=len(self._data), version="")

    def read_range(self, offset, length):
        return self._data[offset : offset + length]


def manifest_of(data):
    trailer = json.loads(data[-1536:-1024])["manifest"]
    return data[trailer["offset"] : trailer["offset"] + trailer["length"]]


def test_a_pinned_artifact_holds_the_archive_that_it_names():
    data = build({"a": b"x" * 100})
    with Archive.open(Pinned(data, manifest_of(data))) as archive:
        assert archive.read("a") == b"x" * 100


@pytest.mark.parametrize("config", ["another archive's", "none"])
def test_another_archive_in_the_layers_of_a_pinned_artifact_is_refused(config):
    """Whoever controls the blobs, but not the pinned manifest, would choose the code otherwise."""
    data = build({"a": b"x" * 100})
    other = manifest_of(build({"a": b"y" * 100})) if config == "another archive's" else None
    with pytest.raises(Corrupt, match="pinned") as refused:
        Archive.open(Pinned(data, other))
    assert refused.value.reason == "PinMismatch"


def test_another_manifest_than_the_pinned_one_is_refused():
    body = artifact.encoded(artifact.manifest([artifact.Layer(artifact.digest_of(b"x"), 1)], None, {}))
    assert artifact.parse(body, "x", artifact.digest_of(body)).size == 1
    with pytest.raises(Corrupt) as refused:
        artifact.parse(body, "x", artifact.digest_of(b"the pinned one"))
    assert refused.value.reason == "ManifestDigestMismatch"


def test_who_reads_asks_for_the_right_to_read_alone():
    made = client()
    assert made._authorization.default_scope == "repository:team/ck:pull"
    made.will_write()
    assert made._authorization.default_scope == "repository:team/ck:pull,push"


def test_a_login_is_for_the_registry_alone(monkeypatch):
    """Not for the store of blobs that it leads to."""
    seen = []

    @contextmanager
    def exchange(_what, _method, url, headers, _body):
        seen.append((server_of(url).host, headers.get("Authorization")))
        there = {"Location": "https://blobs.example.com/x"} if len(seen) == 1 else {}
        yield SimpleNamespace(
            status=307 if there else 200, read=bytes, header=lambda name: there.get(name, "")
        )

    made = client()
    monkeypatch.setattr(made, "_connections", SimpleNamespace(exchange=exchange))
    monkeypatch.setattr(made._authorization, "_header", "Bearer secret")
    assert made.once("blob", "GET", "blobs/x").status == 200
    assert seen == [("registry.example.com", "Bearer secret"), ("blobs.example.com", None)]


def test_a_layer_that_would_fill_the_memory_is_not_fetched_whole():
    """A registry without ranges gives no part of it."""
    layer = artifact.Layer(artifact.digest_of(b"x"), layers._WHOLE_BYTES + 1)
    made = layers.Layers(SimpleNamespace(name="x"), [layer])
    made._has_ranges = False
    with pytest.raises(StorageError) as refused:
        made.read(layers.Piece(layer, 0, 1), memoryview(bytearray(1)))
    assert refused.value.reason == "NoRanges"
