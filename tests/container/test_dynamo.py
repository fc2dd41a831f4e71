"""Workers that speak Dynamo's handshake, of three releases: frozen paused, restored with the new pod's identity."""

import os
import signal

import pytest
from containers import CREATE, RESTORE, ROOT
from launcher import FALLBACK, NAME, SETTINGS, worker_of

DOUBLE = ROOT / "tests" / "support" / "dynamo_double"
COMMAND = ("env", "PYTHONPATH=/double", "python3", "-m", "dynamo.vllm", "--model", "none")
#: As in a script: nobody can tell by the command.
HIDDEN = ("sh", "-c", 'what=dynamo.vllm; PYTHONPATH=/double python3 -m "$what" --model none; true')
CONTROL = "/run/dynamo_entry/control"
PORT = 9090

#: What NVIDIA's operator and node agent put into restoring pods; with any of it a cold worker would wait for ever.
THEIRS = {"DYN_SNAPSHOT_CONTROL_DIR": "/snapshot-control", "SNAPSHOT_RESTORE_STANDBY": "1"}


@pytest.fixture
def start(containers):
    def start(options, *, env=None, volumes=(), command=COMMAND, **settings):
        return containers.start(
            *command, options=options, settings={**SETTINGS, **settings},
            env={"DYN_SYSTEM_PORT": str(PORT), "POD_UID": "the-creator", **(env or {})},
            volumes=(f"{DOUBLE}:/double:ro", *volumes),
        )  # fmt: skip

    return start


@pytest.fixture
def published(start):
    def published(**kwargs):
        creator = start(CREATE, MODE="create", **kwargs)
        assert creator.exit_code() == 0, creator.output()
        assert creator.event("Checkpoint published"), creator.output()
        assert "worker: registered" not in creator.stdout
        return creator

    return published


def identity(container):
    return container.json("/identity", port=PORT)


@pytest.mark.parametrize("release", ["1.0", "1.1", "1.6"])
def test_two_replicas_of_one_paused_worker(start, published, release):
    """Without SIGNAL_FILE and READY_URL: the worker says when it is ready, and goes on when its GPU is back."""
    creator = published(env={"RELEASE": release, "DYN_NAMESPACE": "old"})
    found = []
    for uid in ("first", "second"):
        container = start(RESTORE, env={"RELEASE": release, "POD_UID": uid})
        container.wait_for_event("Restored")
        found.append(identity(container))
    assert [one["was_paused"] for one in found] == [True, True]
    assert {one["nonce"] for one in found} == {found[0]["nonce"]}
    assert found[0]["nonce"] in creator.stdout
    if release == "1.6":
        assert [one["env"]["POD_UID"] for one in found] == ["first", "second"]
        assert "DYN_NAMESPACE" not in found[0]["env"], "what the new pod has not is cleared"


def test_what_a_pod_withholds_from_its_worker_is_not_in_its_new_identity(start, published):
    published()
    container = start(RESTORE, env={"POD_UID": "new", "DYN_COMPONENT": "ours"}, DROP_ENV="DYN_COMPONENT")
    container.wait_for_event("Restored")
    env = identity(container)["env"]
    assert env["POD_UID"] == "new"
    assert "DYN_COMPONENT" not in env


def test_what_a_workers_command_sets_itself_stays(start, published):
    """As at a cold start, and as NVIDIA's own scripts do it; the pod knows nothing of it."""
    command = (
        "sh",
        "-c",
        "DYN_NAMESPACE=mine DYN_SYSTEM_PORT=9090 PYTHONPATH=/double python3 -m dynamo.vllm; true",
    )
    published(command=command, env={"DYN_SYSTEM_PORT": "1"})
    container = start(RESTORE, command=command, env={"DYN_SYSTEM_PORT": "2", "POD_UID": "new"})
    container.wait_for_event("Restored")
    env = identity(container)["env"]
    assert (env["DYN_NAMESPACE"], env["DYN_SYSTEM_PORT"], env["POD_UID"]) == ("mine", "9090", "new")


@pytest.mark.parametrize("release", ["1.0", "1.1"])
def test_a_worker_of_an_old_release_is_waited_for_where_it_listens(start, published, release):
    """At the port of the pod that created the archive: it takes no other one."""
    published(env={"RELEASE": release})
    container = start(RESTORE, env={"RELEASE": release, "DYN_SYSTEM_PORT": "9191"})
    container.wait_for_event("Restored")
    assert identity(container)["was_paused"]


def test_the_signal_file_of_nvidias_guide_does_no_harm(published):
    """No release creates it: the guide's own YAML works all the same."""
    published(SIGNAL_FILE="/tmp/ready")


@pytest.mark.parametrize("release", ["1.0", "1.1", "1.6"])
def test_a_worker_behind_a_script_pauses_as_any_other(start, published, release):
    """Its command shows nothing, but it takes up the handshake; else it would register, and nobody would say that it is ready."""
    published(command=HIDDEN, SIGNAL_FILE="/tmp/ready", env={"RELEASE": release})
    container = start(RESTORE, command=HIDDEN, env={"RELEASE": release})
    container.wait_for_event("Restored")
    assert identity(container)["was_paused"]


def test_a_worker_behind_a_script_has_no_server_to_ask_either(start, tmp_path):
    (tmp_path / "canary").write_text('{"url": "http://127.0.0.1:9090/identity", "compare": ["nonce"]}')
    container = start(
        CREATE, MODE="create", command=HIDDEN, SIGNAL_FILE="/tmp/ready", CANARY="/canary",
        volumes=(f"{tmp_path}/canary:/canary:ro",),
    )  # fmt: skip
    assert container.exit_code() == 170
    assert "CANARY" in container.event("Checkpoint not created")["message"]


@pytest.mark.parametrize(
    "settings", [{}, {"command": HIDDEN, "SIGNAL_FILE": "/tmp/ready"}], ids=["shown", "hidden"]
)
def test_a_worker_that_is_to_serve_on_is_let_go(start, settings):
    container = start(CREATE, MODE="create", AFTER_DUMP="continue", **settings)
    container.wait_for_event("Checkpoint published")
    assert identity(container)["env"]["POD_UID"] == "the-creator"


def test_a_worker_whose_creation_fails_is_let_go(start):
    container = start(CREATE, MODE="create", AFTER_DUMP="continue", PRE_DUMP="exit 3")
    container.wait_for_event("Checkpoint not created")
    assert identity(container)["was_paused"]


@pytest.mark.parametrize(
    "settings", [{}, {"command": HIDDEN, "SIGNAL_FILE": "/tmp/ready"}], ids=["shown", "hidden"]
)
def test_a_worker_is_let_go_although_the_launchers_helper_is_lost(start, settings):
    container = start(CREATE, MODE="create", AFTER_DUMP="continue", PRE_DUMP="sleep 60", **settings)
    container.wait_for_event("dynamo worker paused")
    os.kill(worker_of(container), signal.SIGKILL)
    container.wait_for_event("Checkpoint not created")
    assert identity(container)["was_paused"]


@pytest.mark.parametrize("release", ["1.0", "1.6"])
def test_a_worker_whose_archive_is_there_already_serves_at_once(start, published, release):
    """Nobody would wake it, had it paused."""
    published(env={"RELEASE": release})
    theirs = {**THEIRS, "DYN_READY_FOR_CHECKPOINT_FILE": "/tmp/ready"}
    container = start(CREATE, MODE="create", AFTER_DUMP="continue", env={"RELEASE": release, **theirs})
    assert not identity(container)["was_paused"]
    assert container.event("Checkpoint exists already")


@pytest.mark.parametrize("release", ["1.0", "1.6"])
def test_a_cold_start_in_place_of_a_restore_does_not_wait(start, published, containers, release):
    published(env={"RELEASE": release})
    path = containers.checkpoints / NAME
    path.write_bytes(path.read_bytes()[:-100_000])
    theirs = {**THEIRS, "DYN_READY_FOR_CHECKPOINT_FILE": "/tmp/ready"}
    container = start(RESTORE, env={"RELEASE": release, **theirs})
    found = identity(container)
    assert container.event(FALLBACK)
    assert not found["was_paused"]
    assert not found["env"].keys() & theirs.keys()


def test_without_a_checkpoint_nvidias_variables_are_left_alone(containers):
    """The pod may be the source of NVIDIA's own snapshot."""
    container = containers.start("sh", "-c", "echo $DYN_SNAPSHOT_CONTROL_DIR; echo there", env=THEIRS)
    assert container.exit_code() == 0
    assert container.stdout == "/snapshot-control\nthere\n"


def test_a_directory_of_the_pod_with_what_an_earlier_container_left(start, published, tmp_path):
    """An emptyDir outlives containers; a stale restore-complete would wake the worker too early."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "restore-complete").write_text("done")
    env, volumes = (
        {"DYN_SNAPSHOT_CONTROL_DIR": "/snapshot-control"},
        (f"{tmp_path}/control:/snapshot-control",),
    )
    published(env=env, volumes=volumes)
    (tmp_path / "control" / "restore-complete").write_text("done")
    (tmp_path / "control" / "restore-context.json").write_text('{"env": {"POD_UID": "stale"}}')
    container = start(RESTORE, env={**env, "POD_UID": "new"}, volumes=volumes)
    container.wait_for_event("Restored")
    assert identity(container)["env"]["POD_UID"] == "new"


def test_what_needs_a_server_is_refused_before_the_start(start):
    container = start(CREATE, MODE="create", READY_URL="http://127.0.0.1:9090/health")
    assert container.exit_code() == 170
    assert "READY_URL" in container.event("Checkpoint not created")["message"]
    assert "worker: loaded" not in container.stdout


def test_an_engine_that_says_nothing_by_itself_needs_a_way_to(start):
    container = start(CREATE, command=("sleep", "60"), MODE="create")
    assert container.exit_code() == 170
    assert "SIGNAL_FILE" in container.event("Checkpoint not created")["message"]
