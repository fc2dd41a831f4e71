"""Whether an archive is there: PID 1 does not wait for a volume that never says."""

import subprocess
import sys

import pytest

#: In a process of its own: the launcher's modules change signals.
LOOK = """
import os, time
from dynamo_entry.init import process, run
from dynamo_entry.init.loop import Loop
from dynamo_entry.init.signals import signal
loop = Loop()
for number in (signal.SIGUSR1, signal.SIGUSR2):
    os.kill(os.getpid(), number)
{change}
print(run._is_there(loop, {path!r}), [loop.next().number for _ in range(2)] == [signal.SIGUSR1, signal.SIGUSR2])
"""

SILENT = "os.path.exists = lambda path: time.sleep(600)"
REFUSED = """
def refuse(path):
    raise OSError
process.start_looking = refuse
"""


@pytest.mark.parametrize("change", ["", REFUSED])
@pytest.mark.parametrize(("path", "there"), [("/etc", True), ("/none", False), ("", False)])
def test_it_is_there_or_not(change, path, there):
    assert looked(change, path) == f"{there} True"


def test_of_a_volume_that_does_not_answer_the_worker_finds_out():
    """And no signal that came meanwhile is lost."""
    assert looked(SILENT, "/hung/a.tar") == "True True"


def looked(change, path):
    script = LOOK.format(change=change, path=path)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
