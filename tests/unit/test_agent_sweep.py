"""The sweep of storage, and what the agent reads out of objects."""

import os
import time
import urllib.error
import urllib.request

import pytest

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.kube.agent import objects
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.agent.sweep import Named, Sweeper
from dynamo_entry.kube.metrics import AgentMetrics, serve
from dynamo_entry.storage import open_store
from dynamo_entry.storage.local import LocalStore

DAY = 24 * 3600


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    warning = error = info


def settings(tmp_path, **fields):
    return AgentSettings(
        node="node-1", namespace="system", cache_directory="", cache_limit=0, min_free=0, rate_limit=0,
        storage=str(tmp_path / "any.tar"), is_claim=True,
    )._replace(**fields)  # fmt: skip


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def sweeper(tmp_path):
    def make(**fields):
        return Sweeper(settings(tmp_path, **fields), AgentMetrics(), Log())

    return make


def value(sweeper, name):
    return sweeper._metrics.registry.get_sample_value(f"dynamo_checkpoint_{name}")


def test_only_old_leftovers_are_removed(tmp_path, sweeper):
    """What a killed creator left goes after the grace period; a young one and a living writer's stay."""
    for name in ("young", "old"):
        (tmp_path / f".{name}.tar.{'0' * 16}.partial").write_bytes(b"x")
    age(tmp_path / f".old.tar.{'0' * 16}.partial", 2 * DAY)
    writer = open_store(str(tmp_path / "live.tar")).open_writer()
    live = next(name for name in os.listdir(tmp_path) if name.startswith(".live"))
    age(tmp_path / live, 2 * DAY)
    swept = sweeper()
    swept.sweep([])
    assert sorted(os.listdir(tmp_path)) == [live, f".young.tar.{'0' * 16}.partial"]
    assert value(swept, "aborted_uploads_total") == 1
    writer.abort()


def test_an_archive_is_missing_after_two_sweeps(tmp_path, sweeper):
    """One look may have been too early; one that comes back is not missing any more."""
    path = tmp_path / "a.tar"
    swept, named = sweeper(), [Named("uid", str(path), True), Named("other", str(path), False)]
    swept.sweep(named)
    assert swept.missing == set()
    swept.sweep(named)
    assert swept.missing == {"uid"}
    path.write_bytes(b"x")
    swept.sweep(named)
    assert swept.missing == set()


def test_a_store_that_does_not_answer_proves_nothing(tmp_path, sweeper, monkeypatch):
    """Only a definite "not there" counts."""
    swept, named = sweeper(), [Named("uid", str(tmp_path / "a.tar"), True)]
    swept.sweep(named)

    def fail(_self):
        raise StorageUnavailable("no answer")

    monkeypatch.setattr("dynamo_entry.storage.local.LocalStore.stat", fail)
    swept.sweep(named)
    assert swept.missing == set()
    assert ("sweep not completed", "StorageUnavailable") in [
        (event, fields.get("reason")) for event, fields in swept._log.lines
    ]


def test_orphans_are_counted_and_by_default_kept(tmp_path, sweeper):
    """An archive that no DynamoCheckpoint names, of whatever phase."""
    for name in ("mine.tar", "failed.tar", "orphan.tar"):
        (tmp_path / name).write_bytes(b"12345")
        age(tmp_path / name, 30 * DAY)
    named = [Named("1", str(tmp_path / "mine.tar"), True), Named("2", f"file://{tmp_path}/failed.tar", False)]
    swept = sweeper()
    swept.sweep(named)
    assert (value(swept, "orphan_archives"), value(swept, "orphan_bytes")) == (1, 5)
    assert sorted(os.listdir(tmp_path)) == ["failed.tar", "mine.tar", "orphan.tar"]


def test_old_orphans_are_deleted_where_that_is_the_policy(tmp_path, sweeper):
    """Young ones may belong to a checkpoint that is about to be made."""
    for name, days in (("old.tar", 8), ("young.tar", 6)):
        (tmp_path / name).write_bytes(b"x")
        age(tmp_path / name, days * DAY)
    sweeper(deletes_orphans=True).sweep([])
    assert os.listdir(tmp_path) == ["young.tar"]


@pytest.mark.parametrize("kind", [StorageDenied, StorageUnavailable])
def test_an_orphan_that_cannot_be_deleted_keeps_no_other(tmp_path, sweeper, monkeypatch, kind):
    """In whichever order they are listed."""
    for name in ("first.tar", "held.tar", "last.tar"):
        (tmp_path / name).write_bytes(b"x")
        age(tmp_path / name, 8 * DAY)
    delete = LocalStore.delete

    def refused(store):
        if "held" in store.location:
            raise kind("no", reason="AccessDenied")
        delete(store)

    monkeypatch.setattr(LocalStore, "delete", refused)
    swept = sweeper(deletes_orphans=True)
    swept.sweep([])
    assert os.listdir(tmp_path) == ["held.tar"]
    told = [(event, os.path.basename(fields["location"])) for event, fields in swept._log.lines]
    assert sorted(told) == [
        ("orphan archive deleted", "first.tar"),
        ("orphan archive deleted", "last.tar"),
        ("orphan archive not deleted", "held.tar"),
    ]


@pytest.mark.parametrize(("kind", "reason"), [(StorageDenied, "AccessDenied"), (StorageError, "BadAnswer")])
def test_a_place_that_cannot_be_listed_keeps_no_other(tmp_path, sweeper, monkeypatch, kind, reason):
    """In whichever order; what was listed before the refusal is no basis for a deletion."""
    for name in ("first", "held", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "orphan.tar").write_bytes(b"x")
        age(tmp_path / name / "orphan.tar", 8 * DAY)
    for method in ("archives", "leftovers"):
        monkeypatch.setattr(LocalStore, method, listed_but_held(getattr(LocalStore, method), kind, reason))
    swept = sweeper(deletes_orphans=True, is_claim=False, isolates_namespaces=True)
    swept.sweep([], ["first", "held", "last"])
    assert [name for name in ("first", "held", "last") if os.listdir(tmp_path / name)] == ["held"]
    refused = [
        (event, fields["reason"], os.path.relpath(os.path.dirname(fields["place"]), tmp_path))
        for event, fields in swept._log.lines
        if event.endswith("not listed")
    ]
    assert refused == [
        ("leftovers not listed", reason, "held"),
        ("archives not listed", reason, "held"),
    ]


def listed_but_held(method, kind, reason):
    """A listing that breaks off in one place."""

    def listed(store):
        yield from method(store)
        if "held" in store.location:
            raise kind("no", reason=reason)

    return listed


def test_each_namespaces_part_is_looked_through(tmp_path, sweeper):
    """Also when its last checkpoint is gone; a part of a namespace that never had one is not."""
    for name in ("team", "left", "never"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "orphan.tar").write_bytes(b"x")
        age(tmp_path / name / "orphan.tar", 8 * DAY)
    swept = sweeper(is_claim=False, isolates_namespaces=True)
    swept.sweep([], ["team", "left", "empty"])
    swept.sweep([], ["team"])
    assert value(swept, "orphan_archives") == 2


def test_leftovers_of_each_namespaces_part_are_removed(tmp_path, sweeper):
    """Not every store lists what lies deeper: a killed creator's temporary file is beside its archive."""
    for name in ("team", "never"):
        (tmp_path / name).mkdir()
        partial = tmp_path / name / f".a.tar.{'0' * 16}.partial"
        partial.write_bytes(b"x")
        age(partial, 2 * DAY)
    swept = sweeper(is_claim=False, isolates_namespaces=True)
    swept.sweep([], ["team", "absent"])
    assert os.listdir(tmp_path / "team") == []
    assert len(os.listdir(tmp_path / "never")) == 1
    assert value(swept, "aborted_uploads_total") == 1
    assert not [event for event, _ in swept._log.lines if event == "sweep not completed"]


def checkpoint(name="a", namespace="system", phase="Ready", annotations=None, **status):
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": name, "annotations": annotations or {}},
        "status": {"phase": phase, "identityHash": "h" + name, "location": f"/checkpoints/h{name}.tar"}
        | status,
    }


def test_what_is_wanted(tmp_path):
    """Ready checkpoints, with what their status and annotation say."""
    found = objects.wanted(
        settings(tmp_path),
        [
            checkpoint("a", sizeBytes=7, digest="blake3:1", createdAt="2024-12-11T10:05:00Z"),
            checkpoint("b", annotations={"dynamo-entry/prefetch": "false"}),
            checkpoint("c", phase="Creating"),
            checkpoint("d", namespace="elsewhere"),
            {"metadata": {"name": "new", "namespace": "system", "uid": "new"}},
        ],
    )
    assert [(one.name, one.size, one.digest, one.created_at, one.pinned) for one in found] == [
        ("system/ha", 7, "blake3:1", 1733911500.0, None),
        ("system/hb", 0, "", 0, False),
    ]


def test_what_the_agent_keeps_of_objects():
    """Neither a checkpoint's template nor a pod's specification: there may be thousands, of a megabyte each."""
    metadata = {"namespace": "n", "name": "c", "uid": "u", "resourceVersion": "1", "managedFields": [1]}
    kept = objects.known_checkpoint({"metadata": metadata, "spec": {"job": {}}, "status": {"phase": "Ready"}})
    assert kept == {
        "metadata": {"namespace": "n", "name": "c", "uid": "u", "resourceVersion": "1"},
        "status": {"phase": "Ready"},
    }
    pod = {
        "metadata": {"namespace": "n", "name": "p", "labels": {"nvidia.com/checkpoint-hash": "h"}},
        "spec": {"containers": []}, "status": {"startTime": "2024-01-01T00:00:00Z", "conditions": []},
    }  # fmt: skip
    assert objects.known_pod(pod) == {
        "metadata": pod["metadata"], "status": {"startTime": "2024-01-01T00:00:00Z"}
    }  # fmt: skip


def test_copies_are_kept_apart_where_namespaces_are(tmp_path):
    """The same identity in two namespaces: two archives, two copies; else one of each."""
    both = [checkpoint("a"), checkpoint("a", namespace="elsewhere")]
    apart = settings(tmp_path, is_claim=False, isolates_namespaces=True)
    assert [one.name for one in objects.wanted(apart, both)] == ["system/ha", "elsewhere/ha"]
    assert [one.name for one in objects.wanted(apart._replace(isolates_namespaces=False), both)] == ["ha"]


def test_the_latest_of_several_checkpoints_of_an_archive_is_wanted(tmp_path):
    """In whatever order they are listed; an annotation counts on any of them."""
    old = checkpoint(
        "a", digest="old", createdAt="2024-01-01T00:00:00Z", annotations={"dynamo-entry/prefetch": "true"}
    )
    new = checkpoint("a", digest="new", createdAt="2024-01-02T00:00:00Z")
    for both in ([old, new], [new, old]):
        (found,) = objects.wanted(settings(tmp_path), both)
        assert (found.digest, found.pinned) == ("new", True)


def test_last_use(tmp_path):
    """The latest start of a pod with the hash."""
    pods = [
        {
            "metadata": {"namespace": "n", "labels": {"nvidia.com/checkpoint-hash": "h"}},
            "status": {"startTime": f"1970-01-01T00:00:{second:02d}Z"},
        }
        for second in (10, 30, 20)
    ]
    assert objects.last_used(settings(tmp_path), [*pods, {"metadata": {"namespace": "n"}}]) == {"n/h": 30}


def test_the_condition_of_a_missing_archive():
    """Set once, cleared once, the other conditions kept."""
    ready = {"type": "Ready", "status": "True"}
    one = checkpoint(conditions=[ready])
    assert objects.with_condition(one, False, "now") is None
    conditions = objects.with_condition(one, True, "now")
    assert conditions[0] == ready
    assert (conditions[1]["type"], conditions[1]["status"]) == ("ArchiveMissing", "True")
    one["status"]["conditions"] = conditions
    assert objects.with_condition(one, True, "later") is None
    assert objects.with_condition(one, False, "later")[1]["status"] == "False"


def test_metrics_and_health():
    """One port: metrics, 200 or 503 with the reason, 404."""
    metrics = AgentMetrics()
    metrics.cache_bytes.set(5)
    server = serve(metrics.registry, 0, {"/healthz": lambda: "", "/readyz": lambda: "no storage"})
    base = f"http://127.0.0.1:{server.server_port}"

    def get(path):
        try:
            with urllib.request.urlopen(base + path) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert "dynamo_checkpoint_cache_bytes 5.0" in get("/metrics")[1]
    assert get("/healthz") == (200, "ok\n")
    assert get("/readyz") == (503, "no storage\n")
    assert get("/else")[0] == 404
    server.shutdown()
    server.server_close()
