#!/usr/bin/env bash
# huggingface_hub 2.4.0: snapshot_download(local_dir=...) of a newer revision leaves the files that it has no longer.
#
# Expected: the folder holds the snapshot, as that of the cache does; the library keeps a record of what it put there.
# Seen: a revision replaces weights.safetensors by two parts. The folder has all three, and the call returns it.
# Who meets it: engines that load *.safetensors of a folder on a volume: old weights are loaded beside, or instead of, the new.
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

REVISIONS = [
    {"config.json": b"{}", "weights.safetensors": b"old"},
    {"config.json": b"{}", "weights-1.safetensors": b"new", "weights-2.safetensors": b"newer"},
]


class Hub(http.server.BaseHTTPRequestHandler):
    revision = 0

    def do_GET(self):
        files, commit = REVISIONS[self.revision], str(self.revision) * 40
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "org/model", "sha": commit, "siblings": siblings}).encode()
            if "/tree/" in self.path:
                tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
                content = json.dumps(tree).encode()
        else:
            content = files[self.path.rpartition("/")[2]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
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

for Hub.revision in range(2):
    for name, options in (("folder", {"local_dir": sys.argv[1]}), ("cache", {})):
        place = huggingface_hub.snapshot_download("org/model", **options)
        print(Hub.revision, name, *sorted(file for file in os.listdir(place) if file.endswith("safetensors")))
PYTHON
seen=$(env -u HF_HUB_OFFLINE -u HF_HUB_CACHE HF_HOME="$folder/home" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_PROGRESS_BARS=1 \
    "$folder/venv/bin/python" "$folder/download.py" "$folder/model" 2>/dev/null)
echo "$seen"
[[ $(tail -n 2 <<<"$seen" | tr '\n' ' ') == "1 folder weights-1.safetensors weights-2.safetensors weights.safetensors \
1 cache weights-1.safetensors weights-2.safetensors " ]]
