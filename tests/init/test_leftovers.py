"""What an earlier container of the pod left of a restore, on a volume: no cold start finds it."""

import json
import os

import pytest
from launchers import LAUNCHER

pytestmark = pytest.mark.skipif(not LAUNCHER.python, reason="other inits restore nothing")


@pytest.fixture
def left(tmp_path):
    """The scratch directory of a restore that was broken off, and a file of its filesystem delta."""
    scratch, half = tmp_path / f"dynamo_entry-{os.geteuid()}", tmp_path / "half"
    scratch.mkdir(mode=0o700)
    (scratch / "context.json").write_text("{}")
    (scratch / "undo.json").write_text(json.dumps(["made", str(half)]) + "\n")
    half.write_text("half")
    return scratch, half


NOTHING_THERE = {"PATH": "/nowhere/a.tar", "HASH": "a"}


@pytest.mark.parametrize(
    "settings",
    [
        NOTHING_THERE,
        {**NOTHING_THERE, "COMPRESSION": "gzip"},
        {**NOTHING_THERE, "MODE": "create", "AFTER_DUMP": "continue", "COMPRESSION": "gzip"},
    ],
    ids=["no archive", "invalid settings", "invalid settings of a creation"],
)
def test_a_start_that_is_cold_at_once_takes_it_back(start, left, settings):
    scratch, half = left
    run = start(
        "sh", "-c", f"ls {scratch} {half}; exit 7", settings={"WORK_DIR": str(scratch.parent), **settings}
    )
    assert run.exit_code() == 7, run.output
    assert not [line for line in run.lines if line in ("context.json", "undo.json", str(half))], run.output
    assert not half.exists()


def test_where_nothing_was_left_no_worker_is_started(start, tmp_path):
    """In a directory that no worker could use: it would say so."""
    settings = {"WORK_DIR": str(tmp_path / "none"), **NOTHING_THERE}
    run = start("sh", "-c", "exit 7", settings=settings)
    assert run.exit_code() == 7, run.output
    assert not (tmp_path / "none").exists()
