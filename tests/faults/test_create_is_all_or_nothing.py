"""Whatever happens during a creation: a whole archive is visible or none, and the engine is never left frozen."""

import os
import random
import signal
import time

import pytest
from containers import CREATE, LEAST
from launcher import NAME, assert_all_or_nothing, create, published, restored, worker_of


def test_no_dump_under_a_seccomp_profile(containers):
    """Refused before the engine is started, with the line of the pod spec that mends it."""
    container = create(containers, options=LEAST)
    assert container.exit_code() == 171
    event = container.event("Checkpoint not created")
    assert event["reason"] == "SeccompProfile"
    assert "Unconfined" in event["message"]
    assert "tiny: listening" not in container.stdout


def test_no_dump_without_the_capabilities(containers):
    container = create(containers, options=("--cap-drop", "ALL", "--security-opt", "seccomp=unconfined"))
    assert container.exit_code() == 171
    assert "SYS_PTRACE" in container.event("Checkpoint not created")["message"]


def test_an_engine_that_ends_before_it_is_ready(containers):
    container = create(containers, command=("sh", "-c", "exit 3"))
    assert container.exit_code() == 172
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["engine_code"], event["phase"]) == ("EngineEnded", 3, "wait-ready")


def test_an_engine_that_is_never_ready(containers):
    container = create(containers, settings={"SIGNAL_TIMEOUT": "1"}, env={"READY_DELAY": "60"})
    assert container.exit_code() == 173
    assert container.event("Checkpoint not created")["reason"] == "NotReady"


def test_waiting_for_an_engine_or_a_hook_is_not_hanging(side_by_side):
    """They take minutes, and have limits of their own; STALL_TIMEOUT is for what should move."""
    places = side_by_side("ready", "hook", "never", "deadline")
    slow = {
        "ready": create(places["ready"], settings={"STALL_TIMEOUT": "1"}, env={"READY_DELAY": "8"}),
        "hook": create(places["hook"], settings={"STALL_TIMEOUT": "1", "PRE_DUMP": "sleep 8"}),
        "never": create(
            places["never"],
            settings={"STALL_TIMEOUT": "0", "SIGNAL_TIMEOUT": "99999999", "PRE_DUMP": "sleep 8"},
        ),
    }
    late = create(places["deadline"], settings={"SIGNAL_TIMEOUT": "5", "PRE_DUMP": "sleep 60"})
    assert late.exit_code() == 174
    event = late.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("HookFailed", "pre-dump")
    for container in slow.values():
        assert container.exit_code() == 0, container.output()


def test_a_command_that_does_not_exist(containers):
    container = create(containers, command=("nonesuch",))
    assert container.exit_code() == 127
    event = container.event("Checkpoint not created")
    assert "nonesuch" in event["message"] and event["retry"] is False


def test_what_is_no_archive_is_not_overwritten(containers):
    """Somebody else's file at the location: said before the engine is started, and replaced only when asked to."""
    path = containers.checkpoints / NAME
    path.write_text("precious")
    container = create(containers)
    assert container.exit_code() == 174
    assert container.event("Checkpoint not created")["reason"] == "LocationTaken"
    assert path.read_text() == "precious"
    assert "tiny: listening" not in container.stdout
    published(containers, settings={"FORCE": "1"})
    assert assert_all_or_nothing(containers)


def test_a_stale_signal_file_is_not_believed(containers):
    container = create(
        containers,
        settings={"SIGNAL_FILE": "/checkpoints/ready", "SIGNAL_TIMEOUT": "1"},
        env={"READY_DELAY": "30"},
    )
    (containers.checkpoints / "ready").touch()
    assert container.exit_code() == 173


def test_sigterm_while_dumping_thaws_and_ends_the_engine(containers):
    container = create(containers, env={"BALLAST_MIB": "600"})
    container.wait_for_event("freeze")
    began = time.monotonic()
    container.signal(signal.SIGTERM)
    code = container.exit_code(20)
    assert time.monotonic() - began < 6
    if assert_all_or_nothing(containers):
        assert code == 0
    else:
        assert "tiny: terminated" in container.stdout, container.output()
        assert list(containers.checkpoints.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(containers):
    options = (*CREATE, "--tmpfs", "/small:size=16m")
    container = create(
        containers, options=options, env={"BALLAST_MIB": "64"},
        settings={"LOCATION": f"/small/{NAME}", "PATH": f"/small/{NAME}", "AFTER_DUMP": "continue"},
    )  # fmt: skip
    event = container.wait_for_event("Checkpoint not created")
    assert "space" in event["message"]
    assert container.json("/health") == {"status": "ok"}, "the engine goes on"
    assert container.run_inside("ls", "-A", "/small") == ""


#: Half a second and more of a dump, and moments in it that are others in every run.
BALLAST_MIB, SEED = 600, time.time_ns()


@pytest.mark.parametrize("victim", ["worker", "criu", "launcher"])
def test_kill_9_never_leaves_half_an_archive(containers, victim):
    """At any moment, where test_matrix has one of each phase; and the engine that is to go on does."""
    moment_s = random.Random(f"{SEED} {victim}").uniform(0, 0.2)
    print(f"SEED = {SEED}: killed {moment_s:.3f} s after it was seen")
    container = create(
        containers,
        env={"BALLAST_MIB": str(BALLAST_MIB)},
        settings={"AFTER_DUMP": "continue", "COMPRESSION": "none"},
    )
    names = {"worker": "dynamo_entry.worker", "criu": "criu dump", "launcher": "-m dynamo_entry"}

    def found():
        return [
            pid for pid, line in container.processes().items()
            if names[victim] in line and ("worker" in line) == (victim == "worker")
        ]  # fmt: skip

    container.wait_for_event("freeze")
    container.wait(found, victim)
    time.sleep(moment_s)
    killed = found()
    assert killed, "it ended before the moment had come"
    os.kill(killed[0], signal.SIGKILL)
    if victim == "launcher":
        container.exit_code()
    else:
        container.wait_for_text("Checkpoint ")
        assert container.json("/health", limit_s=10) == {"status": "ok"}, container.output()
        container.signal(signal.SIGTERM)
        assert container.exit_code(15) == 0, container.output()
    if assert_all_or_nothing(containers):
        restored(containers).get("/health")
    else:
        published(containers)
        assert [path.name for path in containers.checkpoints.iterdir()] == [NAME], "what was left is swept"


def test_a_hanging_worker_is_ended_and_the_engine_goes_on(containers):
    container = create(
        containers, env={"BALLAST_MIB": "400"}, settings={"AFTER_DUMP": "continue", "STALL_TIMEOUT": "1"}
    )
    container.wait_for_event("freeze")
    os.kill(worker_of(container), signal.SIGSTOP)
    container.wait_for_event("Checkpoint not created", limit_s=30)
    assert container.json("/health") == {"status": "ok"}
    own, engines = (container.run_inside("grep", "Max locked", f"/proc/{pid}/limits") for pid in (1, 1000))
    assert own == engines, "it may lock memory again"
    assert not assert_all_or_nothing(containers)
