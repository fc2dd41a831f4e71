#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): a listening TCP socket comes back without most of the TCP options that were set on it.
#
# Expected: they are there again, as keepalive, TCP_NODELAY and IP_TOS are; or the dump is refused, or warns.
# Seen: TCP_USER_TIMEOUT, TCP_DEFER_ACCEPT, TCP_FASTOPEN, TCP_SYNCNT, TCP_LINGER2, TCP_MAXSEG, TCP_NOTSENT_LOWAT and SO_ZEROCOPY
# have their defaults, and connections accepted afterwards have no TCP_USER_TIMEOUT. Neither log has a warning.
# Who meets it: servers that set them once, on the socket that listens, and let the connections inherit them: after a restore they
# wait for dead peers as long as the kernel's default is.
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

cat >"$folder/listener.py" <<'PYTHON'
import os
import socket
import sys
import time

TCP = socket.IPPROTO_TCP
OPTIONS = {
    "TCP_USER_TIMEOUT": (TCP, 18, 30_000),
    "TCP_DEFER_ACCEPT": (TCP, 9, 30),
    "TCP_FASTOPEN": (TCP, 23, 16),
    "TCP_SYNCNT": (TCP, 7, 3),
    "TCP_LINGER2": (TCP, 8, 10),
    "TCP_MAXSEG": (TCP, 2, 1000),
    "TCP_NOTSENT_LOWAT": (TCP, 25, 16_384),
    "SO_ZEROCOPY": (socket.SOL_SOCKET, 60, 1),
    "TCP_KEEPIDLE": (TCP, 4, 77),
    "TCP_NODELAY": (TCP, 1, 1),
    "IP_TOS": (socket.IPPROTO_IP, 1, 16),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, 9, 1),
}
server = socket.create_server(("127.0.0.1", 0))
for level, option, value in OPTIONS.values():
    server.setsockopt(level, option, value)


def options():
    return {name: server.getsockopt(level, option) for name, (level, option, _) in OPTIONS.items()}


before = options()
print("before", before, flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
after = options()
client = socket.create_connection(server.getsockname())
client.sendall(b"hello")
accepted = server.accept()[0].getsockopt(TCP, OPTIONS["TCP_USER_TIMEOUT"][1])
lost = sorted(name for name in OPTIONS if after[name] != before[name])
print("after", after, flush=True)
print("lost", *lost, f"accepted:{accepted}", flush=True)
PYTHON
setsid python3 "$folder/listener.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
for _ in {1..50}; do ! grep -q lost "$folder/out" || break; sleep 0.1; done
lost="SO_ZEROCOPY TCP_DEFER_ACCEPT TCP_FASTOPEN TCP_LINGER2 TCP_MAXSEG TCP_NOTSENT_LOWAT TCP_SYNCNT TCP_USER_TIMEOUT"
grep -qx "lost $lost accepted:0" "$folder/out"
! grep -hE 'Warn.*(inet|tcp|opt)' "$folder"/images/*.log
