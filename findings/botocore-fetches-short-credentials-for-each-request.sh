#!/usr/bin/env bash
# boto3 1.44.8: credentials that live for 15 minutes or less are fetched again for each request.
#
# Expected: a role assumed with duration_seconds = 900, the least that STS takes, is assumed once in a quarter of an hour;
# a credential_process is run when what it said is about to expire.
# Seen: whatever expires within 15 minutes counts as due for a refresh, so fresh credentials of that length are due at once.
# Ten requests to S3 are ten calls of AssumeRole, or ten runs of the process; with an hour it is one.
# Who meets it: whoever is told to keep credentials short: STS throttles, and each request waits for a process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q boto3==1.44.8
cat >"$folder/login" <<'LOGIN'
#!/usr/bin/env bash
echo run >>"$1.runs"
printf '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", "Expiration": "%s"}' \
    "$(date -u -d '+14 minutes' +%FT%TZ)"
LOGIN
chmod +x "$folder/login"
cat >"$folder/config" <<CONFIG
[profile process]
credential_process = $folder/login $folder/process
[profile role-900]
role_arn = arn:aws:iam::123456789012:role/worker
source_profile = base
duration_seconds = 900
[profile role-3600]
role_arn = arn:aws:iam::123456789012:role/worker
source_profile = base
duration_seconds = 3600
[profile base]
aws_access_key_id = testing
aws_secret_access_key = testing
CONFIG
env -u AWS_PROFILE -u AWS_ACCESS_KEY_ID AWS_CONFIG_FILE="$folder/config" AWS_SHARED_CREDENTIALS_FILE=/dev/null \
    AWS_DEFAULT_REGION=us-east-1 "$folder/venv/bin/python" - "$folder/process.runs" <<'PYTHON'
import datetime
import http.server
import os
import pathlib
import sys
import threading
import urllib.parse

import boto3

ROLE = (
    '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
    "<AccessKeyId>a</AccessKeyId><SecretAccessKey>b</SecretAccessKey><SessionToken>c</SessionToken>"
    "<Expiration>{:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
)
asked = []


class Cloud(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        asked.append(form["Action"])
        life = datetime.timedelta(seconds=int(form["DurationSeconds"]))
        self.answer(ROLE.format(datetime.datetime.now(datetime.timezone.utc) + life))

    def do_GET(self):
        self.answer("<ListAllMyBucketsResult/>")

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
fetched = {}
for profile in ("process", "role-900", "role-3600"):
    asked.clear()
    client = boto3.Session(profile_name=profile).client("s3")
    for _ in range(10):
        client.list_buckets()
    runs = pathlib.Path(sys.argv[1]).read_text().count("run") if profile == "process" else len(asked)
    fetched[profile] = runs
    print(f"{profile}: 10 requests, credentials fetched {runs} times")
assert fetched["role-3600"] == 1, fetched
assert fetched["process"] >= 10, fetched
assert fetched["role-900"] >= 10, fetched
PYTHON
