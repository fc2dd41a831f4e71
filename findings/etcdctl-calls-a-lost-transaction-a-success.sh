#!/usr/bin/env bash
# etcdctl 3.4.23 (Debian bookworm): a transaction whose condition does not hold ends with exit code 0, and so does a missing key.
#
# Expected: a code by which a script can tell who won, as of grep or flock.
# Seen: `txn` that creates a key prints SUCCESS for the first and FAILURE for the second, and both times exits 0; `get` of a key
# that is not there prints nothing, and exits 0. Only errors of the request are told by the code; `lock NAME -- COMMAND` makes 1
# of the command's 7.
# Who meets it: whoever makes a lock or an election of `etcdctl txn && ...` in a script: everybody wins.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
port() { python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS
ETCDCTL_ENDPOINTS=http://127.0.0.1:$(port)
peer=http://127.0.0.1:$(port)
"$folder/root/usr/bin/etcd" --data-dir "$folder/data" --listen-client-urls "$ETCDCTL_ENDPOINTS" --advertise-client-urls \
    "$ETCDCTL_ENDPOINTS" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" \
    >"$folder/log" 2>&1 &
pid=$!
etcdctl=$folder/root/usr/bin/etcdctl
for _ in {1..100}; do ! "$etcdctl" endpoint health >/dev/null 2>&1 || break; sleep 0.1; done
seen=
for name in first second; do
    code=0
    said=$(printf 'create("leader") = "0"\n\nput leader %s\n\n\n\n' "$name" | "$etcdctl" txn) || code=$?
    seen+="$name ${said%%$'\n'*} $code, "
done
code=0
"$etcdctl" get missing || code=$?
locked=0
"$etcdctl" lock name -- sh -c 'exit 7' 2>"$folder/log.lock" || locked=$?
seen+="leader $("$etcdctl" get --print-value-only leader), get $code, lock $locked"
echo "$seen"
[[ $seen == "first SUCCESS 0, second FAILURE 0, leader first, get 0, lock 1" ]]
