"""How PID 1 follows a worker: when silence means that it hangs."""

import math
import subprocess
import sys
import time

import pytest

from dynamo_entry.init import worker
from dynamo_entry.init.worker import BACKSTOP_S, Worker
from dynamo_entry.protocol import Began, Moved, Result, decode


@pytest.fixture
def started(monkeypatch):
    """A worker that is none: what it would say is heard from the test."""
    monkeypatch.setattr(worker, "_spawn", lambda *_: 0)
    made = []

    def start(stall_s):
        made.append(Worker("create", stall_s))
        return made[-1]

    yield start
    for each in made:
        each.close()


def hear(worker, message):
    """As it comes through the pipe."""
    worker.heard(decode(message.encode()))
    return worker.deadline - time.monotonic()


def test_silence_is_counted_from_the_last_word(started):
    following = started(60)
    assert hear(following, Began("dump", stall_s=2)) == pytest.approx(2 + BACKSTOP_S, abs=0.5)
    assert hear(following, Moved(5)) == pytest.approx(2 + BACKSTOP_S, abs=0.5)
    assert hear(following, Began("thaw")) == pytest.approx(60 + BACKSTOP_S, abs=0.5)


def test_only_a_number_that_changed_is_progress(started, monkeypatch):
    """A worker that goes on talking while nothing moves hangs all the same."""
    now = time.monotonic()
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    following = started(60)
    following.heard(Began("fill", stall_s=2))
    for done, moved in ((5, True), (5, False), (6, True), (0, True), (0, False)):
        now += 1
        before = following.deadline
        following.heard(Moved(done))
        assert (following.deadline > before) == moved, done


@pytest.mark.parametrize("stall_s", [math.inf, 0])
def test_without_a_stall_timeout_no_phase_hangs(started, stall_s):
    """STALL_TIMEOUT=0; a limit of its own counts all the same."""
    following = started(math.inf)
    assert following.deadline == math.inf
    assert hear(following, Began("dump", stall_s=stall_s)) == math.inf
    assert hear(following, Began("dump", stall_s=stall_s, limit_s=3)) == pytest.approx(
        3 + BACKSTOP_S, abs=0.5
    )


def test_what_succeeded_stays_a_success(started):
    """A worker that published, and that is called off or fails while it lets the engine go."""
    following = started(60)
    for said, kept in (("failed", "failed"), ("published", "published"), ("failed", "published")):
        hear(following, Result(said, "thaw", exit_code=174))
        assert following.result.result == kept
    hear(following, Result("published", "thaw", seconds={"thaw": 1.0}))
    assert following.result.seconds == {"thaw": 1.0}


#: Waits for ten milliseconds at most in one go, as poll(2) for 24 days.
FAR_AWAY = """
import os, signal, time
from dynamo_entry.init import loop
mine = loop.Loop()
os.kill(os.getpid(), signal.SIGTERM)
print(mine.next(time.monotonic() + 1e9).number)
loop._LONGEST_WAIT_MS = 10
began = time.monotonic()
print(type(mine.next(began + 0.1)).__name__, time.monotonic() - began >= 0.1)
"""


def test_a_limit_of_decades_is_none():
    done = subprocess.run(
        [sys.executable, "-c", FAR_AWAY], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["15", "Silent", "True"]
