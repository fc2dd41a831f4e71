#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): after a restore SO_PEERCRED of a unix connection names another process as the one at its other end.
#
# Expected: the pid of the client, as before: both processes are restored with their pids; or the dump is refused, or warns.
# Seen: pid is the server's own. The kernel keeps in it who made the connection, and at a restore one process makes both
# ends. Neither log has a warning.
# Who meets it: servers that know their clients by pid, to log, to count, to watch or to end them: they find, or end, themselves.
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

cat >"$folder/server.py" <<'PYTHON'
import os
import socket
import struct
import sys
import time

folder = sys.argv[1]
listening = socket.socket(socket.AF_UNIX)
listening.bind(f"{folder}/socket")
listening.listen()
client = os.fork()
if not client:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{folder}/socket")
    while connection.recv(1):
        connection.sendall(b"%d\n" % os.getpid())
    os._exit(0)
connection, _ = listening.accept()


def peer():
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    connection.sendall(b"?")
    says = int(connection.makefile().readline())
    names = {client: "client", os.getpid(): "server"}
    return f"SO_PEERCRED {names.get(pid)}, it says {names.get(says)}"


print("before:", peer(), flush=True)
while not os.path.exists(f"{folder}/restored"):
    time.sleep(0.05)
print("after:", peer(), flush=True)
connection.close()
os.wait()
PYTHON
# Starts the server, and waits for it and its client, so that their pids are free for the restore.
cat >"$folder/start.py" <<'PYTHON'
import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36
folder = sys.argv[1]
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
with open(f"{folder}/out", "w") as out:
    process = subprocess.Popen(["python3", f"{folder}/server.py", folder], stdin=0, stdout=out, stderr=out, start_new_session=True)
with open(f"{folder}/pid", "w") as file:
    file.write(str(process.pid))
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
PYTHON
python3 "$folder/start.py" "$folder" </dev/null &
starter=$!
for _ in {1..100}; do ! grep -qs before "$folder/out" || break; sleep 0.1; done
grep -q before "$folder/out" || { cat "$folder/out"; exit 1; }
pid=$(cat "$folder/pid")
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$starter"
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(cat "$folder/out") == "before: SO_PEERCRED client, it says client
after: SO_PEERCRED server, it says client" ]]
! grep -hiE 'Warn.*(cred|unix)' "$folder"/images/*.log
