"""What keeps an engine off io_uring: a filter, or no memory to lock."""

import errno
import json
import resource
import subprocess
import sys

import pytest

from dynamo_entry.linux import capabilities, io_uring

#: no_new_privs lets everybody have a filter. Calls 424 and 428 are pidfd_send_signal and open_tree.
FILTERED = """
import ctypes, json
from dynamo_entry.linux import io_uring
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
io_uring.install_filter()
def answer(number):
    ctypes.set_errno(0)
    libc.syscall(number, -1, None, 0, 0)
    return ctypes.get_errno()
print(json.dumps({number: answer(number) for number in range(424, 429)}))
"""


def test_the_three_calls_are_missing_and_no_other():
    done = subprocess.run([sys.executable, "-c", FILTERED], capture_output=True, text=True, check=True)
    found = {int(number): answer for number, answer in json.loads(done.stdout).items()}
    assert {number for number, answer in found.items() if answer == errno.ENOSYS} == {425, 426, 427}


@pytest.mark.parametrize("machine", io_uring.MACHINES)
def test_the_filter_is_one_that_criu_can_be_told_by(machine):
    assert len(io_uring.filter_rules(machine)) == 7 * 8


def test_another_machine_is_left_alone(monkeypatch):
    monkeypatch.setattr(io_uring, "MACHINES", {})
    assert not io_uring.may_filter()


#: As in a pod with the two capabilities: without IPC_LOCK, which would make the limit mean nothing.
RINGS = """
import os, resource
from dynamo_entry.linux import io_uring
os.setuid(65534)
before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
print(io_uring.makes_rings(is_withheld=False), io_uring.makes_rings(is_withheld=True))
print(resource.getrlimit(resource.RLIMIT_MEMLOCK) == before)
"""


def test_no_ring_is_made_where_nothing_may_be_locked():
    done = subprocess.run([sys.executable, "-c", RINGS], capture_output=True, text=True, check=True)
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
    assert io_uring.may_withhold_memory(argv) is expected


@pytest.fixture
def engine():
    """A process that was started without the limit."""
    with subprocess.Popen(["sleep", "60"]) as process:
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.prlimit(process.pid, resource.RLIMIT_MEMLOCK, (0, hard))
        yield process
        process.kill()


def test_the_limit_is_given_back(engine):
    io_uring.give_back_memory([engine.pid, 2**22 + 1])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == resource.getrlimit(
        resource.RLIMIT_MEMLOCK
    )


def test_a_process_of_another_user_keeps_nobody_from_its_limit(engine, monkeypatch):
    prlimit = resource.prlimit

    def refusing(pid, *given):
        if pid == 1:
            raise PermissionError
        return prlimit(pid, *given)

    monkeypatch.setattr(resource, "prlimit", refusing)
    assert io_uring.give_back_memory([1, engine.pid]) == [1]
    assert prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == resource.getrlimit(resource.RLIMIT_MEMLOCK)


def test_no_more_is_given_back_than_a_process_may_have(engine):
    resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK, (0, 4096))
    io_uring.give_back_memory([engine.pid])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == (4096, 4096)


def test_a_limit_of_its_own_is_left_alone(engine):
    resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK, (8192, 65536))
    io_uring.give_back_memory([engine.pid])
    assert resource.prlimit(engine.pid, resource.RLIMIT_MEMLOCK) == (8192, 65536)
