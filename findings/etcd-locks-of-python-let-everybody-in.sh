#!/usr/bin/env bash
# etcd3gw 2.7.0, etcd-sdk-python 0.0.7 (etcd 3.4.23 of Debian bookworm): `with client.lock(name):` goes in although another has the lock.
#
# Expected: the block waits until the lock is free, or raises, as the locks of threading, redis and filelock do.
# Seen: acquire() returns False where it could not, and the with statement does not look at it. etcd3gw goes in at once, and
# etcd-sdk-python, a fork of etcd3, after the ten seconds that acquire() waits by default. In the block is_acquired() is False;
# there is no error and no warning, and leaving it raises nothing.
# Who meets it: whoever writes what the documentation shows, `with etcd.lock(...)`: a migration, an upload or an election that takes
# longer than ten seconds is done twice at the same time.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download etcd-server=3.4.23-4+b4)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q etcd3gw==2.7.0 etcd-sdk-python==0.0.7 protobuf==6.33.0
port() { python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
port=$(port)
url=http://127.0.0.1:$port
peer=http://127.0.0.1:$(port)
"$folder/root/usr/bin/etcd" --data-dir "$folder/data" --listen-client-urls "$url" --advertise-client-urls "$url" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" >"$folder/log" 2>&1 &
pid=$!
until python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "$url/health" 2>/dev/null; do
    kill -0 "$pid"
    sleep 0.1
done
cat >"$folder/lock.py" <<'PYTHON'
import sys
import time

import etcd3gw
import pyetcd

port = int(sys.argv[1])
seen = {}
for name, make in (("etcd3gw", etcd3gw.client), ("etcd-sdk-python", pyetcd.client)):
    first, second = (make(host="127.0.0.1", port=port).lock(name, ttl=60) for _ in range(2))
    assert first.acquire()
    began = time.monotonic()
    with second:
        seen[name] = (round(time.monotonic() - began), first.is_acquired(), second.is_acquired())
    print(f"{name}: went in after {seen[name][0]} s; the first has the lock: {seen[name][1]}, the second: {seen[name][2]}")
assert seen == {"etcd3gw": (0, True, False), "etcd-sdk-python": (10, True, False)}, seen
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/lock.py" "$port"
