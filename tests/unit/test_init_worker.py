"""How PID 1 follows a worker: when silence means that it hangs."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dynamo_entry.init import worker
from dynamo_entry.init.worker import BACKSTOP_S, Worker
from dynamo_entry.protocol import Began, ChildGone, Moved, Result, Taken, decode


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


@pytest.mark.parametrize("refused", ["a second pipe", "a process"])
def test_a_worker_that_cannot_be_started_leaves_no_descriptor(monkeypatch, refused):
    """They may be the last ones, which the cold start needs."""
    made, pipe = [], os.pipe2

    def pipe2(flags):
        if made and refused == "a second pipe":
            raise OSError(errno.EMFILE, "")
        made.append(pipe(flags))
        return made[-1]

    def spawn(*_):
        raise OSError(errno.EAGAIN, "")

    monkeypatch.setattr(worker.os, "pipe2", pipe2)
    monkeypatch.setattr(worker, "_spawn", spawn)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Errno"):
        Worker("create", 60)
    assert made
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_word_that_an_engine_is_taken_comes_behind_any_number_of_others(monkeypatch):
    """Without it the worker waits on, and never drops what it kept for an undo."""
    readers, heard = [], b""
    monkeypatch.setattr(worker, "_spawn", lambda _, control, *__: readers.append(os.dup(control)) or 0)
    told = Worker("restore", 60)
    for pid in range(5000):
        told.tell(ChildGone(pid, 0))
    reading = threading.Timer(0.1, lambda: os.read(readers[0], 1 << 20))
    reading.start()
    told.tell(Taken(), patience_s=10)
    reading.join()
    told.close()
    while data := os.read(readers[0], 1 << 16):
        heard += data
    os.close(readers[0])
    assert isinstance(decode(heard.splitlines()[-1]), Taken)


def hear(worker, message):
    """As it comes through the pipe."""
    worker.heard(decode(message.encode()))
    return worker.deadline - time.monotonic()


def test_silence_is_counted_from_the_last_word(started):
    following = started(60)
    assert hear(following, Began("dump", stall_s=2)) == pytest.approx(2 + BACKSTOP_S, abs=0.5)
    assert hear(following, Moved(5)) == pytest.approx(2 + BACKSTOP_S, abs=0.5)
    assert hear(following, Began("thaw")) == pytest.approx(60 + BACKSTOP_S, abs=0.5)


@pytest.mark.parametrize("stall_s", [1e10, math.inf, 10**400])
def test_a_limit_that_is_never_reached_is_not_taken_for_none(started, stall_s):
    """SIGNAL_TIMEOUT and WAIT may be as long as people like."""
    assert hear(started(60), Began("wait-ready", stall_s=stall_s)) > 1e8


@pytest.mark.parametrize("stall_s", [0, -1, math.nan])
def test_a_limit_that_makes_no_sense_is_none(started, stall_s):
    assert hear(started(60), Began("dump", stall_s=stall_s)) == pytest.approx(60 + BACKSTOP_S, abs=0.5)


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


#: What a worker is when its program begins, said on descriptor 3.
BEGINS = """
import gc, json, os, signal, sys, types
sys.path.append({root!r})
from dynamo_entry.init import loop, worker

def say(how):
    facts = {{
        "how": how, "words": sys.argv[1:], "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "leads": os.getsid(0) == os.getpid(), "collects": gc.isenabled(),
        "signals": [signal.getsignal(n) for n in (signal.SIGPIPE, signal.SIGTERM)],
        "shown": open("/proc/self/cmdline").read().strip("\\0").split("\\0"),
    }}
    os.write(3, json.dumps(facts).encode() + b"\\n")
    os._exit(0)

made = types.ModuleType("dynamo_entry.worker.__main__")
made.main = lambda: say("goes on")
sys.modules[made.__name__] = made
os.execv = lambda path, argv: say("is another")
mine = loop.Loop()
started = worker.Worker({verb!r}, 60)
print(os.read(started.events, 1 << 16).decode())
os.waitpid(started.pid, 0)
"""


def begins(verb, *flags, **variables):
    script = BEGINS.format(root=str(Path(worker.__file__).parents[2]), verb=verb)
    done = subprocess.run(
        [sys.executable, *flags, "-c", script, *("word" for _ in range(9))],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_restore_goes_on_in_the_interpreter_that_is_there():
    """And finds there what a new one would have made."""
    assert begins("restore", "-I") == {
        "how": "goes on", "words": ["restore"], "descriptors": [0, 1, 2, 3], "leads": True, "collects": False,
        "signals": [signal.SIG_IGN, signal.SIG_DFL], "shown": ["dynamo_entry.worker", "restore"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "flags", "variables"),
    [
        ("restore", (), {}),
        ("restore", ("-I",), {"LD_LIBRARY_PATH": "/nowhere"}),
        ("create", ("-I",), {}),
        ("undo", ("-I",), {}),
    ],
)
def test_any_other_worker_gets_an_interpreter_of_its_own(verb, flags, variables):
    """The engine's variables of Python and of the loader are not the worker's; and a creation is in no hurry."""
    assert begins(verb, *flags, **variables)["how"] == "is another"
