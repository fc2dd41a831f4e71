#!/usr/bin/env bash
# oras-py 0.2.43: delete_tag(name, "old") deletes every other tag of the same artifact, too.
#
# Expected: the tag that is named goes, and the artifact stays as long as another tag has it (docstring: "Delete a tag for a
# container").
# Seen: the tag is resolved, and the manifest deleted by its digest. "latest", which had the same one, is gone with it.
# Who meets it: whoever tidies up a registry of checkpoints or models in which two tags may stand for one content.
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
storage: {filesystem: {rootdirectory: $folder/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
CONFIG
"$folder/root/usr/bin/docker-registry" serve "$folder/registry.yml" >"$folder/log" 2>&1 &
pid=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
echo weights >"$folder/model"
(cd "$folder" && "$folder/venv/bin/python" - "127.0.0.1:$port" <<'PYTHON'
import sys

import oras.client

client = oras.client.OrasClient(hostname=sys.argv[1], insecure=True)
name = f"{sys.argv[1]}/models/tiny"
for tag in ("old", "latest"):
    client.push(target=f"{name}:{tag}", files=["model"], quiet=True)
before = sorted(client.get_tags(name))
assert client.delete_tag(name, "old")
after = client.get_tags(name)
print(f"before: {before}, after the deletion of one: {after}")
assert before == ["latest", "old"] and not after
PYTHON
)
