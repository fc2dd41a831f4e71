#!/usr/bin/env bash
# util-linux 2.38.1 (Debian bookworm): `setsid --wait` ends with 9, and `unshare --fork` with 1, when SIGKILL has ended the program.
#
# Expected: 137, as with flock, timeout and a shell.
# Seen: setsid gives the number of the signal, as if the program had said exit 9: 1 for SIGHUP, 15 for SIGTERM. unshare passes the other
# signals on, and of SIGKILL it says "sigprocmask unblock failed: Invalid argument" and 1.
# Who meets it: whoever starts a worker in a container by setsid, which forks as PID 1, or by unshare: a program that ran out of memory
# (137) counts as one that has failed by itself, and rules for exit codes (podFailurePolicy) do not match.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download util-linux=2.38.1-5+deb12u3)
dpkg-deb -x "$folder"/util-linux_*.deb "$folder/root"
bin=$folder/root/usr/bin
for signal in HUP TERM KILL; do
    # shellcheck disable=SC2016
    program='kill -$0 $$'
    for wrapper in "$bin/flock $folder/lock" "timeout 20" "$bin/unshare --map-root-user --fork" "$bin/setsid --fork --wait"; do
        code=0
        # shellcheck disable=SC2086
        (exec $wrapper sh -c "$program" "$signal") 2>>"$folder/errors" || code=$?
        name=${wrapper##"$bin/"}
        echo "$signal: ${name%% *} $code"
    done
done 2>/dev/null | tee "$folder/seen"
cat "$folder/errors"
diff "$folder/seen" - <<'SEEN'
HUP: flock 129
HUP: timeout 129
HUP: unshare 129
HUP: setsid 1
TERM: flock 143
TERM: timeout 143
TERM: unshare 143
TERM: setsid 15
KILL: flock 137
KILL: timeout 137
KILL: unshare 1
KILL: setsid 9
SEEN
