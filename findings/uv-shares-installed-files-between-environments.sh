#!/usr/bin/env bash
# uv 0.13.9, Linux: a file that is edited in one virtual environment changes in the others, and in those made later.
#
# Expected: site-packages of an environment is its own, as with pip.
# Seen: on a file system without copy on write the files are hard links to uv's cache. A line added to six.py in the first
# environment is in the second, and in a third that is installed afterwards. UV_LINK_MODE=copy makes copies.
# Who meets it: whoever patches an engine in place, on a machine or in an image with more than one environment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uv==0.13.9
uv=$folder/venv/bin/uv
made() {
    env -u UV_LINK_MODE UV_CACHE_DIR="$folder/cache" "${@:2}" "$uv" venv -q --python "$folder/venv/bin/python" "$folder/$1"
    env -u UV_LINK_MODE UV_CACHE_DIR="$folder/cache" "${@:2}" "$uv" pip install -q --python "$folder/$1/bin/python" six==1.17.0
}
patched() { "$folder/$1/bin/python" -c 'import six; print(hasattr(six, "PATCHED"))'; }
made first A=b
made second A=b
made copied UV_LINK_MODE=copy
file=$(echo "$folder"/first/lib/python3*/site-packages/six.py)
[[ $(stat -c %h "$file") != 1 ]] || { echo "this file system makes copies: nothing to see here"; exit 0; }
echo 'PATCHED = True' >>"$file"
made third A=b
seen="first: $(patched first), second: $(patched second), third: $(patched third), copied: $(patched copied)"
echo "the line that was added to the first: $seen"
[[ $seen == "first: True, second: True, third: True, copied: False" ]]
