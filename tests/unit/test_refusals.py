"""Which failures are remembered, and for how long."""

import os
import signal
import time
from contextlib import suppress

import pytest

from dynamo_entry.checks import refusals
from dynamo_entry.errors import CheckpointError, Corrupt, Incompatible, RestoreFailed, StorageUnavailable
from dynamo_entry.settings import Settings


def attempt(settings, error, digest="d1"):
    with pytest.raises(type(error)), refusals.remembered(settings, digest):
        raise error


@pytest.mark.parametrize(
    "error", [Corrupt("bad chunk"), RestoreFailed("criu failed", reason="CriuRestoreFailed")]
)
def test_what_an_archive_does_is_remembered_for_that_archive_alone(tmp_path, error):
    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, error)
    with pytest.raises(RestoreFailed, match=error.message) as refused:
        refusals.check(settings, "d1")
    assert refused.value.reason == "RefusedBefore"
    refusals.check(settings, "d2")


@pytest.mark.parametrize(
    "error", [StorageUnavailable("down"), RestoreFailed("no space left", reason="FileNotRestored")]
)
def test_what_a_store_or_this_place_does_is_not(tmp_path, error):
    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, error)
    refusals.check(settings, "d1")


@pytest.mark.parametrize("hours", [-25, 25])
def test_it_is_forgotten_after_a_day(tmp_path, hours):
    """Also after a clock that was days ahead was set back."""
    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, Corrupt("bad"))
    [file] = tmp_path.iterdir()
    os.utime(file, (time.time() + hours * 3600,) * 2)
    refusals.check(settings, "d1")


def test_a_file_that_makes_no_sense_refuses_nothing(tmp_path):
    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, Corrupt("bad"))
    [file] = tmp_path.iterdir()
    file.write_text("{")
    refusals.check(settings, "d1")


def test_without_a_directory_nothing_is_kept():
    attempt(Settings(), Corrupt("bad"))
    refusals.check(Settings(), "d1")


def killed_attempt(settings):
    if (pid := os.fork()) == 0:
        attempt = refusals.attempt(settings, "d1")
        attempt.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_an_attempt_that_was_killed_is_remembered(tmp_path, monkeypatch):
    """Out of memory, PID 1 dies with the worker: nobody is left to say anything."""
    monkeypatch.setattr(os, "getppid", os.getpid)  # the child has another parent, but the same command
    settings = Settings(state_dir=str(tmp_path))
    killed_attempt(settings)
    with pytest.raises(RestoreFailed, match="Interrupted") as refused:
        refusals.check(settings, "d1")
    assert refused.value.reason == "RefusedBefore"
    refusals.check(settings, "d2")
    [file] = tmp_path.iterdir()
    os.utime(file, (time.time() - 2 * 3600,) * 2)
    refusals.check(settings, "d1")


def test_an_attempt_that_is_under_way_in_another_container_is_none_that_was_killed(tmp_path):
    """Replicas may have STATE_DIR on one volume, and containers of one pod in one emptyDir."""
    settings = Settings(state_dir=str(tmp_path))
    with refusals.attempt(settings, "d1"):
        refusals.check(settings, "d1")
        with refusals.attempt(settings, "d1"):
            refusals.check(settings, "d1")
        refusals.check(settings, "d1")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [None, Incompatible("not here"), StorageUnavailable("down")])
def test_an_attempt_that_ended_is_forgotten(tmp_path, error):
    settings = Settings(state_dir=str(tmp_path))
    with suppress(CheckpointError), refusals.attempt(settings, "d1"):
        assert os.listdir(tmp_path)
        if error:
            raise error
    refusals.check(settings, "d1")
    assert not os.listdir(tmp_path)


def test_an_attempt_that_was_called_off_is_forgotten(tmp_path):
    """The pod was deleted, or somebody pressed Ctrl-C: no fault of the archive's."""
    from dynamo_entry.init import restore

    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, Corrupt("bad"), "d2")
    with refusals.attempt(settings, "d1"):
        restore._forget_attempts(str(tmp_path))
        assert len(os.listdir(tmp_path)) == 1
    refusals.check(settings, "d1")
    restore._forget_attempts("")


def test_others_cannot_have_an_archive_refused(tmp_path):
    """An emptyDir is everybody's; what counts lies in a directory of the launcher's own."""
    settings = Settings(state_dir=str(tmp_path))
    tmp_path.chmod(0o777)
    attempt(settings, Corrupt("bad"))
    [own] = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
    with pytest.raises(RestoreFailed):
        refusals.check(settings, "d1")


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("kind", ["own", "made", "file"])
def test_a_directory_in_which_nothing_can_be_remembered_is_known(tmp_path, kind, is_asked):
    path = tmp_path / "state"
    if kind == "own":
        path.mkdir(mode=0o700)
    elif kind == "file":
        path.touch()
    assert refusals.is_usable(str(path) if is_asked else "") == (kind != "file" or not is_asked)
