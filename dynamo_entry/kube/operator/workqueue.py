"""A queue of keys: each is handled by one worker at a time, and again when requested or after a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

K = TypeVar("K")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0


class WorkQueue(Generic[K]):
    """``work(key)`` returns the seconds until its next turn, or 0; after an exception it is tried again later."""

    def __init__(
        self, work: Callable[[K], float], workers: int, log: Any, failed: Callable[[], None]
    ) -> None:
        self._work = work
        self._log = log
        self._failed = failed
        self._wake = threading.Condition()
        self._due: dict[K, float] = {}
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        for number in range(workers):
            threading.Thread(target=self._serve, name=f"worker {number}", daemon=True).start()

    def __len__(self) -> int:
        """Return the number of keys that are due and wait for a worker."""
        with self._wake:
            now = time.monotonic()
            return sum(due <= now for due in self._due.values())

    def add(self, key: K, after_s: float = 0) -> None:
        """Queue a key, to be handled after this many seconds at the latest."""
        with self._wake:
            self._due[key] = min(time.monotonic() + after_s, self._due.get(key, float("inf")))
            self._wake.notify()

    def _serve(self) -> None:
        while True:
            key = self._take()
            again_s = self._attempt(key)
            with self._wake:
                self._running.discard(key)
                self._wake.notify_all()
            if again_s:
                self.add(key, again_s)

    def _take(self) -> K:
        with self._wake:
            while True:
                free = [key for key in self._due if key not in self._running]
                key = min(free, key=self._due.__getitem__, default=None)
                wait_s = self._due[key] - time.monotonic() if key is not None else None
                if key is not None and wait_s is not None and wait_s <= 0:
                    del self._due[key]
                    self._running.add(key)
                    return key
                self._wake.wait(wait_s)

    def _attempt(self, key: K) -> float:
        try:
            again_s = self._work(key)
        except Exception as error:
            self._failed()
            count = self._failures.get(key, 0)
            self._failures[key] = count + 1
            pause: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**count) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            self._log.warning(
                "reconcile failed",
                key=str(key),
                attempt=count + 1,
                message=str(error),
                again_s=round(pause, 1),
            )
            return pause
        self._failures.pop(key, None)
        return again_s
