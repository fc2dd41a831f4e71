"""Every signal reaches the engine, at once, and none is lost.

What may coalesce: a signal below SIGRTMIN that is sent again while the first is still pending (signal(7)). The kernel
does that to any process; real-time signals queue, and are counted here.
"""

import os
import random
import signal
import time
from collections import Counter

import pytest
from processes import children, signal_set, state, status, wait_until

RTMIN, RTMAX = int(signal.SIGRTMIN), int(signal.SIGRTMAX)

#: Cannot be caught; tells of the launcher's own children; mean that the process that gets them is broken.
NEVER_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
STOPPING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
PLAIN = sorted(int(number) for number in range(1, 32) if number not in NEVER_FORWARDED | FAULTS | STOPPING)
REAL_TIME = range(RTMIN, RTMAX)


def counts(run, who="e"):
    return Counter(int(line[1:]) for line in run.lines if line[:1] == who and line[1:].isdecimal())


def end(run):
    run.signal(RTMAX)
    assert run.exit_code() == 0


def test_every_plain_signal_is_forwarded_by_its_number(start, probe):
    run = start(probe, "signals")
    run.wait_for_line("e0")
    for number in PLAIN:
        run.signal(number)
        run.wait_for_line(f"e{number}")
    end(run)
    assert counts(run) == Counter([0, *PLAIN, RTMAX])


def test_every_real_time_signal_is_forwarded_by_its_number(start, probe):
    run = start(probe, "signals")
    run.wait_for_line("e0")
    for number in REAL_TIME:
        run.signal(number)
        run.wait_for_line(f"e{number}")
    end(run)


@pytest.mark.parametrize(("target", "reached"), [("group", {"e", "g"}), ("engine", {"e"})])
def test_the_group_gets_it_or_the_engine_alone(start, probe, target, reached):
    run = start(probe, "signals", "group", target=target)
    for who in "ego":
        run.wait_for_line(f"{who}0")
    run.signal(signal.SIGUSR1)
    run.wait_for_line(f"e{signal.SIGUSR1:d}")
    wait_until(
        lambda: {who for who in "ego" if counts(run, who)[signal.SIGUSR1]} == reached, f"{reached} only"
    )
    for pid in children(run.engine):
        os.kill(pid, signal.SIGUSR2)
    for who in "go":
        run.wait_for_line(
            f"{who}{signal.SIGUSR2:d}"
        )  # a later one, and of a higher number: it comes after the other
    assert {who for who in "ego" if counts(run, who)[signal.SIGUSR1]} == reached


def test_a_burst_of_different_signals_arrives_whole(start, probe):
    run = start(probe, "signals")
    run.wait_for_line("e0")
    for number in PLAIN:
        run.signal(number)
    for number in PLAIN:
        run.wait_for_line(f"e{number}")
    end(run)


def test_a_burst_of_real_time_signals_is_counted_exactly(start, probe):
    run = start(probe, "signals")
    run.wait_for_line("e0")
    numbers = [RTMIN, RTMIN + 1, RTMAX - 1]
    for _ in range(300):
        for number in numbers:
            run.signal(number)
    wait_until(lambda: sum(counts(run)[number] for number in numbers) >= 900, "900 signals")
    end(run)
    assert [counts(run)[number] for number in numbers] == [300, 300, 300]


def is_attentive(run, number):
    """It catches signals, keeps them pending, or is so far already that there is an engine."""
    return number in signal_set(run.pid, "SigCgt") | signal_set(run.pid, "SigBlk") or children(run.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, RTMIN])
def test_a_signal_before_the_engine_is_started_is_kept_for_it(start, number):
    """The launcher is held from the moment it catches signals, which is before it starts the engine."""
    run = start("sleep", "60")
    wait_until(lambda: is_attentive(run, number), "caught signals")
    os.kill(run.pid, signal.SIGSTOP)
    run.signal(number)
    os.kill(run.pid, signal.SIGCONT)
    assert run.exit_code() == 128 + number


def test_a_signal_at_any_moment_of_the_start_is_not_lost(start, mode):
    """From the moment the launcher catches signals to long after the engine's first instruction."""
    for _ in range(25):
        run = start("sleep", "60")
        wait_until(lambda run=run: is_attentive(run, signal.SIGTERM), "caught signals")
        time.sleep(random.uniform(0, 0.05))
        run.signal(signal.SIGTERM)
        assert run.exit_code(10) == 128 + signal.SIGTERM


def test_signals_that_were_blocked_for_the_launcher_are_forwarded(start, probe):
    run = start(probe, "signals", prefix=(probe, "dirty"))
    run.wait_for_line("e0")
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        run.signal(number)
        run.wait_for_line(f"e{number:d}")
    end(run)


def test_children_are_noticed_although_the_launcher_inherits_sigchld_ignored(start, probe):
    run = start("sh", "-c", "exit 3", prefix=(probe, "dirty"))
    assert run.exit_code() == 3


@pytest.mark.parametrize("number", sorted(STOPPING))
def test_job_control_stops_the_engine_and_cont_wakes_it(start, mode, number):
    """And the launcher with it, so that a shell above sees its job stop; a PID 1 cannot be stopped."""
    run = start("sleep", "60")
    engine = run.engine
    wait_until(lambda: state(engine) == "S" and status(engine)["Name"] == "sleep", "engine")
    run.signal(number)
    wait_until(lambda: state(engine) == "T", "stopped engine")
    if mode == "child":
        wait_until(lambda: state(run.pid) == "T", "stopped launcher")
    run.signal(signal.SIGCONT)
    wait_until(lambda: state(engine) == "S", "running engine")
    wait_until(lambda: state(run.pid) == "S", "running launcher")
    run.signal(signal.SIGTERM)
    assert run.exit_code() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", sorted(FAULTS))
def test_a_fault_is_never_taken_for_a_message(start, mode, number):
    """The signals of a broken process are not forwarded: PID 1 ignores them, another process ends by them."""
    run = start("sleep", "60")
    engine = run.engine
    wait_until(lambda: status(engine).get("Name") == "sleep", "engine")
    run.signal(number)
    if mode == "child":
        assert run.exit_code() == 128 + number
    else:
        run.signal(signal.SIGTERM)  # what ends the engine, and no sooner
        assert run.exit_code() == 128 + signal.SIGTERM
