"""What is in a repository beside an archive: other archives are found, everything else stays out of it."""

import json

import pytest
from registries import RETRY, new_location, registries, registry  # noqa: F401
from servers.between import Between
from store_contract import publish
from typer.testing import CliRunner

from dynamo_entry.ctl import app
from dynamo_entry.errors import AlreadyExists, Corrupt, NotFound, StorageError
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.agent.sweep import Named, Sweeper
from dynamo_entry.kube.metrics import AgentMetrics
from dynamo_entry.storage.oci import OciStore, artifact
from dynamo_entry.storage.oci import registry as oci_registry

CREATED = {"org.opencontainers.image.created": "2026-01-02T03:04:05.678Z"}


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    warning = info


def store(location):
    return OciStore(location, RETRY)


@pytest.fixture
def repository(registry):
    """A location without its tag: archives under ``a``, ``b`` and ``c``, and an image under ``image``."""
    place = new_location(registry, "")
    for tag, data, annotations in (("a", b"12345", CREATED), ("b", b"another", CREATED), ("c", b"young", {})):
        writer = store(place + tag).open_writer(replace=True)
        writer.append(data)
        writer.describe(b"{}", annotations)
        writer.commit()
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": artifact.digest_of(b"{}"),
        "size": 2,
    }
    image = {"schemaVersion": 2, "mediaType": artifact.MANIFEST_TYPE, "config": config, "layers": []}
    put(place + "image", json.dumps(image).encode())
    return place


def put(location, manifest, kind=artifact.MANIFEST_TYPE):
    """Give a manifest a tag."""
    with store(location) as one:
        path = f"manifests/{location.rpartition(':')[2]}"
        one._client.once("manifest", "PUT", path, {"Content-Type": kind}, manifest)


def put_also(source, target):
    """Give what is there another tag, as `oras tag` does."""
    with store(source) as one:
        put(target, one._client.manifest(source.rpartition(":")[2]))


def neighbours(location):
    with store(location) as one:
        return {neighbour.location: neighbour for neighbour in one.archives()}


def test_neighbours_are_the_archives_in_the_repository(repository):
    """Whatever the location names; with their sizes, and ages as far as they say."""
    found = neighbours(repository + "any")
    assert {location: one.size for location, one in found.items()} == {
        repository + "a": 5, repository + "b": 7, repository + "c": 5,
    }  # fmt: skip
    assert found[repository + "a"].age_s > 24 * 3600
    assert found[repository + "c"].age_s == 0
    digest = found[repository + "b"].version
    assert neighbours(f"{repository[:-1]}@{digest}").keys() == found.keys()


@pytest.mark.parametrize("kind", artifact.IMAGE_TYPES[:2])
def test_the_tag_of_an_image_for_several_machines_stays_its_own(repository, kind):
    """A mistake in a location costs nobody an image."""
    location = repository + "latest"
    image = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": []}).encode()
    put(location, image, kind)
    with pytest.raises(Corrupt) as caught:
        store(location).stat()
    assert caught.value.reason == "NotAnArchive"
    with pytest.raises(AlreadyExists):
        publish(store(location), b"mine")
    with store(location) as one:
        assert one._client.manifest("latest") == image
    assert len(neighbours(repository + "any")) == 3


def test_a_long_list_comes_in_pages(repository, monkeypatch):
    """As many as the registry wants to make of it."""
    monkeypatch.setattr(oci_registry, "_PAGE", 1)
    assert len(neighbours(repository + "any")) == 3


def test_an_empty_repository_has_none(registry):
    """One that nobody has pushed to; one that lost its last tag."""
    location = new_location(registry)
    assert neighbours(location) == {}
    publish(store(location), b"x")
    store(location).delete()
    assert neighbours(location) == {}


def test_an_answer_that_is_no_list_is_told(registry):
    proxy = Between(registry.port)
    proxy.fault = lambda *_: (200, b"<html>")
    with pytest.raises(StorageError, match="proxy") as caught:
        neighbours(f"oci+http://{proxy.name}/a:b")
    assert caught.value.reason == "BadAnswer"
    proxy.stop()


def sweep(location, named, log, **fields):
    settings = AgentSettings(
        node="node-1", namespace="system", cache_directory="", cache_limit=0, min_free=0, rate_limit=0,
        storage=location, is_claim=False,
    )._replace(**fields)  # fmt: skip
    metrics = AgentMetrics()
    sweeper = Sweeper(settings, metrics, log)
    for _ in range(2):
        sweeper.sweep(named)
    return lambda name: metrics.registry.get_sample_value(f"dynamo_checkpoint_{name}")


def test_the_node_agent_sweeps_a_registry(repository):
    """Archives without a DynamoCheckpoint are counted; what the registry cleans up itself is said once."""
    log = Log()
    value = sweep(repository + "any", [Named("1", repository + "a", is_ready=True)], log)
    assert (value("orphan_archives"), value("orphan_bytes")) == (2, 12)
    (said,) = (fields for event, fields in log.lines if event == "leftovers not listed")
    assert "garbage collection" in said["message"]
    assert "sweep not completed" not in [event for event, _ in log.lines]


def test_old_orphans_go_where_that_was_asked_for(repository):
    """Not one that does not say its age, nor an archive that a DynamoCheckpoint names by another of its tags."""
    put_also(repository + "a", repository + "stable")
    put_also(repository + "b", repository + "old")
    named = [Named("1", repository + "a", is_ready=True)]
    log = Log()
    sweep(repository + "any", named, log, deletes_orphans=True)
    assert neighbours(repository + "any").keys() == {repository + name for name in ("a", "c", "stable")}
    with pytest.raises(NotFound):
        store(repository + "old").stat()
    assert "sweep not completed" not in [event for event, _ in log.lines]


def test_prune_says_whose_the_rest_is(repository):
    """It can find nothing, and does not pretend that there is nothing."""
    done = CliRunner().invoke(app, ["prune", repository + "a"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("0 leftovers, 0 bytes\n")
    assert "garbage collection" in done.output
