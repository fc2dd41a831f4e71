#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): no page of a process is lazy if one of its threads has a stack pointer at the beginning of a page.
#
# Expected: criu dump marks pages of private anonymous memory as lazy (PE_LAZY) but for the page that a stack pointer is in, as
# for a process whose thread waits eight bytes further on.
# Seen: none of the 64 MiB. mem.c, is_stack() compares the low twelve bits of the stack pointer with those of the page's address,
# which are zero, and not the pages. Without a warning.
# Who meets it: criu restore --lazy-pages and lazy migration: all memory is copied before the process runs. Stack pointers are multiples
# of 16, so it is one thread in 256, and one process in three that have a hundred; where a library's threads wait at one depth, always.
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

cat >"$folder/waiting.py" <<'PYTHON'
import ctypes
import mmap
import os
import sys
import threading
import time

held = b"text" * (16 << 20)
# and rsp, -4096; sub rsp, 0 or 8; pause() for ever
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("4881e400f0ffff" "4883ec" + sys.argv[1] + "b822000000" "0f05" "ebf7"))
wait = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.5)
print("ready", flush=True)
time.sleep(600)
PYTHON
cat >"$folder/lazy.py" <<'PYTHON'
import struct
import sys

data = open(sys.argv[1], "rb").read()


def messages(at):
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def fields(message):
    at, found = 0, {}
    while at < len(message):
        pair = []
        for _ in range(2):
            value = shift = 0
            while True:
                byte = message[at]
                at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
            pair.append(value)
        found[pair[0] >> 3] = pair[1]
    return found


entries = [fields(one) for one in list(messages(8))[1:]]
# pagemap.proto: 4 flags, of which 2 is PE_LAZY; 5 or 2 the number of pages
print(sum(one.get(5) or one[2] for one in entries if one.get(4, 0) & 2) >> 8)
PYTHON
for further in 00 08; do
    setsid python3 "$folder/waiting.py" "$further" </dev/null >"$folder/out" 2>&1 &
    pid=$!
    until grep -q ready "$folder/out"; do sleep 0.1; done
    mkdir -p "$folder/images/$further"
    "${criu[@]}" dump -t "$pid" -D "$folder/images/$further" -o dump.log || { tail -5 "$folder/images/$further/dump.log"; exit 1; }
    wait "$pid" || true
    echo "stack pointer $further: $(python3 "$folder/lazy.py" "$folder/images/$further/pagemap-$pid.img") MiB are lazy" | tee -a "$folder/seen"
    pid=
done
grep -q 'pointer 00: 0 MiB' "$folder/seen"
grep -qE 'pointer 08: (6[4-9]|7[0-9]) MiB' "$folder/seen"
! grep -hE 'Warn.*(lazy|stack)' "$folder"/images/*/*.log
