"""The worker goes first when memory runs out."""

import os
import signal
from pathlib import Path

from dynamo_entry.linux import tasks


def test_a_volunteer_is_raised_without_any_right():
    reader, writer = os.pipe()
    before = int(Path("/proc/self/oom_score_adj").read_text())
    if not (child := os.fork()):
        os.close(reader)
        tasks.volunteer_for_oom()
        os.write(writer, Path("/proc/self/oom_score_adj").read_bytes())
        os._exit(0)
    os.close(writer)
    assert int(os.read(reader, 100)) == max(500, before)
    os.close(reader)
    os.waitpid(child, 0)


def test_masks_of_threads_are_recorded_once_and_set_again(monkeypatch):
    """Of thousands of threads that share a few masks; what this place has not is counted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3} if pid == 0 else {0, 3})
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            signal.pause()
        children.append(child)
    try:
        assert tasks.record_affinity(children) == {"9": children}
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *how: pinned.append(how))
    assert tasks.pin({"9": [5, 6], "10": [7], "2": [8]}) == 1
    assert pinned == [(5, {0, 3}), (6, {0, 3}), (8, {1})]
