#!/usr/bin/env bash
# opendal 0.47.12, memory and S3: remove_all("run") deletes run1, runs and run.bak, too.
#
# Expected: what is at that path and below it ("the given path" of the docstring), as with its own fs service, and in the directory that
# list("run/") shows.
# Seen: the path is taken for the beginning of a name: all that begins with "run" is deleted, without an error. With "run/" only
# that directory is. The fs service deletes the directory alone for both, so that a test on files shows nothing.
# Who meets it: whoever tidies up a run, a step or a revision by its name where another one begins alike: step-1 and step-10.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opendal==0.47.12 boto3==1.44.8 'moto[s3,server]==5.2.5'
cat >"$folder/server.py" <<'PYTHON'
import sys
import threading

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
with open(sys.argv[1], "w") as file:
    file.write("http://{}:{}\n".format(*server.get_host_and_port()))
threading.Event().wait()
PYTHON
"$folder/venv/bin/python" "$folder/server.py" "$folder/url" 2>"$folder/log" &
pid=$!
until [[ -s $folder/url ]]; do
    kill -0 "$pid"
    sleep 0.1
done
"$folder/venv/bin/python" - "$(<"$folder/url")" "$folder/files" <<'PYTHON'
import sys

import boto3
import opendal

NAMES = ["run/weights", "run.bak/weights", "run1/weights", "runs"]
keys = {"access_key_id": "testing", "secret_access_key": "testing"}
s3 = {"bucket": "bucket", "endpoint": sys.argv[1], "region": "us-east-1", **keys}
client = boto3.client(
    "s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing",
)
client.create_bucket(Bucket="bucket")
left = {}
for path in ("run", "run/"):
    for service, options in (("fs", {"root": sys.argv[2]}), ("memory", {}), ("s3", s3)):
        operator = opendal.Operator(service, **options)
        for name in NAMES:
            operator.write(name, b"weights")
        assert [entry.path for entry in operator.list("run/") if entry.path != "run/"] == ["run/weights"]
        operator.remove_all(path)
        left[service, path] = [name for name in NAMES if operator.exists(name)]
        print(f"{service}: remove_all({path!r}) left {left[service, path]}")
wanted = {key: NAMES[1:] for key in left} | {("memory", "run"): [], ("s3", "run"): []}
assert left == wanted, left
PYTHON
