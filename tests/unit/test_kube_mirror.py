"""What a watch makes of the API server's answers."""

import threading
import time

from dynamo_entry.kube.mirror import Mirror


class Api:
    """Answers one list; the watch then has nothing to tell."""

    def __init__(self, items):
        self.items = items

    def list(self, _path, **_query):
        return {"items": self.items, "metadata": {"resourceVersion": "1"}}

    def watch(self, *_args, **_query):
        threading.Event().wait(30)
        return iter(())


class Log:
    def __init__(self):
        self.warnings = []

    def warning(self, event, **fields):
        self.warnings.append((event, fields))


def test_a_list_of_nothing():
    """Older servers answer null where only the metadata was asked for."""
    for items in (None, []):
        log = Log()
        mirror = Mirror(Api(items), "/pods", changed=lambda _: None, log=log, metadata_only=True)
        deadline = time.monotonic() + 30
        while not mirror.is_synced and not log.warnings:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert log.warnings == []
        assert mirror.objects() == []
