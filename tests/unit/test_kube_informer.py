"""What a watch makes of the API server's answers."""

import json
import threading
import time

import msgspec

from dynamo_entry.kube.cluster import Listed
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
