#!/usr/bin/env bash
# kubernetes 37.0.2, leaderelection: a leader that cannot reach the API server is never told to stop, and leads on.
#
# Expected: it tries until renew_deadline is over, and then onstopped_leading() is called, as when the server refuses.
# Seen: the first connection that is refused raises MaxRetryError out of run(), before the deadline; only answers of a server are
# caught. onstopped_leading() is not called, and onstarted_leading(), which run() had started in a thread, goes on. So it is with a
# server that is away for a moment.
# Who meets it: whoever runs the election in a thread: when the lease has expired there are two leaders.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kubernetes==37.0.2
cat >"$folder/lead.py" <<'PYTHON'
import http.server
import json
import threading
import time

from kubernetes import client
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

stored = {}
refuse = threading.Event()


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "lock" in stored:
            self.answer(200, stored["lock"])
        else:
            self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self):
        stored["lock"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(201, stored["lock"])

    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if refuse.is_set():
            self.answer(503, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "code": 503})
        else:
            stored["lock"] = body
            self.answer(200, body)

    def answer(self, code, found):
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def lead(lose):
    """Leads, loses the server in one way or another, and returns how run() ended, after how long, and what was called."""
    stored.clear()
    refuse.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    client.Configuration.set_default(settings)
    lost, ticks, called, over = [], [], [], threading.Event()

    def started():
        lose(server)
        lost.append(time.monotonic())
        while not over.wait(0.1):
            ticks.append(time.monotonic())

    config = electionconfig.Config(
        ConfigMapLock("lock", "default", "me"),
        lease_duration=6,
        renew_deadline=5,
        retry_period=1,
        onstarted_leading=started,
        onstopped_leading=lambda: called.append("onstopped_leading"),
    )
    try:
        leaderelection.LeaderElection(config).run()
        ended = "returned"
    except Exception as error:
        ended = type(error).__name__
    took = time.monotonic() - lost[0]
    time.sleep(1)
    over.set()
    leads_on = ticks[-1] - lost[0] > took + 0.5
    return ended, round(took), called, leads_on


def shut(server):
    server.shutdown()
    server.server_close()


refused = lead(lambda server: refuse.set())
print("the server refuses:  ", refused)
away = lead(shut)
print("the server is away:  ", away)
assert refused[0] == "returned" and refused[1] >= 5 and refused[2] == ["onstopped_leading"], refused
assert away[0] == "MaxRetryError" and away[1] < 4 and away[2:] == ([], True), away
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/lead.py"
