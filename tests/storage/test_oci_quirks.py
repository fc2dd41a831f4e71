"""What registries, and what stands before them, do otherwise than the one that is tested with: one test a kind."""

import json
import time

import pytest
from servers.oci_quirks import Registry, error
from store_contract import publish

from dynamo_entry.errors import AlreadyExists, NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage import Retry
from dynamo_entry.storage.oci import OciStore

RETRY = Retry(limit_s=5, stall_s=2)
MIB = 1 << 20


@pytest.fixture
def registry():
    server = Registry()
    yield server
    server.stop()


@pytest.fixture
def store(registry, monkeypatch, tmp_path):
    """A store whose login is a user's, or a refresh token."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def store(user="", *, identity="", tag="a"):
        entry = {"identitytoken": identity} if identity else {"username": user, "password": "x"}
        auths = {f"127.0.0.1:{registry.port}": entry} if user or identity else {}
        (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
        return OciStore(f"oci+http://127.0.0.1:{registry.port}/models:{tag}", RETRY)

    return store


@pytest.mark.parametrize("user", ["reader", "", "a stranger"], ids=["read only", "anonymous", "refused"])
def test_a_login_that_may_only_read_restores(registry, store, user):
    """It asks for no more than to pull; a login that is refused is tried as nobody once (case 10)."""
    publish(store("writer"), b"content")
    registry.seen.clear()
    reader = store(user)
    assert reader.stat().size == 7
    assert bytes(reader.read_range(0, 7)) == b"content"
    assert not [path for _, path, _ in registry.seen if "push" in path]
    with pytest.raises(StorageDenied):
        store(user).check_writable()


def test_a_creation_is_not_tried_as_nobody(registry, store):
    registry.rights[""] = {"pull", "push"}
    with pytest.raises(StorageDenied):
        store("reader").check_writable()


def test_a_registry_that_refuses_a_token_for_reading(registry, store):
    """With 403, after which nobody logs in again: a creation looks for the archive before it tries to write."""
    registry.quirk = lambda method, *_: (
        (403, error("DENIED")) if method == "POST" and registry.seen[-1][2].endswith("/pull") else None
    )
    creator = store("writer")
    with pytest.raises(NotFound):
        creator.stat()
    creator.check_writable()
    publish(creator, b"content")
    assert bytes(store("reader").read_range(0, 7)) == b"content"


BASIC, OTHER = 'Basic realm="here"', "Negotiate"
CHALLENGES = {
    "negotiate, basic": lambda _bearer: [OTHER, BASIC],
    "basic, bearer": lambda bearer: [BASIC, bearer],
}


@pytest.mark.parametrize("challenges", CHALLENGES.values(), ids=CHALLENGES)
def test_challenges_of_all_kinds_in_any_order(registry, store, challenges):
    registry.challenges = lambda action: challenges(registry.bearer(action))
    publish(store("writer"), b"content")
    assert bytes(store("writer").read_range(0, 7)) == b"content"


def test_a_refresh_token_where_no_posts_are_taken(registry, store):
    """GET, with it as a password."""
    registry.rights["refresh"] = {"pull", "push"}
    for registry.takes_posts in (True, False):
        publish(store(identity="refresh"), b"content", replace=True)
    with pytest.raises(StorageDenied) as caught:
        store(identity="another").check_writable()
    assert caught.value.exit_code == 176


def test_a_404_of_a_proxy_whose_registry_is_not_there_yet(registry, store):
    """No words of a registry's. What the registry says itself is taken at its word."""
    publish(store("writer"), b"content")
    until = time.monotonic() + 2
    registry.quirk = lambda *_: (404, b"") if time.monotonic() < until else None
    assert store("reader").stat().size == 7
    began = time.monotonic()
    with pytest.raises(NotFound):
        store("reader", tag="b").stat()
    assert time.monotonic() - began < 2
    registry.quirk = lambda *_: (404, b"404 page not found")
    with pytest.raises(NotFound, match="answers there"):
        store("reader").stat()


@pytest.mark.parametrize("limit", [MIB, 32 * MIB - 1])
def test_a_proxy_that_takes_no_request_of_that_size(registry, store, limit):
    """Found before anything is uploaded, with what is to be changed."""
    registry.quirk = lambda _method, _path, body: (
        (413, b"<html>too large</html>") if len(body) > limit else None
    )
    with pytest.raises(StorageError) as caught:
        store("writer").check_writable()
    assert (caught.value.status, caught.value.reason, caught.value.retry) == (413, "EntityTooLarge", False)
    assert "proxy-body-size" in caught.value.hint
    assert not registry.blobs


def test_a_registry_that_closes_the_connection_where_there_is_no_repository(registry, store):
    """It looks like a network that breaks; before the engine is started somebody can still look."""

    def closes(_method, path, _body):
        if "/uploads/" in path:
            raise ConnectionResetError

    registry.quirk = closes
    with pytest.raises(StorageUnavailable) as caught:
        store("writer").check_writable()
    assert caught.value.reason == "ConnectionLost" and "does the repository exist" in caught.value.hint


def test_another_creator_publishes_before_a_failed_put_is_repeated(registry, store):
    """It has looked whether its tag is still there, and will not look again: it stays."""
    other = b'{"schemaVersion": 2}'

    def fails_once(method, path, _body):
        if method == "PUT" and "/manifests/" in path and not registry.manifests:
            registry.manifests["a"] = other
            return 503, b""
        return None

    registry.quirk = fails_once
    with pytest.raises(AlreadyExists):
        publish(store("writer"), b"content")
    assert registry.manifests["a"] == other
