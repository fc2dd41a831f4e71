#!/usr/bin/env bash
# nats-py 2.16.0 (nats-server 2.9.10 of Debian bookworm): get() of a key with an empty value gives None for it, and no time.
#
# Expected: b"", as watch() and history() give for the same entry, with the time of its creation; the value has the type bytes.
# Seen: put(key, b"") and then get(key): value None, created None. Of every other key get() gives no time and no operation either.
# Who meets it: whoever keeps flags, markers or instances as keys without a value, and reads the value as bytes.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q nats-py==2.16.0
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download nats-server=2.9.10-1+b3)
dpkg-deb -x "$folder"/nats-server_*.deb "$folder/root"
"$(find "$folder/root" -name nats-server -type f -perm -1)" -a 127.0.0.1 -p -1 --ports_file_dir "$folder" -js -sd "$folder/data" \
    2>/dev/null &
server=$!
until compgen -G "$folder/nats-server_*.ports" >/dev/null; do sleep 0.1; done
"$folder/venv/bin/python" - "$folder"/nats-server_*.ports <<'PYTHON'
import asyncio
import json
import pathlib
import sys

import nats


async def main():
    address = json.loads(pathlib.Path(sys.argv[1]).read_text())["nats"][0]
    client = await nats.connect(address)
    bucket = await client.jetstream().create_key_value(bucket="workers")
    await bucket.put("empty", b"")
    await bucket.put("full", b"value")
    got = {key: await bucket.get(key) for key in ("empty", "full")}
    watcher = await bucket.watchall()
    watched = {entry.key: entry.value for entry in [await watcher.updates() for _ in got]}
    (kept,) = await bucket.history("empty")
    await client.close()
    print("get:", {key: (entry.value, entry.created) for key, entry in got.items()})
    print("watch:", watched, "history:", kept.value, kept.created)
    assert (got["empty"].value, got["full"].value) == (None, b"value")
    assert watched == {"empty": b"", "full": b"value"} and kept.value == b""
    assert got["empty"].created is None and got["full"].created is None and kept.created is not None


asyncio.run(main())
PYTHON
