#!/usr/bin/env bash
# ormsgpack 1.13.1: unpackb() returns the first of several objects, and says nothing about what lies behind it.
#
# Expected: an error: msgpack 1.2.4 raises ExtraData, msgspec 0.23.0 DecodeError, and orjson 3.13.0, which it comes from,
# JSONDecodeError.
# Seen: unpackb(packb("first") + packb("second")) is "first". So it is with a message that another one, or a rest of it, runs into.
# Who meets it: readers of files or sockets that hold one object behind the other: all but the first are lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ormsgpack==1.13.1 orjson==3.13.0 msgpack==1.2.4 msgspec==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import msgpack
import msgspec
import orjson
import ormsgpack

data = ormsgpack.packb("first") + ormsgpack.packb("second")
calls = {
    "ormsgpack": lambda: ormsgpack.unpackb(data),
    "ormsgpack, and a rest": lambda: ormsgpack.unpackb(data[:-3]),
    "msgpack": lambda: msgpack.unpackb(data),
    "msgspec": lambda: msgspec.msgpack.decode(data),
    "orjson": lambda: orjson.loads(b'"first" "second"'),
}
seen = {}
for name, call in calls.items():
    try:
        seen[name] = call()
    except (ValueError, msgspec.DecodeError) as error:
        seen[name] = type(error).__name__
print(seen)
assert list(seen.values()) == ["first", "first", "ExtraData", "DecodeError", "JSONDecodeError"], seen
PYTHON
