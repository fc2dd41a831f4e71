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


def test_masks_of_threads_are_recorded_once_and_set_again(monkeypatch):
    """Of thousands of threads that share a few masks; what this place has not is counted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3} if pid == 0 else {0, 3})
    recorded = tasks.record_affinity([os.getpid()])
    assert recorded == {"9": sorted(map(int, os.listdir("/proc/self/task")))}
    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *how: pinned.append(how))
    assert tasks.pin({"9": [5, 6], "10": [7], "2": [8]}) == 1
    assert pinned == [(5, {0, 3}), (6, {0, 3}), (8, {1})]
