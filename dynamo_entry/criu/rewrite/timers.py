"""Periodic timerfds that had expired go on (``files.img``); timers of threads that ended stay behind (``core-*.img``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any


def rearm(entries: Iterable[Any]) -> None:
    """Let a periodic timer with unread expirations expire again at once.

    The kernel starts its next period when the last one is read; until then it shows no time left (0), which
    CRIU would set, and which disarms it for ever.
    """
    for entry in entries:
        timer = entry.tfd
        if entry.HasField("tfd") and timer.ticks and (timer.isec or timer.insec):
            timer.vnsec = timer.vnsec or (0 if timer.vsec else 1)


def drop_of_ended_threads(task: Any, threads: Collection[int]) -> None:
    """Leave out the timers of a ``task_core_entry`` that signal a thread that is not there: they never fire again.

    The kernel makes no timer for such a thread.
    """
    timers = task.timers.posix
    kept = [
        timer
        for timer in timers
        if not timer.HasField("notify_thread_id") or timer.notify_thread_id in threads
    ]
    if len(kept) < len(timers):
        del timers[:]
        timers.extend(kept)
