"""Threads that work in the background. ``concurrent.futures`` loads logging, for which a restore would wait 4 ms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Promise(Generic[T]):
    """A value that another thread gives, once. Any number of threads may wait for it."""

    def __init__(self) -> None:
        self._latch = threading.Lock()
        self._latch.acquire()
        self._value: T
        self._error: BaseException | None = None
        self.is_cancelled = False

    def give(self, value: T) -> None:
        """Let ``result`` return the value."""
        self._value = value
        self._latch.release()

    def fail(self, error: BaseException) -> None:
        """Let ``result`` raise the error."""
        self._error = error
        self._latch.release()

    def settle(self, call: Callable[..., T], *arguments: Any) -> None:
        """Call ``call`` in this thread, and give what it returns or fail with what it raises."""
        try:
            value = call(*arguments)
        except BaseException as error:  # a thread's outermost frame: whoever waits gets it
            self.fail(error)
        else:
            self.give(value)

    def cancel(self) -> None:
        """Note that nobody needs the value: a pool that has not begun to compute it fails the promise instead."""
        self.is_cancelled = True

    def result(self) -> T:
        """Wait for the value, or for the error."""
        with self._latch:
            pass
        if self._error is not None:
            raise self._error
        return self._value


_Job = tuple[Promise[Any], Callable[..., Any], tuple[Any, ...]]


class Pool:
    """Up to ``threads`` threads, which run calls in the order of their submission. Each submission starts one until all run."""

    def __init__(self, threads: int, name: str) -> None:
        self._count = threads
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_shut_down = False

    def submit(self, call: Callable[..., T], *arguments: Any) -> Promise[T]:
        """Let a thread call ``call``, and return the promise of its result. Raises RuntimeError after ``shutdown``."""
        promise: Promise[T] = Promise()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool is shut down")
            self._start(1)
            self._jobs.put((promise, call, arguments))
        return promise

    def start(self) -> None:
        """Start all threads now. Raises RuntimeError."""
        with self._lock:
            self._start(self._count)

    def _start(self, most: int) -> None:
        for _ in range(min(most, self._count - len(self._threads))):
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for all calls; with ``cancel``, only for those that have begun: the others' promises fail. Idempotent."""
        with self._lock:
            self._is_shut_down = True
        try:
            while cancel and (job := self._jobs.get_nowait()):
                job[0].fail(RuntimeError("the pool is shut down"))
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while job := self._jobs.get():
            _do(*job)
            del job  # its memory must not be held until the next one comes


def _do(promise: Promise[Any], call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if promise.is_cancelled:
        promise.fail(RuntimeError("it was cancelled"))
    else:
        promise.settle(call, *arguments)
