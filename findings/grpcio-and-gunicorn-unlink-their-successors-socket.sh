#!/usr/bin/env bash
# grpcio 1.85.3, gunicorn 27.0.1: a server on a unix socket that is replaced by another deletes the other's socket when it stops.
#
# Expected: the second server cannot bind while the first is there; or, since it can, the first leaves alone what is not its own.
# Seen: the second unlinks the path and binds anew. When the first is told to stop it unlinks that, too: the second goes on, and
# no client finds it. uvicorn 0.54.0 and hypercorn 0.18.0 leave the new socket there.
# Who meets it: whoever starts the new before he stops the old, on a shared folder: plugins of the kubelet, sidecars, proxies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q grpcio==1.85.3 gunicorn==27.0.1 uvicorn==0.54.0 hypercorn==0.18.0
cat >"$folder/app.py" <<'PYTHON'
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return []
PYTHON
cat >"$folder/rpc.py" <<'PYTHON'
import concurrent.futures
import signal
import sys

import grpc

server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
server.add_insecure_port(sys.argv[1])
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
server.wait_for_termination()
PYTHON
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import socket
import subprocess
import sys
import time

SERVERS = {
    "grpcio": ["rpc.py", "unix:{}"],
    "gunicorn": ["-m", "gunicorn", "app:wsgi", "--bind", "unix:{}"],
    "uvicorn": ["-m", "uvicorn", "app:asgi", "--uds", "{}"],
    "hypercorn": ["-m", "hypercorn", "app:asgi", "--bind", "unix:{}"],
}


def answers(path, but=None):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        return os.stat(path).st_ino != but
    except OSError:
        return False


def started(command, path, but=None):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        if answers(path, but):
            return server
        time.sleep(0.1)
    raise SystemExit(f"{command} does not answer")


reachable = {}
for name, arguments in SERVERS.items():
    path = os.path.abspath(f"{name}.socket")
    command = [sys.executable, *(argument.format(path) for argument in arguments)]
    first = started(command, path)
    second = started(command, path, os.stat(path).st_ino)
    first.terminate()
    first.wait(timeout=30)
    time.sleep(0.5)
    assert second.poll() is None, name
    reachable[name] = answers(path)
    second.terminate()
    second.wait(timeout=30)
    print(f"{name}: the second server runs, and {'can' if reachable[name] else 'cannot'} be reached")
assert reachable == {"grpcio": False, "gunicorn": False, "uvicorn": True, "hypercorn": True}, reachable
PYTHON
