#!/usr/bin/env bash
# docker-py 7.2.0: [^...] in .dockerignore, all characters but these, excludes the files with these characters, and no others.
#
# Expected: as with docker build, which takes Go's filepath.Match, where "^" behind "[" negates the class, and "\*" is a star.
# Seen: "shard-[^0]" takes shard-0 out of the context and leaves shard-1 and shard-2 in it: "^" counts as one more character of the
# class, and "!" is what negates. "a\*" excludes nothing. There is no error.
# Who meets it: whoever builds by docker-py (testcontainers does) with the .dockerignore that docker build has: the image has all weights
# but those that were to be in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q docker==7.2.0
mkdir "$folder/context"
touch "$folder"/context/{shard-0,shard-1,shard-2,'a*',Dockerfile}
"$folder/venv/bin/python" - "$folder/context" <<'PYTHON'
import sys

from docker.utils.build import exclude_paths

patterns = ("shard-[0]", "shard-[^0]", "shard-[!0]", "shard-[^0-1]", r"a\*", "a*")
everything = exclude_paths(sys.argv[1], [])
excluded = {pattern: sorted(everything - exclude_paths(sys.argv[1], [pattern])) for pattern in patterns}
for pattern, names in excluded.items():
    print(f"{pattern} excludes {names}")
assert excluded == {
    "shard-[0]": ["shard-0"],
    "shard-[^0]": ["shard-0"],
    "shard-[!0]": ["shard-1", "shard-2"],
    "shard-[^0-1]": ["shard-0", "shard-1"],
    r"a\*": [],
    "a*": ["a*"],
}
PYTHON
