#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): a restored process has lost its CPU affinity, I/O priority, memory policy and timer slack.
#
# Expected: they are there again, as its niceness and its scheduling policy are; or the dump is refused, or warns.
# Seen: affinity is that of criu, and the rest what a new process has: no I/O class, the default policy, 50 us. Neither log has
# a warning.
# Who meets it: engines that pin their threads, or are bound to a NUMA node by numactl: they are slower after a restore.
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

cat >"$folder/pinned.py" <<'PYTHON'
import ctypes
import os
import sys
import time

IOPRIO_SET, IOPRIO_GET, SET_MEMPOLICY, GET_MEMPOLICY = 251, 252, 238, 239
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PREFERRED = 29, 30, 1
libc = ctypes.CDLL(None)


def state():
    policy = ctypes.c_int()
    libc.syscall(GET_MEMPOLICY, ctypes.byref(policy), None, ctypes.c_ulong(0), None, ctypes.c_ulong(0))
    io_class = libc.syscall(IOPRIO_GET, 1, 0) >> 13
    slack = libc.prctl(PR_GET_TIMERSLACK)
    return f"cpus {len(os.sched_getaffinity(0))} io {io_class} memory {policy.value} slack {slack} nice {os.nice(0)}"


os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
libc.syscall(IOPRIO_SET, 1, 0, 3 << 13)
libc.syscall(SET_MEMPOLICY, PREFERRED, ctypes.byref(ctypes.c_ulong(1)), ctypes.c_ulong(2))
libc.prctl(PR_SET_TIMERSLACK, 1000)
os.nice(19 - os.nice(0))
print("before:", state(), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
print("after: ", state(), flush=True)
PYTHON
setsid python3 "$folder/pinned.py" "$folder/restored" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
cpus=$(nproc)
grep -qx "before: cpus 1 io 3 memory 1 slack 1000 nice 19" "$folder/out"
grep -qx "after:  cpus $cpus io 0 memory 0 slack 50000 nice 19" "$folder/out"
warned=$(grep '^Warn' "$folder"/images/*.log || true)
[[ -z $warned ]] || { echo "warned: $warned"; exit 1; }
echo "as described"
