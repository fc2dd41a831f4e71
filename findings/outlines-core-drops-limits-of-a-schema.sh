#!/usr/bin/env bash
# outlines-core 0.2.14: of a JSON schema, limits of numbers and unique items are dropped without a word.
#
# Expected: they hold, or ValueError, as `not`, `if` and `format: ipv4` give one ("Unsupported JSON Schema structure").
# Seen: minimum, maximum, multipleOf, uniqueItems, contains and patternProperties change nothing: 5 matches "at least 10", and
# [1, 1] "unique". On the other hand a pattern must match the whole string, where JSON Schema searches, and {"b": 1, "a": 2} is
# no object of the properties a and b.
# Who meets it: whoever lets an engine generate by a schema and trusts that what comes out is valid.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q outlines-core==0.2.14 jsonschema==4.26.0
"$folder/venv/bin/python" - <<'PYTHON'
import json
import re

import jsonschema
from outlines_core.json_schema import build_regex_from_schema

cases = [
    ({"type": "integer", "minimum": 10}, "5"),
    ({"type": "integer", "maximum": 10}, "500"),
    ({"type": "number", "multipleOf": 5}, "7"),
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1,1]"),
    ({"type": "array", "contains": {"const": 1}}, "[2]"),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, '{"a":"x"}'),
    ({"type": "string", "pattern": "a"}, '"bad"'),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}, '{"b":1,"a":2}'),
]
seen = []
for schema, text in cases:
    valid = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    matches = bool(re.fullmatch(build_regex_from_schema(json.dumps(schema)), text))
    seen.append((valid, matches))
    print(f"{json.dumps(schema)}: {text} is {'valid' if valid else 'not valid'}, and {'matches' if matches else 'does not match'}")
assert seen == [(False, True)] * 6 + [(True, False)] * 2, seen
try:
    build_regex_from_schema('{"not": {"type": "string"}}')
except ValueError as error:
    print(f"not: {str(error).splitlines()[0]}")
else:
    raise SystemExit("not: no error")
PYTHON
