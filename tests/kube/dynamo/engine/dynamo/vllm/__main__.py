"""python3 -m dynamo.vllm: a worker with Dynamo's system port, serving the embedding model of images/engines/embed."""

import os
import sys

import server
from fastapi import FastAPI


class Worker(FastAPI):
    """Answers Dynamo's liveness probe, too."""

    def __init__(self) -> None:
        super().__init__()
        self.add_api_route("/live", lambda: {"status": "live"})


if __name__ == "__main__":
    print("dynamo.vllm:", *sys.argv[1:], file=sys.stderr, flush=True)
    os.environ.setdefault("PORT", os.environ.get("DYN_SYSTEM_PORT", "9090"))
    server.FastAPI = Worker
    server.main()
