#!/usr/bin/env bash
# ormsgpack 1.13.1: an array of numpy in the other byte order is packed as other numbers.
#
# Expected: the numbers, as its scalars of that order are packed, or TypeError, as orjson 3.13.0, which it comes from, raises
# ("numpy array is not native-endianness").
# Seen: [0, 1, 2] as ">i8" becomes [0, 72057594037927936, 144115188075855872], as ">f4" 4.6e-41 for 1.0. There is no error.
# Who meets it: whoever sends on what came from the network, FITS, netCDF or an old .npy; astype() to the native type helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ormsgpack==1.13.1 orjson==3.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
import orjson
import ormsgpack


def sent(value):
    return ormsgpack.unpackb(ormsgpack.packb(value, option=ormsgpack.OPT_SERIALIZE_NUMPY))


numbers = numpy.arange(3, dtype=">i8")
floats = numpy.arange(3, dtype=">f4")
print("arrays:", sent(numbers), sent(floats), "scalars:", sent(numbers[1]), sent(floats[1]))
assert sent(numbers) == [0, 1 << 56, 2 << 56]
assert 0 < sent(floats)[1] < 1e-40
assert sent(numbers[1]) == 1 and sent(floats[1]) == 1.0
try:
    orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
except TypeError as error:
    print("orjson:", error)
else:
    raise SystemExit("orjson: no error")
PYTHON
