#!/usr/bin/env bash
# catatonit 0.1.7 (Debian bookworm), podman's --init: the program that it starts has SIGTSTP, SIGTTIN and SIGTTOU blocked.
#
# Expected: the program starts with no signal blocked, as under tini 0.19 and dumb-init 1.2.5, and as it does without an init.
# Seen: SigBlk is 380000, and goes on to all that the program starts, since exec keeps it: Ctrl-Z has no effect, and kill -TSTP is
# kept until somebody unblocks it. A command that is not found ends catatonit with 1 and dumb-init with 2; of a shell, tini and
# docker run one expects 127.
# Who meets it: whoever suspends a program in a container with an init, or tells a wrong command by 127.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download catatonit=0.1.7-1+b2 tini=0.19.0-1+b3 dumb-init=1.2.5-2)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
PATH=$(find "$folder/root" -type d -name bin -printf '%p:')$PATH
started() { unshare --fork --pid --mount-proc "$@" 2>/dev/null </dev/null; }
seen=
for init in none tini dumb-init catatonit; do
    through=("$init" --)
    [[ $init != none ]] || through=()
    blocked=$(started "${through[@]}" grep SigBlk /proc/self/status | sed 's/SigBlk:\t0*//')
    code=0
    [[ $init == none ]] || started "${through[@]}" no-such-program || code=$?
    echo "$init: blocked ${blocked:-nothing}, a missing command: $code"
    seen+="$init ${blocked:-nothing} $code, "
done
[[ $seen == "none nothing 0, tini nothing 127, dumb-init nothing 2, catatonit 380000 1, " ]]
