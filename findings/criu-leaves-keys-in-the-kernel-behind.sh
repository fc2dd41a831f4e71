#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): keys that a process holds in the kernel (keyrings(7)) are not there after a restore.
#
# Expected: they are in the image, or the dump is refused, or warns.
# Seen: request_key(2) finds a key of the process's keyring and one of its own session's before, and gives ENOKEY (126) for both
# afterwards. Neither log has a warning.
# Who meets it: programs that keep tickets or tokens there instead of in a file or in their memory.
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

cat >"$folder/keys.py" <<'PYTHON'
import ctypes
import os
import sys
import time

ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250
JOIN_SESSION_KEYRING, PROCESS, SESSION = 1, -2, -3
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(KEYCTL, JOIN_SESSION_KEYRING, None)
for name, ring in ((b"ticket", PROCESS), (b"token", SESSION)):
    libc.syscall(ADD_KEY, b"user", name, b"secret", ctypes.c_size_t(6), ctypes.c_long(ring))


def found(name):
    key = libc.syscall(REQUEST_KEY, b"user", name, None, ctypes.c_long(0))
    return "found" if key > 0 else ctypes.get_errno()


print("before", found(b"ticket"), found(b"token"), flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
print("after", found(b"ticket"), found(b"token"), flush=True)
PYTHON
setsid python3 "$folder/keys.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(tr '\n' ' ' <"$folder/out") == "before found found after 126 126 " ]]
! grep -hE 'Warn.*key' "$folder"/images/*.log
