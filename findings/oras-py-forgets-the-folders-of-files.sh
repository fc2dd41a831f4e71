#!/usr/bin/env bash
# oras-py 0.2.43: push() names files by the last part of their paths, so two of one name are pulled as one.
#
# Expected: pull() makes model/config.json and tokenizer/config.json again; the title of a layer may be a relative path, and the
# oras command writes it so.
# Seen: both titles are config.json, without an error or a warning. pull() writes the one over the other and returns the path twice.
# Who meets it: whoever pushes a model with its folders: the first file of each name is lost.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download docker-registry=2.8.2+ds1-1)
dpkg-deb -x "$folder"/docker-registry_*.deb "$folder/root"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q oras==0.2.43
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$folder/registry.yml" <<CONFIG
version: 0.1
storage: {filesystem: {rootdirectory: $folder/registry}}
http: {addr: "127.0.0.1:$port"}
CONFIG
"$folder/root/usr/bin/docker-registry" serve "$folder/registry.yml" >"$folder/log" 2>&1 &
pid=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
mkdir "$folder"/{model,tokenizer,pulled}
echo '{"of": "the model"}' >"$folder/model/config.json"
echo '{"of": "the tokenizer"}' >"$folder/tokenizer/config.json"
(cd "$folder" && "$folder/venv/bin/python" - "127.0.0.1:$port" <<'PYTHON'
import pathlib
import sys

import oras.client

client = oras.client.OrasClient(hostname=sys.argv[1], insecure=True)
target = f"{sys.argv[1]}/models/tiny:latest"
client.push(target=target, files=["model/config.json", "tokenizer/config.json"], quiet=True)
returned = [pathlib.Path(path) for path in client.pull(target=target, outdir="pulled")]
there = [path for path in pathlib.Path("pulled").rglob("*") if path.is_file()]
print(f"returned: {[path.name for path in returned]}, there: {[str(path) for path in there]}, {there[0].read_text()}")
assert len(returned) == 2 and [str(path) for path in there] == ["pulled/config.json"]
assert "tokenizer" in there[0].read_text()
PYTHON
)
