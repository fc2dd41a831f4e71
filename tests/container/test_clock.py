"""Clocks of the engine never go back, though the new host booted later; sleeps and timers go on."""

import signal
import time

import pytest
from containers import CREATE, RESTORE
from elsewhere import Pair, check

TIMERS = (
    "interval_timer", "posix_timer", "sleep", "event_with_a_limit", "queue_with_a_limit", "select_with_a_limit",
    "epoll_with_a_limit", "event_loop", "timerfd",
)  # fmt: skip
TIME = ("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_TIME")

#: Hosts that booted about a day before this one, and (for a container inside) about an hour before.
DAY, HOUR = 86_400, 3_600


def host_up_for_longer(seconds):
    offsets = ("--monotonic", str(seconds), "--boottime", str(seconds))
    return ("unshare", "--time", *offsets, "--fork", "--kill-child")


@pytest.fixture
def pair(containers):
    return Pair(containers)


def test_a_clock_that_would_go_back_is_refused_before_anything_is_touched(pair):
    """Sleeps of the engine would hang for a day, while it still answered."""
    pair.published(*TIMERS, under=host_up_for_longer(DAY))
    container = pair.restore(*TIMERS)
    event = container.wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == ("ClockWouldGoBack", "check")
    assert "SYS_TIME" in event["message"]
    assert container.json("/health") == {"status": "ok"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # An engine whose creator may set clocks counts from near 0: later restores need nothing.
        ((*CREATE, *TIME), RESTORE),
        # Or the restoring container may set them.
        (CREATE, (*RESTORE, *TIME)),
        ((*CREATE, *TIME), (*RESTORE, *TIME)),
    ],
    ids=["creator may set clocks", "restorer may set clocks", "both may"],
)
def test_on_a_host_that_booted_later_all_timers_go_on(pair, first, second):
    pair.published(*TIMERS, "long_sleep", options=first, under=host_up_for_longer(DAY))
    container = pair.restored(*TIMERS, options=second)
    check(container, *TIMERS)
    clock = container.json("/clock")
    assert clock["went_back"] == []
    assert abs(clock["now"]["REALTIME"] - time.time()) < 5
    if second != RESTORE:
        check(container, "long_sleep")


def test_on_a_host_that_booted_earlier_clocks_jump_forward_and_timers_go_on(pair):
    pair.published(*TIMERS)
    container = pair.restored(*TIMERS, under=host_up_for_longer(HOUR))
    check(container, *TIMERS)
    clock = container.json("/clock")
    assert clock["went_back"] == []
    assert clock["now"]["MONOTONIC"] > HOUR
    container.signal(signal.SIGTERM)
    assert container.exit_code() == 128 + signal.SIGTERM
