"""dynamo-entryctl prune: what killed creators left goes, archives and writers that live stay; stores are the launcher's."""

import os

import pytest
from typer.testing import CliRunner

from dynamo_entry.ctl import app
from dynamo_entry.storage import open_store


@pytest.fixture
def place(tmp_path):
    """A directory with an archive, a leftover of two hours ago, and a file that is being written."""
    archive = tmp_path / "abc.tar"
    archive.write_bytes(b"archive")
    leftover = tmp_path / f".abc.tar.{'0' * 16}.partial"
    leftover.write_bytes(b"x" * 1000)
    os.utime(leftover, (0, 0))
    writer = open_store(str(tmp_path / "other.tar")).open_writer()
    yield archive
    writer.abort()


def prune(*arguments):
    done = CliRunner().invoke(app, ["prune", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_leftovers_go_and_everything_else_stays(place):
    before = len(os.listdir(place.parent))
    assert "1 leftovers, 1.0 kB" in prune(place)
    assert len(os.listdir(place.parent)) == before - 1
    assert place.read_bytes() == b"archive"


def test_what_is_young_is_left_alone(place):
    os.utime(place.parent / f".abc.tar.{'0' * 16}.partial")
    assert "left alone" in prune(place)
    assert "1 leftovers" in prune(place, "--older-than", 0)


def test_a_dry_run_removes_nothing(place):
    before = sorted(os.listdir(place.parent))
    assert "would remove" in prune(place, "--dry-run")
    assert sorted(os.listdir(place.parent)) == before


@pytest.mark.parametrize(("type_", "through_fsspec"), [("", False), ("s3", False), ("fsspec", True)])
def test_stores_are_opened_as_by_the_launcher(place, monkeypatch, type_, through_fsspec):
    asked = {}

    def opened(location, *_, **named):
        asked.update(named)
        return open_store(str(place))

    monkeypatch.setattr("dynamo_entry.storage.open_store", opened)
    monkeypatch.setenv("DYNAMO_CHECKPOINT_STORAGE_TYPE", type_)
    prune("s3://bucket/abc.tar")
    assert asked["through_fsspec"] is through_fsspec
