#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): a timer of one thread's processor time (CLOCK_THREAD_CPUTIME_ID) measures the main thread after a restore.
#
# Expected: it expires while its thread works, as before (timer_create(2)), or the dump is refused.
# Seen: the thread that has it works on and gets no signal any more. CRIU makes all timers in the main thread, and this clock is that of
# the thread that makes the timer. Neither log has a warning.
# Who meets it: programs under a sampling profiler (Go's pprof, gperftools), which has such a timer in every thread: the profiles
# are empty, or show the main thread alone.
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

cat >"$folder/profiled.py" <<'PYTHON'
import ctypes
import os
import signal
import struct
import sys
import threading
import time

SIGEV_THREAD_ID = 4
libc = ctypes.CDLL(None)
hits = []
signal.signal(signal.SIGPROF, lambda *_: hits.append(1))


def work():
    event = struct.pack("QiiI", 0, signal.SIGPROF, SIGEV_THREAD_ID, threading.get_native_id()).ljust(64, b"\0")
    timer = ctypes.c_void_p()
    assert libc.timer_create(time.CLOCK_THREAD_CPUTIME_ID, event, ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 20_000_000, 0, 20_000_000), None) == 0
    while True:
        sum(range(1000))


def samples():
    hits.clear()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(0.01)
    return "some" if hits else "none"


threading.Thread(target=work, daemon=True).start()
print("before", samples(), flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
print("after", samples(), flush=True)
PYTHON
setsid python3 "$folder/profiled.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..80}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(tr '\n' ' ' <"$folder/out") == "before some after none " ]]
! grep -hE 'Warn.*timer' "$folder"/images/*.log
