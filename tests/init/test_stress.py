"""Ten thousand orphans and a thousand signals at the same time: every process reaped, what arrived counted."""

import signal
import time
from collections import Counter

from processes import children, wait_until

ORPHANS, SIGNALS, INTERVAL_S = 10_000, 1_000, 0.005
RTMIN, RTMAX = int(signal.SIGRTMIN), int(signal.SIGRTMAX)


def test_orphans_and_signals(start, probe):
    """Real-time signals queue: all arrive. Plain ones may coalesce while one is pending, which 5 ms make rare."""
    run = start("sh", "-c", f"setsid {probe} orphans {ORPHANS} >&2 & exec {probe} signals")
    run.wait_for_line("e0")
    run.wait_for_line("orphans 0")  # out of the group that gets the signals
    sent = Counter()
    began = time.monotonic()
    for index in range(SIGNALS):
        number = (RTMIN, signal.SIGUSR1)[index % 2]
        run.signal(number)
        sent[int(number)] += 1
        time.sleep(max(0.0, began + (index + 1) * INTERVAL_S - time.monotonic()))
    run.wait_for_line(f"orphans {ORPHANS}", 60)
    wait_until(lambda: run.lines.count(f"e{RTMIN}") >= sent[RTMIN], "real-time signals")
    wait_until(lambda: len(children(run.pid)) <= 2, "end of the zombies")
    run.signal(RTMAX)
    assert run.exit_code() == 0
    arrived = Counter(int(line[1:]) for line in run.lines if line[:1] == "e" and line[1:].isdecimal())
    print(f"arrived: {arrived[RTMIN]} of {sent[RTMIN]} real-time, {arrived[10]} of {sent[10]} plain")
    assert arrived[RTMIN] == sent[RTMIN]
    assert sent[10] / 2 <= arrived[10] <= sent[10]
