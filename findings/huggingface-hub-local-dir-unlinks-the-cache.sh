#!/usr/bin/env bash
# huggingface_hub 2.4.0: after snapshot_download(local_dir=...) of a newer revision the snapshot in the cache is found no more.
#
# Expected: a download to another folder leaves the cache as it was: it puts no file of the model there.
# Seen: it writes the new commit to refs/main of the cache, where that commit is not. Offline, snapshot_download() of the same model
# raises LocalEntryNotFoundError, although the older snapshot lies there whole; scan_cache_dir() takes the model for corrupted and
# leaves it out, so that it is not offered for deletion.
# Who meets it: a node on which one program loads from the cache, and another has put the model into a folder: the first cannot
# start again without the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q huggingface_hub==2.4.0
cat >"$folder/download.py" <<'PYTHON'
import hashlib
import http.server
import json
import os
import sys
import threading

FILES = {"config.json": b"{}", "weights.safetensors": b"weights"}


class Hub(http.server.BaseHTTPRequestHandler):
    commit = "1" * 40

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in FILES]
            content = json.dumps({"id": "org/model", "sha": self.commit, "siblings": siblings}).encode()
            if "/tree/" in self.path:
                tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in FILES.items()]
                content = json.dumps(tree).encode()
        else:
            content = FILES[self.path.rpartition("/")[2]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
import huggingface_hub


def cached():
    try:
        place = huggingface_hub.snapshot_download("org/model", local_files_only=True)
        offline = f"{len(os.listdir(place))}-files"
    except huggingface_hub.errors.LocalEntryNotFoundError:
        offline = "LocalEntryNotFoundError"
    scanned = huggingface_hub.scan_cache_dir()
    return f"offline {offline} models {len(scanned.repos)} warnings {len(scanned.warnings)}"


place = huggingface_hub.snapshot_download("org/model")
print("cache:", cached())
Hub.commit = "2" * 40
huggingface_hub.snapshot_download("org/model", local_dir=sys.argv[1])
print("then a folder:", cached(), "snapshot", len(os.listdir(place)))
PYTHON
seen=$(env -u HF_HUB_OFFLINE -u HF_HUB_CACHE HF_HOME="$folder/home" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_PROGRESS_BARS=1 \
    "$folder/venv/bin/python" "$folder/download.py" "$folder/model" 2>/dev/null)
echo "$seen"
[[ $(tr '\n' ' ' <<<"$seen") == "cache: offline 2-files models 1 warnings 0 \
then a folder: offline LocalEntryNotFoundError models 0 warnings 1 snapshot 2 " ]]
