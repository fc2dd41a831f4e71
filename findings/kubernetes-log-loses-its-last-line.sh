#!/usr/bin/env bash
# kubernetes 37.0.2: Watch().stream() of a pod's log leaves out the last line, if the program ended without a line feed.
#
# Expected: the line, as read_namespaced_pod_log() gives it, and as loops over the log by kubernetes_asyncio 36.1.0 and kr8s 0.20.15 do.
# Seen: of "loading" and "out of memory", without a line feed at the end, the loop gives the first and ends, without an error.
# Who meets it: whoever follows the log of a Job until it ends: the message of a program that was killed, aborted or wrote by
# print(end="") or printf, which is the one that tells why.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kubernetes==37.0.2 kubernetes_asyncio==36.1.0 kr8s==0.20.15
cat >"$folder/log.py" <<'PYTHON'
import asyncio
import http.server
import json
import sys
import threading

import kr8s
import kubernetes
import kubernetes_asyncio
from kr8s.objects import Pod

LOG = b"loading\nout of memory"
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "default"}, "status": {"phase": "Running"}}
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        log = self.path.partition("?")[0].endswith("/log")
        data = LOG if log else json.dumps(VERSION if self.path.startswith("/version") else POD).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if log else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
settings = {
    "current-context": "test",
    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
    "clusters": [{"name": "test", "cluster": {"server": url}}],
    "users": [{"name": "test", "user": {}}],
}
with open(sys.argv[1], "w") as file:
    json.dump(settings, file)


def api_of(module):
    configuration = module.client.Configuration()
    configuration.host = url
    return module.client.CoreV1Api(module.client.ApiClient(configuration))


def with_kubernetes():
    watch = kubernetes.watch.Watch()
    api = api_of(kubernetes)
    assert api.read_namespaced_pod_log("pod", "default").encode() == LOG
    return list(watch.stream(api.read_namespaced_pod_log, "pod", "default", follow=True))


async def with_asyncio():
    found = []
    api = api_of(kubernetes_asyncio)
    async with kubernetes_asyncio.watch.Watch() as watch:
        async for line in watch.stream(api.read_namespaced_pod_log, "pod", "default", follow=True):
            found.append(line.rstrip("\n"))
            if len(found) == 2:
                break
    await api.api_client.close()
    return found


seen = {
    "kubernetes": with_kubernetes(),
    "kubernetes_asyncio": asyncio.run(with_asyncio()),
    "kr8s": list(Pod(POD, api=kr8s.api(kubeconfig=sys.argv[1])).logs(follow=True)),
}
for name, lines in seen.items():
    print(f"{name}: {lines}")
both = LOG.decode().split("\n")
assert seen == {"kubernetes": both[:1], "kubernetes_asyncio": both, "kr8s": both}, seen
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/log.py" "$folder/kubeconfig"
