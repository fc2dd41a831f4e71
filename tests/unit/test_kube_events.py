"""Events: said once, counted up, and said again when the server has dropped them."""

from types import SimpleNamespace

import pytest

from dynamo_entry.kube import events
from dynamo_entry.kube.cluster import ApiError

HOUR = 3600


class Server:
    """Keeps events for an hour."""

    def __init__(self, monkeypatch):
        self.now, self.there, self.status = 0.0, {}, 0
        self.made = 0
        monkeypatch.setattr(events.time, "monotonic", lambda: self.now)

    def create(self, path, body):
        if self.status:
            raise ApiError(self.status, "refused")
        self.made += 1
        self.there[f"{path}/{self.made}"] = [self.now, body]
        return body | {"metadata": body["metadata"] | {"name": str(self.made)}}

    def merge(self, path, change):
        if self.status:
            raise ApiError(self.status, "refused")
        if path not in self.there or self.now - self.there[path][0] >= HOUR:
            raise ApiError(404, "not found")
        body = self.there[path][1] | change
        self.there[path] = [self.now, body]
        return body

    def visible(self):
        return [(body["message"], body["count"]) for at, body in self.there.values() if self.now - at < HOUR]


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch)


@pytest.fixture
def recorder(server):
    log = SimpleNamespace(warning=lambda *_, **__: None)
    return events.Recorder(server, log)


def subject(uid="u"):
    return {"metadata": {"namespace": "n", "name": "c", "uid": uid}}


def test_the_same_is_said_once_other_words_are_counted(server, recorder):
    """One Event for an object and a reason."""
    for message in ("a", "a", "b", "a"):
        recorder.event(subject(), "JobRunning", message)
    assert server.visible() == [("a", 3)]
    recorder.event(subject("v"), "JobRunning", "a")
    recorder.event(subject(), "Other", "a")
    assert len(server.visible()) == 3


@pytest.mark.parametrize("again", ["a", "b"])
@pytest.mark.parametrize("after_s", [3500, 3700, 10 * HOUR])
def test_what_is_still_true_is_still_visible(server, recorder, again, after_s):
    """The server has dropped it meanwhile: in the same words and in others."""
    recorder.event(subject(), "StorageMissing", "a")
    server.now += after_s
    recorder.event(subject(), "StorageMissing", again)
    server.now += 60
    assert again in [message for message, _ in server.visible()]


def test_an_event_that_somebody_deleted_is_made_anew(server, recorder):
    """Its message is not lost."""
    recorder.event(subject(), "StorageMissing", "a")
    server.there.clear()
    recorder.event(subject(), "StorageMissing", "b")
    assert server.visible() == [("b", 1)]


def test_a_refused_event_is_tried_the_next_time(server, recorder):
    """A server that is away for a while hides nothing for ever."""
    recorder.event(subject(), "StorageMissing", "a")
    server.status = 503
    recorder.event(subject(), "StorageMissing", "b")
    server.status = 0
    recorder.event(subject(), "StorageMissing", "b")
    assert "b" in [message for message, _ in server.visible()]


def test_what_is_remembered_is_bounded(server, recorder, monkeypatch):
    """An operator lives for months; what it said last stays."""
    monkeypatch.setattr(events, "_REMEMBERED", 10)
    for number in range(100):
        recorder.event(subject(str(number)), "JobCreated", "x")
    assert len(recorder._said) == 10
    made = server.made
    recorder.event(subject("99"), "JobCreated", "x")
    assert server.made == made
