"""The other end of ``criu restore --lazy-pages``: takes over the userfaultfd of every task.

The protocol is that of ``criu lazy-pages`` (criu: criu/uffd.c). CRIU connects once to a unix socket in its work
directory. Over it each task sends its pid, a native 32-bit number, and then its userfaultfd (SCM_RIGHTS on one byte);
a task that has ended sends its pid negated, and nothing else. When all are rebuilt, CRIU sends _FINISHED.

With ``--unprivileged`` CRIU asks the kernel for no event but page faults (criu: criu/kerndat.c): a task that forks,
or moves memory or gives it back, would leave the rest of what was not filled behind. So no task may run before all is
filled and ``close`` was called.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping

from dynamo_entry.criu.streamer import HungUpError, ProtocolError, listen, receive_descriptor
from dynamo_entry.errors import RestoreFailed
from dynamo_entry.linux import userfault
from dynamo_entry.scratch import remove

SOCKET = "lazy-pages.socket"

_FINISHED = 0x52535446
_NUMBER = struct.Struct("=i")

#: How long CRIU may take for the next task: if a task is killed while it sends, nothing more comes.
_TAKES_S = 10


class Handover:
    """Takes the userfaultfds over; ``descriptors`` has them by pid.

    A task that touches a page before it is filled gets a page of zeros, as it would without a userfaultfd. The caller
    waits until one of ``watched`` is readable, and calls ``handle``. Once CRIU holds the tasks, the caller calls
    ``finish``, and from then on ``answer`` now and then.
    """

    def __init__(self, directory: str) -> None:
        self.descriptors: dict[int, int] = {}
        self._path = f"{directory}/{SOCKET}"
        self._listener = listen(self._path)
        self._connection: socket.socket | None = None
        self._is_finished = False

    @property
    def watched(self) -> list[int]:
        """The descriptors to wait for."""
        more = [] if self._is_finished else [(self._connection or self._listener).fileno()]
        return [*self.descriptors.values(), *more]

    def handle(self, readable: list[int]) -> None:
        """Take what CRIU sends, and answer the tasks that wait. Raises OSError."""
        self.answer()
        if self._connection is None and self._listener.fileno() in readable:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(_TAKES_S)
        elif self._connection is not None and self._connection.fileno() in readable:
            self._is_finished = not self._take(self._connection)

    def answer(self) -> None:
        """Give a page of zeros to each task that waits for a page. Raises OSError."""
        for descriptor in self.descriptors.values():
            while (position := userfault.awaited(descriptor)) is not None:
                userfault.zero(descriptor, position)

    def finish(self, huge: Mapping[int, Iterable[tuple[int, int]]]) -> None:
        """Take the rest of what CRIU has sent, and unregister mappings (``huge``, by pid). Raises OSError."""
        while self._connection is not None and not self._is_finished:
            self._is_finished = not self._take(self._connection)
        for pid, descriptor in self.descriptors.items():
            for start, end in huge.get(pid, ()):
                userfault.unregister(descriptor, start, end)

    def close(self) -> None:
        """Make the tasks' memory ordinary memory again; what was not filled reads as zeros. Idempotent."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])
        for one in (self._connection, self._listener):
            if one is not None:
                one.close()
        remove(self._path)

    def _take(self, connection: socket.socket) -> bool:
        """Take one task over; returns whether more will come. Raises OSError, RestoreFailed."""
        try:
            return self._take_next(connection)
        except TimeoutError:
            raise RestoreFailed(
                f"criu did not hand over the memory of a task within {_TAKES_S} s", reason="CriuRestoreFailed"
            ) from None
        except ProtocolError as error:
            raise RestoreFailed(
                f"criu did not hand over the memory of a task: {error}", reason="CriuRestoreFailed"
            ) from None

    def _take_next(self, connection: socket.socket) -> bool:
        said = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
        if len(said) < _NUMBER.size:
            return False
        (number,) = _NUMBER.unpack(said)
        if number == _FINISHED:
            return False
        if number > 0:
            try:
                self.descriptors[number] = receive_descriptor(connection)
            except HungUpError:
                return False
        return True
