"""A server on loopback that answers what a case says, whatever it is asked."""

from __future__ import annotations

import json
import socket
import threading


class Answers:
    """Serves one connection after the other in a thread; ``case`` may be changed at any time.

    A case has ``answers.json``: by a piece of the request's line, status, headers and the name of the part that is the
    body. Ranges are cut out of it where the status is 206.
    """

    def __init__(self) -> None:
        self.case: dict[str, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            with connection, connection.makefile("rb") as file:
                while (line := file.readline()) and self._answer(connection, line, file):
                    pass
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            pass

    def _answer(self, connection: socket.socket, line: bytes, file: object) -> bool:
        headers = {}
        while header := file.readline().strip():  # type: ignore[attr-defined]
            name, _, value = header.partition(b":")
            headers[name.lower()] = value.strip().decode()
        answers = json.loads(self.case["answers.json"])
        for piece, (status, given, part) in answers.items():
            if piece.encode() not in line:
                continue
            body = self.case.get(part, b"")
            told = dict(given)
            if status == 206 and (wanted := headers.get(b"range")):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first = int(start) if start else max(0, len(body) - int(end))
                last = int(end) if start else len(body) - 1
                told = {"Content-Range": f"bytes {first}-{last}/{len(body)}", **told}
                body = body[first : last + 1]
            told = {"Content-Length": str(len(body)), **told}
            lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in told.items())]
            head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
            connection.sendall(head + (b"" if line.startswith(b"HEAD") else body))
            return True
        return False
