"""A restored engine is supervised as one that was started: signals, exit codes, orphans, and what it leaves."""

import os
import signal
import time
from pathlib import Path

import pytest
from launcher import published, restored

#: On SIGUSR1 it makes orphans that end at once, on SIGUSR2 it ends and leaves a process; it counts SIGHUPs in its
#: output and has no handler for the others.
ENGINE = """
import os, signal, sys, time

def orphans(*_):
    for _ in range(50):
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()
    print("orphaned", flush=True)

def leave(*_):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda *_: (print("left and told", flush=True), os._exit(0)))
        print("leaving", flush=True)
        while True:
            signal.pause()
    time.sleep(0.3)
    os._exit(7)

signal.signal(signal.SIGUSR1, orphans)
signal.signal(signal.SIGUSR2, leave)
signal.signal(signal.SIGHUP, lambda *_: print("hangup", flush=True))
open(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"], "w").close()
while True:
    signal.pause()
"""
COMMAND = ("python3", "-c", ENGINE)


@pytest.fixture
def engine(containers):
    published(containers, command=COMMAND)
    return restored(containers, command=COMMAND)


def states(container):
    """One letter for each process of the container."""
    found = []
    for pid in container.processes():
        try:
            found.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


def test_signals_arrive_orphans_are_reaped_and_what_is_left_is_ended(engine):
    for _ in range(3):
        before = engine.stdout.count("hangup")
        engine.signal(signal.SIGHUP)
        engine.wait(lambda before=before: engine.stdout.count("hangup") == before + 1, "hangup")
    engine.signal(signal.SIGUSR1)
    engine.wait_for_text("orphaned")
    engine.wait(lambda: "Z" not in states(engine), "end of zombies", 5)
    began = time.monotonic()
    engine.signal(signal.SIGUSR2)
    assert engine.exit_code(20) == 7, engine.output()
    assert "left and told" in engine.stdout
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_death_by_a_signal_is_the_containers_exit_code(containers, number):
    """By one that was forwarded, and by one that came from elsewhere."""
    published(containers, command=COMMAND)
    container = restored(containers, command=COMMAND)
    if number == signal.SIGKILL:
        engine = next(pid for pid, line in container.processes().items() if line.startswith("python3 -c"))
        os.kill(engine, number)
    else:
        container.signal(number)
    assert container.exit_code(20) == 128 + number, container.output()


#: It ends its workers as soon as it runs again, as one does that takes the pause for a hang.
IMPATIENT = """
import os, pathlib, signal, time
workers = []
for _ in range(30):
    workers.append(os.fork())
    if not workers[-1]:
        time.sleep(300)
        os._exit(0)
pathlib.Path("/tmp/ready").touch()
while not pathlib.Path("/run/dynamo_entry/context.json").exists():
    pass
for worker in reversed(workers):
    os.kill(worker, signal.SIGKILL)
print("ended", {os.waitpid(worker, 0)[1] for worker in workers}, flush=True)
time.sleep(300)
"""


def test_an_engine_that_ends_its_workers_at_once_is_restored(containers):
    """While CRIU lets go of them, one after another."""
    command = ("python3", "-c", IMPATIENT)
    published(containers, command=command)
    container = restored(containers, command=command)
    container.wait_for_text("ended {9}")
