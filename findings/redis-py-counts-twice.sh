#!/usr/bin/env bash
# redis-py 8.1.0 (redis 7.0.15 of Debian bookworm): a command whose answer is lost is sent again, and done twice.
#
# Expected: ConnectionError, as with retry=Retry(NoBackoff(), 0): the client cannot know whether INCR or RPUSH was done.
# Seen: where the connection ends after the server has done it, INCR of a new counter gives 2, and a job pushed once is in the list
# twice; asyncio's client and pipelines do the same. SET with NX gives None for a lock that was just taken: nobody holds it. By
# default all commands are retried, those that must not be repeated, too.
# Who meets it: queues, counters, limits and locks, whenever a proxy, a failover or a restore cuts a connection.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q redis==8.1.0
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download redis-server=5:7.0.15-1~deb12u10 redis-tools=5:7.0.15-1~deb12u10 \
    libhiredis0.14 liblua5.1-0 lua-cjson lua-bitop liblzf1 libjemalloc2 libatomic1)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
cat >"$folder/cut.py" <<'PYTHON'
import asyncio
import socket
import subprocess
import sys
import threading

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

server = subprocess.Popen([sys.argv[1], "--unixsocket", sys.argv[2], "--port", "0", "--save", ""], stdout=subprocess.PIPE)
while b"ready to accept" not in (line := server.stdout.readline()).lower():
    assert line, "no redis-server"
cutting = threading.Event()


def carry(source, target, answers):
    """What one side says, to the other; once, when it is told to, the end of the connection instead of an answer."""
    while data := source.recv(65536):
        if answers and cutting.is_set():
            cutting.clear()
            break
        target.sendall(data)
    for side in (source, target):
        try:
            side.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve():
    while True:
        client, _ = listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(sys.argv[2])
        threading.Thread(target=carry, args=(client, upstream, False), daemon=True).start()
        threading.Thread(target=carry, args=(upstream, client, True), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, daemon=True).start()
address = {"port": listener.getsockname()[1], "decode_responses": True}


def cut(call):
    cutting.set()
    try:
        return call()
    except redis.ConnectionError:
        return "ConnectionError"


async def counted():
    async with redis.asyncio.Redis(**address) as client:
        await client.ping()
        cutting.set()
        return await client.incr("asyncio")


try:
    client = redis.Redis(**address)
    once = redis.Redis(**address, retry=Retry(NoBackoff(), 0))
    client.ping(), once.ping()
    seen = {
        "INCR": cut(lambda: client.incr("counter")),
        "RPUSH": (cut(lambda: client.rpush("queue", "job")), client.lrange("queue", 0, -1)),
        "SET NX": (cut(lambda: client.set("lock", "me", nx=True)), client.get("lock")),
        "pipeline": cut(lambda: client.pipeline(transaction=False).incr("pipeline").execute()),
        "asyncio": asyncio.run(counted()),
        "without retries": (cut(lambda: once.incr("once")), client.get("once")),
    }
finally:
    server.terminate()
    server.wait()
print(seen)
assert seen == {
    "INCR": 2,
    "RPUSH": (2, ["job", "job"]),
    "SET NX": (None, "me"),
    "pipeline": [2],
    "asyncio": 2,
    "without retries": ("ConnectionError", "1"),
}, seen
PYTHON
LD_LIBRARY_PATH=$libraries "$folder/venv/bin/python" "$folder/cut.py" "$folder/root/usr/bin/redis-server" "$folder/socket"
