#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): a timer for a time of day (TFD_TIMER_ABSTIME of CLOCK_REALTIME) is late by as long as the dump lay there.
#
# Expected: it fires at that time, or at once if that has gone by, as after SIGSTOP and SIGCONT, or where a machine was suspended.
# Seen: what was left of it at the dump is counted anew from the restore. Alarms 4 and 10 s ahead, of a process that lay dumped for
# 6 s, both fire about 6 s late. Neither log has a warning.
# Who meets it: whoever renews certificates, leases or tokens at their time, in a process that is restored hours later.
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

cat >"$folder/alarm.py" <<'PYTHON'
import ctypes
import os
import select
import struct
import sys
import time

CLOCK_REALTIME, TFD_TIMER_ABSTIME = 0, 1
libc = ctypes.CDLL(None)
start = time.time()
timers = {}
for ahead in (4, 10):
    timers[ahead] = libc.timerfd_create(CLOCK_REALTIME, os.O_NONBLOCK)
    when = struct.pack("qqqq", 0, 0, int(start) + ahead, 0)
    libc.timerfd_settime(timers[ahead], TFD_TIMER_ABSTIME, when, None)
print("before", flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
late = []
for ahead, timer in timers.items():
    select.select([timer], [], [], 60)
    late.append(f"{time.time() - int(start) - ahead:.1f}")
print("after", *late, flush=True)
PYTHON
setsid python3 "$folder/alarm.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
sleep 6
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..400}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
read -r _ first second < <(grep after "$folder/out")
((${first%.*} >= 4 && ${second%.*} >= 4))
! grep -hE 'Warn.*timer' "$folder"/images/*.log
