"""python3 -m dynamo.vllm: a worker with Dynamo's system port and snapshot handshake, serving images/engines/embed's model.

As ai-dynamo 1.6 does: with a control directory in its environment it loads the model, pauses before it has a server,
and goes on with a new identity when it is told to.
"""

import json
import os
import sys
import time
from pathlib import Path

import server
from fastapi import FastAPI


class Worker(FastAPI):
    """Answers Dynamo's liveness probe, too."""

    def __init__(self) -> None:
        super().__init__()
        self.add_api_route("/live", lambda: {"status": "live"})


class PausedServer(server.Server):
    """Begins to serve when the snapshot is over."""

    async def startup(self, sockets: list | None = None) -> None:
        if directory := os.environ.get("DYN_SNAPSHOT_CONTROL_DIR"):
            pause(Path(directory))
        await super().startup(sockets)


def pause(directory: Path) -> None:
    ready = directory / "ready-for-snapshot"
    ready.write_text("ready")
    while not (directory / "restore-complete").exists():
        time.sleep(0.1)
    ready.unlink()
    for name, value in json.loads((directory / "restore-context.json").read_text())["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


if __name__ == "__main__":
    print("dynamo.vllm:", *sys.argv[1:], file=sys.stderr, flush=True)
    os.environ.setdefault("PORT", os.environ.get("DYN_SYSTEM_PORT", "9090"))
    server.FastAPI, server.Server = Worker, PausedServer
    server.say_ready = lambda: None  # no release of ai-dynamo creates SIGNAL_FILE
    server.main()
