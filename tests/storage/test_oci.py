"""An archive in an OCI registry: whole or not there, found by tag or digest, readable at random, and by other tools."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from blocked import wait_until_blocked
from registries import (  # noqa: F401
    RETRY,
    any_registry,
    archived,
    log_in_also_at,
    logged_in,
    new_location,
    registries,
    registry,
)
from servers.between import Between, once
from servers.registry import PASSWORD, USER, Registry
from servers.tunnel import Tunnel
from servers.wire import Wire

from dynamo_entry.archive import Archive
from dynamo_entry.errors import (
    Corrupt,
    NotFound,
    SettingsError,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from dynamo_entry.storage import Retry, open_store
from dynamo_entry.storage.oci import writer as oci_writer

MIB = 1 << 20

#: How much longer than it says distribution takes a token (registry/auth/token, Leeway).
REGISTRY_LEEWAY_S = 60

_opened = []


def store_at(location):
    _opened.append(open_store(location, RETRY))
    return _opened[-1]


@pytest.fixture(autouse=True)
def closed_stores():
    yield
    while _opened:
        _opened.pop().close()


def publish(location, data, *, replace=False):
    with store_at(location) as store:
        writer = store.open_writer(replace=replace)
        writer.append(data)
        return writer.commit()


def test_what_was_written_reads_back_at_random(any_registry):
    """Also across layers, with a password and with tokens."""
    location, data = new_location(any_registry), os.urandom(70 * MIB)
    published = publish(location, data)
    with store_at(location) as store:
        assert store.stat() == published
        assert published.size == len(data)
        for offset, length in ((0, 10), (31 * MIB, 2 * MIB), (70 * MIB - 5, 5), (0, 70 * MIB), (5, 0)):
            assert bytes(store.read_range(offset, length)) == data[offset : offset + length]
        with pytest.raises(Corrupt, match="ends before"):
            store.read_range(70 * MIB - 5, 6)


def test_reads_stay_with_the_artifact_that_they_began_with(registry):
    location = new_location(registry)
    publish(location, b"first")
    store = store_at(location)
    store.stat()
    publish(location, b"other", replace=True)
    assert bytes(store.read_range(0, 5)) == b"first"
    store.stat()
    assert bytes(store.read_range(0, 5)) == b"other"


def test_by_digest(registry):
    """It cannot be another one, and nothing can be created there."""
    location = new_location(registry)
    digest = publish(location, b"content").version
    pinned = location.rpartition(":")[0] + f"@{digest}"
    assert bytes(store_at(pinned).read_range(0, 7)) == b"content"
    with pytest.raises(SettingsError, match="tag"):
        store_at(pinned).open_writer()
    with pytest.raises(NotFound):
        store_at(pinned[:-1] + ("0" if pinned[-1] != "0" else "1")).stat()


def test_an_artifact_of_another_kind_is_no_archive(registry, tmp_path):
    (tmp_path / "file").write_text("hello")
    location = new_location(registry)
    oras(registry, tmp_path, f"push('{location[6:]}', files=['file'])")
    with pytest.raises(Corrupt, match="artifact") as caught:
        store_at(location).stat()
    assert caught.value.reason == "NotAnArchive"


def oras(server, directory, call):
    """A call of the oras library, in a process of its own."""
    script = (
        "import oras.client; client = oras.client.OrasClient(tls_verify=True, auth_backend='basic');"
        f"client.auth.set_basic_auth('{USER}', '{PASSWORD}');"
        f"client.{call}"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=directory, capture_output=True, text=True, check=False,
        env={**os.environ, "REQUESTS_CA_BUNDLE": str(server.certificate.ca)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_by_a_proxy_that_wants_a_login(registries, monkeypatch, tmp_path):
    """HTTPS_PROXY with user and password; a name that only the proxy can resolve."""
    registries("password")  # skips where there is no registry
    server = Registry(tmp_path / "registry", "DNS:registry.invalid")
    tunnel = Tunnel(server.port, "me:secret")
    logged_in(server, monkeypatch, tmp_path)
    log_in_also_at("registry.invalid", server)
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.svc")
    location = "oci://registry.invalid/test/engine:d936422b4f953f99"
    try:
        publish(location, b"by the proxy")
        assert bytes(store_at(location).read_range(0, 12)) == b"by the proxy"
    finally:
        tunnel.stop()
        server.stop()
    assert set(tunnel.seen) == {"registry.invalid:443"}


def test_other_tools_can_pull_and_copy_it(registry, tmp_path):
    """`oras pull` and `cat` give the tar; `skopeo copy` gives the same artifact elsewhere."""
    location = new_location(registry)
    finished = archived(location)
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    oras(registry, tmp_path, f"pull('{location[6:]}', outdir='{pulled}')")
    parts = sorted(path for path in pulled.iterdir() if path.name.startswith("checkpoint.tar."))
    assert len(parts) == 2
    (tmp_path / "whole.tar").write_bytes(b"".join(path.read_bytes() for path in parts))
    with Archive.open(open_store(str(tmp_path / "whole.tar"))) as archive:
        archive.verify()
        assert archive.digest == finished.digest

    copy = new_location(registry)
    env = {**os.environ, "REGISTRY_AUTH_FILE": f"{os.environ['DOCKER_CONFIG']}/config.json"}
    subprocess.run(
        ["skopeo", "copy", "--all", "--preserve-digests", f"docker://{location[6:]}", f"docker://{copy[6:]}"],
        check=True, capture_output=True, env=env,
    )  # fmt: skip
    assert store_at(copy).stat() == store_at(location).stat()
    shown = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--raw", f"docker://{copy[6:]}"], check=True, capture_output=True, env=env
        ).stdout
    )
    assert shown["artifactType"] == "application/vnd.dynamo-entry.checkpoint.v1"
    assert shown["annotations"]["io.dynamo-entry.checkpoint.hash"] == "d936422b4f953f99"
    assert shown["config"]["size"] == len(finished.document)


def test_fsspec_opens_it(registry):
    """An exception discards, a repository is a directory."""
    import fsspec

    from dynamo_entry.storage.oci.filesystem import OciFileSystem

    fsspec.register_implementation("oci-registry", OciFileSystem, clobber=True)
    location = new_location(registry).replace("oci://", "oci-registry://")
    with pytest.raises(ZeroDivisionError), fsspec.open(location, "wb") as file:
        file.write(bytes(40 * MIB))
        1 / 0  # noqa: B018
    with pytest.raises(FileNotFoundError):
        fsspec.open(location).open()
    with fsspec.open(location, "xb") as file:
        file.write(b"x" * 1000 + b"end")
    with fsspec.open(location) as file:
        file.seek(1000)
        assert file.read() == b"end"
    with pytest.raises(FileExistsError):
        fsspec.open(location, "xb").open()
    fs, path = fsspec.url_to_fs(location)
    assert [one["size"] for one in fs.ls(path.rpartition(":")[0])] == [1003]


def test_without_a_login_it_is_denied_not_absent(any_registry, monkeypatch, tmp_path):
    location = new_location(any_registry)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nobody"))
    with pytest.raises(StorageDenied, match="DOCKER_CONFIG") as caught:
        store_at(location).stat()
    assert caught.value.status == 401
    with pytest.raises(StorageDenied):
        publish(location, b"x")


def test_that_it_cannot_be_written_is_said_before_anything_is(registries, monkeypatch, tmp_path):
    """With a login that may only pull, the tag is seen to be missing, and is no promise."""
    server = logged_in(registries("token"), monkeypatch, tmp_path)
    monkeypatch.setattr(server.tokens, "granted", frozenset(("pull",)))
    store = store_at(new_location(server))
    with pytest.raises(NotFound):
        store.stat()
    with pytest.raises(StorageDenied) as caught:
        store.check_writable()
    assert caught.value.status in (401, 403)
    pinned = store_at(f"{store.location.rpartition(':')[0]}@sha256:{'0' * 64}")
    with pytest.raises(SettingsError, match="tag"):
        pinned.check_writable()


def test_a_credential_helper_logs_in(registry, monkeypatch, tmp_path):
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        f'#!/bin/sh\nread server\n[ "$server" = {registry.name} ] || exit 1\n'
        f'echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / ".dockerconfigjson").write_text('{"credsStore": "test"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    location = new_location(registry)
    publish(location, b"content")
    helper.write_text("#!/bin/sh\necho no such thing; exit 1\n")
    with pytest.raises(StorageDenied, match="docker-credential-test"):
        store_at(location).stat()


def test_an_unknown_authority_is_denied(registry, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StorageDenied, match="SSL_CERT_FILE"):
        store_at(new_location(registry)).stat()


def test_a_registry_that_comes_back_is_waited_for(registry):
    location = new_location(registry)
    publish(location, b"content")
    registry.pause()
    threading.Timer(1.5, registry.resume).start()
    assert bytes(store_at(location).read_range(0, 7)) == b"content"


def test_a_registry_that_is_down_is_unavailable_in_time():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        location = f"oci+http://127.0.0.1:{free.getsockname()[1]}/a:b"
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match="connection refused"):
        store_at(location).stat()
    assert time.monotonic() - began < RETRY.limit_s + 5


@pytest.fixture
def between(registry):
    """A proxy on plain http before the registry, for what it cannot be made to do."""
    context = ssl.create_default_context(cafile=str(registry.certificate.ca))
    proxy = Between(registry.port, context=context)
    log_in_also_at(proxy.name, registry)
    yield proxy
    proxy.stop()


@pytest.fixture
def wire(registry):
    relay = Wire(registry.port)
    log_in_also_at(f"localhost:{relay.port}", registry)
    yield relay
    relay.stop()


@pytest.mark.parametrize("how", ["cut", "reset", "stall", "damage"])
def test_a_connection_that_breaks_costs_what_was_on_its_way(registry, wire, how):
    """A layer is read on from where it broke, and sent again from its start. TLS finds what was damaged."""
    location, data = new_location(registry), os.urandom(64 * MIB)
    through = location.replace(registry.name, f"localhost:{wire.port}")
    wire.fault("up", how, after=40 * MIB)
    publish(through, data)
    assert wire.has_happened
    assert wire.moved["up"] < (64 + 2 * 32 + 4) * MIB, "one layer again, or the two that were on their way"
    wire.fault("down", how, after=24 * MIB)
    assert bytes(store_at(through).read_range(0, 32 * MIB)) == data[: 32 * MIB]
    assert wire.has_happened
    assert wire.moved["down"] < (32 + 12) * MIB, "all of it again would be 56"


def test_a_token_that_expires_in_mid_pull_is_renewed(registries, monkeypatch, tmp_path):
    """Also where the registry thinks that it did earlier than the token's server said."""
    server = logged_in(registries("token"), monkeypatch, tmp_path)
    location = new_location(server)
    publish(location, b"content")
    given = []
    token = server.tokens.token
    monkeypatch.setattr(server.tokens, "token", lambda scopes: given.append(scopes) or token(scopes))
    store = store_at(location)
    with monkeypatch.context() as patch:
        patch.setattr(server.tokens, "LIFE_S", 1 - REGISTRY_LEEWAY_S)
        store.stat()
    time.sleep(2.5)
    assert len(given) == 1
    assert bytes(store.read_range(0, 7)) == b"content"
    assert len(given) == 2


def location_in(proxy):
    return new_location(proxy).replace("oci://", "oci+http://")


def test_plain_http_only_when_asked_for(between):
    """Or else a login would go over the wire in the clear."""
    with pytest.raises(StorageUnavailable) as caught:
        store_at(location_in(between).replace("oci+http://", "oci://")).stat()
    assert caught.value.reason == "TlsFailed"


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ("GET /v2/", (503, b"")),
        ("GET /v2/", (429, b"")),
        ("blobs/sha256", "cut"),
        ("blobs/sha256", (500, b"")),
        ("POST", (502, b"")),
        ("PUT", (404, b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "gone"}]}')),
        ("PUT", (500, b"")),
        ("manifests/", (400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "no match"}]}')),
    ],
)
def test_what_passes_is_retried(between, match, fault):
    """And only what broke: a layer that was cut in the middle goes on from there."""
    between.fault = once(match, fault)
    location, data = location_in(between), os.urandom(3 * MIB)
    publish(location, data)
    assert bytes(store_at(location).read_range(0, 3 * MIB)) == data


def test_a_registry_with_immutable_tags(between):
    """It refuses a second manifest, and the own one, too, when that arrived and its answer did not."""
    location = location_in(between)
    publish(location, b"content")
    refusal = (409, b'{"errors": [{"code": "TAG_IMMUTABLE", "message": "no"}]}')
    between.fault = lambda method, path: refusal if (method, "manifests" in path) == ("PUT", True) else None
    assert publish(location, b"content").size == 7
    with pytest.raises(StorageError, match="TAG_IMMUTABLE"):
        publish(location, b"another", replace=True)
    with pytest.raises(StorageError, match="TAG_IMMUTABLE"):
        publish(location_in(between), b"content")


def test_a_registry_that_dies_while_it_publishes_is_told_in_time(between):
    """Looking what became of it does not take so long that whoever waits gives up before."""
    between.fault = lambda method, path: (503, b"") if "manifests" in path and method == "PUT" else None
    store = open_store(location_in(between), Retry(limit_s=6, stall_s=1))
    writer = store.open_writer()
    writer.append(b"content")
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match="503"):
        writer.commit()
    assert time.monotonic() - began < 1.8 * 6


def test_a_registry_without_ranges_works(between):
    """Slower: a whole layer is fetched once for all that is read from it."""
    location, data = location_in(between), os.urandom(40 * MIB)
    publish(location, data)
    between.fault = lambda _method, path: "no-range" if "blobs/sha256" in path else None
    between.seen.clear()
    with store_at(location) as store:
        for offset in range(0, 40 * MIB, 4 * MIB):
            assert bytes(store.read_range(offset, 4 * MIB)) == data[offset : offset + 4 * MIB]
    fetched = [seen for seen in between.seen if seen.method == "GET" and "blobs/sha256" in seen.path]
    assert len(fetched) <= 2 + 1, "two layers, and the request that showed it"


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (403, b'{"errors": [{"code": "DENIED", "message": "not yours"}]}', StorageDenied, "not yours"),
        (
            404,
            b'{"errors": [{"code": "NAME_UNKNOWN", "message": "no repository"}]}',
            NotFound,
            "no repository",
        ),
        (404, b"<html>not found</html>", NotFound, "404"),
        (503, b"", StorageUnavailable, "503"),
    ],
)
def test_what_does_not_pass_is_typed_and_told(between, status, body, kind, says):
    between.fault = lambda *_: (status, body)
    location = location_in(between)
    with pytest.raises(kind, match=says) as caught:
        store_at(location).stat()
    assert location in str(caught.value)
    assert caught.value.status == status


def test_a_layer_that_is_shorter_than_it_should_be_is_refused(between):
    location = location_in(between)
    publish(location, b"x" * 1000)
    between.fault = lambda _method, path: (200, b"x" * 10) if "blobs/sha256" in path else None
    with pytest.raises(Corrupt, match="10 bytes instead of 1000"):
        store_at(location).read_range(0, 1000)


def test_memory_is_bounded_and_backs_up(between, monkeypatch):
    """A registry that does not take anything stops whoever appends after three layers."""
    monkeypatch.setattr(oci_writer, "SMALLEST_BYTES", MIB)
    gate = threading.Event()

    held = threading.Semaphore(0)

    def hold(method, _path):
        if method == "PUT":
            held.release()
            gate.wait(20)

    between.fault = hold
    writer = store_at(location_in(between)).open_writer()
    done = []

    def append():
        for _ in range(8):
            writer.append(os.urandom(MIB))
            done.append(1)

    thread = threading.Thread(target=append)
    thread.start()
    for _ in range(3):
        assert held.acquire(timeout=20)
    wait_until_blocked(thread)
    assert len(done) <= 3
    gate.set()
    thread.join(20)
    assert len(done) == 8
    writer.abort()
