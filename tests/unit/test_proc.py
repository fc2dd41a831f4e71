"""What proc(5) tells: whether anything below a process gets anywhere."""

import os
import subprocess
import sys
import time

import pytest

from dynamo_entry.checks import left_behind
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


@pytest.mark.parametrize("name", [b"model\x0c", b"a\x1c b", "\u2028".encode(), b"\xff\r"])
def test_a_mapped_file_may_have_any_name(tmp_path, name):
    """The kernel ends lines by a newline alone; str.splitlines() at ten others, too."""
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(bytes(8192))
    script = "import mmap, os, sys; m = mmap.mmap(os.open(os.fsencode(sys.argv[1]), 2), 8192); print(m[0], flush=True); os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"0\n"
        assert isinstance(proc.shared_mappings(process.pid), list)
        assert not [
            thing for thing in left_behind.find(proc.tables([process.pid])) if "memory policy" in thing
        ]
        process.stdin.close()
