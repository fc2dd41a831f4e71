#!/usr/bin/env bash
# PyYAML 6.0.3: a string such as "1234e56", as of one in fifty abbreviated commits, is written without quotes, and others read a number.
#
# Expected: quotes, as it puts them around "1234567", "0x1f" and "on", or a string for all who read it.
# Seen: safe_dump() writes `commit: 1234e56`, which is a string for PyYAML alone (YAML 1.1 wants a point in a float). kubectl 1.20
# (Debian bookworm) refuses it as a label; ruamel.yaml 0.19.1, and js-yaml 5.5.0 and yaml 2.9.1 of npm read 1.234e+59. These three
# quote it when they write. "08" and "0o14" are written bare, too.
# Who meets it: whoever makes manifests or values files with the tag or the commit of a build in them: now and then one fails, or
# has a tag like 1.234e+59.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q PyYAML==6.0.3 ruamel.yaml==0.19.1
npm install --silent --no-fund --no-audit js-yaml@5.5.0 yaml@2.9.1 >/dev/null
apt-get -qq -o APT::Sandbox::User=root download kubernetes-client=1.20.5+really1.20.2-1.1+deb12u1
dpkg-deb -x kubernetes-client_*.deb root
cat >write.py <<'PYTHON'
import sys

import yaml

metadata = {"name": "engine", "labels": {"commit": sys.argv[1]}}
print(yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}), end="")
PYTHON
cat >read.py <<'PYTHON'
import sys

import ruamel.yaml
import yaml

text = open(sys.argv[1]).read()
for load in (yaml.safe_load, ruamel.yaml.YAML(typ="safe", pure=True).load):
    print(repr(load(text)["metadata"]["labels"]["commit"]), end=" ")
PYTHON
cat >read.js <<'JS'
const text = require("fs").readFileSync(process.argv[2], "utf8");
const found = [require("js-yaml").load, require("yaml").parse].map(read => JSON.stringify(read(text).metadata.labels.commit));
console.log(...found, require("js-yaml").dump("1234e56").trim(), require("yaml").stringify("1234e56").trim());
JS
code() { root/usr/bin/kubectl label --local -f "$1" a=b -o name >out 2>&1 || { grep -o 'unable to decode' out; return; }; cat out; }
for commit in 1234567 1234e56; do
    venv/bin/python write.py "$commit" >"$commit.yaml"
    echo "$(grep commit "$commit.yaml"): $(venv/bin/python read.py "$commit.yaml")$(node read.js "$commit.yaml"); $(code "$commit.yaml")"
done | tr -s ' ' | tee seen
diff seen - <<'SEEN'
 commit: '1234567': '1234567' '1234567' "1234567" "1234567" '1234e56' "1234e56"; configmap/engine
 commit: 1234e56: '1234e56' 1.234e+59 1.234e+59 1.234e+59 '1234e56' "1234e56"; unable to decode
SEEN
