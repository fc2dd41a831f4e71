#!/usr/bin/env bash
# opentelemetry-exporter-prometheus 0.66b2: attributes that differ in their type, or in a dot of their names, become one series twice.
#
# Expected: one line for each name and set of labels, with the sum of a counter, as the text format wants it ("otherwise the ingestion
# behavior is undefined") and as the specification of OpenTelemetry says for keys that become the same.
# Seen: add(1, {"status": 200}) and add(2, {"status": "200"}) are two lines with the same labels, 1.0 and 2.0; so are http.status and
# http_status. Of both names in one call the label has the value of the one, where the specification joins them by ";".
# No error and no warning.
# Who meets it: services in which one place records a number and another one a text: a part of what was counted is never seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opentelemetry-exporter-prometheus==0.66b2 opentelemetry-sdk==1.45.2 prometheus_client==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
import re

import prometheus_client
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider

meter = MeterProvider(metric_readers=[PrometheusMetricReader()]).get_meter("engine")
calls = {
    "by_type": [(1, {"status": 200}), (2, {"status": "200"})],
    "by_name": [(1, {"http.status": "200"}), (2, {"http_status": "200"})],
    "joined": [(1, {"http.status": "200", "http_status": "500"})],
}
for name, measured in calls.items():
    counter = meter.create_counter(name)
    for number, attributes in measured:
        counter.add(number, attributes)
text = prometheus_client.generate_latest().decode()
seen = {}
for name in calls:
    lines = re.findall(rf"^{name}_total{{(.*)}} (.*)$", text, re.MULTILINE)
    seen[name] = [(re.sub(r',?otel_scope_\w+="[^"]*"', "", labels).strip(","), value) for labels, value in lines]
    print(f"{name}: {seen[name]}")
assert seen == {
    "by_type": [('status="200"', "1.0"), ('status="200"', "2.0")],
    "by_name": [('http_status="200"', "1.0"), ('http_status="200"', "2.0")],
    "joined": [('http_status="500"', "1.0")],
}, seen
PYTHON
