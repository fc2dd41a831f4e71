"""Where the launcher writes, nobody else has put anything: links, directories or files of others are not used."""

import os

import pytest

from dynamo_entry import report, scratch
from dynamo_entry.checks import refusals
from dynamo_entry.engine import readiness
from dynamo_entry.errors import CheckpointError, NotDumpable
from dynamo_entry.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other users")


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


def test_a_directory_of_ones_own_is_used(tmp_path):
    path = str(tmp_path / "new" / "state")
    assert scratch.private_directory(path) == path
    assert os.stat(path).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_what_else_is_in_the_scratch_directory_or_beside_the_state_is_the_engines(tmp_path, mode):
    """WORK_DIR may be /run or a home directory, STATE_DIR an emptyDir at /tmp: what the launcher claims is not captured."""
    tmp_path.chmod(mode)
    own = f"{tmp_path}/dynamo_entry-{os.geteuid()}"
    assert scratch.work_directory(Settings(work_dir=str(tmp_path))) == own
    tmp_path.chmod(0o1777)
    both = Settings(work_dir=str(tmp_path), state_dir=str(tmp_path))
    assert set(scratch.own_paths(both)) == {own}


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_in_a_state_directory_of_ones_user_only_the_launchers_files_are_its_own(tmp_path, monkeypatch, mode):
    """STATE_DIR may be /run or /srv/app: the engine's files there travel, and a delta may change them."""
    work, state = tmp_path / "work", tmp_path / "state"
    state.mkdir(mode)
    settings = Settings(work_dir=str(work), state_dir=str(state))
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    refused = refusals.place(settings, "d" * 64)
    kept = {refused, f"{refused}.new", f"{state}/criu-restore.log"}
    for path in (*kept, f"{state}/criu-log", f"{state}/refused-by-me", f"{state}/engine"):
        open(path, "w").close()
    with refusals.attempt(settings, "d" * 64):
        found = {*scratch.own_paths(settings)}
    (attempt,) = found - kept - {scratch.work_directory(settings)}
    assert os.path.basename(attempt).startswith("attempt-")
    assert found == {scratch.work_directory(settings), attempt, *kept}


def test_what_cannot_be_had_is_named_with_a_remedy_that_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"{tmp_path}/file/dynamo_entry-.* cannot be created") as caught:
        scratch.work_directory(Settings(work_dir=f"{tmp_path}/file"))
    assert "/run" not in caught.value.hint


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_where_others_may_write_a_directory_of_ones_own_is_made(tmp_path, mode):
    """An emptyDir is everybody's."""
    tmp_path.chmod(mode)
    found = scratch.private_directory(str(tmp_path))
    assert found == f"{tmp_path}/dynamo_entry-{os.geteuid()}"
    assert os.stat(found).st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.parametrize("plant", ["directory of another", "link", "writable", "file"])
def test_what_somebody_planted_there_is_not_used(tmp_path, victim, plant):
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    own = place / f"dynamo_entry-{os.geteuid()}"
    if plant == "link":
        own.symlink_to(tmp_path)
    elif plant == "file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777 if plant == "writable" else 0o700)
        os.chown(own, 0 if plant == "writable" else 1000, 0)
    assert scratch.private_directory(str(place)) == ""
    with pytest.raises(CheckpointError) as caught:
        scratch.work_directory(Settings(work_dir=str(place)))
    assert caught.value.reason == "NoWorkDir"


def test_the_next_candidate_is_taken_where_one_is_not_ours(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    places = (str(tmp_path / "link"), str(tmp_path / "mine"))
    monkeypatch.setattr(scratch, "_CANDIDATES", places)
    assert scratch.work_directory(Settings()) == places[1]


@pytest.mark.parametrize("name", ["f", "f.new"])
def test_a_new_file_takes_the_place_of_a_link(tmp_path, victim, name):
    (tmp_path / name).symlink_to(victim)
    scratch.write_new(str(tmp_path / "f"), "text")
    assert (tmp_path / "f").read_text() == "text"
    assert not (tmp_path / "f").is_symlink()


def test_a_status_is_not_written_through_a_link(tmp_path, victim):
    (tmp_path / "status").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        report.write_result(str(tmp_path / "status"), {"result": "cold"})


def test_a_signal_file_is_not_made_through_a_link(tmp_path, victim):
    (tmp_path / "ready").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotDumpable) as caught:
        readiness._create_signal(str(tmp_path / "ready"))
    assert caught.value.reason == "SignalFileInvalid"
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_is_too_long_for_a_socket_is_refused_before_one_is_made(tmp_path):
    path = f"{tmp_path}/{'x' * 90}"
    with pytest.raises(CheckpointError, match="no socket can be made there") as caught:
        scratch.work_directory(Settings(work_dir=path))
    assert caught.value.reason == "NoWorkDir"


def test_a_place_that_is_read_only_is_passed_over(tmp_path, monkeypatch):
    """/run may be: there are others."""
    places = [str(tmp_path / name) for name in ("run", "tmp")]
    access = os.access
    monkeypatch.setattr(scratch, "_CANDIDATES", places)
    monkeypatch.setattr(scratch.os, "access", lambda path, mode: path != places[0] and access(path, mode))
    assert scratch.work_directory(Settings()) == places[1]


@pytest.mark.parametrize("name", [scratch.CONTEXT, scratch.JOURNAL])
@pytest.mark.parametrize("place", ["candidate", "below WORK_DIR"])
def test_what_a_restore_left_is_known_wherever_it_is(tmp_path, monkeypatch, name, place):
    """Without making a directory, or following a link that somebody put there."""
    candidate, work = tmp_path / "run", tmp_path / "work"
    places = {
        "candidate": candidate,
        "below WORK_DIR": work / f"dynamo_entry-{os.geteuid()}",
    }
    monkeypatch.setattr(scratch, "_CANDIDATES", [str(candidate)])
    assert not scratch.has_leftovers(str(work))
    assert not list(tmp_path.iterdir())
    places[place].mkdir(parents=True)
    (places[place] / name).symlink_to("/nowhere")
    assert scratch.has_leftovers(str(work))


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_file_that_a_user_names_is_read_whole(tmp_path):
    (tmp_path / "key").write_bytes(b"x" * scratch.GIVEN_LIMIT_BYTES)
    before = open_descriptors()
    assert len(scratch.read_given(str(tmp_path / "key"))) == scratch.GIVEN_LIMIT_BYTES
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"x" * (scratch.GIVEN_LIMIT_BYTES + 1)),
    ],
    ids=["directory", "fifo", "device", "too large"],
)
def test_anything_else_that_a_user_names_is_refused_and_nothing_stays_open(tmp_path, make):
    make(tmp_path / "key")
    before = open_descriptors()
    with pytest.raises(OSError, match=r"regular file|larger than 1 MiB"):
        scratch.read_given(str(tmp_path / "key"))
    assert open_descriptors() == before
