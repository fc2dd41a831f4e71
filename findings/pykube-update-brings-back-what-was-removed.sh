#!/usr/bin/env bash
# pykube-ng 23.6.0, new-pykube 26.10.0: update() sends what was removed from an object once more, and from lists something else.
#
# Expected: the object has on the server what it has here, or an error.
# Seen: update() first merges the object with what it was before, lists by position. A label that was deleted stays; of the
# finalizers a and b without a the server gets b and b, and of one finalizer the last cannot be removed; the arguments --debug
# --port 8000 without --debug become --port 8000 8000. No error. With update(is_strategic=False) lists are right, and labels stay.
# Who meets it: operators that let an object go by its finalizer, take a label or an annotation back, or drop an argument.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/update.py" <<'PYTHON'
import copy
import http.server
import json
import threading

import pykube

START = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "engine", "namespace": "default", "labels": {"app": "engine", "stale": "yes"}, "finalizers": ["a", "b"]},
    "spec": {"containers": [{"name": "engine", "args": ["--debug", "--port", "8000"]}]},
}
stored = {}


def merged(old, patch):
    """A JSON merge patch (RFC 7396), as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_PATCH(self):
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stored["pod"] = merged(stored["pod"], json.loads(body))
        self.answer()

    def answer(self):
        data = json.dumps(stored["pod"]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = pykube.HTTPClient(pykube.KubeConfig.from_url(f"http://127.0.0.1:{server.server_port}"))
seen = []
for strategic in (True, False):
    stored["pod"] = copy.deepcopy(START)
    pod = pykube.Pod.objects(api).get_by_name("engine")
    del pod.labels["stale"]
    pod.metadata["finalizers"].remove("a")
    pod.obj["spec"]["containers"][0]["args"].remove("--debug")
    pod.update(is_strategic=strategic)
    metadata, args = stored["pod"]["metadata"], stored["pod"]["spec"]["containers"][0]["args"]
    seen.append((strategic, sorted(metadata["labels"]), metadata["finalizers"], args))
stored["pod"] = copy.deepcopy(START)
stored["pod"]["metadata"]["finalizers"] = ["a"]
pod = pykube.Pod.objects(api).get_by_name("engine")
pod.metadata["finalizers"].remove("a")
pod.update()
seen.append(stored["pod"]["metadata"]["finalizers"])
print(*seen, sep="\n")
assert seen == [
    (True, ["app", "stale"], ["b", "b"], ["--port", "8000", "8000"]),
    (False, ["app", "stale"], ["b"], ["--port", "8000"]),
    ["a"],
], seen
PYTHON
for package in pykube-ng==23.6.0 new-pykube==26.10.0; do
    echo "$package"
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q "$package"
    "$folder/venv/bin/python" "$folder/update.py"
done
