#!/usr/bin/env bash
# criu 4.2.1 (Debian sid): a UDP socket that has joined a multicast group hears nothing of it after a restore.
#
# Expected: it is a member again, and sends by the interface and with the TTL that were set, as address, port and IP_TOS are there
# again; or the dump is refused, or warns.
# Seen: a datagram to the group arrives before, and does not afterwards; IP_MULTICAST_TTL is 1 instead of 5 and IP_MULTICAST_IF unset.
# Neither log has a warning.
# Who meets it: whoever finds services or peers by multicast (mDNS, zeroconf, DDS): the restored process is there and finds nobody.
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

cat >"$folder/member.py" <<'PYTHON'
import os
import socket
import sys
import time

GROUP, LOOPBACK = socket.inet_aton("239.1.2.3"), socket.inet_aton("127.0.0.1")
receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
receiver.bind(("", 0))
receiver.settimeout(1)
receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, GROUP + LOOPBACK)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, LOOPBACK)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)
port = receiver.getsockname()[1]


def heard():
    options = [sender.getsockopt(socket.IPPROTO_IP, name) for name in (socket.IP_MULTICAST_TTL, socket.IP_TOS)]
    interface = socket.inet_ntoa(sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4))
    # As it was meant to be sent, by a socket of now.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, LOOPBACK)
        other.sendto(b"hello", ("239.1.2.3", port))
        other.sendto(b"unicast", ("127.0.0.1", port))
    found = []
    try:
        while True:
            found.append(receiver.recv(16).decode())
    except TimeoutError:
        return f"{found} TTL {options[0]} TOS {options[1]} interface {interface}"


print("before:", heard(), flush=True)
while not os.path.exists(f"{sys.argv[1]}/restored"):
    time.sleep(0.05)
print("after:", heard(), flush=True)
PYTHON
setsid python3 "$folder/member.py" "$folder" </dev/null >"$folder/out" 2>&1 &
pid=$!
for _ in {1..100}; do ! grep -qs before "$folder/out" || break; sleep 0.1; done
grep -q before "$folder/out" || { cat "$folder/out"; exit 1; }
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
"${criu[@]}" restore -d -D "$folder/images" -o restore.log || { tail -5 "$folder/images/restore.log"; exit 1; }
touch "$folder/restored"
for _ in {1..80}; do ! grep -q after "$folder/out" || break; sleep 0.1; done
cat "$folder/out"
[[ $(cat "$folder/out") == "before: ['hello', 'unicast'] TTL 5 TOS 16 interface 127.0.0.1
after: ['unicast'] TTL 1 TOS 16 interface 0.0.0.0" ]]
! grep -hiE 'Warn.*(multicast|igmp|inet)' "$folder"/images/*.log
