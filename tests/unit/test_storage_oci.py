"""Locations, logins and layers of OCI registries, without one."""

import base64
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dynamo_entry.errors import AlreadyExists, NotFound, SettingsError, StorageDenied, StorageError
from dynamo_entry.settings import from_environment
from dynamo_entry.storage.http import Server, server_of
from dynamo_entry.storage.oci import OciStore, location, login, writer
from dynamo_entry.storage.oci.artifact import Layer
from dynamo_entry.storage.oci.client import Answer
from dynamo_entry.storage.oci.layers import Layers, Piece
from dynamo_entry.storage.oci.login import Credentials

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "server", "repository", "reference"),
    [
        ("oci://registry.example.com/team/ck:abc", Server("https", "registry.example.com", 443), "team/ck", "abc"),
        ("oci://localhost:5000/ck:abc", Server("https", "localhost", 5000), "ck", "abc"),
        ("oci+http://localhost:5000/ck:abc", Server("http", "localhost", 5000), "ck", "abc"),
        (f"oci://r.example/ck:abc@{DIGEST}", Server("https", "r.example", 443), "ck", DIGEST),
        (f"oci://[::1]:5000/ck@{DIGEST}", Server("https", "::1", 5000), "ck", DIGEST),
        ("oci://docker.io/me/ck:abc", Server("https", "registry-1.docker.io", 443), "me/ck", "abc"),
        ("oci://Docker.io/me/ck:abc", Server("https", "registry-1.docker.io", 443), "me/ck", "abc"),
        ("oci://Registry.Example.com/ck:abc", Server("https", "registry.example.com", 443), "ck", "abc"),
        ("oci://[FD00::A]:5000/ck:abc", Server("https", "fd00::a", 5000), "ck", "abc"),
    ],
)  # fmt: skip
def test_a_location_names_registry_repository_and_reference(text, server, repository, reference):
    found = location.parse(text)
    assert (found.server, found.repository, found.reference) == (server, repository, reference)
    assert server_of(OciStore(text)._client.url("blobs/x")) == server, "a server of that name gets the login"


def test_a_repository_is_asked_for_as_it_is(monkeypatch):
    """oras would take the first part of the first for a registry, and the last by its digest."""
    for text in ("team.x/ck:abc", "ck:abc", f"a/b/ck:abc@{DIGEST}"):
        store, asked = OciStore(f"oci://r.example:5000/{text}"), []
        answer = Answer(202, "/upload", "", b"{}")
        monkeypatch.setattr(
            store._client, "once", lambda *said, asked=asked, answer=answer, **_: asked.append(said) or answer
        )
        registry, name = store._registry(), text.partition(":")[0]
        registry.put_manifest({"schemaVersion": 2, "config": {}, "layers": []})
        registry.delete(DIGEST)
        registry.try_upload(1)
        base = f"https://r.example:5000/v2/{name}"
        assert [(method, url) for _, method, url, *_ in asked] == [
            ("PUT", f"{base}/manifests/abc"), ("DELETE", f"{base}/manifests/{DIGEST}"),
            ("POST", f"{base}/blobs/uploads/"), ("PATCH", "https://r.example:5000/upload"),
            ("DELETE", "https://r.example:5000/upload"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "oci://registry.example.com", "oci://r/ck", "oci://r/Upper:tag", "oci://r/ck:", "oci://r/ck:a b",
        "oci://r/ck@sha256:12", "oci:///ck:abc", "oci://r/../x:abc", "oci://r:65536/ck:abc",
    ],
)  # fmt: skip
def test_a_location_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="OCI artifact"):
        location.parse(text)


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ("oci://r:5000/team/ck", "oci://r:5000/team/ck:h4sh"),
        ("oci://r/ck/", "oci://r/ck:h4sh"),
        ("oci://r/ck:tag", "oci://r/ck:tag"),
        (f"oci://r/ck@{DIGEST}", f"oci://r/ck@{DIGEST}"),
    ],
)
def test_the_hash_is_the_tag_where_none_is_given(given, completed):
    settings = from_environment({"DYNAMO_CHECKPOINT_LOCATION": given, "DYNAMO_CHECKPOINT_HASH": "h4sh"})
    assert settings.location == completed


def configure(monkeypatch, tmp_path, document, name="config.json"):
    (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("name", ["config.json", ".dockerconfigjson"])
@pytest.mark.parametrize("key", [
    "r.example", "https://r.example", "https://r.example/v2/", "r.example/team", "https://r.example/", "http://r.example/v1",
    "R.Example", "https://r.example/team/ck", "https://r.example/v2/team/", "*.example",
])  # fmt: skip
def test_logins_are_found_under_the_names_in_use(monkeypatch, tmp_path, key, name):
    configure(monkeypatch, tmp_path, {"auths": {key: {"auth": encoded("me:pa:ss")}}}, name)
    assert login.find("r.example", "team/ck", os.environ) == Credentials("me", "pa:ss")
    assert login.find("other.examples", "team/ck", os.environ) == Credentials()


@pytest.mark.parametrize(
    "key", ["r.example/tea", "r.example/team/ck/x", "example", "*", "*.r.example", "r.example:443", "r"]
)
def test_the_login_of_another_place_is_not_given_away(monkeypatch, tmp_path, key):
    configure(monkeypatch, tmp_path, {"auths": {key: {"auth": encoded("me:pa:ss")}}})
    assert login.find("r.example", "team/ck", os.environ) == Credentials()


@pytest.mark.parametrize("registry", ["docker.io", "index.docker.io"])
@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"])
def test_docker_hub_has_several_names(monkeypatch, tmp_path, key, registry):
    configure(monkeypatch, tmp_path, {"auths": {key: {"auth": encoded("me:x")}}})
    assert login.find(registry, "me/ck", os.environ) == Credentials("me", "x")


def test_the_most_specific_login_wins(monkeypatch, tmp_path):
    auths = {
        "*.example": {"auth": encoded("any:z")}, "r.example": {"auth": encoded("all:x")},
        "https://r.example/team": {"username": "team", "password": "y"}, "r.example/team/ck/x": {"auth": encoded("no:no")},
    }  # fmt: skip
    configure(monkeypatch, tmp_path, {"auths": auths})
    assert login.find("r.example", "team/ck", os.environ) == Credentials("team", "y")
    assert login.find("r.example", "ck", os.environ) == Credentials("all", "x")


@pytest.mark.parametrize(
    "document",
    [
        "{", "[]", '{"auths": {"r.example": {"auth": "!"}}}', '{"auths": ["r.example"]}', '{"auths": "r.example"}',
        '{"auths": {"r.example": "me:secret"}}', '{"auths": {"r.example": {"auth": 5}}}', '{"credHelpers": ["r.example"]}',
        '{"credHelpers": "r.example"}', "[" * 50_000,
    ],
)  # fmt: skip
def test_a_broken_file_is_named(monkeypatch, tmp_path, document):
    configure(monkeypatch, tmp_path, document)
    with pytest.raises(StorageDenied, match=r"config\.json"):
        login.find("r.example", "ck", os.environ)


@pytest.mark.parametrize("answer", ["[]x", "5", "null", '["me"]', '"me"', "[" * 50_000])
def test_a_helper_that_answers_something_else_is_named(monkeypatch, tmp_path, answer):
    helper = tmp_path / "docker-credential-odd"
    helper.write_text(f"#!/bin/sh\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    configure(monkeypatch, tmp_path, {"credsStore": "odd"})
    with pytest.raises(StorageDenied, match="docker-credential-odd"):
        login.find("r.example", "ck", os.environ)


def test_no_file_is_no_login(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert login.find("r.example", "ck", os.environ) == Credentials()


def test_a_range_is_cut_where_layers_end():
    first, empty, last = Layer("a", 10), Layer("e", 0), Layer("b", 5)
    layers = Layers(None, [first, empty, last])
    assert list(layers.pieces(8, 4)) == [Piece(first, 8, 2), Piece(last, 0, 2)]
    assert list(layers.pieces(10, 5)) == [Piece(last, 0, 5)]
    assert list(layers.pieces(0, 0)) == []


@pytest.mark.parametrize(
    ("use", "imported"),
    [
        ("store.read_range(0, 1)", ""),
        ("next(store.archives())", "jsonschema oras requests"),
        ("store.check_writable()", "jsonschema oras requests"),
    ],
)
def test_who_reads_imports_no_oras(use, imported):
    """It takes a tenth of a second, and a restore waits for its first byte."""
    script = f"""
import sys
from dynamo_entry.errors import StorageError
from dynamo_entry.storage import Retry, open_store
store = open_store("oci+http://127.0.0.1:1/a:b", Retry(limit_s=0.01))
try:
    {use}
except StorageError as error:
    assert error.reason == "ConnectionRefused", error
print(*sorted({{"jsonschema", "oras", "requests"}} & {{*sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported


def test_a_challenge_with_a_quote_that_nobody_closes():
    """From a server that means harm: at its full length it took minutes to find that out."""
    assert login.parse('Bearer realm="' + '\\"' * 30_000) == {}
    assert login.parse('Basic realm="x", Bearer realm="https://a/') == {"basic": {"realm": "x"}}


def test_a_tag_that_is_removed_at_once_is_nobody_else_s(monkeypatch):
    """What is not there is not "there already"."""
    monkeypatch.setattr(writer, "_LEAST_SETTLE_S", 0)

    def manifest(_tag):
        raise NotFound("none")

    client = SimpleNamespace(name="oci://r/ck:tag", manifest=manifest, tried=lambda action: action())
    registry = SimpleNamespace(put_manifest=lambda _: None, put_blob=lambda *_: None)
    made = writer.OciWriter(client, "tag", lambda: registry, replace=False, expected_size=0)
    with pytest.raises(StorageError, match="gone") as caught:
        made.commit()
    assert not isinstance(caught.value, AlreadyExists)


@pytest.mark.parametrize(("took_s", "settle_s"), [(0, 0.3), (0.01, 0.3), (0.1, 1), (60, 3)])
def test_a_creator_waits_for_others_that_are_several_times_as_slow(took_s, settle_s):
    assert writer._settle_s(took_s) == settle_s
