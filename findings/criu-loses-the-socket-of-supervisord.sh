#!/usr/bin/env bash
# criu 4.2.1 (Debian sid) with supervisor 4.3.0: supervisorctl finds its supervisord no more after a restore.
#
# Expected: the control socket is where it was, or the dump is refused.
# Seen: no file is there, and supervisorctl says "no such file". supervisord binds its socket under another name, links that to its
# place and unlinks it: CRIU takes the socket's file for a deleted one. Neither log has a warning.
# Who meets it: whoever has supervisord in a container that is restored elsewhere, and controls it by its socket.
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

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check supervisor==4.3.0 'setuptools<81'
cat >"$folder/supervisord.conf" <<CONFIG
[supervisord]
nodaemon=true
user=root
logfile=$folder/supervisord.log
pidfile=$folder/supervisord.pid
[unix_http_server]
file=$folder/control.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://$folder/control.sock
CONFIG
ask() { "$folder/venv/bin/supervisorctl" -c "$folder/supervisord.conf" pid 2>&1 || true; }
setsid "$folder/venv/bin/supervisord" -c "$folder/supervisord.conf" </dev/null >"$folder/out" 2>&1 &
pid=$!
for _ in {1..100}; do [[ $(ask) != "$pid" ]] || break; sleep 0.1; done
[[ $(ask) == "$pid" ]]
"${criu[@]}" dump -t "$pid" -D "$folder/images" -o dump.log --tcp-close || { tail -5 "$folder/images/dump.log"; exit 1; }
wait "$pid" || true
rm -f "$folder"/control.sock*  # as in a new container; left there it would be nobody's
"${criu[@]}" restore -d -D "$folder/images" -o restore.log --tcp-close || { tail -5 "$folder/images/restore.log"; exit 1; }
kill -0 "$pid"
ask
[[ $(ask) == *"no such file"* && -z $(compgen -G "$folder/control.sock*") ]]
! grep -hE 'Warn.*unix' "$folder"/images/*.log
