#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): unread messages of a unix socket that lie behind an empty one are not restored.
#
# Expected: one, an empty message, and two, as they were sent: an empty datagram is a message (unix(7)); or the dump is refused.
# Seen: SOCK_DGRAM and SOCK_SEQPACKET have the first one after the restore and nothing else. Neither log has a warning.
# Who meets it: programs that wake each other by empty datagrams: work that was queued behind such a message is gone.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill -9 "$pid" 2>/dev/null; rm -rf "$folder"' EXIT
mkdir -p "$folder"/{lists/partial,cache/archives/partial,parts,images}
cat >"$folder/parts/sid.sources" <<'SOURCES'
Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$folder/parts" -o Dir::State::Lists="$folder/lists"
    -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$folder" && "${apt[@]}" download criu=4.2.1-1 libprotobuf-c1 libnet9 libnl-3-200 libnftables1 libnftnl11 libmnl0 \
    libgnutls30t64 libcap2 libuuid1 libnetfilter-conntrack3 libxtables12 libbsd0 libmd0 libjansson4 libedit2 libtinfo6 libc6 libunistring5 libidn2-0 libp11-kit0 libtasn1-6 libhogweed6t64 libnettle8t64 libgmp10 libffi8 zlib1g libzstd1 libbrotli1)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
loader=$(find "$folder/root" -name 'ld-linux-*.so.*' -print -quit)
criu=("$loader" --library-path "$libraries" "$folder/root/usr/sbin/criu")

cat >"$folder/queue.py" <<'PYTHON'
import os
import socket
import sys
import time

kinds = {"dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
pairs = {name: socket.socketpair(socket.AF_UNIX, kind) for name, kind in kinds.items()}
for sender, receiver in pairs.values():
    for message in (b"one", b"", b"two"):
        sender.send(message)
    receiver.setblocking(False)
print("before", flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
for name, (_, receiver) in pairs.items():
    received = []
    try:
        for _ in range(3):
            received.append(receiver.recv(100).decode() or "empty")
    except BlockingIOError:
        pass
    print("after", name, *received, flush=True)
PYTHON
setsid python3 "$folder/queue.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(tr '\n' ' ' <"$folder/out") == "before after dgram one after seqpacket one " ]]
! grep -hE 'Warn.*(unix|queue)' "$folder"/images/*.log
