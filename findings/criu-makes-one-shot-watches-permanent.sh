#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): an inotify watch made with IN_ONESHOT, which is to tell of one event, tells of all after a restore.
#
# Expected: one event and the end of the watch (IN_IGNORED), as before (inotify(7)), or the dump is refused.
# Seen: three writes are three events and no IN_IGNORED: the kernel does not show the flag in fdinfo. Neither log has
# a warning.
# Who meets it: programs that reload a file, or free what belongs to a watch, at its one event: they do it again and again.
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

cat >"$folder/watcher.py" <<'PYTHON'
import ctypes
import os
import struct
import sys
import time

IN_MODIFY, IN_IGNORED, IN_ONESHOT = 0x2, 0x8000, 0x80000000
libc = ctypes.CDLL(None)
files = [f"{sys.argv[1]}/{name}" for name in ("first", "second")]
queues = []
for name in files:
    open(name, "w").close()
    queues.append(libc.inotify_init1(os.O_NONBLOCK))
    libc.inotify_add_watch(queues[-1], name.encode(), ctypes.c_uint32(IN_MODIFY | IN_ONESHOT))


def seen(which):
    masks = []
    for _ in range(3):
        with open(files[which], "a") as file:
            file.write("x")
        time.sleep(0.05)
        try:
            data = os.read(queues[which], 4096)
        except BlockingIOError:
            continue
        masks += [hex(struct.unpack_from("iI", data, offset)[1]) for offset in range(0, len(data), 16)]
    return masks


print("before", *seen(0), flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
print("after", *seen(1), flush=True)
PYTHON
setsid python3 "$folder/watcher.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
until grep -q before "$folder/out"; do sleep 0.1; done
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..50}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(tr '\n' ' ' <"$folder/out") == "before 0x2 0x8000 after 0x2 0x2 0x2 " ]]
! grep -hE 'Warn.*notify' "$folder"/images/*.log
