"""PID 1's source of events."""

import subprocess
import sys

#: In a process of its own: the loop changes signals. The pipe is as it is after more signals than it holds.
FLOOD = """
import os
from dynamo_entry.init import loop as loops
from dynamo_entry.init.loop import Ended, Loop, Signalled
from dynamo_entry.init.signals import signal
loop = Loop()
pid = os.fork() or os._exit(7)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
assert signal.SIGCHLD in os.read(loop._signals, 1 << 16)
writer = signal.set_wakeup_fd(-1)
os.write(writer, bytes([signal.SIGUSR1]) * loops._READ_BYTES)
for _ in range(loops._READ_BYTES):
    assert loop.next() == Signalled(signal.SIGUSR1)
assert loop.next() == Ended(pid, 7)
"""


def test_a_child_is_reaped_although_its_signal_was_lost_among_too_many():
    subprocess.run([sys.executable, "-c", FLOOD], check=True, timeout=60)
