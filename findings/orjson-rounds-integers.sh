#!/usr/bin/env bash
# orjson 3.13.0: loads() makes a rounded float of an integer that does not fit into 64 bits.
#
# Expected: the integer, as of json and msgspec 0.23.0, or an error: dumps() raises for the same number ("Integer exceeds 64-bit range").
# Seen: 18446744073709551617 comes back as 1.8446744073709552e+19, and so does its neighbour; dumps() then writes that. A loads() and
# dumps() of somebody else's message changes it, without an error.
# Who meets it: whoever passes on block hashes, trace ids or serial numbers of 128 bits that the other side writes as numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q orjson==3.13.0 msgspec==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import json

import msgspec
import orjson

for number in (2**64 + 1, -(2**63) - 1, 0xDEADBEEFDEADBEEFDEADBEEFDEADBEEF):
    text = b'{"block":%d}' % number
    assert json.loads(text)["block"] == msgspec.json.decode(text)["block"] == number
    found = orjson.loads(text)
    print(f"{number}: {found['block']!r}, written as {orjson.dumps(found).decode()}")
    assert isinstance(found["block"], float) and int(found["block"]) != number and orjson.dumps(found) != text
    try:
        orjson.dumps({"block": number})
    except TypeError as error:
        assert "64-bit" in str(error)
    else:
        raise SystemExit("dumps: no error")
assert orjson.loads(b"%d" % (2**64 + 1)) == orjson.loads(b"%d" % (2**64 + 2))
PYTHON
