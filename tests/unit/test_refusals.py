"""Which failures are remembered, and for how long."""

import os
import time

import pytest

from dynamo_entry.checks import refusals
from dynamo_entry.errors import Corrupt, RestoreFailed, StorageUnavailable
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


def test_it_is_forgotten_after_a_day(tmp_path):
    settings = Settings(state_dir=str(tmp_path))
    attempt(settings, Corrupt("bad"))
    [file] = tmp_path.iterdir()
    os.utime(file, (time.time() - 25 * 3600,) * 2)
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
