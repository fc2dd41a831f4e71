"""An engine that holds one of everything a process can have around it, and can say whether it still works.

GET /things               names of what it holds
GET /check?thing=NAME     200 and {"error": null} where the thing still works, else what is wrong with it
GET /clock                readings of its clocks, and whether one ever went back

THINGS (all) names what it holds, separated by commas; HOST, PORT where it listens (0.0.0.0, 8000).
Every thing is checked once before the engine calls itself ready: what fails later was lost on the way.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from messy.things import THINGS, Check

for module in ("processes", "memory", "files", "ipc", "network", "threads"):  # forks come before threads
    import_module(f"messy.{module}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    checks: dict[str, Check]
    one_at_a_time = threading.Lock()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        answers = {
            "/health": lambda: {"status": "ok"},
            "/things": lambda: list(self.checks),
            "/check": lambda: {"error": self.check(query["thing"])},
            "/clock": sys.modules["messy.threads"].readings,
        }
        body = json.dumps(answers[url.path]()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def check(self, name: str) -> str | None:
        with self.one_at_a_time:
            return error_of(self.checks[name])

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


class Server(ThreadingHTTPServer):
    # HTTPServer's asks for the host's full name, which takes seconds where no name server answers.
    server_bind = TCPServer.server_bind


def error_of(check: Check) -> str | None:
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return None


def main() -> None:
    wanted = os.environ.get("THINGS", "all").split(",")
    names = list(THINGS) if wanted == ["all"] else wanted
    checks = {name: THINGS[name]() for name in names}
    for name, check in checks.items():
        if error := error_of(check):
            sys.exit(f"messy: {name} does not work in the first place: {error}")
    Handler.checks = checks
    server = Server((os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000"))), Handler)
    print("messy: listening", flush=True)
    if signal_file := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        Path(signal_file).touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
