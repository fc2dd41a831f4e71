"""The worker's end of its line to PID 1 (protocol.py); it keeps the timings of every phase."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dynamo_entry.errors import CheckpointError, EngineEnded
from dynamo_entry.protocol import Began, EngineGone, Message, Moved, Phases, Taken, decode

EVENTS_DESCRIPTOR = 3

#: PID 1 only needs to hear that something moves.
_PROGRESS_S = 1.0

#: On the log, a long phase shows itself this often.
_LOG_S = 5.0


class CalledOff(CheckpointError):
    """PID 1 asked the worker to stop: a signal to the container, or a deadline."""


class Phase:
    """A phase under way: how many bytes went through it, for progress and for the closing log line."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.name = name
        self.fields: dict[str, Any] = {}
        self._began = self._heard = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._began

    def progress(
        self, done_bytes: int, total_bytes: int | None = None, *, steps: Callable[[], int] = int
    ) -> None:
        """Tell PID 1, which notices when nothing changes any more, and people how far the phase is; now and then.

        ``steps`` counts what is done besides the bytes.
        """
        now = time.monotonic()
        self.fields["bytes"] = done_bytes
        if now - self._heard >= _PROGRESS_S:
            self._heard = now
            self._channel.send(Moved(done_bytes + steps()))
        if now - self._shown >= _LOG_S:
            self._shown = now
            fields = {"bytes": done_bytes, "seconds": round(self.seconds, 1)}
            if total_bytes:
                fields["percent"] = round(100 * done_bytes / total_bytes)
            self._channel.log.info("in progress", phase=self.name, **fields)


class Channel:
    """Sends messages to PID 1, reads its own, and keeps the timings of every phase."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.phase_name = Phases.START
        self.seconds: dict[str, float] = {}
        self._received = b""
        self._waits = 0
        self._deadline = float("inf")
        self._is_shielded = False
        self._is_asked = False
        self._was_called_off = False
        #: the engine is not this process's to end or to take back
        self.has_handed_over = False
        os.set_inheritable(EVENTS_DESCRIPTOR, False)
        os.set_blocking(0, False)
        signal.signal(signal.SIGTERM, self._terminated)

    def send(self, message: Message) -> None:
        """One message. Raises CalledOff where PID 1 is gone."""
        try:
            os.write(EVENTS_DESCRIPTOR, message.encode())
        except BrokenPipeError:
            raise CalledOff("PID 1 is gone") from None

    def limit(self, seconds: float) -> None:
        """The phases that begin from now on have ``seconds`` in all; 0: no limit."""
        self._deadline = time.monotonic() + seconds if seconds else float("inf")

    @contextmanager
    def phase(self, name: str, *, stall_s: float = 0) -> Iterator[Phase]:
        """Announce a phase and how long it may stall (0: STALL_TIMEOUT), time it, log it when it is done."""
        self.phase_name = name
        self.send(Began(name, self._left_s(), stall_s))
        phase = Phase(self, name)
        try:
            yield phase
        finally:
            self.seconds[name] = round(phase.seconds, 3)
        self.log.info(name, seconds=self.seconds[name], **phase.fields)

    @contextmanager
    def aftermath(self, name: str, *, stall_s: float) -> Iterator[None]:
        """A phase with no limit but its own, of what is owed to the engine however it went.

        A result goes on to name the phase before it, and what is owed is done where PID 1 is gone, too.
        """
        counts = self.phase_name
        self.limit(0)
        with suppress(CalledOff):
            self.send(Began(name, stall_s=stall_s))
        phase = Phase(self, name)
        try:
            yield
        finally:
            self.phase_name = counts
            self.seconds[name] = round(phase.seconds, 3)
            self.log.info(name, seconds=self.seconds[name])

    def _left_s(self) -> float:
        """Until the deadline; 0: there is none."""
        if self._deadline == float("inf"):
            return 0
        return max(0.001, self._deadline - time.monotonic())

    def waits(self) -> None:
        """Tell PID 1 that something with a limit of its own is waited for, and has not reached it."""
        self._waits += 1
        self.send(Moved(self._waits))

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """What is inside is done whole. A request to stop is not heard: PID 1 ends a worker that goes on for too long."""
        self._is_shielded = True
        try:
            yield
        finally:
            self._is_shielded = False

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """What is inside is done whole; a request to stop is heard at its end. Raises CalledOff."""
        self._is_asked = False
        with self.shielded():
            yield
        if self._is_asked:
            self._call_off()

    def hand_over(self, result: Message) -> None:
        """Say that an engine is restored, and wait until PID 1 has it. Raises CalledOff where PID 1 is gone before that.

        A signal changes nothing any more: until PID 1 answers its end is noticed here, and then the engine is its own.
        """
        self._is_shielded = True
        self.send(result)
        while not isinstance(self.receive(_LOG_S), Taken):
            pass
        self.has_handed_over = True

    def receive(self, limit_s: float) -> Message | None:
        """The next message from PID 1, or None within ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._received:
            if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(0, 1 << 16)
            if not data:
                raise CalledOff("PID 1 is gone")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return decode(line)

    def check_engine(self, limit_s: float = 0) -> None:
        """Wait a moment. Raises EngineEnded as soon as PID 1 says so."""
        if isinstance(self.receive(limit_s), EngineGone):
            raise EngineEnded("the engine ended")

    def _terminated(self, _number: int, _frame: object) -> None:
        if self._is_shielded:
            self._is_asked = True
        else:
            self._call_off()

    def _call_off(self) -> None:
        """Once: what is undone after that is not to be broken off."""
        if not self._was_called_off:
            self._was_called_off = True
            raise CalledOff("called off by a signal")
