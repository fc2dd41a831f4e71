#!/usr/bin/env bash
# kubernetes 37.0.1 (Python): read, change, replace takes away every field that this version of the client does not know.
#
# Expected: a field of a newer API server is written back as it was read, as unstructured clients (kubectl, the dynamic one) do.
# Seen: the models keep the fields that they know. A pod whose container and spec have one more field each is replaced without both,
# and no error says so.
# Who meets it: whoever edits objects of a cluster that is newer than the client, or has fields behind a feature gate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kubernetes==37.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import json
import threading

from kubernetes import client

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "engine", "labels": {"app": "engine"}},
    "spec": {"fieldOfTomorrow": {"a": 1}, "containers": [{"name": "engine", "image": "engine", "anotherOne": True}]},
}
written = []


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(POD)

    def do_PUT(self):
        written.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(written[-1])

    def answer(self, content):
        content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
core = client.CoreV1Api(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_port}")))
pod = core.read_namespaced_pod("engine", "default")
pod.metadata.labels["app"] = "other"
core.replace_namespaced_pod("engine", "default", pod)
print("read:   ", POD["spec"], "\nwritten:", written[0]["spec"])
assert written[0]["spec"] == {"containers": [{"name": "engine", "image": "engine"}]}, written
assert written[0]["metadata"]["labels"] == {"app": "other"}
PYTHON
