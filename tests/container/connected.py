"""An engine of two processes that talk over TCP, with an answer under way, and a connection that leads nowhere else.

It says ``after VALUE`` once it was restored.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

CONTEXT = Path("/run/dynamo_entry/context.json")


def answer_late(host: str, server: socket.socket) -> None:
    connection, _ = server.accept()
    while request := connection.recv(100):
        if request == b"late":
            while not CONTEXT.exists():
                time.sleep(0.05)
        connection.sendall(b"answer to " + request)
    sys.exit(f"closed: {host}")


def asked(connection: socket.socket, request: bytes, *, from_: socket.socket | None = None) -> str:
    try:
        connection.sendall(request)
        return (from_ or connection).recv(100).decode() or "end of file"
    except OSError as error:
        return type(error).__name__


def half_closed() -> None:
    """A request whose end was told, and whose answer comes after the restore."""
    server = socket.create_server(("127.0.0.1", 5000))
    client = socket.create_connection(("127.0.0.1", 5000))
    connection, _ = server.accept()
    client.sendall(b"all of it")
    client.shutdown(socket.SHUT_WR)
    wait()
    request = b"".join(iter(lambda: received(connection), b""))
    said = {"request": request.decode(), "answer": asked(connection, b"answer", from_=client)}
    print("after", json.dumps(said), flush=True)
    signal.pause()


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except OSError:
        return b""


def wait() -> None:
    Path(os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE", "/tmp/ready")).touch()
    while not CONTEXT.exists():
        time.sleep(0.05)


def main() -> None:
    host, outside = sys.argv[1:]
    if host == "half-closed":
        half_closed()
    if host == "own":
        host = socket.gethostbyname(socket.gethostname())
    server = socket.create_server((host, 5000))
    if os.fork() == 0:
        answer_late(host, server)
    connection = socket.create_connection((host, 5000))
    assert asked(connection, b"early") == "answer to early"
    elsewhere = socket.create_connection((outside, 6000)) if outside != "none" else None
    connection.sendall(b"late")
    wait()
    said = {"late": asked(connection, b"") if select.select([connection], [], [], 10)[0] else "nothing"}
    said["next"] = asked(connection, b"next")
    said["outside"] = asked(elsewhere, b"x") if elsewhere else None
    print("after", json.dumps(said), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
