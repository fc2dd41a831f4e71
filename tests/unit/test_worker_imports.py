"""What the worker of a restore loads before it has looked at anything: every millisecond of it is waited for."""

import subprocess
import sys

#: Of others and of ours: what few restores need, or none before the engine is back.
LATER = {
    "psutil", "urllib.request", "http.client", "cryptography", "tenacity", "tarfile", "obstore", "botocore",
    "dynamo_entry.criu.remedies", "dynamo_entry.engine.canary", "dynamo_entry.engine.handshakes",
    "dynamo_entry.engine.hooks", "dynamo_entry.engine.vllm_snapshot", "dynamo_entry.linux.socket_options",
    "dynamo_entry.storage.http", "dynamo_entry.worker.create", "dynamo_entry.worker.dump",
}  # fmt: skip


def loaded(modules, names, then="pass"):
    script = f"import sys, {modules}; {then}; print(*sorted({names!r} & {{*sys.modules}}))"
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()


def test_a_restore_loads_what_it_uses():
    found = loaded(
        "dynamo_entry.worker.__main__, dynamo_entry.worker.restore, dynamo_entry.storage.local", LATER
    )
    assert not found


def test_what_others_load_if_it_is_there_is_not_loaded_and_can_be_later():
    optional = {"typing_extensions", "bz2", "lzma"}
    load = "dynamo_entry.worker.__main__._loaded('restore')"
    assert not loaded("dynamo_entry.worker.__main__", optional, load)
    assert {*loaded("dynamo_entry.worker.__main__", optional, f"{load}; import bz2, lzma")} >= {"bz2", "lzma"}


def test_pid_1_starts_the_worker_before_it_loads_what_both_need():
    assert not loaded("dynamo_entry.init.run, dynamo_entry.init.restore", {"json", "re", "enum"})
