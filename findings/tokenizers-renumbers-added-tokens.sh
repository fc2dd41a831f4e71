#!/usr/bin/env bash
# tokenizers 0.23.3: the ids that tokenizer.json gives to its added tokens are not used; they are numbered anew when it is loaded.
#
# Expected: the ids of the file, for which the model was trained, or an error: two ids for one token cannot both be right.
# Seen: without an entry of its own in the vocabulary, an added token gets the next free number. Where one was taken out of the file
# by hand, the ones behind it move up: <end>, id 5 in the file, is 4. from_file() raises nothing, and Python shows no warning.
# Who meets it: whoever removes tokens that are not needed, or joins two files: the model is asked, and stopped, by other tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" -W error - "$folder" <<'PYTHON'
import json
import pathlib
import sys

from tokenizers import Tokenizer, models

made = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2}, []))
made.add_special_tokens(["<start>", "<tool>", "<end>"])
path = pathlib.Path(sys.argv[1], "tokenizer.json")
made.save(str(path))
content = json.loads(path.read_text())
content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<tool>"]
path.write_text(json.dumps(content))
ids = {token["content"]: token["id"] for token in content["added_tokens"]}
loaded = Tokenizer.from_file(str(path))
seen = {name: loaded.token_to_id(name) for name in ids}
print(f"in the file: {ids}, loaded: {seen}, encoded: {loaded.encode('a<end>').ids}")
assert ids == {"<start>": 3, "<end>": 5}, ids
assert seen == {"<start>": 3, "<end>": 4}, seen
assert loaded.encode("a<end>").ids == [0, 4]
PYTHON
