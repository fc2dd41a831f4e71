"""Retries transient storage errors until a deadline; one policy for every store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dynamo_entry.errors import StorageUnavailable
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")

#: Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): many pods fail at the same moment.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0

#: The share of a phase's stall limit after which a store gives up, so that its error is the one reported.
_SHARE = 0.7


class Retry(NamedTuple):
    """How long a store keeps trying. Times are in seconds."""

    #: how long an operation may make no progress before it fails
    limit_s: float = 42
    #: how long an attempt may move no byte before the next one is made
    stall_s: float = 10

    @classmethod
    def within(cls, stall_timeout: float) -> Retry:
        """Return limits that let a phase which may stall for ``stall_timeout`` (inf: for ever) still report why."""
        if stall_timeout == math.inf:
            return DEFAULT
        limit = stall_timeout * _SHARE
        return cls(limit, min(DEFAULT.stall_s, limit / 3))

    def shortened(self) -> Retry:
        """Return short limits, for cleanup after a failure: it must not delay the report of the failure."""
        return self._replace(limit_s=self.limit_s / 10)

    def call(self, action: Callable[[], T], *, progress: Callable[[], int] = int) -> T:
        """Return the result of ``action``, repeated as long as it raises StorageUnavailable.

        ``progress`` returns how many bytes of the operation are done. The time starts anew whenever that
        number grows, and ``action`` resumes from there. Raises the last StorageUnavailable, or any other
        error at once.
        """
        time_is_up = _TimeIsUp(self, progress)
        try:
            return action()
        except StorageUnavailable as error:
            failed = [error]

        import tenacity  # noqa: PLC0415 - it takes 10 ms, which do not matter before a pause

        def attempt() -> T:
            if failed:
                raise failed.pop()
            return action()

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageUnavailable),
            wait=_pause,
            stop=time_is_up,
            reraise=True,
        )
        return attempts(attempt)


DEFAULT = Retry()


def _pause(state: tenacity.RetryCallState) -> float:
    """Return a random pause that grows with every attempt, and is at least what the server asked for."""
    import random  # noqa: PLC0415 - as tenacity

    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (state.attempt_number - 1))
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, StorageUnavailable) else 0
    return asked + random.uniform(0, longest)  # noqa: S311 - jitter


class _TimeIsUp:
    def __init__(self, policy: Retry, progress: Callable[[], int]) -> None:
        self._policy = policy
        self._progress = progress
        self._done = progress()
        self._since = time.monotonic()
        #: If the time began later than this, the phase would end first.
        self._latest = self._since + policy.limit_s / _SHARE - policy.limit_s

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        now = time.monotonic()
        if self._progress() > self._done:
            self._done, self._since = self._progress(), now
        elif state.attempt_number == 1:
            # An attempt that took longer than ``stall_s`` moved bytes all the time: a large part over a slow line
            # deserves another attempt.
            self._since = max(self._since, min(now - self._policy.stall_s, self._latest))
        return now + state.upcoming_sleep > self._since + self._policy.limit_s
