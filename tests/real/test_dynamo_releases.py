"""The handshake of every release of ai-dynamo, against the lifecycle code of its published wheel."""

import subprocess
import sys
import zipfile

import pytest
from containers import CREATE, RESTORE, ROOT
from launcher import FALLBACK, NAME, SETTINGS

PORT = 9090
WORKER = ROOT / "tests" / "real" / "lifecycle_worker.py"
COMMAND = ("python3", "/dynamo/vllm/main.py", "--model", "none")
WHEELS = ROOT / ".build" / "dynamo-wheels"

#: Release → SHA-256 of its wheel, which is pure Python, and what is asked of the engine.
RELEASES = {
    "1.0.2": ("e20aebe4fd2c8376d7688d5502c3df6e65288c92c229aa4d0e20baad62adfe82", ["sleep", "wake_up"]),
    "1.1.1": ("fd6a811a6d5ef36537a5f32af88dda722c0cf6b7c4f3e31a7671e1e59dc36777", ["quiesce", "resume", "mark_resumed"]),
    "1.2.1": ("6f4c23be9bf3cf28ac0edcd79d155ebf25fd75aad1cf7999dbb2e574434ce194", ["quiesce", "resume", "mark_resumed"]),
    "1.3.1": ("49ba9eba3d08eb22c2ebf8a5fd21b6a1f516775b839058d0120cc0cf66968d1d", ["pause", "resume", "mark_resumed"]),
    "1.4.2": ("02b3d386b71c0830254ab0878602b5ea77246cedcd731d0078e863cd4b0dabd2", ["pause", "resume", "mark_resumed"]),
    "1.5.1": ("86d21cb7fbebbf1c3d0933303729b1be222ad0fb4a50b17a03316165d33377b1", ["pause", "resume", "mark_resumed"]),
    "1.6.1": ("83f768730104cbbc84029bf436025706632735173933adbb650b99c746517b70", ["pause", "resume", "mark_resumed"]),
}  # fmt: skip

#: Releases that take the environment of the new pod.
NEW_IDENTITY = {release for release in RELEASES if release >= "1.3"}

#: What NVIDIA's operator and node agent put into restoring pods.
THEIRS = {"DYN_SNAPSHOT_CONTROL_DIR": "/snapshot-control", "SNAPSHOT_RESTORE_STANDBY": "1",
          "DYN_SNAPSHOT_RESTORE_STANDBY": "1", "DYN_READY_FOR_CHECKPOINT_FILE": "/tmp/ready"}  # fmt: skip


def unpacked(release):
    """The wheel's files; its dependencies are not installed."""
    there = WHEELS / release
    if not (there / "dynamo").exists():
        there.mkdir(parents=True, exist_ok=True)
        (there / "requirements.txt").write_text(
            f"ai-dynamo=={release} --hash=sha256:{RELEASES[release][0]}\n"
        )
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:",
             "--python-version", "3.11", "-d", there, "-r", there / "requirements.txt"],
            check=True, timeout=300,
        )  # fmt: skip
        (wheel,) = there.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(there)
    return there


@pytest.fixture
def worker(containers):
    """Starts a worker of a release, in a pod of this uid."""

    def worker(release, options, uid, env=None, **settings):
        return containers.start(
            *COMMAND, options=options, settings={**SETTINGS, **settings},
            env={"RELEASE": release, "DYN_SYSTEM_PORT": str(PORT), "POD_UID": uid, **(env or {})},
            volumes=(f"{WORKER}:/dynamo/vllm/main.py:ro", f"{unpacked(release)}:/wheel:ro"),
        )  # fmt: skip

    return worker


def identity(container):
    return container.json("/identity", port=PORT)


@pytest.mark.parametrize("release", RELEASES)
def test_a_worker_is_frozen_paused_and_goes_on_in_the_new_pod(worker, release):
    creator = worker(release, CREATE, "old", MODE="create")
    assert creator.exit_code() == 0, creator.output()
    assert creator.event("Checkpoint published"), creator.output()
    assert "worker: registered" not in creator.stdout
    container = worker(release, RESTORE, "new")
    container.wait_for_event("Restored")
    found = identity(container)
    assert found["asked"] == RELEASES[release][1]
    assert found["env"]["POD_UID"] == ("new" if release in NEW_IDENTITY else "old")


@pytest.mark.parametrize("release", ["1.0.2", "1.2.1", "1.6.1"])
def test_a_cold_start_in_place_of_a_restore_is_not_paused(containers, worker, release):
    (containers.checkpoints / NAME).write_bytes(b"no archive")
    container = worker(release, RESTORE, "new", env=THEIRS)
    assert identity(container)["asked"] == []
    assert container.event(FALLBACK)


@pytest.mark.parametrize("release", ["1.0.2", "1.2.1", "1.6.1"])
def test_a_worker_that_is_to_serve_on_is_let_go(worker, release):
    container = worker(release, CREATE, "only", MODE="create", AFTER_DUMP="continue")
    container.wait_for_event("Checkpoint published")
    assert identity(container)["asked"] == RELEASES[release][1]
