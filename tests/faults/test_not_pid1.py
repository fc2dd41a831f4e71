"""Under another init (shareProcessNamespace, a shell): what the launcher leaves when it ends is nobody's to clean up."""

import os
import shutil
import signal
import time

import pytest
from containers import CREATE, RESTORE
from gate import CREATE_PHASES, GATE, RESTORE_PHASES, TOLD, hold, release, visible
from launcher import COMMAND, NAME, SETTINGS, SIGNAL

#: The container's PID 1: it reaps, says how the launcher ended, and stays.
INIT = """
import os, subprocess, sys, time
launcher = subprocess.Popen(["/opt/dynamo_entry/bin/python", "-m", "dynamo_entry", "--", *sys.argv[1:]])
while True:
    pid, status = os.wait()
    if pid == launcher.pid:
        print("launcher ended with", os.waitstatus_to_exitcode(status), flush=True)
        break
time.sleep(0.5)
while True:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def archive(stored):
    return stored(BALLAST_MIB="16")


def begin(containers, phase, *, create, **settings):
    (containers.checkpoints / "gate").mkdir()
    options = (
        *(CREATE if create else RESTORE), "-v", f"{GATE}/criu:/usr/local/bin/criu:ro",
        "-v", f"{GATE}/at-the-gate:/usr/local/bin/at-the-gate:ro", "--entrypoint", "/usr/bin/python3",
    )  # fmt: skip
    return containers.start(
        "-c", INIT, *COMMAND, options=options, env=phase.get("env"),
        settings={**SETTINGS, **(SIGNAL if create else {}), **phase.get("settings", {}), **settings},
    )  # fmt: skip


def launcher_of(container):
    (found,) = [
        pid
        for pid, line in container.processes().items()
        if "-m dynamo_entry --" in line and "-c" not in line
    ]
    return found


def assert_nothing_but_init(container):
    container.wait(lambda: len(container.processes()) == 1, "end of all but the init", 10)


def assert_no_traces(container, phase):
    """What a restore began in files is taken back: the delta, CRIU's part of it, the engine's context."""
    left = container.run_inside(
        "sh", "-c", "ls -A /tmp; [ ! -d /run/dynamo_entry ] || ls -A /run/dynamo_entry"
    ).split()
    assert not {"undo.json", "journal", "context.json", "ready"} & {*left}, (phase, left)


@pytest.mark.parametrize("phase", RESTORE_PHASES)
def test_a_restore_that_is_called_off_leaves_nothing(side_by_side, archive, phase):
    """Several at once: what is missed only now and then is missed."""
    started = []
    for containers in side_by_side(*range(3)).values():
        shutil.copy(archive, containers.checkpoints / NAME)
        started.append((containers, begin(containers, RESTORE_PHASES[phase], create=False)))
    for containers, container in started:
        hold(container, containers, RESTORE_PHASES[phase])
    for _, container in started:
        os.kill(launcher_of(container), signal.SIGTERM)
    for _, container in started:
        container.wait_for_text("launcher ended with 143", 20)
        assert_nothing_but_init(container)
        assert_no_traces(container, phase)


@pytest.mark.parametrize("phase", CREATE_PHASES)
def test_a_creation_that_is_called_off_leaves_nothing(side_by_side, phase):
    started = [
        (containers, begin(containers, CREATE_PHASES[phase], create=True))
        for containers in side_by_side(*range(2)).values()
    ]
    for containers, container in started:
        hold(container, containers, CREATE_PHASES[phase])
    for _, container in started:
        os.kill(launcher_of(container), signal.SIGTERM)
    for _, container in started:
        container.wait_for_text("launcher ended with", 20)
        assert_nothing_but_init(container)


def hanging(side_by_side, phases, archive=None, **settings):
    """(phase, its container), each of which hangs in it; STALL_TIMEOUT is the one limit that is set."""
    started = []
    for phase, containers in side_by_side(*phases).items():
        if archive:
            shutil.copy(archive, containers.checkpoints / NAME)
        container = begin(containers, phases[phase], create=not archive, STALL_TIMEOUT="1", **settings)
        started.append((phase, container))
    return started


def test_a_restore_that_hangs_leaves_nothing(side_by_side, archive):
    for phase, container in hanging(side_by_side, RESTORE_PHASES, archive, ON_FAILURE="fail"):
        container.wait_for_text("launcher ended with 180", 30)
        assert_nothing_but_init(container)
        assert container.event("Restore failed")["phase"] == TOLD.get(phase, phase)


def test_a_creation_that_hangs_leaves_nothing(side_by_side):
    """Readiness and PRE_DUMP have limits of their own."""
    phases = {phase: held for phase, held in CREATE_PHASES.items() if phase not in ("wait-ready", "pre-dump")}
    for phase, container in hanging(side_by_side, phases, AFTER_DUMP="exit"):
        container.wait_for_text("launcher ended with " + ("0" if phase == "written" else "174"), 30)
        assert_nothing_but_init(container)


def left_beside_init(container):
    """What runs besides the container's init; the gate is the test's own and waits for nobody."""
    lines = container.processes().values()
    return sorted(line.strip() for line in lines if "while True" not in line and "at-the-gate" not in line)


def killed(side_by_side, phases, archive=None):
    """(phase, place, container) whose launcher was killed in it."""
    started = []
    for phase, containers in side_by_side(*phases).items():
        if archive:
            shutil.copy(archive, containers.checkpoints / NAME)
        started.append((phase, containers, begin(containers, phases[phase], create=not archive)))
    for phase, containers, container in started:
        hold(container, containers, phases[phase])
        os.kill(launcher_of(container), signal.SIGKILL)
    return started


def test_a_launcher_that_is_killed_in_a_restore_leaves_nothing(side_by_side, archive):
    """Nobody supervises what it began: its worker ends that, and takes the delta back."""
    for phase, _, container in killed(side_by_side, RESTORE_PHASES, archive):
        container.wait_for_text("launcher ended with -9", 20)
        container.wait(
            lambda container=container: not left_beside_init(container), f"end of all in {phase}", 15
        )
        assert "Traceback" not in container.stderr
        assert_no_traces(container, phase)


#: A hook that holds the launcher, and lets it go on.
HELD = {"settings": {"POST_RESTORE": "mkfifo /checkpoints/gate/hook; read word </checkpoints/gate/hook"}}


def stopped_before_it_hears(containers, archive):
    """(container, launcher): the launcher is stopped while its worker's last word is on its way."""
    shutil.copy(archive, containers.checkpoints / NAME)
    container = begin(containers, HELD, create=False)
    hold(container, containers, HELD)
    launcher = launcher_of(container)
    os.kill(launcher, signal.SIGSTOP)
    release(containers)
    container.wait_for_event("settle")
    time.sleep(0.5)
    return container, launcher


def test_a_launcher_that_is_killed_before_it_has_heard_that_its_engine_is_restored(containers, archive):
    """Nobody would ever supervise the engine."""
    container, launcher = stopped_before_it_hears(containers, archive)
    os.kill(launcher, signal.SIGKILL)
    container.wait_for_text("launcher ended with -9", 20)
    container.wait(lambda: not left_beside_init(container), "end of all", 15)
    assert_no_traces(container, "settle")


def test_a_launcher_that_has_heard_it_keeps_its_engine_although_the_worker_is_killed(containers, archive):
    container, launcher = stopped_before_it_hears(containers, archive)
    (worker,) = [pid for pid, line in container.processes().items() if "dynamo_entry.worker" in line]
    os.kill(worker, signal.SIGKILL)
    os.kill(launcher, signal.SIGCONT)
    container.wait_for_event("Restored")
    assert container.json("/health", limit_s=10) == {"status": "ok"}


def test_a_launcher_that_is_killed_in_a_creation_leaves_its_engine(side_by_side):
    """As any init does: it is thawed and serves. Where the archive was published, the engine is CRIU's to end."""
    phases = {phase: held for phase, held in CREATE_PHASES.items() if phase not in ("prepare", "written")}
    for phase, containers, container in killed(side_by_side, phases):
        container.wait_for_text("launcher ended with -9", 20)
        container.wait(
            lambda container=container: left_beside_init(container) == ["python3 /tiny.py"],
            f"end of all but the engine in {phase}", 20,
        )  # fmt: skip
        assert container.json("/health", limit_s=10) == {"status": "ok"}
        assert "Traceback" not in container.stderr
        assert visible(containers) == []
