"""A TCP relay before a server, for what goes wrong on the way: cut, reset, stalled, damaged at byte N."""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import NamedTuple

_PIECE_BYTES = 64 << 10


class Fault(NamedTuple):
    """Happens once ``at`` bytes went through. ``for_good``: to all other connections, too, and to every later one."""

    at: int
    how: str  # cut, reset, stall, damage
    for_good: bool = False


class Wire:
    """Relays to a port of this host. ``up`` counts bytes to the server, ``down`` bytes from it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._let_go = threading.Event()
        self._faults: dict[str, Fault] = {}
        self._dead = ""
        self.moved = {"up": 0, "down": 0}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def fault(self, direction: str, how: str, *, after: int = 0, for_good: bool = False) -> None:
        """Let ``after`` more bytes through in that direction, then let it happen."""
        with self._lock:
            self._faults[direction] = Fault(self.moved[direction] + after, how, for_good)

    @property
    def has_happened(self) -> bool:
        """No fault is waiting for its byte any more."""
        return not self._faults

    def stop(self) -> None:
        self._let_go.set()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._dead:
                threading.Thread(target=self._break, args=(self._dead, client), daemon=True).start()
                continue
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        """One thread for both directions: nobody else uses the sockets when they are broken."""
        server = socket.create_connection(("127.0.0.1", self._target))
        routes = {client: ("up", server), server: ("down", client)}
        how = "cut"
        try:
            while True:
                for source in select.select(list(routes), [], [])[0]:
                    if self._dead:
                        how = self._dead
                        return
                    direction, sink = routes[source]
                    if not (data := source.recv(_PIECE_BYTES)):
                        return
                    how, data = self._passed(direction, data)
                    sink.sendall(data)
                    if how:
                        return
        except OSError:
            pass
        finally:
            self._break(how, client, server)

    def _passed(self, direction: str, data: bytes) -> tuple[str, bytes]:
        """What of the data goes through, and what happens then."""
        with self._lock:
            before = self.moved[direction]
            fault = self._faults.get(direction)
            how = ""
            if fault and before + len(data) > fault.at:
                del self._faults[direction]
                index = max(0, fault.at - before)
                if fault.how == "damage":
                    data = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
                else:
                    how, data = fault.how, data[:index]
                    self._dead = how if fault.for_good else ""
            self.moved[direction] = before + len(data)
            return how, data

    def _break(self, how: str, *ends: socket.socket) -> None:
        if how == "stall":
            self._let_go.wait()
        for end in ends:
            if how == "reset":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
