#!/usr/bin/env bash
# gguf 0.19.0: a value that is an empty string or list is not written, and a nested list comes back flat.
#
# Expected: what add_string() and add_array() take is in the file: GGUF has strings and arrays of length 0, and arrays of arrays.
# Seen: after add_string("key", "") and add_array("key", []) the file has no such key: "set to nothing" and "not set" are the
# same. add_array("key", [[1, 2], [3]]) is read by contents() as [1, 2, 3]. No error, no warning.
# Who meets it: whoever converts models: an empty prefix, suffix or chat template becomes the default of the engine that loads it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/model.gguf" <<'PYTHON'
import sys

import gguf


def round_trip(add):
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    field = gguf.GGUFReader(sys.argv[1]).fields.get("key")
    return "missing" if field is None else field.contents()


values = {
    "string": round_trip(lambda writer: writer.add_string("key", "a")),
    "empty string": round_trip(lambda writer: writer.add_string("key", "")),
    "empty list": round_trip(lambda writer: writer.add_array("key", [])),
    "list of an empty string": round_trip(lambda writer: writer.add_array("key", [""])),
    "nested list": round_trip(lambda writer: writer.add_array("key", [[1, 2], [3]])),
}
print(values)
assert list(values.values()) == ["a", "missing", "missing", [""], [1, 2, 3]], values
PYTHON
