#!/usr/bin/env bash
# docker-registry 2.8.2 (Debian bookworm): garbage-collect -m deletes the images of a tagged index (one for several platforms).
#
# Expected: -m ("delete untagged") spares what a tagged index names: it is in use.
# Seen: they have no tag of their own. Afterwards the tag still gives the index, and the manifest for amd64 in it is 404.
# Without -m nothing is deleted.
# Who meets it: whoever saves space in a registry with images for amd64 and arm64.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download docker-registry=2.8.2+ds1-1)
dpkg-deb -x "$folder"/docker-registry_*.deb "$folder/root"
registry=$folder/root/usr/bin/docker-registry
port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
cat >"$folder/registry.yml" <<CONFIG
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $folder/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
CONFIG
cat >"$folder/client.py" <<'PYTHON'
import hashlib
import json
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{sys.argv[1]}/v2/image"
INDEX, MANIFEST = (f"application/vnd.oci.image.{kind}.v1+json" for kind in ("index", "manifest"))


def asked(method, url, data=None, kind="application/octet-stream"):
    headers = {"Content-Type": kind, "Accept": f"{INDEX}, {MANIFEST}"}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method))
    except urllib.error.HTTPError as error:
        return error


def described(kind, content):
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def blob(kind, content):
    found = described(kind, content)
    place = asked("POST", f"{URL}/blobs/uploads/", b"").headers["Location"]
    assert asked("PUT", f"{place}&digest={found['digest']}", content).status == 201
    return found


def manifest(kind, tag, **fields):
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()
    found = described(kind, content)
    assert asked("PUT", f"{URL}/manifests/{tag or found['digest']}", content, kind).status == 201
    return found


if sys.argv[2] == "push":
    config = blob("application/vnd.oci.image.config.v1+json", b"{}")
    layer = blob("application/vnd.oci.image.layer.v1.tar", b"layer")
    amd64 = manifest(MANIFEST, None, config=config, layers=[layer])
    manifest(INDEX, "latest", manifests=[{**amd64, "platform": {"os": "linux", "architecture": "amd64"}}])
else:
    index = asked("GET", f"{URL}/manifests/latest")
    inner = json.load(index)["manifests"][0]["digest"]
    print(index.status, asked("GET", f"{URL}/manifests/{inner}").status)
PYTHON
with_server() {
    "$registry" serve "$folder/registry.yml" >"$folder/log" 2>&1 &
    pid=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
    python3 "$folder/client.py" "$port" "$1"
    kill "$pid"
    wait "$pid" || true
    pid=
}
with_server push
"$registry" garbage-collect "$folder/registry.yml" >/dev/null
plain=$(with_server look)
"$registry" garbage-collect -m "$folder/registry.yml" >/dev/null
untagged=$(with_server look)
echo "index, manifest in it: $plain; after garbage-collect -m: $untagged"
[[ $plain == "200 200" && $untagged == "200 404" ]]
