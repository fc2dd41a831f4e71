#!/usr/bin/env bash
# jiter 0.19.0, pydantic_core 2.50.5: of JSON that is still arriving, an incomplete string is left out, and an incomplete number is not.
#
# Expected: from_json(data, partial_mode=True) leaves out what is not complete at the end, as it does with a string, and with a number
# that ends with "." or "e": its value is not known yet.
# Seen: {"replicas": 128} is read as 1, 12 and 128 while it comes in; nothing tells 12 from a number that is complete. Of 0.25 it gives
# 0 before the point. The docstring speaks of strings alone. from_json(allow_partial=True) of pydantic_core and validate_json(
# experimental_allow_partial="on") of pydantic 2.14.4, which read by jiter, do the same.
# Who meets it: whoever acts on the arguments of a tool call, or fills a form, while the model writes them: 1 replica, then 12, then 128.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jiter==0.19.0 pydantic==2.14.4 pydantic_core==2.50.5
"$folder/venv/bin/python" - <<'PYTHON'
import jiter
import pydantic
import pydantic_core

adapter = pydantic.TypeAdapter(dict[str, pydantic.JsonValue])
readers = {
    "jiter": lambda text: jiter.from_json(text, partial_mode=True),
    "pydantic_core": lambda text: pydantic_core.from_json(text, allow_partial=True),
    "TypeAdapter": lambda text: adapter.validate_json(text, experimental_allow_partial="on"),
}
for name, read in readers.items():
    seen = {}
    for whole in (b'{"a": 128}', b'{"a": 0.25}', b'{"a": "128"}'):
        values = [read(whole[:end]).get("a") for end in range(1, len(whole) + 1)]
        seen[whole] = [value for at, value in enumerate(values) if at and value != values[at - 1]]
        print(f"{name}: {whole.decode()} was {seen[whole]} as it came in")
    assert seen == {b'{"a": 128}': [1, 12, 128], b'{"a": 0.25}': [0, None, 0.2, 0.25], b'{"a": "128"}': ["128"]}, seen
PYTHON
