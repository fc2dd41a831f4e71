"""Nothing is left behind: orphans are reaped while the engine runs, and what it leaves running is ended."""

import os
import signal
import subprocess
import time

import pytest
from launchers import LAUNCHER
from processes import children, state, wait_until


def no_zombies(pid, engine):
    return children(pid) == [engine]


@pytest.mark.parametrize("count", [1, 2000])
def test_orphans_are_reaped_of_whatever_group(start, probe, count):
    run = start(probe, "orphans", str(count))
    run.wait_for_line("e0")
    assert f"orphans {count}" in run.lines
    engine = children(run.pid)[0]
    wait_until(lambda: no_zombies(run.pid, engine), f"end of the zombies {children(run.pid)}")
    run.signal(signal.SIGRTMAX)
    assert run.exit_code() == 0


def test_the_launcher_ends_with_the_engine_while_orphans_go_on(start):
    began = time.monotonic()
    run = start("sh", "-c", "setsid sleep 600 & exit 5")
    assert run.exit_code() == 5
    assert time.monotonic() - began < 10


def test_what_is_left_gets_term(start, probe):
    run = start(probe, "leave", "polite", settings={"STOP_GRACE": "20"})
    began = time.monotonic()
    assert run.exit_code() == 7
    assert time.monotonic() - began < 10, "the grace period is not waited for when nothing is left"
    assert "got 15" in run.lines


def test_what_is_left_and_stopped_is_woken_to_get_term(start, probe):
    run = start(probe, "leave", "stopped", settings={"STOP_GRACE": "20"})
    assert run.exit_code() == 7
    assert "got 15" in run.lines


def test_what_ignores_term_is_killed_after_the_grace_period(start, probe):
    began = time.monotonic()
    run = start(probe, "leave", "deaf", settings={"STOP_GRACE": "1.5"})
    assert run.exit_code() == 7
    assert 1.5 <= time.monotonic() - began < 10


def test_no_grace_period_kills_at_once(start, probe):
    began = time.monotonic()
    assert start(probe, "leave", "deaf", settings={"STOP_GRACE": "0"}).exit_code() == 7
    assert time.monotonic() - began < 3


def test_a_signal_during_the_grace_period_reaches_what_is_left(start):
    script = """sh -c 'trap "echo got it; kill -9 \\$\\$" USR1; trap "echo term" TERM; echo left; while :; do sleep 0.05; done' & sleep 0.3; exit 4"""
    run = start("sh", "-c", script, settings={"STOP_GRACE": "20"})
    run.wait_for_line("term")
    run.signal(signal.SIGUSR1)
    assert run.exit_code(10) == 4
    assert "got it" in run.lines


def test_nothing_survives_a_launcher_that_is_not_pid_1(probe, installed, tmp_path):
    """Where no kernel ends the namespace together with the launcher, the launcher has to end it."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "DYNAMO_CHECKPOINT_STOP_GRACE": "0.1"}
    with (tmp_path / "output").open("w+") as output:  # of a pipe we would wait for the end
        argv = (*LAUNCHER.group, probe, "leave", "deaf")
        assert subprocess.run(argv, env=environment, stdout=output, timeout=30, check=False).returncode == 7
        output.seek(0)
        left = int(output.read().split()[1])
    try:
        assert state(left) in ("", "Z")
    finally:
        try:
            os.kill(left, signal.SIGKILL)
        except ProcessLookupError:
            pass
