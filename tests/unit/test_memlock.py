"""Where nothing may be locked the kernel makes no io_uring."""

import resource
import subprocess
import sys

import pytest

from dynamo_entry.linux import capabilities, memlock

#: As in a pod with the two capabilities: without IPC_LOCK, which would make the limit mean nothing.
SCRIPT = """
import os, resource
from dynamo_entry.linux import memlock
os.setuid(65534)
before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
print(memlock.makes_rings(is_withheld=False), memlock.makes_rings(is_withheld=True))
print(resource.getrlimit(resource.RLIMIT_MEMLOCK) == before)
"""


def test_no_ring_is_made_where_nothing_may_be_locked():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    without, withheld, is_as_before, *_ = done.stdout.split()
    if without == "False":
        pytest.skip("this kernel makes no rings at all")
    assert (withheld, is_as_before) == ("False", "True")


@pytest.mark.parametrize(
    ("argv", "held", "expected"),
    [
        (["vllm", "serve"], frozenset(), True),
        (["llama-server", "--mlock"], frozenset(), False),
        (["llama-server --model m --mlock"], frozenset(), False),
        (["vllm", "serve"], frozenset([capabilities.IPC_LOCK]), False),
    ],
)
def test_an_engine_that_locks_memory_keeps_its_limit(monkeypatch, argv, held, expected):
    monkeypatch.setattr(capabilities, "effective", lambda: held)
    assert memlock.may_be_withheld(argv) is expected


@pytest.fixture
def engine():
    """A process that was started without the limit."""
    with subprocess.Popen(["sleep", "60"]) as process:
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.prlimit(process.pid, resource.RLIMIT_MEMLOCK, (0, hard))
        yield process
        process.kill()


def test_the_limit_is_given_back(engine):
    memlock.give_back([engine.pid, 2**22 + 1])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == resource.getrlimit(
        resource.RLIMIT_MEMLOCK
    )


def test_no_more_is_given_back_than_a_process_may_have(engine):
    resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK, (0, 4096))
    memlock.give_back([engine.pid])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == (4096, 4096)


def test_a_limit_of_its_own_is_left_alone(engine):
    resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK, (8192, 65536))
    memlock.give_back([engine.pid])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == (8192, 65536)
