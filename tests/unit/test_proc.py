"""What proc(5) tells: whether anything below a process gets anywhere."""

import os
import subprocess
import sys
import time

import pytest

from dynamo_entry.linux import proc

WORK = {
    "reads": "open('/dev/zero', 'rb').read(1 << 16)",
    "maps": "import mmap; kept.append(mmap.mmap(-1, 1 << 20))",
    "starts threads": "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "forks": "os.fork() or os.read(0, 1)",
}

SCRIPT = """
import os
kept = []
print("there", flush=True)
os.read(0, 1)
{work}
print("done", flush=True)
os.read(0, 1)
"""


@pytest.mark.parametrize("work", WORK)
def test_steps_change_with_what_is_done_and_with_nothing_else(work):
    with subprocess.Popen(
        [sys.executable, "-uc", SCRIPT.format(work=WORK[work])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            before = _settled()
            process.stdin.write(b"x")
            process.stdin.flush()
            process.stdout.readline()
            assert _settled() != before
        finally:
            process.kill()


def _settled():
    """Once it is asleep, and it stays the same."""
    deadline = time.monotonic() + 10
    while (steps := proc.steps(proc.children(os.getpid()))) != (
        time.sleep(0.05),
        proc.steps(proc.children(os.getpid())),
    )[1]:
        assert time.monotonic() < deadline, "steps of sleeping processes change"
    return steps
