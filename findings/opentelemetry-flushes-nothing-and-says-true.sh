#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 with its OTLP exporter over HTTP: force_flush() says True when nothing could be sent.
#
# Expected: False where the collector refuses: what was to be flushed is gone, and the specification lets the caller know whether a
# flush succeeded, failed or timed out.
# Seen: True of the provider of traces and of that of metrics, whether nobody listens or the collector answers 400; spans are thrown
# away. False means that the time was over, and nothing else. The failure is a line in the log.
# Who meets it: whoever flushes before a fork, a freeze or the end of a pod, and goes on when it says True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import logging
import socket
import threading

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.disable(logging.CRITICAL)
requests = []


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        requests.append(self.path)
        self.send_response(400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def flushes(port):
    url = f"http://127.0.0.1:{port}"
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/traces", timeout=1)))
    tracers.get_tracer("test").start_span("span").end()
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/metrics", timeout=1), 3_600_000)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    meters.get_meter("test").create_counter("counter").add(1)
    return tracers.force_flush(20_000), meters.force_flush(20_000), tracers.force_flush(20_000)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
refused = flushes(server.server_port)
with socket.create_server(("127.0.0.1", 0)) as unused:
    port = unused.getsockname()[1]
absent = flushes(port)
print(f"refused: {refused}, asked {requests}; nobody there: {absent}")
assert refused == absent == (True, True, True) and sorted(requests) == ["/metrics", "/traces"], (refused, absent, requests)
PYTHON
