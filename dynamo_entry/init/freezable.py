"""Prepares an engine for being frozen, in its own process right before exec."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress

from dynamo_entry.linux import io_uring, timens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

#: Where the engine's clocks begin, in seconds. A restore without privileges needs a host that has been up
#: for longer than the engine thinks it has.
_CLOCK_START_S = 1.0


def prepare(argv: Sequence[str]) -> None:
    """Keep the tree together; keep it off io_uring and its clocks near zero where that is allowed. Raises OSError.

    A daemon of the engine, whose parent has ended, becomes a child of the engine instead of PID 1: CRIU could
    not dump it outside the engine's tree.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if timens.may_be_set():
        now = (time.clock_gettime(clock) for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME))
        # user.max_time_namespaces or a security module forbids it: restores then need a host with a longer uptime.
        with suppress(OSError):
            timens.enter_new(*(_CLOCK_START_S - reading for reading in now))
    if io_uring.may_filter():
        io_uring.install_filter()
    elif io_uring.may_withhold_memory(argv):
        io_uring.withhold_memory()
