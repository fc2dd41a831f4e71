#!/usr/bin/env bash
# kubernetes 37.0.2: Watch().stream() ends when the API server ends a watch, if there was no event so far; else it goes on for ever.
#
# Expected: one or the other. An API server ends every watch after half an hour to an hour (--min-request-timeout), and
# stream() is documented to resume.
# Seen: of an empty list the loop ends after the first request, without an error. Where one object exists, which is an event, the watch
# is made anew each time: the third request is made with the version of that event.
# Who meets it: operators that are installed before the first object of their kind: after an hour they see nothing any more, and the
# thread, or the program, is at its end. Where there is an object it never happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kubernetes==37.0.2
cat >"$folder/watch.py" <<'PYTHON'
import http.server
import json
import threading
import urllib.parse

from kubernetes import client, watch

objects = []
requests = []


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        """A watch that its time is up for as soon as the objects have been told of."""
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        requests.append(query.get("resourceVersion"))
        if len(requests) == 3:
            watcher.stop()
        events = [{"type": "ADDED", "object": found} for found in objects if requests[-1] is None]
        data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = client.CoreV1Api(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_port}")))
pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "engine", "resourceVersion": "7"}}
seen = {}
for name, objects in (("no pod", []), ("one pod", [pod])):
    requests.clear()
    watcher = watch.Watch()
    events = [event["type"] for event in watcher.stream(api.list_namespaced_pod, "default")]
    seen[name] = (events, list(requests))
    print(f"{name}: events {events}, the versions of its requests {requests}")
assert seen == {"no pod": ([], [None]), "one pod": (["ADDED"], [None, "7", "7"])}, seen
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/watch.py"
