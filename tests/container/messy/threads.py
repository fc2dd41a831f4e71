"""Threads that wait in every way there is, and what the clocks say."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
import time
from collections.abc import Callable

from messy.things import Check, equal, thing

_CLOCKS = {name: getattr(time, f"CLOCK_{name}") for name in ("MONOTONIC", "BOOTTIME", "REALTIME")}
_went_back: list[str] = []


def readings() -> dict[str, object]:
    return {
        "now": {name: time.clock_gettime(clock) for name, clock in _CLOCKS.items()},
        "went_back": _went_back,
    }


def _look(last: dict[str, float]) -> None:
    for name in ("MONOTONIC", "BOOTTIME"):
        now = time.clock_gettime(_CLOCKS[name])
        if now < last.get(name, 0):
            _went_back.append(f"{name} from {last[name]} to {now}")
        last[name] = now


def _ticks(wait: Callable[[], object]) -> Check:
    """A thread that waits a little, again and again, still does."""
    count = 0
    last: dict[str, float] = {}

    def loop() -> None:
        nonlocal count
        while True:
            wait()
            count += 1
            _look(last)

    threading.Thread(target=loop, daemon=True).start()

    def check() -> None:
        before = count
        deadline = time.time() + 5
        while count == before:
            equal(time.time() < deadline, True)
            select.select([], [], [], 0.01)
        equal(_went_back, [])

    return check


@thing
def many_threads() -> Check:
    count = 200
    turns, done = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        while True:
            turns.acquire()
            done.release()

    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()

    def check() -> None:
        equal(threading.active_count() >= count, True)
        turns.release(count)
        for _ in range(count):
            equal(done.acquire(timeout=10), True)

    return check


@thing
def sleep() -> Check:
    return _ticks(lambda: time.sleep(0.05))


@thing
def event_with_a_limit() -> Check:
    event = threading.Event()
    return _ticks(lambda: event.wait(0.05))


@thing
def queue_with_a_limit() -> Check:
    empty: queue.Queue[int] = queue.Queue()

    def wait() -> None:
        try:
            empty.get(timeout=0.05)
        except queue.Empty:
            pass

    return _ticks(wait)


@thing
def select_with_a_limit() -> Check:
    reader, _ = os.pipe()
    return _ticks(lambda: select.select([reader], [], [], 0.05))


@thing
def epoll_with_a_limit() -> Check:
    poll = select.epoll()
    return _ticks(lambda: poll.poll(0.05))


@thing
def event_loop() -> Check:
    """asyncio's timers are absolute times of the monotonic clock."""
    ticks = threading.Semaphore(0)

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.05)
            ticks.release()

    threading.Thread(target=lambda: asyncio.run(beat()), daemon=True).start()
    return _ticks(ticks.acquire)


@thing
def timerfd() -> Check:
    import ctypes
    import struct

    libc = ctypes.CDLL(None)
    descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    libc.timerfd_settime(descriptor, 0, struct.pack("qqqq", 0, 50_000_000, 0, 50_000_000), None)
    return _ticks(lambda: os.read(descriptor, 8))


@thing
def long_sleep() -> Check:
    """Begun before the dump, to end after the restore: neither at once nor never."""
    began, woken = time.monotonic(), threading.Event()

    def nap() -> None:
        time.sleep(20)
        woken.set()

    threading.Thread(target=nap, daemon=True).start()

    def check() -> None:
        elapsed = time.monotonic() - began
        if elapsed < 19:
            equal(woken.is_set(), False)
        elif elapsed > 21:
            equal(woken.is_set(), True)

    return check
