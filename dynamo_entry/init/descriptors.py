"""What is open in this process: 0, 1 and 2 for the engine, everything else for nobody but us."""

from __future__ import annotations

import os


def occupy_closed() -> None:
    """Take the numbers 0, 1 and 2 where they are closed, so that no pipe of ours gets one of them.

    Closed on exec: the engine finds closed what was closed.
    """
    path, flags = ("/dev/null", os.O_RDWR) if os.path.exists("/dev/null") else ("/", os.O_RDONLY)
    while (descriptor := os.open(path, flags)) <= 2:
        pass
    os.close(descriptor)


def keep_private() -> None:
    """Mark everything beyond standard error close-on-exec: the engine gets 0, 1 and 2, no more."""
    try:
        descriptors = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(min(os.sysconf("SC_OPEN_MAX"), 4096)))
    for descriptor in descriptors:
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                pass
