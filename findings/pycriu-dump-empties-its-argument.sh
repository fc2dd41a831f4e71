#!/usr/bin/env bash
# pycriu 4.2.1 (Debian sid's python3-pycriu): images.dump() and dumps() take what they write out of the image they are given.
#
# Expected: the same dictionary can be written twice, to the same bytes, as with json.dump.
# Seen: after the first dumps() the entries have lost their field `extra`. The second, of pipes-data or sk-queues, is a shorter
# image without the bytes that were in the pipe or socket, and no error; of ghost-file it is an IndexError. `crit info` of a
# ghost-file ends with an AttributeError.
# Who meets it: tools that rewrite CRIU's images, and look at, or keep, what they have just written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/{lists/partial,cache/archives/partial,parts}
cat >"$folder/sid.sources" <<'SOURCES'
Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$folder/parts" -o Dir::State::Lists="$folder/lists"
    -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root)
mv "$folder/sid.sources" "$folder/parts/"
"${apt[@]}" update
(cd "$folder" && "${apt[@]}" download python3-pycriu=4.2.1-1)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q protobuf==4.25.8
export PYTHONPATH=$folder/root/usr/lib/python3/dist-packages
"$folder/venv/bin/python" - "$folder/ghost-file.img" <<'PYTHON'
import base64
import sys

import pycriu

extra = base64.encodebytes(b"x" * 100).decode()
pipes = {"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 100, "size": 65536, "extra": extra}]}
queues = {"magic": "SK_QUEUES", "entries": [{"id_for": 1, "length": 100, "extra": extra}]}
ghost = {
    "magic": "GHOST_FILE",
    "entries": [{"uid": 0, "gid": 0, "mode": 0o100600, "dev": 1, "ino": 1, "extra": extra}],
}
for image in (pipes, queues):
    first = pycriu.images.dumps(image)
    second = pycriu.images.dumps(image)
    print(f"{image['magic']}: {len(first)} bytes, then {len(second)}")
    assert len(first) - len(second) == 100
    assert "extra" not in image["entries"][0]
    assert pycriu.images.loads(first)["entries"][0]["extra"] == extra
with open(sys.argv[1], "w+b") as file:
    pycriu.images.dump(ghost, file)
try:
    pycriu.images.dumps(ghost)
except Exception as error:
    print(f"GHOST_FILE: {type(error).__name__}: {error}")
    assert isinstance(error, IndexError), error
else:
    raise AssertionError("a ghost file is written twice")
PYTHON
said=$("$folder/venv/bin/python" -c 'import sys; from crit.__main__ import main; sys.argv[0] = "crit"; main()' info "$folder/ghost-file.img" 2>&1 || true)
printf 'crit info: %s\n' "${said##*$'\n'}"
[[ $said == *"AttributeError: 'ghost_file_handler' object has no attribute 'count'"* ]]
