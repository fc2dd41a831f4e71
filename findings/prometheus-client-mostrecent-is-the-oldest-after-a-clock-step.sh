#!/usr/bin/env bash
# prometheus_client 0.26.0, several processes: after the clock was set back a gauge of the mode "mostrecent" stays as it was.
#
# Expected: the value that was set last, as the mode is named, or as far as can be told: of a process that goes on, its newest.
# Seen: each value is stored with time.time(), and the largest wins. A value from before the step hides those of all other processes
# until the clock has caught up; its own process need not live any more.
# Who meets it: nodes whose clock is corrected after the start, and processes or their files that are moved to another machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q prometheus_client==0.26.0
mkdir "$folder/metrics"
cat >"$folder/worker.py" <<'PYTHON'
"""Set a gauge, on a clock that is so many seconds off, and tell what a scrape gives."""
import sys
import time

value, off = float(sys.argv[1]), float(sys.argv[2])
real = time.time
time.time = lambda: real() + off
from prometheus_client import CollectorRegistry, Gauge, multiprocess

Gauge("queued", "requests", multiprocess_mode="mostrecent").set(value)
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(registry.get_sample_value("queued"))
PYTHON
worker() { PROMETHEUS_MULTIPROC_DIR="$folder/metrics" "$folder/venv/bin/python" "$folder/worker.py" "$@"; }
seen="$(worker 1 0) $(worker 2 0) then back $(worker 3 -600) $(worker 4 -590) and forth $(worker 5 0)"
echo "the gauge was set to 1, 2, 3, 4 and 5: $seen"
[[ $seen == "1.0 2.0 then back 2.0 2.0 and forth 5.0" ]]
