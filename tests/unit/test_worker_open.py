"""A restore looks for its archive, for as long as WAIT says; what hangs meanwhile is noticed all the same."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from dynamo_entry.errors import NotFound
from dynamo_entry.settings import Settings
from dynamo_entry.worker import restore

#: What is asked for is there from the third look on.
LOOKS = 3


class Channel(SimpleNamespace):
    """Records what PID 1 is told."""

    def __init__(self):
        super().__init__(told=[], log=SimpleNamespace(warning=lambda *_, **__: None))

    @contextmanager
    def phase(self, name, *, stall_s=0):
        self.told.append((name, stall_s))
        yield SimpleNamespace(fields={})

    @contextmanager
    def deferring(self):
        yield

    def waits(self):
        self.told.append("progress")

    def receive(self, _limit_s):
        self.told.append("pause")


class Opened(SimpleNamespace):
    """An archive."""

    def __init__(self, location):
        super().__init__(location=location)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def told(monkeypatch):
    """What PID 1 is told while an archive is opened."""
    looks = []

    def open_archive(source, **_how):
        looks.append(source)
        if len(looks) < 2 * LOOKS:
            raise NotFound(f"nothing at {source}")
        return Opened(source)

    @contextmanager
    def asking_version():
        yield lambda: "4.2"

    monkeypatch.setattr(restore.Archive, "open", open_archive)
    monkeypatch.setattr(restore, "open_store", lambda _settings, source: source)
    monkeypatch.setattr(restore, "_begun", lambda *_: {})
    monkeypatch.setattr(restore.privileges, "check_restore", lambda _have: None)
    monkeypatch.setattr(restore.process, "asking_version", asking_version)
    monkeypatch.setattr(restore, "_early_standby", lambda *_: None)
    monkeypatch.setattr(restore.images, "message", lambda *_: None)

    def run(**settings):
        channel = Channel()
        restore._open(["a", "b"], Settings(**settings), channel)
        return channel.told

    return run


def test_every_look_is_progress_and_a_hang_is_noticed_as_without_wait(told):
    round_of_two = ["progress", "progress", "pause"]
    assert told(wait=600) == [("open", 0), *round_of_two, *round_of_two, "progress"]


def test_without_wait_it_is_looked_for_once(told):
    with pytest.raises(NotFound):
        told()
