#!/usr/bin/env bash
# psutil 7.2.2 with criu 4.2.1 (Debian sid): a psutil.Process that was made before a dump takes its process for another one after it.
#
# Expected: the process is restored with its pid and its memory, so it is the one that it was; what psutil cannot know it leaves.
# Seen: a process is known by its pid and by when it was started, and the second is the time of the restore. is_running() is False, of
# psutil.Process() of the caller itself, too; children(), nice(n) and terminate() raise NoSuchProcess ("its PID has been reused"), and
# the child goes on. cpu_percent() is negative, since CRIU does not restore the processor time.
# Who meets it: whoever keeps Process objects in a supervisor, an agent or a monitor that is restored with its workers: these are taken
# for dead, and cannot be stopped.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill -9 -- "-$pid" 2>/dev/null; rm -rf "$folder"' EXIT
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

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q psutil==7.2.2
cat >"$folder/supervisor.py" <<'PYTHON'
import os
import subprocess
import sys
import time

import psutil

me = psutil.Process()
worker = psutil.Process(subprocess.Popen(["sleep", "600"]).pid)


def result(call):
    try:
        return call()
    except psutil.NoSuchProcess as error:
        return f"NoSuchProcess, {error.msg}"


def say(when):
    print(when, "running:", me.is_running(), worker.is_running())
    print(when, "children:", result(lambda: len(me.children())))
    print(when, "nice:", result(lambda: worker.nice(5)))
    print(when, "negative:", me.cpu_percent() < 0, flush=True)


me.cpu_percent()
end = time.monotonic() + 2
while time.monotonic() < end:
    pass
say("before")
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
say("after")
print("after terminate:", result(worker.terminate))
print("after worker:", psutil.Process(worker.pid).name(), flush=True)
PYTHON
setsid "$folder/venv/bin/python" "$folder/supervisor.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q 'before negative' "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
for _ in {1..100}; do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.1; done # The worker is to be reaped before its pid is free.
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q 'after worker' "$folder/out" || break; sleep 0.1; done
diff "$folder/out" - <<'SEEN' && cat "$folder/out"
before running: True True
before children: 1
before nice: None
before negative: False
after running: False False
after children: NoSuchProcess, process no longer exists and its PID has been reused
after nice: NoSuchProcess, process no longer exists and its PID has been reused
after negative: True
after terminate: NoSuchProcess, process no longer exists and its PID has been reused
after worker: sleep
SEEN
