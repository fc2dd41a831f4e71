"""Whether requests of io_submit(2) are under way cannot be seen from outside: why they are named, and not refused."""

import ctypes
import os
import signal
import struct
import time
from pathlib import Path

import pytest

SETUP, GETEVENTS, SUBMIT = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}[os.uname().machine]
POLL, POLLIN = 5, 1

libc = ctypes.CDLL(None, use_errno=True)


class Requester:
    """A child with an AIO context that takes one step at each request."""

    def __init__(self):
        self.told, self.tell = os.pipe()
        self.heard, self.say = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os._exit(self._run())

    def _run(self):
        context, (reading, writing) = ctypes.c_ulong(0), os.pipe()
        if libc.syscall(SETUP, 8, ctypes.byref(context)):
            return 1
        request = ctypes.create_string_buffer(
            struct.pack("QIIHhIQQqQII", 9, 0, 0, POLL, 0, reading, POLLIN, 0, 0, 0, 0, 0)
        )
        self._next()
        libc.syscall(SUBMIT, context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(request)))
        self._next()
        os.write(writing, b"x")
        events = ctypes.create_string_buffer(32)
        libc.syscall(GETEVENTS, context, 1, 1, events, None)
        self._next()
        return 0

    def _next(self):
        os.write(self.say, b"x")
        os.read(self.told, 1)

    def state(self):
        """What /proc has of its files and memory."""
        os.read(self.heard, 1)
        directory = Path("/proc", str(self.pid))
        while "(sleeping)" not in (directory / "status").read_text():
            time.sleep(0.01)
        found = {str(path): path.read_text() for path in (directory / "fdinfo").iterdir()}
        found |= {str(path): os.readlink(path) for path in (directory / "fd").iterdir()}
        found |= {name: (directory / name).read_text() for name in ("maps", "limits")}
        found["aio-nr"] = Path("/proc/sys/fs/aio-nr").read_text()
        start = next(line for line in found["maps"].splitlines() if "[aio]" in line).partition("-")[0]
        with open(directory / "mem", "rb") as memory:
            memory.seek(int(start, 16))
            found["ring"] = memory.read(32).hex()
        return found

    def go_on(self):
        os.write(self.tell, b"x")

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def requester():
    made = Requester()
    yield made
    made.end()


def test_a_request_under_way_looks_like_none(requester):
    """A kernel on which this fails tells it: then such an engine can be refused."""
    try:
        idle = requester.state()
    except (StopIteration, PermissionError):
        pytest.skip("no asynchronous I/O here, or no right to look at it")
    requester.go_on()
    under_way = requester.state()
    requester.go_on()
    done = requester.state()
    assert under_way == idle
    assert done["ring"] != idle["ring"]  # what has ended can be seen
