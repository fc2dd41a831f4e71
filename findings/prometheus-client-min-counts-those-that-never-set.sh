#!/usr/bin/env bash
# prometheus_client 0.26.0, several processes: a gauge of the mode "min" is 0 as long as one process has not set it.
#
# Expected: the smallest of the values that were set, as "mostrecent" leaves out a process that has set none.
# Seen: a gauge without labels writes 0 for its process when it is defined, so every process that imports the module takes part. Two
# workers that set 7 and 9 give 0, since the process that forked them has set nothing; with labels it is 7.
# Who meets it: gunicorn with --preload, or any parent that imports the metrics: the least free memory, or the lowest version, of the
# workers is 0 for ever.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q prometheus_client==0.26.0
mkdir "$folder/metrics"
PROMETHEUS_MULTIPROC_DIR=$folder/metrics "$folder/venv/bin/python" - <<'PYTHON'
import os

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

plain = {mode: Gauge(f"free_{mode}", "Free.", multiprocess_mode=mode) for mode in ("min", "mostrecent")}
labelled = Gauge("labelled", "Free.", ["kind"], multiprocess_mode="min")
for value in (9, 7):
    child = os.fork()
    if not child:
        for gauge in plain.values():
            gauge.set(value)
        labelled.labels("memory").set(value)
        os._exit(0)
    os.waitpid(child, 0)
registry = CollectorRegistry()
MultiProcessCollector(registry)
seen = {metric.name: [sample.value for sample in metric.samples] for metric in registry.collect()}
print(seen)
assert seen == {"free_min": [0], "free_mostrecent": [7], "labelled": [7]}, seen
PYTHON
