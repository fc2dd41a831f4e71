"""A restore opens its archive while it looks at its host."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from archive_store import build, noise
from servers.quirks import Bucket

from dynamo_entry.archive import Keys
from dynamo_entry.errors import NotFound, SettingsError
from dynamo_entry.settings import Settings
from dynamo_entry.worker import restore

SETTINGS = Settings(stall_timeout=2)


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    made = Bucket()
    yield made
    made.stop()


@pytest.fixture
def source(server):
    return f"s3+http://127.0.0.1:{server.port}/bucket/a.tar"


class Channel:
    def __init__(self):
        self.warned = []
        self.waits = lambda: None
        self.phase = lambda _: nullcontext(SimpleNamespace(fields={}))
        self.log = SimpleNamespace(
            warning=lambda event, **fields: self.warned.append((event, fields["source"]))
        )


def publish(server):
    server.objects["/bucket/a.tar"], server.metadata["/bucket/a.tar"] = build({"s": noise(5000)}), {}


def test_the_archive_is_read_before_anybody_waits_for_it(server, source):
    publish(server)
    begun = restore._begun([source], SETTINGS, Keys())
    deadline = time.monotonic() + 10
    while not server.seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with restore._open_first([source], SETTINGS, Keys(), Channel(), begun) as archive:
        assert archive.read("s") == noise(5000)
    assert begun == {}


def test_what_failed_meanwhile_is_told_to_whoever_waits(server, source, tmp_path):
    """As if it had failed then: the next source is tried, and without another one, the error is raised."""
    near = tmp_path / "a.tar"
    near.write_bytes(build({"s": noise(5000)}))
    channel = Channel()
    begun = restore._begun([source], SETTINGS, Keys())
    with restore._open_first([source, str(near)], SETTINGS, Keys(), channel, begun) as archive:
        assert archive.location == str(near)
    assert channel.warned == [("archive not usable", source)]
    with pytest.raises(NotFound):
        restore._open_first([source], SETTINGS, Keys(), channel, restore._begun([source], SETTINGS, Keys()))


def test_a_volume_is_not_opened_ahead(tmp_path):
    """A thread would cost more than it could save."""
    assert restore._begun([str(tmp_path / "a.tar")], SETTINGS, Keys()) == {}


def test_keys_are_read_before_any_store_is_opened(monkeypatch):
    """No store is left open then, and none is read in vain."""
    opened = []
    monkeypatch.setattr(restore, "open_store", lambda _, source: opened.append(source))
    with pytest.raises(SettingsError, match="/nowhere"):
        restore._open(["s3://bucket/a.tar"], Settings(key_file="/nowhere"), Channel())
    assert not opened
