"""What the worker of a restore loads before it has looked at anything: every millisecond of it is waited for."""

import subprocess
import sys

#: Of others and of ours: what few restores need, or none before the engine is back.
LATER = {
    "psutil", "urllib.request", "http.client", "cryptography", "tenacity",
    "dynamo_entry.criu.remedies", "dynamo_entry.engine.canary", "dynamo_entry.engine.handshakes",
    "dynamo_entry.engine.hooks", "dynamo_entry.engine.vllm_snapshot", "dynamo_entry.storage.http",
    "dynamo_entry.worker.create", "dynamo_entry.worker.dump",
}  # fmt: skip


def loaded(modules, names):
    script = f"import sys, {modules}; print(*sorted({names!r} & {{*sys.modules}}))"
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()


def test_a_restore_loads_what_it_uses():
    found = loaded(
        "dynamo_entry.worker.__main__, dynamo_entry.worker.restore, dynamo_entry.storage.local", LATER
    )
    assert not found


def test_pid_1_starts_the_worker_before_it_loads_what_both_need():
    assert not loaded("dynamo_entry.init.run, dynamo_entry.init.restore", {"json", "re", "enum"})
