"""What the worker tells PID 1 of its phases."""

import os
import subprocess
import sys

import pytest

from dynamo_entry.protocol import Began, decode

SCRIPT = """
import time
from dynamo_entry.report import Log
from dynamo_entry.worker.channel import Channel
channel = Channel(Log("error", "json"))
def phases(*names):
    for name in names:
        with channel.phase(name):
            time.sleep(0.01)
phases("unlimited")
channel.limit({limit})
phases("first", "second")
time.sleep({pause})
phases("last")
channel.limit(0)
phases("after")
"""


AFTERMATH = """
import os
os.dup2({writer}, 3)
from dynamo_entry.report import Log
from dynamo_entry.worker.channel import Channel
channel = Channel(Log("error", "json"))
channel.limit(0.001)
with channel.phase("dump"):
    pass
if {is_alone}:
    reader, lonely = os.pipe()
    os.dup2(lonely, 3)
    os.close(lonely)
    os.close(reader)
with channel.aftermath("wake", stall_s=7):
    print(channel.phase_name, "done")
"""


@pytest.mark.parametrize("is_alone", [False, True], ids=["PID 1 is there", "PID 1 is gone"])
def test_what_is_owed_to_the_engine_has_no_limit_but_its_own_and_no_result(is_alone):
    events, writer = os.pipe()
    script = AFTERMATH.format(writer=writer, is_alone=is_alone)
    done = subprocess.run(
        [sys.executable, "-c", script], pass_fds=[writer], stdin=subprocess.DEVNULL, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    os.close(writer)
    with open(events, "rb") as file:
        told = [decode(line) for line in file]
    assert done.stdout == "dump done\n"
    assert told[1:] == ([] if is_alone else [Began("wake", 0, 7)])


STOPPED = """
import os, signal
from dynamo_entry.report import Log
from dynamo_entry.worker.channel import CalledOff, Channel
channel = Channel(Log("error", "json"))
try:
    with channel.{how}():
        if {is_asked}:
            os.kill(os.getpid(), signal.SIGTERM)
        print("done whole")
    print("went on")
except CalledOff:
    print("called off")
"""


@pytest.mark.parametrize(
    ("how", "is_asked", "then"),
    [
        ("deferring", True, "called off"),
        ("deferring", False, "went on"),
        ("shielded", True, "went on"),
    ],
)
def test_a_request_to_stop_comes_after_what_is_done_whole_or_not_at_all(how, is_asked, then):
    """Not at all where nothing is left that it could stop: an archive is published then."""
    script = f"import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 3)\n{STOPPED.format(how=how, is_asked=is_asked)}"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["done whole", then]


def limits(limit, pause=0.0):
    """Name of a phase → the limit that PID 1 was told."""
    events, writer = os.pipe()
    script = f"import os; os.dup2({writer}, 3)\n{SCRIPT.format(limit=limit, pause=pause)}"
    subprocess.run([sys.executable, "-c", script], pass_fds=[writer], stdin=subprocess.DEVNULL, check=True)
    os.close(writer)
    with open(events, "rb") as file:
        return {message.phase: message.limit_s for message in map(decode, file)}


def test_phases_share_one_limit():
    told = limits(100)
    assert 100 >= told["first"] > told["second"] > told["last"] > 90


def test_without_a_limit_none_is_told():
    assert set(limits(0).values()) == {0}
    assert limits(100)["unlimited"] == limits(100)["after"] == 0


def test_a_phase_that_begins_too_late_has_no_time_left():
    told = limits(0.05, pause=0.1)
    assert 0 < told["last"] < 0.05, "0 would mean: no limit"
