"""What a watch makes of the API server's answers."""

import json
import threading
import time
from types import SimpleNamespace

import msgspec
import pytest

from dynamo_entry.kube.cluster import ApiError, Cluster, Listed
from dynamo_entry.kube.cluster import _Page as Page
from dynamo_entry.kube.informer import Informer


class Api:
    """Answers one list; the watch then tells of the changes, and no more."""

    def __init__(self, items, changes=()):
        self.items = items
        self.changes = changes

    def list(self, _path, **_query):
        return Listed([msgspec.json.decode(self.page(), type=Page)])

    def page(self):
        return json.dumps({"items": self.items, "metadata": {"resourceVersion": "1"}})

    def watch(self, *_args, **_query):
        yield from self.changes
        threading.Event().wait(30)


class Log:
    def __init__(self):
        self.warnings = []

    def warning(self, event, **fields):
        self.warnings.append((event, fields))


def test_a_list_of_nothing():
    """Older servers answer null where only the metadata was asked for."""
    for items in (None, []):
        log = Log()
        mirror = Informer(Api(items), "/pods", changed=lambda _: None, log=log, metadata_only=True)
        deadline = time.monotonic() + 30
        while not mirror.is_synced and not log.warnings:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert log.warnings == []
        assert mirror.objects() == []


def test_an_object_that_is_not_what_it_should_be_harms_no_other():
    """It is left out and reported, whether it was there or comes; the watch goes on."""

    def named(name, **fields):
        return {"metadata": {"namespace": "n", "name": name, "resourceVersion": "2"}} | fields

    changes = [
        ("ADDED", named("bad-2")),
        ("MODIFIED", named("good", spec=2)),
        ("ADDED", named("last", spec=3)),
    ]
    seen, last, log = [], threading.Event(), Log()

    def changed(item):
        seen.append((item["metadata"]["name"], item["spec"]))
        if item["spec"] == 3:
            last.set()

    api = Api([named("bad-1"), named("good", spec=1)], changes)
    mirror = Informer(
        api, "/things", changed=changed, log=log, keep=lambda item: item | {"spec": item["spec"]}
    )
    assert last.wait(10)
    assert seen == [("good", 1), ("good", 2), ("last", 3)]
    assert mirror.get("n", "bad-1") is mirror.get("n", "bad-2") is None
    assert [(event, fields["name"]) for event, fields in log.warnings] == [
        ("object not understood", "n/bad-1"), ("object not understood", "n/bad-2"),
    ]  # fmt: skip


class Broken(Api):
    """Its watches end as they are told: with an error, after an event (None), or at once without any (EMPTY)."""

    def __init__(self, *ends):
        super().__init__([])
        self.ends, self.lists, self.version = list(ends), 0, 1

    def list(self, path, **query):
        self.lists += 1
        return super().list(path, **query)

    def watch(self, *_args, **_query):
        if not self.ends:
            threading.Event().wait(30)
        end = self.ends.pop(0)
        if end == EMPTY:
            return
        if end is not None:
            raise ApiError(end, "broken")
        self.version += 1
        yield "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}


EMPTY = "empty"


@pytest.mark.parametrize(
    ("ends", "pauses", "lists"),
    [
        ([0, 429, 0], [1, 2, 4], 1),
        ([0] * 8, [1, 2, 4, 8, 16, 32, 60, 60], 1),
        ([0, 0, None, 0], [1, 2, 1], 1),
        ([500, 503, 504], [1, 2, 4], 4),
        ([500, None, 0], [1, 1], 2),
        ([0, 410, None], [1, 2], 2),
        ([403, 404, 400], [1, 2, 4], 4),
        ([None, None, None], [], 1),
        ([EMPTY, EMPTY, None, EMPTY], [1, 1, 1], 1),
        ([410], [], 2),
        ([410, None, 410], [], 3),
        ([410, 410, 410], [2, 4], 4),
    ],
)
def test_a_watch_that_always_fails_costs_little(monkeypatch, ends, pauses, lists):
    """One that could not connect continues where it was, so that a restart makes nobody list thousands of objects.

    A server that answers with an error may never continue from there.
    """
    seen, done, sleep = [], threading.Event(), time.sleep

    def pause(seconds):
        if threading.current_thread().name == "watch /broken":
            seen.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr("dynamo_entry.kube.informer.time.sleep", pause)
    api = Broken(*ends)
    original = api.watch

    def watch(*arguments, **query):
        if not api.ends:
            done.set()
        return original(*arguments, **query)

    api.watch = watch
    Informer(api, "/broken", changed=lambda _: None, log=Log())
    assert done.wait(10)
    assert (seen, api.lists) == (pauses, lists)


@pytest.mark.parametrize(
    ("event", "status"), [({"code": 410}, 410), ({}, 500), ({"code": 0}, 500), ({"code": None}, 500)]
)
def test_an_error_within_a_watch_is_an_answer(event, status):
    """Status 0 would mean that the server was not reached, and the watch would continue where it was."""
    line = json.dumps({"type": "ERROR", "object": event}).encode() + b"\n"
    stream = SimpleNamespace(status=200, stream=lambda _size: [line])
    cluster = object.__new__(Cluster)
    cluster.answered = lambda _method, _status: None
    cluster._send = lambda *_, **__: SimpleNamespace(response=stream)
    with pytest.raises(ApiError) as caught:
        next(cluster.watch("/x", 1))
    assert caught.value.status == status
