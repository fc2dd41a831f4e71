#!/usr/bin/env bash
# uvicorn 0.54.0: an orderly stop by SIGTERM ends with 143, and with 0 where uvicorn is PID 1.
#
# Expected: one code for one and the same stop: 0, as of gunicorn 27.0.1, hypercorn 0.18.0 and granian 2.8.9, in both places.
# Seen: after the shutdown of the application uvicorn sends itself the signal once more, so that its parent sees how it ended. The
# kernel keeps that from a PID 1 without a handler, which then runs to its end.
# Who meets it: Jobs, restart policies and alarms that take a code for a failure, on the day that an init is put into the image.
# It needs root, for a PID namespace.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvicorn==0.54.0 uvicorn-worker==0.4.0 gunicorn==27.0.1 hypercorn==0.18.0 granian==2.8.9
cat >"$folder/app.py" <<'PYTHON'
async def app(scope, receive, send):
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.startup":
            open("started", "w").close()
        if message["type"] == "lifespan.shutdown":
            return
PYTHON
cat >"$folder/stop.py" <<'PYTHON'
"""Start a command, as PID 1 or not, and send it SIGTERM when the application has started; print its code, as a shell's."""
import os
import pathlib
import signal
import subprocess
import sys
import time

started = pathlib.Path("started")
started.unlink(missing_ok=True)
namespace, command = sys.argv[1] == "PID-1", sys.argv[2:]
if namespace:
    command = ["unshare", "--pid", "--fork", "--mount-proc", *command]
program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not started.exists():
    assert program.poll() is None, command
    time.sleep(0.05)
time.sleep(1)
target = program.pid
if namespace:
    target = int(pathlib.Path(f"/proc/{target}/task/{target}/children").read_text().split()[0])
os.kill(target, signal.SIGTERM)
code = program.wait(20)
print(128 - code if code < 0 else code)
PYTHON
cd "$folder"
python() { "$folder/venv/bin/python" "$@"; }
seen=
for place in child PID-1; do
    seen+="$place:"
    for server in "uvicorn --port 0" "gunicorn -k uvicorn_worker.UvicornWorker -b 127.0.0.1:0" "hypercorn -b 127.0.0.1:0" \
        "granian --interface asgi --port 38383"; do
        read -ra command <<<"$server"
        seen+=" ${command[0]} $(python stop.py "$place" "$folder/venv/bin/python" -m "${command[@]}" app:app)"
    done
    seen+=", "
done
echo "$seen"
[[ $seen == "child: uvicorn 143 gunicorn 0 hypercorn 0 granian 0, PID-1: uvicorn 0 gunicorn 0 hypercorn 0 granian 0, " ]]
