"""A stand-in for an inference engine that starts in milliseconds and can hold whatever a test asks for.

GET /health                        200
GET /state[?digest=1]              what must survive a checkpoint; with digests of the memory held
GET /count                         adds one to the counter that /state shows
GET /print?text=…[&stream=stderr]  writes a line
GET /env?name=…                    a variable of the environment
GET /exit?code=…                   ends the engine

PORT, HOST       where it listens (8000, 127.0.0.1)
READY_DELAY      seconds between listening and being ready (0)
BALLAST_MIB      private memory; SHARED_MIB: anonymous shared memory; MEMFD_MIB: a memfd;
                 SHM_MIB: a file in /dev/shm; UNLINKED_MIB: such a file that was deleted while open
BALLAST_FILL     random; text, which compresses well; half, which is both in turn; zero (random)
CHILDREN         forked processes that share the ballast and each change a part of it (0)
PROCESSES        processes among which all that memory is divided, like the ranks of an engine (1)
MAPPINGS         mappings of one page each, in every process (0)
WRITTEN          files that are written below /root/.cache, and closed (0)
FILES, REMOVE    paths to write and keep open, paths to delete; separated by colons
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import parse_qsl, urlsplit

MIB = 1 << 20
NONCE = os.urandom(8).hex()
STARTED = time.monotonic()


def number(name: str, default: float = 0) -> float:
    return float(os.environ.get(name, default))


def paths(name: str) -> list[Path]:
    return [Path(path) for path in os.environ.get(name, "").split(":") if path]


def backed(descriptor: int, size: int) -> mmap.mmap:
    os.ftruncate(descriptor, size)
    held = mmap.mmap(descriptor, size)
    os.close(descriptor)
    return held


def shm_file(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def unlinked(size: int) -> mmap.mmap:
    path = "/dev/shm/tiny-unlinked"
    descriptor = shm_file(path)
    os.unlink(path)
    return backed(descriptor, size)


MEMORY = {
    "ballast": lambda size: mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
    "shared": lambda size: mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "memfd": lambda size: backed(os.memfd_create("tiny"), size),
    "shm": lambda size: backed(shm_file("/dev/shm/tiny"), size),
    "unlinked": unlinked,
}

FILLS = {
    "random": os.urandom,
    "text": lambda size: b"tiny" * (size // 4),
    "half": lambda size: os.urandom(size // 2) + b"tiny" * (size // 8),
    "zero": bytes,
}


class Children:
    """Forked processes that count for as long as the memory they changed reads back."""

    PAGES_CHANGED = 64

    def __init__(self, count: int, ballast: mmap.mmap | None) -> None:
        self._ticks = mmap.mmap(-1, 4096)
        self._counters = memoryview(self._ticks).cast("Q")
        self.pids = [self._fork(index, ballast) for index in range(count)]

    def ticks(self) -> list[int]:
        return self._counters[: len(self.pids)].tolist()

    def _fork(self, index: int, ballast: mmap.mmap | None) -> int:
        if pid := os.fork():
            return pid
        mine = os.urandom(4096) * self.PAGES_CHANGED
        if ballast:
            ballast[: len(mine)] = mine
        while ballast is None or ballast[: len(mine)] == mine:
            self._counters[index] += 1
            time.sleep(0.02)
        os._exit(3)


def filled_memory() -> dict[str, mmap.mmap]:
    """This process's share of what the environment asks for."""
    processes = max(1, int(number("PROCESSES", 1)))
    memory = {
        kind: make(int(mib * MIB) // processes)
        for kind, make in MEMORY.items()
        if (mib := number(f"{kind.upper()}_MIB"))
    }
    fill = FILLS[os.environ.get("BALLAST_FILL", "random")]
    for held in memory.values():
        for offset in range(0, len(held), MIB):
            size = min(MIB, len(held) - offset)
            held[offset : offset + size] = fill(size)
    return memory


def many_mappings() -> list[mmap.mmap]:
    """Each of a page, and every other one read-only, so that the kernel keeps them apart."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    held = [
        mmap.mmap(-1, mmap.PAGESIZE, flags=kind, prot=mmap.PROT_READ | (mmap.PROT_WRITE if at % 2 else 0))
        for at in range(int(number("MAPPINGS")))
    ]
    for one in held[1::2]:
        one[0] = 1
    return held


def write_files(count: int) -> None:
    """A hundred in each directory, as compilers leave them."""
    for at in range(count):
        path = Path(f"/root/.cache/tiny/{at // 100}/{at}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{at}\n" * 100)


def start_ranks() -> None:
    """All processes but this one; returns when each of them has filled its memory."""
    ready, told = os.pipe()
    count = int(number("PROCESSES", 1)) - 1
    for _ in range(count):
        if os.fork() == 0:
            held = filled_memory(), many_mappings()
            os.close(ready)
            os.write(told, b".")
            os.close(told)
            while held:
                signal.pause()
    os.close(told)
    while os.read(ready, max(1, count)):
        pass
    os.close(ready)


class Engine:
    def __init__(self) -> None:
        self.count = 0
        start_ranks()
        self.memory = filled_memory()
        self.mappings = many_mappings()
        write_files(int(number("WRITTEN")))
        self.files = {path: self._create(path) for path in paths("FILES")}
        for path in paths("REMOVE"):
            path.unlink()
        self.children = Children(int(number("CHILDREN")), self.memory.get("ballast"))

    @staticmethod
    def _create(path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", buffering=1)
        file.write(f"written by {NONCE}\n")
        return file

    def state(self, digest: str = "") -> dict:
        found = {
            "pid": os.getpid(),
            "nonce": NONCE,
            "uptime": time.monotonic() - STARTED,
            "count": self.count,
            "children": self.children.pids,
            "ticks": self.children.ticks(),
            "files": {str(path): path.read_text() for path in self.files},
            "removed": [str(path) for path in paths("REMOVE") if not path.exists()],
        }
        if digest:
            found["sha256"] = {kind: hashlib.sha256(held).hexdigest() for kind, held in self.memory.items()}
        return found

    def health(self) -> dict:
        return {"status": "ok"}

    def increment(self) -> dict:
        self.count += 1
        for file in self.files.values():
            file.write(f"count {self.count}\n")
        return {"count": self.count}

    def print(self, text: str, stream: str = "stdout") -> dict:
        print(text, file=getattr(sys, stream), flush=True)
        return {}

    def env(self, name: str) -> dict:
        return {name: os.environ.get(name)}

    def exit(self, code: str) -> dict:
        os._exit(int(code))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        engine = self.engine
        routes = {
            "/health": engine.health,
            "/state": engine.state,
            "/count": engine.increment,
            "/print": engine.print,
            "/env": engine.env,
            "/exit": engine.exit,
        }
        url = urlsplit(self.path)
        route = routes.get(url.path)
        body = json.dumps(route(**dict(parse_qsl(url.query))) if route else {}).encode()
        self.send_response(200 if route else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Only what a test asks to be printed is printed."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    # HTTPServer's asks for the host's full name, which takes seconds where no name server answers.
    server_bind = TCPServer.server_bind


def terminate(*_: object) -> None:
    print("tiny: terminated", flush=True)
    os._exit(0)


def main() -> None:
    Handler.engine = Engine()
    signal.signal(signal.SIGTERM, terminate)
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(number("PORT", 8000))), Handler)
    print(f"tiny: listening on port {server.server_address[1]}", flush=True)
    print(f"tiny: started as {NONCE}", file=sys.stderr, flush=True)
    time.sleep(number("READY_DELAY"))
    if signal_file := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        Path(signal_file).touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
