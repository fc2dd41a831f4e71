#!/usr/bin/env bash
# ruamel.yaml 0.19.1, js-yaml 5.5.0, yaml 2.9.1 (npm): `defaultMode: 0640` of a Kubernetes manifest is the number 640 for them.
#
# Expected: 416, which is 0640, as for kubectl 1.20 (Debian bookworm) and PyYAML 6.0.3: that is how the documentation of
# Kubernetes writes modes.
# Seen: the three follow YAML 1.2, where octal numbers begin with 0o, and 0640 is decimal. Sent on as JSON the mode is 1200 in octal:
# sticky, and the owner may write but not read. 0o640 is 416 for them and kubectl, and the text "0o640" for PyYAML. Nobody warns.
# Who meets it: operators and tools that read manifests written for kubectl, change something, and send them to the API.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q PyYAML==6.0.3 ruamel.yaml==0.19.1
npm install --silent --no-fund --no-audit js-yaml@5.5.0 yaml@2.9.1 >/dev/null
apt-get -qq -o APT::Sandbox::User=root download kubernetes-client=1.20.5+really1.20.2-1.1+deb12u1
dpkg-deb -x kubernetes-client_*.deb root
cat >read.py <<'PYTHON'
import sys

import ruamel.yaml
import yaml

text = open(sys.argv[1]).read()
for load in (yaml.safe_load, ruamel.yaml.YAML(typ="safe", pure=True).load):
    print(load(text)["spec"]["volumes"][0]["secret"]["defaultMode"], end=" ")
PYTHON
cat >read.js <<'JS'
const text = require("fs").readFileSync(process.argv[2], "utf8");
console.log(...[require("js-yaml").load, require("yaml").parse].map(read => read(text).spec.volumes[0].secret.defaultMode));
JS
for mode in 0640 0o640; do
    cat >pod.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: engine}
spec:
  containers: [{name: engine, image: engine}]
  volumes: [{name: key, secret: {secretName: key, defaultMode: $mode}}]
YAML
    kubectl=$(root/usr/bin/kubectl label --local -f pod.yaml a=b -o 'jsonpath={.spec.volumes[0].secret.defaultMode}')
    echo "$mode: kubectl $kubectl; PyYAML, ruamel.yaml, js-yaml, yaml: $(venv/bin/python read.py pod.yaml)$(node read.js pod.yaml)"
done | tee seen
diff seen - <<'SEEN'
0640: kubectl 416; PyYAML, ruamel.yaml, js-yaml, yaml: 416 640 640 640
0o640: kubectl 416; PyYAML, ruamel.yaml, js-yaml, yaml: 0o640 416 416 416
SEEN
