"""The other end of ``criu --stream``: takes images while CRIU dumps, gives them while it restores.

The protocol is criu-image-streamer's (criu: criu/img-streamer.c, images/img-streamer.proto). CRIU connects
to a unix socket in its images directory and asks for one image at a time: a native-endian 32-bit length,
then ``img_streamer_request_entry { required string filename = 1 }``. A restore is answered with
``img_streamer_reply_entry { required bool exists = 1 }``, framed alike. Then CRIU passes our end of a pipe
(SCM_RIGHTS on one byte) through which the image's bytes go.
"""

from __future__ import annotations

import errno
import mmap
import os
import selectors
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fcntl import fcntl
from typing import Any, Protocol

from dynamo_entry.buffers import is_mapped
from dynamo_entry.linux import pages

CAPTURE_SOCKET = "streamer-capture.sock"
SERVE_SOCKET = "streamer-serve.sock"

_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032  # linux/fcntl.h
_PIPE_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size, what an unprivileged process may ask for
_NAME_LIMIT_BYTES = 4096

#: How much of an image is written before other images have their turn. Processes that share pages read the same chunks: as
#: long as they stay together, a chunk that one of them gets is still in memory for the others.
_TURN_BYTES, _TOGETHER_BYTES = 1 << 20, 64 << 20

#: How many images are under way when one of pages may join them: CRIU opens those of all processes at once, and each takes some
#: chunks of memory and a wide pipe. A user's pipes may have 64 MiB in all (/proc/sys/fs/pipe-user-pages-soft): beyond that, a
#: new one has 8 KiB.
_MOST_UNDER_WAY = 16

#: Another one joins them if CRIU has read nothing of them for this long. It may have opened the memory of sixteen processes
#: which all wait for the same memfd, and only then the memfd's pages.
_PATIENCE_S = 0.05

#: CRIU takes one page at a time out of some pipes. When no pipe takes more than this, they are left for a moment to run
#: empty, instead of being filled page by page.
_LEAST_BYTES, _PAUSE_S = 128 << 10, 0.0002

#: How often ``until`` is called while CRIU sends nothing.
_ASK_S = 1.0

#: Room for one descriptor, a C int.
_ONE_DESCRIPTOR = socket.CMSG_LEN(4)

#: protobuf: field 1, varint, true or false
_EXISTS = b"\x08\x01"
_ABSENT = b"\x08\x00"


class HungUpError(Exception):
    """CRIU closed the connection: it is done, or it failed in the middle of a request, and its log says why."""


class ProtocolError(Exception):
    """What came does not belong to the protocol: another version of CRIU, or not CRIU."""


class Sink(Protocol):
    """Where the bytes of one image go while CRIU dumps."""

    def buffer(self) -> memoryview:
        """Free space to read into. May wait until the archive has caught up."""

    def advance(self, n: int) -> None:
        """``n`` bytes of ``buffer()`` are filled."""

    def close(self) -> None:
        """Called when the image is complete."""


def listen(path: str) -> socket.socket:
    """A listening socket for CRIU's one connection."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener.bind(path)
    listener.listen(1)
    return listener


class _Streamer(ABC):
    """Takes CRIU's one connection, and calls ``_open`` for each image that it asks for."""

    def __init__(self, path: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(listen(path), selectors.EVENT_READ, self._accept)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._selector.unregister(listener)
        listener.close()
        self._selector.register(connection, selectors.EVENT_READ, self._request)

    def _request(self, connection: socket.socket) -> None:
        try:
            self._open(receive_request(connection), connection)
        except HungUpError:
            self._selector.unregister(connection)
            connection.close()

    @abstractmethod
    def _open(self, name: str, connection: socket.socket) -> None:
        """Answer CRIU, which has asked for the image ``name``."""


class Capture(_Streamer):
    """One dump: every image that CRIU writes goes to the sink that ``open_sink`` returns for its name."""

    def __init__(self, directory: str, open_sink: Callable[[str], Sink]) -> None:
        super().__init__(f"{directory}/{CAPTURE_SOCKET}")
        self._open_sink = open_sink
        self._watched: set[int] = set()
        self._open_images = 0
        self.received_bytes = 0

    def watch(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Call back from ``run`` when a descriptor of the caller's becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)
        self._watched.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor."""
        self._selector.unregister(descriptor)
        self._watched.discard(descriptor)

    def run(self, until: Callable[[], bool]) -> None:
        """Take images until ``until()`` is true and every image that was begun is complete.

        ``until`` is called after every event, and now and then. Raises what a sink or a callback raises.
        """
        while not (until() and not self._open_images):
            for key, _ in self._selector.select(_ASK_S):
                key.data(key.fileobj)

    def close(self) -> None:
        """Close every pipe. A CRIU that still writes gets EPIPE, gives up, and thaws what it froze. Idempotent."""
        for key in list((self._selector.get_map() or {}).values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fd not in self._watched:
                os.close(key.fd)
        self._selector.close()

    def _open(self, name: str, connection: socket.socket) -> None:
        pipe = receive_descriptor(connection)
        _widen(pipe)
        sink = self._open_sink(name)
        self._open_images += 1
        self._selector.register(pipe, selectors.EVENT_READ, lambda fd: self._take(fd, sink))

    def _take(self, pipe: int, sink: Sink) -> None:
        read = os.readv(pipe, [sink.buffer()])
        if read:
            sink.advance(read)
            self.received_bytes += read
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        sink.close()
        self._open_images -= 1


class Serve(_Streamer):
    """One restore: CRIU asks for images by name, in its own order, sometimes for the same one again.

    ``image`` returns an iterable of an image's bytes, or None if there is no such image. Everything happens in one
    thread, which exists before CRIU starts: a new thread could take the pid of a task that CRIU is about to make.
    ``on_failure`` gets the first error.
    """

    def __init__(
        self,
        directory: str,
        image: Callable[[str], Iterable[Any] | None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        super().__init__(f"{directory}/{SERVE_SOCKET}")
        self._image = image
        self._on_failure = on_failure
        self._under_way = 0
        self._waiting: deque[_Push] = deque()
        threading.Thread(target=self._run, name="serve", daemon=True).start()

    def _run(self) -> None:
        try:
            while self._selector.get_map():
                self._handle_events()
        except Exception as error:  # a thread's outermost frame: the restore is told, whatever it is
            self._on_failure(error)

    def _handle_events(self) -> None:
        """Handle what is ready. In a function, so that no reference to a finished image is left while the next one is awaited."""
        pushes = []
        ready = self._selector.select(_PATIENCE_S if self._waiting else None)
        if not ready:
            self._begin(self._waiting.popleft())
        for key, _ in ready:
            if isinstance(key.data, _Push):
                pushes.append(key.data)
            else:
                key.data(key.fileobj)
        served = [self._continue(push) for push in _whose_turn(pushes)]
        if served and max(served) < _LEAST_BYTES:
            time.sleep(_PAUSE_S)

    def _continue(self, push: _Push) -> int:
        """Return how much CRIU took; _LEAST_BYTES for an image that is finished, or whose pipe is too narrow to tell."""
        before = push.done_bytes
        if push.turn():
            return push.done_bytes - before if push.is_wide else _LEAST_BYTES
        self._selector.unregister(push.pipe)
        os.close(push.pipe)
        self._under_way -= 1
        self._let_join()
        return _LEAST_BYTES

    def _open(self, name: str, connection: socket.socket) -> None:
        data = self._image(name)
        reply = _ABSENT if data is None else _EXISTS
        with _telling_hang_ups():
            connection.sendall(struct.pack("=I", len(reply)) + reply)
        if data is not None:
            pipe = receive_descriptor(connection)
            os.set_blocking(pipe, False)
            push = _Push(pipe, data)
            if name.startswith("pages-"):
                self._waiting.append(push)
                self._let_join()
            else:
                self._begin(push)

    def _let_join(self) -> None:
        while self._waiting and self._under_way < _MOST_UNDER_WAY:
            self._begin(self._waiting.popleft())

    def _begin(self, push: _Push) -> None:
        if push.turn():
            push.is_wide = _widen(push.pipe)
            self._selector.register(push.pipe, selectors.EVENT_WRITE, push)
            self._under_way += 1
        else:  # most images are so small that the pipe holds all of them
            os.close(push.pipe)


def _whose_turn(pushes: list[_Push]) -> list[_Push]:
    """The images to continue with. An image that is a little ahead of another one waits, so that relatives stay together."""
    least = min((push.done_bytes for push in pushes), default=0)
    return [push for push in pushes if not _TURN_BYTES < push.done_bytes - least <= _TOGETHER_BYTES]


class _Push:
    """An image on its way into a pipe. A pipe that could not be widened runs empty at once (``is_wide``)."""

    def __init__(self, pipe: int, data: Iterable[Any]) -> None:
        self.pipe = pipe
        self.is_wide = True
        self.done_bytes = 0
        self._pieces = (memoryview(piece) for piece in data)
        self._rest = memoryview(b"")

    def turn(self) -> bool:
        """Write _TURN_BYTES, or less if the pipe is full. Returns whether anything may be left to write."""
        end = self.done_bytes + _TURN_BYTES
        try:
            while self.done_bytes < end:
                if self._rest:
                    written = _write(self.pipe, self._rest)
                    self._rest = self._rest[written:]
                    self.done_bytes += written
                    if self._rest:  # full
                        return True
                following = next(self._pieces, None)
                if following is None:
                    return False
                self._rest = following
        except BlockingIOError:
            pass
        except BrokenPipeError:  # CRIU reads no further than it needs
            return False
        return True


def _write(pipe: int, data: memoryview) -> int:
    """Give the pipe pages that are mapped from a file, and do not change, as they are; copy everything else."""
    if is_mapped(data) and len(data) >= mmap.PAGESIZE:
        try:
            return pages.splice(pipe, data)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # withheld by a seccomp profile
                raise
    return os.write(pipe, data)


@contextmanager
def _telling_hang_ups() -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise HungUpError from error


def receive_request(connection: socket.socket) -> str:
    """The next image's name. Raises ProtocolError, HungUpError."""
    (length,) = struct.unpack("=I", _receive(connection, 4))
    if not 0 < length <= _NAME_LIMIT_BYTES:
        raise ProtocolError(f"request of {length} bytes")
    return parse_request(_receive(connection, length))


def parse_request(body: bytes) -> str:
    """The file name of an ``img_streamer_request_entry``. Raises ProtocolError."""
    length, shift, at = 0, 0, 1
    while at < len(body):
        length |= (body[at] & 0x7F) << shift
        at += 1
        if body[at - 1] < 0x80:
            break
        shift += 7
    if not body.startswith(b"\x0a") or at + length != len(body):
        raise ProtocolError(f"not a request: {body[:32]!r}")
    try:
        return body[at:].decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError(f"not a request: {body[:32]!r}") from None


def receive_descriptor(connection: socket.socket) -> int:
    """The descriptor that CRIU passes next. Raises ProtocolError, HungUpError, and OSError if too many are open here."""
    with _telling_hang_ups():
        # socket.recv_fds drops its flags (CPython 3.11)
        data, received, flags, _ = connection.recvmsg(1, _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise HungUpError
    if flags & socket.MSG_CTRUNC:  # the kernel drops what there is no room for
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if not received:
        raise ProtocolError("no descriptor was passed")
    return int(*struct.unpack("=i", received[0][2]))


def _widen(pipe: int) -> bool:
    """Let a pipe hold as much as is allowed; returns whether that is _PIPE_BYTES."""
    try:
        return int(fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)) >= _PIPE_BYTES
    except OSError:  # beyond pipe-user-pages-soft: works as it is, slower
        return int(fcntl(pipe, _F_GETPIPE_SZ)) >= _PIPE_BYTES


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        with _telling_hang_ups():
            piece = connection.recv(length - len(data))
        if not piece:
            raise HungUpError
        data += piece
    return data
