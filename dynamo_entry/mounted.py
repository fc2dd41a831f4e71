"""Small files that a user names (keys, canaries, credentials): read whole, of bounded size, and never waited for."""

from __future__ import annotations

import errno
import os
import stat

#: No key, no certificate bundle and no request is larger.
LIMIT_BYTES = 1 << 20


def read(path: str) -> bytes:
    """Raises OSError, also for what is not a regular file (a fifo would keep us waiting), or is too large."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"larger than {LIMIT_BYTES >> 20} MiB", path)
    return data
