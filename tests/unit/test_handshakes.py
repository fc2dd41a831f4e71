"""Which engines pause by themselves: PROTOCOL says it, else the command, else the environment."""

from types import SimpleNamespace

import pytest

from dynamo_entry.engine import dynamo, handshakes, vllm_snapshot
from dynamo_entry.errors import SettingsError

WORKER, SERVE = ["python3", "-m", "dynamo.vllm"], ["vllm", "serve", "m"]
SERVER = ["python3", "-m", "vllm.snapshot.server", "--ready-file", "/r", "--release-file", "/l", "--", "m"]
THEIRS = {"SNAPSHOT_CONTROL_DIR": "/snapshot-control"}


@pytest.mark.parametrize(
    ("protocol", "argv", "environ", "kind"),
    [
        ("auto", WORKER, {}, dynamo.Handshake),
        ("auto", ["serve"], THEIRS, dynamo.Handshake),
        ("auto", ["serve"], {"SNAPSHOT_CONTROL_DIR": ""}, None),
        ("auto", SERVE, {}, None),
        ("auto", SERVER, {}, vllm_snapshot.Handshake),
        ("auto", SERVER, THEIRS, vllm_snapshot.Handshake),
        ("vllm-snapshot", SERVE, {}, vllm_snapshot.Handshake),
        ("vllm-snapshot", SERVER, {}, vllm_snapshot.Handshake),
        ("dynamo", ["./mine.sh"], {}, dynamo.Handshake),
        ("none", WORKER, THEIRS, None),
        ("none", SERVER, {}, None),
        ("vllm-sleep", SERVE, {}, None),
    ],
)
def test_whom_the_launcher_waits_for(protocol, argv, environ, kind):
    found = handshakes.of_pod(protocol, argv, environ, "/run/x")
    assert type(found) is (kind or type(None))
    if kind and protocol != "auto":
        assert handshakes.pauses(argv, protocol)


@pytest.mark.parametrize(
    ("protocol", "directory"), [("auto", "/run/x/control"), ("none", ""), ("dynamo", ""), ("vllm-sleep", "")]
)
def test_an_engine_whose_command_shows_no_handshake_is_offered_one(protocol, directory):
    """A worker behind a script takes it up; for others nothing is lost, nor told."""
    found = handshakes.offered(protocol, "/run/x")
    assert (found.directory if found else "") == directory
    assert not (found and found.early)


def test_the_pods_directory_comes_before_the_launchers_own():
    assert handshakes.of_pod("dynamo", WORKER, THEIRS, "/run/x").directory == "/snapshot-control"
    assert handshakes.of_pod("vllm-snapshot", SERVE, THEIRS, "/run/x").directory == "/snapshot-control"
    assert handshakes.of_pod("auto", WORKER, {}, "/run/x").directory == "/run/x/control"


@pytest.mark.parametrize("name", dynamo.DIRECTORY_VARIABLES)
@pytest.mark.parametrize("given", ["control", "./c", "/a/../b", "~/c", "/c\udcff", "/c\n"])
def test_a_directory_that_no_restoring_pod_would_find_is_refused(name, given):
    with pytest.raises(SettingsError, match=name):
        handshakes.of_pod("auto", WORKER, {name: given}, "/run/x")


@pytest.mark.parametrize(
    "argv",
    [
        ["env", "DYN_SNAPSHOT_CONTROL_DIR=/c", *WORKER],
        ["sh", "-c", "export SNAPSHOT_CONTROL_DIR=/c; exec python3 -m dynamo.vllm"],
        ["SNAPSHOT_RESTORE_STANDBY=1 python3 -m dynamo.vllm"],
    ],
)
def test_a_command_that_no_cold_start_could_come_from_is_refused(argv):
    with pytest.raises(SettingsError, match="the command sets "):
        handshakes.of_pod("auto", argv, {}, "/run/x")


@pytest.mark.parametrize("path", ["r", "/a/../r", "/tmp/$POD/r", "/r\udcff"])
@pytest.mark.parametrize("option", ["--ready-file", "--release-file"])
def test_a_file_that_no_restoring_pod_would_find_is_refused(path, option):
    argv = [path if SERVER[number - 1] == option else word for number, word in enumerate(SERVER)]
    with pytest.raises(SettingsError, match="no absolute paths"):
        handshakes.of_pod("auto", argv, {}, "/run/x")


def test_a_directory_is_known_by_its_plain_name():
    environ = {"DYN_SNAPSHOT_CONTROL_DIR": "/c/./d//"}
    assert handshakes.of_pod("auto", WORKER, environ, "/run/x").directory == "/c/d"


@pytest.mark.parametrize("kind", [dynamo.Handshake("/c"), vllm_snapshot.Handshake("/c/a", "/c/b")])
def test_an_archives_record_brings_the_same_one_back(kind):
    found = handshakes.recorded(kind.facts({}, ()))
    assert type(found) is type(kind)
    assert found.facts({}, ()) == kind.facts({}, ())
    assert handshakes.recorded({}) is None


@pytest.mark.parametrize(
    ("kind", "ready"),
    [
        (dynamo.Handshake("/tmp"), {release.ready for release in dynamo.RELEASES}),
        (vllm_snapshot.Handshake("/tmp/ready", "/tmp/release"), {"ready", "release"}),
    ],
)
def test_its_files_stay_behind_and_not_the_directory_that_they_are_in(kind, ready):
    names = {name.removeprefix("/tmp/") for name in kind.files}
    assert ready < names
    assert all(names)
    assert not any("/" in name for name in names)


@pytest.mark.parametrize(
    "settings",
    [
        {"ready_url": "http://127.0.0.1:8000/health"},
        {"canary": "/canary.json"},
        {"pre_dump": "vllm-sleep"},
        {"pre_dump": "sglang-release:30000"},
    ],
)
def test_what_needs_a_server_is_refused_before_the_start(settings):
    with pytest.raises(SettingsError, match="pauses itself"):
        handshakes.check_settings("worker", **{"ready_url": "", "canary": "", "pre_dump": "", **settings})


@pytest.mark.parametrize("command", ["touch /tmp/x", "vllm-prepare.sh", "sglang-release.sh now"])
def test_a_command_as_pre_dump_is_fine(command):
    handshakes.check_settings("worker", ready_url="", canary="", pre_dump=command)


@pytest.mark.parametrize("has_paused", [False, True])
def test_a_worker_that_is_let_go_before_it_has_paused_may_wait_for_ever(tmp_path, has_paused):
    """ai-dynamo 1.0 wants a signal, and before it pauses nobody knows which release it is."""
    handshake, told = dynamo.Handshake(str(tmp_path)), []
    if has_paused:
        (tmp_path / "ready").write_text("ready")
    log = SimpleNamespace(warning=lambda event, **fields: told.append((event, *fields)))
    handshakes.let_go_or_warn(handshake, {}, WORKER, (), log)
    assert told == ([] if has_paused else [("engine let go before it paused", "hint")])
    assert handshake.release.is_signalled == has_paused
    assert (tmp_path / "restore-complete").exists()


@pytest.mark.parametrize(
    ("argv", "protocol", "does"),
    [
        (WORKER, "", True),
        (SERVER, "auto", True),
        (SERVE, "", False),
        (SERVE, "vllm-snapshot", True),
        (WORKER, "none", False),
        (SERVE, "vllm-sleep", False),
    ],
)
def test_whose_probe_says_nothing_of_a_creation(argv, protocol, does):
    assert handshakes.pauses(argv, protocol) == does


@pytest.mark.parametrize("when", ["prepare_creation", "prepare_restore", "let_go"])
@pytest.mark.parametrize("kind", ["dynamo", "vllm"])
def test_a_link_that_somebody_put_there_leads_nowhere(tmp_path, kind, when):
    """The directory may be one that others write to, as /tmp is."""
    victim, place = tmp_path / "victim", tmp_path / "place"
    victim.write_text("precious")
    place.mkdir()
    ready, release = str(place / "ready"), str(place / "release")
    handshake = dynamo.Handshake(str(place)) if kind == "dynamo" else vllm_snapshot.Handshake(ready, release)
    for name in handshake.files:
        (place / name).symlink_to(victim)
    arguments = ({}, ["vllm", "serve"], ()) if when == "let_go" else ()
    getattr(handshake, when)(*arguments)
    assert victim.read_text() == "precious"
    assert not victim.is_symlink()
