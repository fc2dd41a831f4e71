"""One round of the agent: copies looked after, chores begun, events told of the right checkpoint."""

import errno
import os
import threading
import time
from types import SimpleNamespace

import pytest

from dynamo_entry.errors import Corrupt, Incompatible, NotFound, SettingsError, StorageDenied
from dynamo_entry.kube.agent import objects, run
from dynamo_entry.kube.agent.cache import Cache, Entry
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.metrics import AgentMetrics

OLD, USED = "0" * 16, "1" * 16


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append(event)

    warning = error = info


class Chore:
    def __init__(self):
        self.begun = 0

    def begin_if_due(self, _checkpoints):
        self.begun += 1


def settings(tmp_path, **fields):
    return AgentSettings(
        node="node-1", namespace="system", cache_directory=str(tmp_path), cache_limit=0, min_free=0, rate_limit=0,
        storage="", is_claim=False,
    )._replace(**fields)  # fmt: skip


def mirror(*objects):
    return SimpleNamespace(objects=lambda: list(objects))


def agent(tmp_path, *, checkpoints=(), pods=(), **fields):
    made = object.__new__(run.Agent)
    made._settings, made._log, made.metrics = settings(tmp_path, **fields), Log(), AgentMetrics()
    made._changed = threading.Event()
    made._cache = Cache(str(tmp_path))
    made._checkpoints, made._pods = [mirror(*checkpoints)], [mirror(*pods)]
    made._prefetcher = run.Prefetcher(made._cache, made.metrics, made._log, run.Limiter(0), made._changed)
    made._chores = [Chore()]
    return made


def copy(cache, name, **facts):
    with open(cache.path(name), "wb") as file:
        file.truncate(1000)
    cache._write(name, Entry(source="s", digest="d", size=1000, **facts))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_ends_no_agent(tmp_path, monkeypatch, number):
    """It evicts, which is what makes room, and goes on with its chores."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    pod = {
        "metadata": {"namespace": "n", "labels": {"nvidia.com/checkpoint-hash": USED}}, "status": {"startTime": started}
    }  # fmt: skip
    made = agent(tmp_path, pods=[pod])
    for name in (OLD, USED):
        copy(made._cache, name)

    def fail(_self, name, _entry):
        raise OSError(number, "no", name)

    monkeypatch.setattr(Cache, "_write", fail)
    made.round()
    assert made._cache.entries().keys() == {USED}
    assert made._log.lines == ["copy evicted", "copies not looked after"]
    assert made._chores[0].begun == 1


def test_a_copy_that_is_being_fetched_takes_the_room_of_no_other(tmp_path, monkeypatch):
    """What it has on the disk already is a part of what it needs."""
    sizes, disk = {OLD: 400_000, USED: 450_000}, 900_000

    def ready(name, minute):
        status = {"phase": "Ready", "identityHash": name, "location": f"s3://b/{name}.tar", "digest": "d"}
        told = {"sizeBytes": sizes[name], "createdAt": f"2026-01-01T00:{minute:02}:00Z"}
        return {"metadata": {"namespace": "n", "name": name, "uid": name}, "status": status | told}

    made = agent(tmp_path, checkpoints=[ready(OLD, 1), ready(USED, 2)], cache_limit=1 << 30)
    copy(made._cache, OLD)
    entry = Entry(source=f"s3://b/{OLD}.tar", digest="d", size=sizes[OLD])
    made._cache._write(OLD, entry)
    plans = []
    made._prefetcher = SimpleNamespace(follow=plans.append)
    for fetched in (0, 200_000, 440_000):
        (tmp_path / f"{USED}.tar.part").write_bytes(os.urandom(fetched))
        taken = os.stat(tmp_path / f"{USED}.tar.part").st_blocks * 512
        free = disk - sizes[OLD] - taken
        monkeypatch.setattr(Cache, "free_bytes", lambda _self, free=free: (free, disk))
        made.round()
        assert "copies not looked after" not in made._log.lines
        assert [one.name for one in plans[-1].fetch] == [USED]
        assert plans[-1].evict == ()
    assert made._cache.partial_bytes("../x") == 0, "what a damaged status names takes nothing"


def checkpoint(namespace, hash_=USED):
    return {
        "metadata": {"namespace": namespace, "name": "c", "uid": namespace}, "status": {"identityHash": hash_}
    }  # fmt: skip


@pytest.mark.parametrize(("isolates", "told"), [(True, ["a"]), (False, ["a", "b"])])
def test_a_damaged_copy_is_told_of_its_own_checkpoint(tmp_path, monkeypatch, isolates, told):
    """Not of one of the same identity in another namespace, whose copy is another one."""
    checkpoints = [checkpoint("a"), checkpoint("b"), checkpoint("a", OLD)]
    made = agent(tmp_path, isolates_namespaces=isolates)
    name = f"a/{USED}" if isolates else USED
    (tmp_path / "a").mkdir()
    copy(made._cache, name)
    seen = []
    made._recorder = SimpleNamespace(
        event=lambda one, reason, _message: seen.append((one["metadata"]["uid"], reason))
    )

    def verify(_name):
        raise Corrupt("torn")

    monkeypatch.setattr(made._cache, "verify", verify)
    made._verify_one(checkpoints)
    assert seen == [(one, "CacheCorrupt") for one in told]


@pytest.mark.parametrize(
    ("error", "lines", "failures", "told"),
    [
        (Corrupt("torn"), ["copy damaged"], 1, "was damaged and is removed: torn"),
        (
            Incompatible("of another key"),
            ["copy damaged"],
            1,
            "cannot be opened and is removed: of another key",
        ),
        (NotFound("evicted"), [], 0, None),
        (SettingsError("no key"), ["copy not verified"], 0, None),
    ],
)
def test_what_is_said_of_a_copy_that_cannot_be_verified(tmp_path, monkeypatch, error, lines, failures, told):
    """The truth: a copy that was evicted, or keys that are away, are no damage."""
    made = agent(tmp_path)
    copy(made._cache, USED)
    seen = []
    made._recorder = SimpleNamespace(event=lambda _one, _reason, message: seen.append(message))

    def verify(_name):
        raise error

    monkeypatch.setattr(made._cache, "verify", verify)
    made._verify_one([checkpoint("a")])
    assert made._log.lines == lines
    assert made.metrics.verify_failures._value.get() == failures
    assert [one.endswith(told or "") for one in seen] == ([True] if told else [])


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"phase": "Ready"},
        {"phase": "Ready", "identityHash": OLD},
        {"phase": "Ready", "location": "s3://b/x.tar"},
    ],
)
def test_a_damaged_status_costs_no_other_its_copy(tmp_path, status):
    """Whoever may write one may leave out anything."""
    whole = {"phase": "Ready", "identityHash": USED, "location": f"s3://b/{USED}.tar"}
    checkpoints = [
        {"metadata": {"namespace": "n", "name": "c", "uid": "u"}, "status": one} for one in (status, whole)
    ]
    assert [one.name for one in objects.wanted(settings(tmp_path), checkpoints)] == [USED]


def test_readiness_tells_nobody_what_the_store_said(tmp_path, monkeypatch):
    """Anybody may ask for it; the log has the words."""
    words = "the account 4711 may not read the bucket secret-models"

    def refuse(*_):
        raise StorageDenied(words)

    monkeypatch.setattr(run.stores, "open_with", refuse)
    made = agent(tmp_path)
    said = []
    monkeypatch.setattr(made._log, "warning", lambda event, **fields: said.append(fields["message"]))
    made._ask_storage([])
    assert made.readiness()
    assert words not in made.readiness()
    assert said == [words]
