#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): shared huge pages can be dumped only where as many again are free. Needs root, and 18 MiB for huge pages.
#
# Expected: a dump reads the pages, and needs no others, as of private ones: one page of that size is enough for CRIU to know them by.
# Seen: with 4 huge pages of 2 MiB in use and 3 more free the dump of shared ones fails, "Can't mmap shmem: Cannot allocate memory",
# with 4 more it succeeds; private ones take 1. CRIU maps shared ones a second time, and privately (MAP_PRIVATE), so that the
# kernel sets pages for all of them aside although none will be written to.
# Who meets it: whoever gives an engine more than half of a node's huge pages, and then cannot dump it, though all is read only.
set -euo pipefail
folder=$(mktemp -d)
pid=
pool=/proc/sys/vm/nr_hugepages before=$(cat /proc/sys/vm/nr_hugepages)
trap '[[ -z $pid ]] || kill -9 "$pid" 2>/dev/null; echo "$before" >"$pool"; rm -rf "$folder"' EXIT
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

cat >"$folder/holder.py" <<'PYTHON'
import mmap
import sys
import time

MAP_HUGETLB, SIZE = 0x40000, 4 << 21
held = mmap.mmap(-1, SIZE, getattr(mmap, sys.argv[1]) | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
for offset in range(0, SIZE, 2 << 20):
    held[offset : offset + 4] = b"data"
print("ready", flush=True)
time.sleep(600)
PYTHON
# dumped KIND FREE: how the dump of a process with 4 of them ends where FREE more are left
dumped() {
    echo $((4 + $2)) >"$pool"
    [[ $(cat "$pool") == $((4 + $2)) ]] || { echo "the machine has no memory for so many"; exit 1; }
    rm -rf "$folder"/{images,out} && mkdir "$folder/images"
    setsid python3 "$folder/holder.py" "$1" </dev/null >"$folder/out" 2>&1 &
    pid=$!
    until grep -qs ready "$folder/out"; do sleep 0.1; done
    if "${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log; then echo dumped; else echo failed; fi
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}
dumped MAP_PRIVATE 1 | tee "$folder/first"
dumped MAP_SHARED 3 | tee "$folder/second"
grep -o "Can't mmap shmem.*" "$folder/images/dump.log"
dumped MAP_SHARED 4 | tee "$folder/third"
[[ $(tail -qn 1 "$folder"/{first,second,third} | tr '\n' ' ') == "dumped failed dumped " ]]
