"""What is in a bucket beside an archive: what killed creators left goes, everything else stays."""

import os

import pytest
from store_contract import publish
from typer.testing import CliRunner

from conftest import RETRY
from dynamo_entry.ctl import app
from dynamo_entry.errors import StorageError
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.agent.sweep import Named, Sweeper
from dynamo_entry.kube.metrics import AgentMetrics
from dynamo_entry.storage.s3 import S3Store, claims, leftovers, objects
from dynamo_entry.storage.s3.upload import Upload

MIB = 1 << 20
OWNER = "0123456789abcdef"


@pytest.fixture
def store(any_bucket):
    with S3Store(f"s3+http://{any_bucket}/models/a.tar", RETRY) as store:
        yield store


@pytest.fixture
def around(store):
    """An archive, and what others keep in the same bucket."""
    publish(store, b"archive")
    for key in ("models/a.tar.claims/README", "models/notes.txt", "models/deeper/b.tar", "elsewhere/c.tar"):
        objects.put(store._client, key, "not ours")
    return store


def killed(store, *, size=MIB):
    """What a creator leaves that was killed while it sent parts."""
    upload = Upload(store._client, store._key)
    upload.put_part(1, memoryview(os.urandom(size)))
    return upload


def keys(store):
    return {entry.key for entry in objects.under(store._client, "")}


def prune(*arguments):
    done = CliRunner().invoke(app, ["prune", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_prune_removes_uploads_claims_and_probes_and_nothing_else(around, monkeypatch):
    before = keys(around)
    killed(around)
    Upload(around._client, "models/notes.bin").put_part(1, memoryview(b"somebody else's"))
    objects.put(around._client, f"models/a.tar.claims/00000001-{OWNER}", "upload")
    objects.put(around._client, f"models/a.tar.probe-{OWNER}", "probe")
    monkeypatch.setattr(leftovers, "STALE_S", -1)
    assert "3 leftovers" in prune(around.location, "--older-than", "0", "--dry-run")
    said = prune(around.location, "--older-than", "0")
    assert "3 leftovers" in said
    assert "notes" not in said
    assert keys(around) == before
    assert "0 leftovers" in prune(around.location, "--older-than", "0")


def test_claims_of_the_living_are_left_alone(around):
    """A claim that is renewed, and a trial that lasts a second, are nobody's leftovers."""
    objects.put(around._client, f"models/a.tar.claims/00000001-{OWNER}", "upload")
    objects.put(around._client, f"models/a.tar.probe-{OWNER}", "probe")
    assert list(around.leftovers()) == []


def test_an_upload_that_goes_on_is_left_alone(around):
    upload = killed(around)
    (left,) = around.leftovers()
    assert left.size == MIB
    upload.put_part(2, memoryview(os.urandom(MIB)))
    with pytest.raises(StorageError) as caught:
        around.remove_leftover(left)
    assert caught.value.reason == "InUse"
    upload.abort()


def test_neighbours_are_the_archives_beside_it(around):
    with S3Store(around.location.replace("a.tar", "z.tar"), RETRY) as other:
        publish(other, b"other")
    found = {neighbour.location: neighbour.size for neighbour in around.archives()}
    assert found == {around.location: 7, other.location: 5}
    assert all(0 <= neighbour.age_s < 300 for neighbour in around.archives())


def test_a_creator_that_died_while_it_claimed_is_fenced(store, monkeypatch):
    """Were it alive and slow, it could not complete any more: its upload is gone before its claim is."""
    store._publisher._conditional = False
    slow = killed(store)
    for number in (0, 1):
        objects.put(store._client, f"models/a.tar.claims/{number:08}-{OWNER}", slow.id)
    monkeypatch.setattr(claims, "STALE_S", 0.5)
    assert publish(store, b"ours").size == 4
    with pytest.raises(StorageError):
        slow.complete([{"ETag": "etag"}], conditional=False)
    assert bytes(store.read_range(0, 4)) == b"ours"
    assert keys(store) == {"models/a.tar"}


def test_what_others_keep_among_the_claims_is_no_claim(store):
    store._publisher._conditional = False
    objects.put(store._client, "models/a.tar.claims/README", "not ours")
    assert publish(store, b"ours").size == 4
    assert keys(store) == {"models/a.tar", "models/a.tar.claims/README"}


def test_a_claim_that_names_no_upload_aborts_nothing(around):
    """To some servers an upload without a name is none, and the request is for the archive itself."""
    name = f"00000001-{OWNER}"
    objects.put(around._client, f"models/a.tar.claims/{name}", "")
    claims.Board(around._client, "models/a.tar", "").fence(claims.Claim(name, 100.0))
    assert bytes(around.read_range(0, 7)) == b"archive"
    assert f"models/a.tar.claims/{name}" not in keys(around)


class Log:
    def info(self, event, **fields):
        """Not looked at."""

    warning = info


def test_the_node_agent_sweeps_a_bucket(around):
    """Leftovers go, archives without a DynamoCheckpoint are counted, and deleted where that was asked for."""
    killed(around)
    orphan = around.location.replace("a.tar", "z.tar")
    with S3Store(orphan, RETRY) as other:
        publish(other, b"orphan")
    settings = AgentSettings(
        node="node-1", namespace="system", cache_directory="", cache_limit=0, min_free=0, rate_limit=0,
        storage=around.location.replace("a.tar", "any.tar"), is_claim=False,
    )._replace(grace_s=0, orphan_grace_s=0, deletes_orphans=True)  # fmt: skip
    metrics = AgentMetrics()
    Sweeper(settings, metrics, Log()).sweep([Named("1", around.location, is_ready=True)])
    for name in ("aborted_uploads_total", "orphan_archives"):
        assert metrics.registry.get_sample_value(f"dynamo_checkpoint_{name}") == 1, name
    assert list(around.leftovers()) == []
    assert [neighbour.location for neighbour in around.archives()] == [around.location]
