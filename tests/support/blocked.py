"""A thread that waits for another one: the sign that nothing more will come of it by itself."""

import sys
import threading
import time


def wait_until_blocked(thread, limit_s=30):
    """Return once the thread waits for a lock or a semaphore that another thread holds."""
    deadline = time.monotonic() + limit_s
    while not _waits(thread):
        assert thread.is_alive(), f"{thread.name} ended"
        assert time.monotonic() < deadline, f"{thread.name} is not blocked within {limit_s} s"
        time.sleep(0.01)


def _waits(thread):
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__
