#!/usr/bin/env bash
# onnxruntime 1.32.0, Linux: `import onnxruntime` alone makes a device id and a telemetry database below the home directory, and
# keeps the database open.
#
# Expected: an import writes nothing, and telemetry is a matter of Windows, as it used to be.
# Seen: ~/.cache/Microsoft/DeveloperTools/.onnxruntime has `deviceid` and onnxruntime.db with its -wal and -shm, three open
# descriptors of the process lead there, and every process of the same home writes to the same -wal. With
# ORT_DISABLE_TELEMETRY=1 there is nothing of this.
# Who meets it: whoever runs many workers over one cache volume, has a home that is read-only or counted, or checkpoints such a
# process: the files differ at the restore.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0
cat >"$folder/import.py" <<'PYTHON'
import os

import onnxruntime

home = os.environ["HOME"]
files = sorted(name for _, _, names in os.walk(home) for name in names)
links = (os.path.realpath(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd"))
print(len([link for link in links if link.startswith(home)]), *files)
PYTHON
seen() {
    mkdir "$folder/$1"
    env -u XDG_CACHE_HOME HOME="$folder/$1" "${@:2}" "$folder/venv/bin/python" "$folder/import.py"
}
plain=$(seen plain env -u ORT_DISABLE_TELEMETRY)
disabled=$(seen disabled env ORT_DISABLE_TELEMETRY=1)
printf 'open, files: %s\nwith ORT_DISABLE_TELEMETRY=1: %s\n' "$plain" "$disabled"
[[ $plain == "3 deviceid onnxruntime.db onnxruntime.db-shm onnxruntime.db-wal" ]]
[[ $disabled == 0 ]]
