"""engines.py NAME PORT …: the management routes of vLLM and SGLang with the checks of the real servers: bodies, keys, and the order of calls.

SGLang 0.5.21: sglang/srt/entrypoints/http_server.py, utils/auth.py, managers/scheduler.py and
scheduler_components/weight_updater.py. vLLM 0.31: vllm/entrypoints/serve/dev/*/api_router.py, v1/engine/core.py;
0.27 to 0.30 have no /release_kv_cache_memory.
"""

from __future__ import annotations

import json
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from servers import tls


class Refusal(Exception):
    """An answer other than 200: its status and words."""


class Engine:
    """A server on a port of its own; ``asked`` is what it was asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused: dict[str, int] = {}
        self.port = 0

    def answer(self, method: str, path: str, query: dict[str, str], body: object, headers: dict) -> object:
        raise NotImplementedError

    @contextmanager
    def serving(self, port: int = 0, certificate: tls.Certificate | None = None) -> Iterator[Engine]:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(url.query).items()}
                try:
                    if url.path in ("/health", "/state"):
                        self.say(200, {name: str(value) for name, value in vars(engine).items()})
                        return
                    if status := engine.refused.get(url.path):
                        raise Refusal(status, "by the test")
                    body = json.loads(text) if text else None
                    said, status = engine.answer(self.command, url.path, query, body, dict(self.headers)), 200
                except Refusal as refusal:
                    status, said = refusal.args[0], {"error": refusal.args[1]}
                self.say(status, said)

            def do_GET(self):
                self.do_POST()

            def say(self, status, said):
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", port), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class SGLang(Engine):
    """One with a request under way. What makes the real scheduler's process end, ends it."""

    def __init__(self, *, api_key: str = "", admin_key: str = "") -> None:
        super().__init__()
        self.key = admin_key or api_key
        self.requests, self.last_batch = 1, True
        self.is_paused = self.is_dead = False
        self.released: set[str] = set()

    def answer(self, method, path, query, body, headers):
        routes = {
            "/pause_generation": self.pause,
            "/continue_generation": self.go_on,
            "/release_memory_occupation": self.release,
            "/resume_memory_occupation": self.resume,
        }
        if path not in routes:
            raise Refusal(404, "Not Found")
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            raise Refusal(401, "Unauthorized")
        if not isinstance(body, dict) or headers.get("Content-Type") != "application/json":
            raise Refusal(400, "Field required")
        if self.is_dead:
            raise Refusal(503, "the scheduler has ended")
        self.asked.append(path)
        routes[path](body)
        return {}

    def pause(self, body):
        mode = body.get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise Refusal(400, "Input should be 'abort', 'retract' or 'in_place'")
        if mode == "abort":
            self.requests = 0  # the scheduler itself is not told
        elif mode == "retract":
            self.last_batch = False
        self.is_paused = True

    def go_on(self, body):
        self.is_paused = False

    def release(self, body):
        if self.requests or self.last_batch:
            self.is_dead = True
            raise Refusal(500, "release_memory_occupation should be called only when server is idle.")
        self.released |= set(body.get("tags") or ("kv_cache", "weights", "cuda_graph"))

    def resume(self, body):
        tags = set(body.get("tags") or ("kv_cache", "weights", "cuda_graph"))
        if not tags <= self.released:
            self.is_dead = True
            raise Refusal(500, "KeyError")
        self.released -= tags


class VLLM(Engine):
    """One in sleep mode; ``is_dev``: with the routes of VLLM_SERVER_DEV_MODE."""

    def __init__(self, *, is_dev: bool = True) -> None:
        super().__init__()
        self.is_dev = is_dev
        self.is_paused = self.is_asleep = self.is_prepared = False
        self.delay, self.patience, self.wanted = 0, 3, False

    def answer(self, method, path, query, body, headers):
        routes = {
            "/sleep": ("POST", self.sleep),
            "/is_sleeping": ("GET", self.says),
            "/pause": ("POST", self.pause),
            "/resume": ("POST", self.resume),
            "/release_kv_cache_memory": ("POST", self.release),
            "/wake_up": ("POST", self.wake_up),
            "/collective_rpc": ("POST", self.rpc),
        }
        if not self.is_dev or path not in routes:
            raise Refusal(404, "Not Found")
        wanted, route = routes[path]
        if method != wanted:
            raise Refusal(405, "Method Not Allowed")
        if method == "POST":
            self.asked.append(path)
        return route(query, body)

    def sleep(self, query, body):
        self.delay, self.wanted = self.patience, True
        self.is_asleep = self.is_paused  # nothing is under way then
        return

    def says(self, query, body):
        self.delay -= 1
        if self.delay <= 0:
            self.is_asleep = self.wanted
        return {"is_sleeping": self.is_asleep}

    def pause(self, query, body):
        if query.get("mode", "abort") not in ("abort", "wait", "keep"):
            raise Refusal(400, "mode")
        self.is_paused = True
        return {"status": "paused"}

    def resume(self, query, body):
        self.is_paused = False
        return {"status": "resumed"}

    def release(self, query, body):
        if not self.is_paused or self.is_asleep:
            raise Refusal(500, "release_kv_cache_memory() requires a completed pause first")
        self.is_asleep = True

    def wake_up(self, query, body):
        self.delay, self.wanted = self.patience, False
        if not self.is_prepared and self.is_paused:
            self.is_asleep = self.is_paused = False
        if self.is_prepared:
            raise Refusal(500, "the communicators are gone")
        return

    def rpc(self, query, body):
        if not isinstance(body, dict) or "method" not in body:
            raise Refusal(400, "Missing 'method' in request body")
        wanted = {"checkpoint_prepare": False, "checkpoint_restore": True}.get(body["method"])
        if wanted is not self.is_prepared:
            raise Refusal(500, body["method"])
        self.is_prepared = not wanted
        return {"results": [None]}


def main() -> None:
    kind, port, *options = sys.argv[1:]
    made = {
        "sglang": lambda: SGLang(admin_key=options[-1] if options else ""),
        "vllm": lambda: VLLM(is_dev="--enable-sleep-mode" in options),
    }
    with made[kind]().serving(int(port)):
        signal.pause()


if __name__ == "__main__":
    main()
