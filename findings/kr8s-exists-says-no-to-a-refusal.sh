#!/usr/bin/env bash
# kr8s 0.20.15: exists() says False when the API server refuses the question, or fails; exists(ensure=True) says "does not exist".
#
# Expected: an error, as refresh() and get() of the same object raise (403 and 500 are no answer), and as exists() of pykube.
# Seen: any code but 200 is False. On 403 and 500 exists() returns False, and exists(ensure=True) raises NotFoundError. wait("delete")
# asks exists(), and returns on a 503: the object counts as deleted.
# Who meets it: whoever makes an object if it is not there, or takes the next step when it is gone, under load or with a role that
# may not read it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kr8s==0.20.15 new-pykube==26.10.0
cat >"$folder/exists.py" <<'PYTHON'
import http.server
import json
import sys
import threading

import kr8s
import pykube
from kr8s.objects import Pod

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "engine", "namespace": "default"}}
codes = [200]


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/version"):
            code, found = 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        else:
            code = codes.pop(0) if len(codes) > 1 else codes[0]
            found = POD if code == 200 else {"kind": "Status", "status": "Failure", "message": f"code {code}", "code": code}
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def result(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__


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
pod = Pod(POD, api=kr8s.api(kubeconfig=sys.argv[1]))
other = pykube.Pod(pykube.HTTPClient(pykube.KubeConfig.from_url(url)), POD)
seen = {}
for code in (200, 404, 403, 500):
    codes[:] = [code]
    calls = (pod.exists, lambda: pod.exists(ensure=True), pod.refresh, other.exists)
    seen[code] = [result(call) for call in calls]
    print(code, dict(zip(("exists()", "exists(ensure=True)", "refresh()", "pykube's exists()"), seen[code], strict=True)))
assert seen == {
    200: [True, True, None, True],
    404: [False, "NotFoundError", "NotFoundError", False],
    403: [False, "NotFoundError", "ServerError", "HTTPError"],
    500: [False, "NotFoundError", "ServerError", "HTTPError"],
}, seen
codes[:] = [200, 503]
pod.wait("delete", timeout=10)
print("wait('delete') returned on 503")
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/exists.py" "$folder/kubeconfig"
