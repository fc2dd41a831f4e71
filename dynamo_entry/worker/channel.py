"""The worker's end of its line to PID 1 (protocol.py); also records the duration of every phase."""

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

#: How often PID 1 hears of progress.
_PROGRESS_S = 1.0

#: How often a long phase logs its progress.
_LOG_S = 5.0


class CalledOff(CheckpointError):
    """PID 1 asked the worker to stop, because of a signal to the container or a deadline."""


class Phase:
    """A phase under way: counts its bytes for progress and for the closing log line."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.name = name
        self.fields: dict[str, Any] = {}
        self._began = self._heard = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self._began

    def progress(
        self, done_bytes: int, total_bytes: int | None = None, *, steps: Callable[[], int] = int
    ) -> None:
        """Report progress now and then: to PID 1, which detects stalls, and to people through the log.

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
    """Sends messages to PID 1, reads its replies, and records the duration of every phase.

    Only the main thread uses it: that is where SIGTERM raises CalledOff.
    """

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
        #: PID 1 owns the engine: this process may neither end nor undo it
        self.has_handed_over = False
        os.set_inheritable(EVENTS_DESCRIPTOR, False)
        os.set_blocking(0, False)
        signal.signal(signal.SIGTERM, self._terminated)

    def send(self, message: Message) -> None:
        """Send one message. Raises CalledOff if PID 1 is gone."""
        try:
            os.write(EVENTS_DESCRIPTOR, message.encode())
        except BrokenPipeError:
            raise CalledOff("PID 1 is gone") from None

    def limit(self, seconds: float) -> None:
        """Give all phases that begin from now on ``seconds`` in total; 0: no limit."""
        self._deadline = time.monotonic() + seconds if seconds else float("inf")

    @contextmanager
    def phase(self, name: str, *, stall_s: float = 0) -> Iterator[Phase]:
        """Announce a phase and how long it may stall (0: STALL_TIMEOUT), time it, and log it when it is done."""
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
        """Run a final phase, with its own limit only, that the engine needs whatever the outcome was.

        The result keeps naming the phase before it, and the phase also runs if PID 1 is gone.
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
        """Return the seconds until the deadline; 0 if there is none."""
        if self._deadline == float("inf"):
            return 0
        return max(0.001, self._deadline - time.monotonic())

    def waits(self) -> None:
        """Tell PID 1 that a wait with its own limit is still within that limit."""
        self._waits += 1
        self.send(Moved(self._waits))

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Finish the block whatever happens: ignore a request to stop; PID 1 kills a worker that takes too long."""
        self._is_shielded = True
        try:
            yield
        finally:
            self._is_shielded = False

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Finish the block; a request to stop takes effect at its end. Raises CalledOff."""
        self._is_asked = False
        with self.shielded():
            yield
        if self._is_asked:
            self._call_off()

    def hand_over(self, result: Message) -> None:
        """Report a restored engine and wait until PID 1 has it. Raises CalledOff if PID 1 is gone before that.

        Signals have no effect any more: until PID 1 answers, this process notices its end; after that, the
        engine belongs to PID 1.
        """
        self._is_shielded = True
        self.send(result)
        while not isinstance(self.receive(_LOG_S), Taken):
            pass
        self.has_handed_over = True

    def receive(self, limit_s: float) -> Message | None:
        """Return the next message from PID 1, or None if none arrives within ``limit_s``."""
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
        """Wait a moment. Raises EngineEnded as soon as PID 1 reports the engine's end."""
        if isinstance(self.receive(limit_s), EngineGone):
            raise EngineEnded("the engine ended")

    def _terminated(self, _number: int, _frame: object) -> None:
        if self._is_shielded:
            self._is_asked = True
        else:
            self._call_off()

    def _call_off(self) -> None:
        """Raise CalledOff once: the cleanup that follows must not be interrupted."""
        if not self._was_called_off:
            self._was_called_off = True
            raise CalledOff("called off by a signal")
