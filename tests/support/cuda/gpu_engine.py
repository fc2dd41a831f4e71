"""An engine that keeps what it serves in GPU memory, through the CUDA driver API alone: no framework.

GET  /health              200
GET  /digest              sha256 of each rank's device memory, read back from the GPU
GET  /work                a kernel of each rank adds one to a counter in device memory; returns the counters
GET  /busy?ms=            the GPU has work for a while
GET  /pids                pids of the ranks
POST /generate            {"prompt": …} → {"text": …}, which depends on the device memory of every rank
POST /spoil               changes one byte of device memory
POST /sleep, /wake_up     vLLM's: give the cache back, take it again; GET /is_sleeping
POST /release_memory_occupation, /resume_memory_occupation   SGLang's, who is paused before (/pause_generation) and
                            goes on after it (/continue_generation)

RANKS       processes, one a GPU in turn (1); rank 0 is the server itself
GPU_MIB     device memory of each rank (16); CACHE_MIB: more, which sleeping gives back (0)
LATE        seconds after which one more rank appears (0: none)
FORK        1: a child is forked from rank 0 after it began to use CUDA
PORT        8000
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import parse_qsl, urlsplit

MIB = 1 << 20

#: Turing and newer: what the driver compiles it for is the GPU that is there.
KERNELS = b"""
.version 6.3
.target sm_75
.address_size 64
.visible .entry add_one(.param .u64 at)
{
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [at];
	cvta.to.global.u64 %rd2, %rd1;
	ld.global.u64 %rd3, [%rd2];
	add.s64 %rd3, %rd3, 1;
	st.global.u64 [%rd2], %rd3;
	ret;
}
.visible .entry spin(.param .u64 ns)
{
	.reg .pred %p<2>;
	.reg .b64 %rd<5>;
	ld.param.u64 %rd1, [ns];
	mov.u64 %rd2, %globaltimer;
again:
	mov.u64 %rd3, %globaltimer;
	sub.s64 %rd4, %rd3, %rd2;
	setp.lt.u64 %p1, %rd4, %rd1;
	@%p1 bra again;
	ret;
}
"""


def number(name: str, default: float = 0) -> float:
    return float(os.environ.get(name, default))


class Gpu:
    """One rank's device memory: a counter and random bytes."""

    def __init__(self, rank: int) -> None:
        os.environ["STUB_CUDA_RANK"] = str(rank)
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._context: ctypes.c_void_p | None = None
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGetCount", ctypes.byref(count))
        self._call("cuDeviceGet", ctypes.byref(device), rank % count.value)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context  # current from here on, in whatever thread calls
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), KERNELS)
        self.size = int(number("GPU_MIB", 16)) * MIB
        self._memory = self._allocate(self.size)
        self._lock = threading.Lock()
        self._cache: ctypes.c_uint64 | None = None
        self.wake()
        for offset in range(0, self.size, MIB):
            self._write(offset, os.urandom(MIB))
        self._write(0, bytes(8))

    def _call(self, function: str, *arguments) -> None:
        if self._context:
            self._cuda.cuCtxSetCurrent(self._context)
        if code := getattr(self._cuda, function)(*arguments):
            raise RuntimeError(f"{function}: {code}")

    def _allocate(self, size: int) -> ctypes.c_uint64:
        memory = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
        return memory

    def _write(self, offset: int, data: bytes) -> None:
        at = ctypes.c_uint64(self._memory.value + offset)
        self._call("cuMemcpyHtoD_v2", at, data, ctypes.c_size_t(len(data)))

    def _read(self, offset: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        at = ctypes.c_uint64(self._memory.value + offset)
        self._call("cuMemcpyDtoH_v2", buffer, at, ctypes.c_size_t(size))
        return buffer.raw

    def digest(self) -> str:
        """Of all but the counter."""
        found = hashlib.sha256()
        for offset in range(0, self.size, MIB):
            found.update(self._read(offset, MIB)[8 if not offset else 0 :])
        return found.hexdigest()

    def work(self) -> int:
        with self._lock:
            self._launch(b"add_one", self._memory.value)
            self._call("cuCtxSynchronize")
            return int.from_bytes(self._read(0, 8), "little")

    def spoil(self) -> int:
        self._write(MIB // 2, bytes([self._read(MIB // 2, 1)[0] ^ 1]))
        return 0

    def busy(self, ms: int) -> int:
        self._launch(b"spin", ms * 1_000_000)
        return ms

    def _launch(self, kernel: bytes, parameter: int) -> None:
        """One thread of one block, on the default stream."""
        function, value = ctypes.c_void_p(), ctypes.c_uint64(parameter)
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, kernel)
        parameters = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(value), ctypes.c_void_p))
        self._call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, parameters, None)

    def sleep(self) -> int:
        if self._cache is not None:
            self._call("cuMemFree_v2", self._cache)
            self._cache = None
        return 0

    def wake(self) -> int:
        size = int(number("CACHE_MIB")) * MIB
        if size and self._cache is None:
            self._cache = self._allocate(size)
        return 0

    def pid(self) -> int:
        return os.getpid()


def serve_rank(rank: int, requests) -> None:
    gpu = Gpu(rank)
    requests.send("ready")
    while True:
        name, *arguments = requests.recv()
        requests.send(getattr(gpu, name)(*arguments))


class Ranks:
    """Rank 0 in this process, the others as children of their own, started by spawn as CUDA wants it."""

    def __init__(self) -> None:
        self._gpu = Gpu(0)
        self._others = []
        self._lock = threading.Lock()
        for rank in range(1, int(number("RANKS", 1))):
            self._start(rank)
        if number("LATE"):
            threading.Timer(number("LATE"), lambda: self._start(len(self._others) + 1)).start()
        if number("FORK") and not os.fork():
            time.sleep(1e6)

    def _start(self, rank: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        context.Process(target=serve_rank, args=(rank, theirs), daemon=True).start()
        ours.recv()
        self._others.append(ours)

    def ask(self, name: str, *arguments) -> list:
        with self._lock:
            for other in self._others:
                other.send((name, *arguments))
            return [getattr(self._gpu, name)(*arguments), *(other.recv() for other in self._others)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ranks: Ranks
    is_sleeping = False

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if url.path in ("/digest", "/work"):
            self._answer(self.ranks.ask(url.path[1:]))
        elif url.path == "/pids":
            self._answer(self.ranks.ask("pid"))
        elif url.path == "/busy":
            self._answer(self.ranks.ask("busy", int(query["ms"])))
        elif url.path == "/is_sleeping":
            self._answer({"is_sleeping": Handler.is_sleeping})
        else:
            self._answer({"status": "ok"}, 200 if url.path == "/health" else 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path in ("/sleep", "/release_memory_occupation", "/wake_up", "/resume_memory_occupation"):
            Handler.is_sleeping = path in ("/sleep", "/release_memory_occupation")
            print(f"gpu_engine: {path} {body.decode()}", flush=True)
            self._answer(self.ranks.ask("sleep" if Handler.is_sleeping else "wake"))
        elif path in ("/pause_generation", "/continue_generation"):
            self._answer({"status": "ok"})
        elif path == "/spoil":
            self._answer(self.ranks.ask("spoil"))
        elif path == "/generate" and not Handler.is_sleeping:
            seed = "".join(
                [json.loads(body)["prompt"], *self.ranks.ask("digest"), os.environ.get("SALT", "")]
            )
            text = hashlib.sha256(seed.encode()).hexdigest()
            self._answer({"text": text, "id": os.urandom(4).hex(), "score": int(text[:8], 16) / 2**32})
        else:
            self._answer({"error": "asleep"}, 503)

    def _answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    # HTTPServer's asks for the host's full name, which takes seconds where no name server answers.
    server_bind = TCPServer.server_bind


def main() -> None:
    Handler.ranks = Ranks()
    server = Server(("127.0.0.1", int(number("PORT", 8000))), Handler)
    print(f"gpu_engine: listening on port {server.server_address[1]}", flush=True)
    if signal_file := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        Path(signal_file).touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
