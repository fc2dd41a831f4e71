"""A worker that speaks the snapshot handshake of the release in RELEASE (1.0, 1.1 or 1.6), and has no model.

GET /health    200 on DYN_SYSTEM_PORT, once it has registered
GET /identity  what it registered as; whether it was paused; a random number of this process
"""

import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

RELEASE = os.environ.get("RELEASE", "1.6")
NONCE = os.urandom(8).hex()

#: Ready file of each release; 1.0 is given a path.
READY = {"1.1": "ready-for-checkpoint", "1.6": "ready-for-snapshot"}


def paused_by_files(directory: Path) -> None:
    ready = directory / READY[RELEASE]
    ready.write_text("ready")
    while not (directory / "restore-complete").exists():
        if (directory / "snapshot-complete").exists():
            os._exit(0)
        time.sleep(0.1)
    ready.unlink()
    if RELEASE == "1.6":
        context = json.loads((directory / "restore-context.json").read_text())["env"]
        for name, value in context.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def paused_by_signals(ready: Path) -> None:
    resumed = []
    signal.signal(signal.SIGCONT, lambda *_: resumed.append(time.monotonic()))
    ready.write_text("ready")
    while not resumed:
        time.sleep(0.1)
    assert GPU_IS_BACK.exists(), "told to go on too early"
    ready.unlink()


#: The launcher writes it for every release when the GPU is back, before it sends the signal.
GPU_IS_BACK = Path(os.environ.get("GPU_IS_BACK", "/run/dynamo_entry/control/restore-complete"))


def pause() -> bool:
    if os.environ.get("SNAPSHOT_RESTORE_STANDBY") == "1":
        os.execvp("sleep", ["sleep", "infinity"])
    if RELEASE == "1.0":
        if "DYN_READY_FOR_CHECKPOINT_FILE" not in os.environ:
            return False
        assert not Path(os.environ["DYN_CHECKPOINT_LOCATION"]).is_dir()
        paused_by_signals(Path(os.environ["DYN_READY_FOR_CHECKPOINT_FILE"]))
        return True
    if not os.environ.get("DYN_SNAPSHOT_CONTROL_DIR"):
        return False
    paused_by_files(Path(os.environ["DYN_SNAPSHOT_CONTROL_DIR"]))
    return True


class Server(ThreadingHTTPServer):
    def server_bind(self):
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


class Handler(BaseHTTPRequestHandler):
    was_paused = False

    def do_GET(self):
        body = {
            "was_paused": self.was_paused,
            "nonce": NONCE,
            "env": {name: value for name, value in os.environ.items() if name.startswith(("DYN_", "POD_", "SNAPSHOT"))},
        }  # fmt: skip
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main() -> None:
    print(f"worker: loaded as {NONCE}", flush=True)
    Handler.was_paused = pause()
    print("worker: registered", flush=True)
    Server(("127.0.0.1", int(os.environ["DYN_SYSTEM_PORT"])), Handler).serve_forever()


main()
