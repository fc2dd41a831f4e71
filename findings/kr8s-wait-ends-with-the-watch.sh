#!/usr/bin/env bash
# kr8s 0.20.15: wait() returns as if the condition were met when the API server ends the watch.
#
# Expected: it goes on until the condition holds, or raises after its timeout. An API server ends every watch after half an hour to
# an hour (--min-request-timeout), and clients begin another; lightkube's wait() does.
# Seen: pod.wait("condition=Ready", timeout=60) returns with the first watch that ends, and the pod is not ready. There is no error, and
# nothing is returned by which the caller could tell. A loop over watch() ends there, too.
# Who meets it: whoever waits for a Job, a download or a model that takes longer than half an hour, and goes on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kr8s==0.20.15 lightkube==1.0.1
cat >"$folder/wait.py" <<'PYTHON'
import http.server
import json
import sys
import threading

import kr8s
import lightkube
from kr8s.objects import Pod
from lightkube.config.kubeconfig import KubeConfig
from lightkube.resources.core_v1 import Pod as LightkubePod

watches = []


def pod():
    """The pod becomes ready during the third watch."""
    ready = "True" if len(watches) >= 3 else "False"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine", "namespace": "default", "resourceVersion": "7"},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        path = path.rstrip("/")
        if path == "/version":
            found = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        elif path == "/api":
            found = {"versions": ["v1"]}
        elif path == "/apis":
            found = {"groups": []}
        elif path == "/api/v1":
            found = {"resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "watch"]}]}
        elif "watch=" in query:
            watches.append(query)
            found = {"type": "MODIFIED", "object": pod()}
        elif path.endswith("/pods"):
            found = {"items": [pod()]}
        else:
            found = pod()
        data = json.dumps(found).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
named = {"cluster": "test", "user": "test", "namespace": "default"}
settings = {
    "current-context": "test",
    "contexts": [{"name": "test", "context": named}],
    "clusters": [{"name": "test", "cluster": {"server": url}}],
    "users": [{"name": "test", "user": {}}],
}
with open(sys.argv[1], "w") as file:
    json.dump(settings, file)

engine = Pod.get("engine", namespace="default", api=kr8s.api(kubeconfig=sys.argv[1]))
engine.wait("condition=Ready", timeout=60)
ready = engine.status.conditions[0].status
print(f"kr8s: wait() returned, Ready is {ready}, watches: {len(watches)}")
assert (ready, len(watches)) == ("False", 1)

watches.clear()
client = lightkube.Client(KubeConfig.from_file(sys.argv[1]))
ready = client.wait(LightkubePod, "engine", namespace="default", for_conditions=["Ready"]).status.conditions[0].status
print(f"lightkube: wait() returned, Ready is {ready}, watches: {len(watches)}")
assert (ready, len(watches)) == ("True", 3)
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/wait.py" "$folder/kubeconfig"
