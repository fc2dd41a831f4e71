"""The worker goes first when memory runs out, and what it starts for the engine does not inherit that."""

import os
from pathlib import Path

from dynamo_entry.linux import tasks


def test_raised_and_taken_back_without_any_right():
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(reader)
        before = tasks.volunteer_for_oom()
        raised = Path("/proc/self/oom_score_adj").read_text()
        tasks.withdraw_from_oom(before)
        after = Path("/proc/self/oom_score_adj").read_text()
        os.write(writer, f"{before} {raised} {after}".encode())
        os._exit(0)
    os.close(writer)
    before, raised, after = map(int, os.read(reader, 100).split())
    os.waitpid(child, 0)
    assert (raised, after) == (max(500, before), before)
