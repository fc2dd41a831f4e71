"""CRIU that waits for its first image."""

from contextlib import suppress
from pathlib import Path

import pytest

from dynamo_entry.criu import process
from dynamo_entry.linux import pages, userfault
from dynamo_entry.worker import standby


class Criu:
    """Writes a warning into its log, as one that has just started does."""

    def __init__(self, _argv, log_path, **_how):
        self.is_running = True
        Path(log_path).write_text("Warn  (criu/kerndat.c:1): $XDG_RUNTIME_DIR not set\n")

    def kill(self):
        self.is_running = False

    def close(self):
        assert not self.is_running


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "Restoring", Criu)
    monkeypatch.setattr(pages, "are_huge_by_default", lambda: False)
    monkeypatch.setattr(userfault, "is_allowed", lambda: True)
    monkeypatch.setattr(standby.tasks, "volunteer_for_oom", lambda: None)
    return standby.Standby(str(tmp_path))


def left(directory):
    return {path.name for path in directory.iterdir()}


def test_one_that_gets_no_image_leaves_no_log(started, tmp_path):
    """A refused restore must not take the place of the log of one that failed."""
    with suppress(ValueError), started:
        raise ValueError
    assert not {"restore.log", "lazy-pages.socket"} & left(tmp_path)
    started.close()


def test_one_that_got_images_leaves_its_log(started, tmp_path):
    with started:
        started.serve(lambda _name: None)
    assert "restore.log" in left(tmp_path)
    assert "lazy-pages.socket" not in left(tmp_path)
