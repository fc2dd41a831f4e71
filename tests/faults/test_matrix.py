"""Every phase and every way to be interrupted: the pod serves or exits as configured, nothing is half-published, and
nothing is left behind.

A phase is held where it is by a CRIU that waits (``gate/criu``), an engine that does not get ready, or a hook that
does not return; then the fault comes. What the system refuses in each phase, and short reads: test_matrix_errors.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from containers import CREATE
from gate import (
    CREATE_PHASES,
    GATE,
    LIMITS,
    RESTORE_PHASES,
    TOLD,
    assert_clean,
    assert_hidden,
    begin,
    faults,
    held,
    hold,
    kill,
    status,
    visible,
)
from launcher import COMMAND, FALLBACK, NAME, assert_all_or_nothing, create, restore

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]

#: The tiny engine's own end: a handler for SIGTERM, Python's for SIGINT, none for the others.
ENGINE_CODE = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGQUIT: 131}


@pytest.fixture(scope="module")
def archive(stored):
    """Made once for all restores."""
    return stored(BALLAST_MIB="16")


def signalled(started, limit_s):
    """Send each container the signal that is its key: the same with the exit code, which all have in time."""
    began = time.monotonic()
    for number, _, container in started:
        container.signal(number)
    for number, containers, container in started:
        code = container.exit_code(20)
        assert time.monotonic() - began < limit_s, container.output()
        yield number, containers, container, code


@pytest.mark.parametrize("phase", CREATE_PHASES)
def test_a_signal_calls_a_creation_off(side_by_side, phase):
    """The engine gets it and its exit code is the container's; without an engine it is the launcher's own end."""
    started = held(side_by_side(*SIGNALS), create, CREATE_PHASES[phase])
    for number, containers, container, code in signalled(started, limit_s=10):
        if phase == "written":  # the archive is safe: ending the engine was all that was left to do
            assert code == 0, container.output()
            assert container.event("Checkpoint published")
            assert assert_all_or_nothing(containers)
        else:
            assert code == (128 + number if phase == "prepare" else ENGINE_CODE[number]), container.output()
            assert visible(containers) == [], container.output()
            told = status(containers)
            assert (told["result"], told["phase"]) == ("failed", TOLD.get(phase, phase))
            assert told["seconds"][TOLD.get(phase, phase)] >= 0


@pytest.mark.parametrize("phase", RESTORE_PHASES)
def test_a_signal_ends_a_restore(side_by_side, archive, phase):
    """At once, half-restored tasks and all."""
    started = held(side_by_side(*SIGNALS), restore, RESTORE_PHASES[phase], archive)
    for number, containers, container, code in signalled(started, limit_s=5):
        assert code == 128 + number, container.output()
        assert FALLBACK not in container.stderr
        assert visible(containers) == [NAME]
        told = status(containers)
        assert (told["reason"], told["phase"]) == ("CalledOff", TOLD.get(phase, phase))


@pytest.mark.parametrize("phase", CREATE_PHASES)
def test_an_engine_goes_on_when_its_creation_fails(side_by_side, phase):
    """The one that was started, or a new one where the creation failed before that."""
    started = held(
        side_by_side(*faults(phase)), create, CREATE_PHASES[phase], then=kill, AFTER_DUMP="continue"
    )
    for fault, containers, container in started:
        container.wait_for_text("Checkpoint ", limit_s=30)
        assert container.json("/health", limit_s=10) == {"status": "ok"}, container.output()
        if fault in LIMITS:
            # The worker, unless it is stopped, knows how long letting the engine go may take; PID 1 knows the others.
            told = (
                "CRIU did not release the engine"
                if (phase, fault) == ("written", "hangs")
                else "worker hangs"
            )
            assert container.event(told), container.output()
        assert_clean(container)
        if phase == "written":
            assert container.event("Checkpoint published"), container.output()
            assert assert_all_or_nothing(containers)
        elif fault in ("worker", "stops"):
            assert_hidden(containers)
        else:
            assert visible(containers) == [], container.output()


@pytest.mark.parametrize("phase", RESTORE_PHASES)
def test_a_restore_that_fails_is_a_cold_start(side_by_side, archive, phase):
    started = held(side_by_side(*faults(phase)), restore, RESTORE_PHASES[phase], archive, then=kill)
    for _, _, container in started:
        container.wait_for_event(FALLBACK, limit_s=60)  # settle has five times STALL_TIMEOUT
        container.wait_for_text(
            container.json("/state", limit_s=10)["nonce"]
        )  # the engine that was started cold
        assert_clean(container)


def held_in_each(places, start, phases, archive=None, **settings):
    """Phase → its place and a container that is held in it."""
    started = {}
    for phase, containers in places.items():
        if archive is not None:
            shutil.copy(archive, containers.checkpoints)
        started[phase] = containers, begin(containers, start, phases[phase], **settings)
    for phase, (containers, container) in started.items():
        hold(container, containers, phases[phase])
    return started


@pytest.mark.parametrize("victim", ["worker", "criu"])
def test_a_creation_that_fails_exits_with_its_code(side_by_side, victim):
    """AFTER_DUMP=exit, which is the default. Once the archive is there the creation has succeeded."""
    phases = [phase for phase in CREATE_PHASES if victim in faults(phase)]
    started = held_in_each(side_by_side(*phases), create, CREATE_PHASES)
    for _, container in started.values():
        kill(container, victim)
    for phase, (containers, container) in started.items():
        expected = {"written": 0, "prepare": 171 if victim == "criu" else 174}.get(phase, 174)
        assert container.exit_code(30) == expected, container.output()
        assert assert_all_or_nothing(containers) == (phase == "written")
        assert status(containers)["result"] == ("published" if phase == "written" else "failed")


@pytest.mark.parametrize("victim", ["worker", "criu"])
def test_a_restore_that_fails_exits_with_its_code(side_by_side, archive, victim):
    """ON_FAILURE=fail: nothing is started in its place."""
    phases = [phase for phase in RESTORE_PHASES if victim in faults(phase)]
    started = held_in_each(side_by_side(*phases), restore, RESTORE_PHASES, archive, ON_FAILURE="fail")
    for _, container in started.values():
        kill(container, victim)
    for phase, (containers, container) in started.items():
        assert container.exit_code(30) == 180, container.output()
        assert "tiny: listening" not in container.stdout
        told = status(containers)
        assert (told["result"], told["phase"]) == ("failed", TOLD.get(phase, phase)), told
        assert visible(containers) == [NAME]


#: With these CRIU, and the launcher, may mount and make namespaces.
MAY_MOUNT = ("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_TIME")


def mount_points(container):
    lines = Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines)


def test_no_mount_is_left_behind(side_by_side, archive):
    """Where there is the right to mount, as there is for a clock that goes on."""
    frozen, rebuilt, untouched = side_by_side("frozen", "rebuilt", "untouched").values()
    shutil.copy(archive, rebuilt.checkpoints)
    plain = untouched.start(*COMMAND, options=(*CREATE, *MAY_MOUNT, "-v", f"{GATE}/criu:/usr/local/bin/criu:ro",
                                               "-v", f"{GATE}/at-the-gate:/usr/local/bin/at-the-gate:ro"))  # fmt: skip
    started = [
        (phase, containers, begin(containers, start, phase, MAY_MOUNT, AFTER_DUMP="continue"))
        for phase, containers, start in (
            (CREATE_PHASES["frozen"], frozen, create), (RESTORE_PHASES["rebuilt"], rebuilt, restore)
        )
    ]  # fmt: skip
    for phase, containers, container in started:
        hold(container, containers, phase)
        kill(container, "worker")
    for _, _, container in started:
        assert container.json("/health", limit_s=20) == {"status": "ok"}
        assert_clean(container)
        assert mount_points(container) == mount_points(plain)
        assert container.run_inside("sh", "-c", "ls -A /tmp /var/tmp | grep -i criu || true") == ""


def test_an_engine_that_dies_is_told_with_the_phase(side_by_side):
    """A Job retries it; nothing is published. Once the archive is there, the engine's end is what was wanted."""
    phases = [phase for phase in CREATE_PHASES if phase != "prepare"]
    started = [
        (phase, *held({phase: containers}, create, CREATE_PHASES[phase])[0][1:])
        for phase, containers in side_by_side(*phases).items()
    ]
    for phase, containers, container in started:
        engine = next(
            pid for pid, line in container.processes().items() if line.startswith("python3 /tiny.py")
        )
        os.kill(engine, signal.SIGKILL)
        if phase in ("dump", "frozen", "written"):  # CRIU stands still, and would for ever
            kill(container, "criu")
        code = container.exit_code(30)
        if phase == "written":
            assert code == 0, container.output()
            assert assert_all_or_nothing(containers)
            continue
        assert code == 172, container.output()
        event = container.event("Checkpoint not created")
        told = "dump" if phase == "frozen" else phase
        assert (event["reason"], event["engine_code"], event["phase"]) == ("EngineEnded", 137, told), event
        assert visible(containers) == []


@pytest.mark.parametrize("phase", ["dump", "frozen"])
def test_an_engine_that_takes_long_to_die_is_waited_for(containers, phase):
    """Its memory goes back first: the end of CRIU, and with it of the creation, is known before its own."""
    heavy = {"BALLAST_MIB": "1536", "BALLAST_FILL": "text"}
    at_the_gate = {"env": {**CREATE_PHASES[phase]["env"], **heavy}}
    [(_, _, container)] = held({phase: containers}, create, at_the_gate)
    [engine] = [pid for pid, line in container.processes().items() if line.startswith("python3 /tiny.py")]
    os.kill(engine, signal.SIGKILL)
    kill(container, "criu")
    assert container.exit_code(30) == 172, container.output()
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["engine_code"]) == ("EngineEnded", 137), event


def test_a_killed_launcher_leaves_nothing_half_made(side_by_side):
    """It is PID 1: the kernel ends the rest. The archive is whole or not there, what was written of it is hidden."""
    started = held_in_each(side_by_side(*CREATE_PHASES), create, CREATE_PHASES)
    for phase, (containers, container) in started.items():
        container.signal(signal.SIGKILL)
        assert container.exit_code(20) == 137
        assert assert_all_or_nothing(containers) == (phase == "written")
        assert_hidden(containers)


def test_a_killed_launcher_ends_a_restore_and_the_archive_stays(side_by_side, archive):
    started = held_in_each(side_by_side(*RESTORE_PHASES), restore, RESTORE_PHASES, archive)
    for containers, container in started.values():
        container.signal(signal.SIGKILL)
        assert container.exit_code(20) == 137
        assert visible(containers) == [NAME]
