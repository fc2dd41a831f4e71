#!/usr/bin/env bash
# prometheus_client 0.26.0: the decorators of a metric measure nothing of an `async def`.
#
# Expected: time() takes as long as the coroutine runs, count_exceptions() counts what it raises and track_inprogress() those that are
# under way, as with `with` inside of it, and as for a function; or TypeError where the decorator is put.
# Seen: they measure the call that makes the coroutine. A handler that takes 0.2 s and raises has a sum of some microseconds, no
# exception, and 0 in progress. inspect.iscoroutinefunction() is False of it afterwards.
# Who meets it: servers and workers on asyncio: latency that is always excellent, and errors that never happen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q prometheus_client==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import inspect
import time

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

busy, failed, took = Gauge("busy", "", ["kind"]), Counter("failed", "", ["kind"]), Histogram("took", "", ["kind"])
inside = {}


def measured(kind):
    def decorate(function):
        for metric in (took.labels(kind).time(), failed.labels(kind).count_exceptions(), busy.labels(kind).track_inprogress()):
            function = metric(function)
        return function

    return decorate


def value(name, kind):
    return REGISTRY.get_sample_value(name, {"kind": kind})


@measured("def")
def function():
    inside["def"] = value("busy", "def")
    time.sleep(0.2)
    raise ValueError


@measured("async")
async def coroutine():
    inside["async"] = value("busy", "async")
    await asyncio.sleep(0.2)
    raise ValueError


for call in (function, lambda: asyncio.run(coroutine())):
    try:
        call()
    except ValueError:
        pass
seen = {kind: (value("took_sum", kind) >= 0.2, value("failed_total", kind), inside[kind]) for kind in inside}
print("took its time, exceptions, in progress:", seen)
assert not inspect.iscoroutinefunction(coroutine)
assert seen == {"def": (True, 1.0, 1.0), "async": (False, 0.0, 0.0)}, seen
PYTHON
