"""The peer that is a container engine: podman, in the bench's own container, checkpoints and restores the engine."""

import os
import subprocess
import time

from trial import ENGINE, WORK, run, wait_until_answering

EXPORTED = f"{WORK}/exported.tar"
VARIABLES = (
    "BALLAST_MIB",
    "SHARED_MIB",
    "MEMFD_MIB",
    "UNLINKED_MIB",
    "BALLAST_FILL",
    "CHILDREN",
    "PROCESSES",
)


def podman(*argv):
    return run(
        ["podman", "--root", f"{WORK}/store", "--runroot", f"{WORK}/runroot", "--cgroup-manager", "cgroupfs",
         "--runtime", "/usr/local/bin/crun-ignoring-cgroups", "--log-level=error", *argv],
    )  # fmt: skip


def create():
    """An archive of the engine, not compressed, made in a container whose image has this container's files."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["umount", "-R", "/sys/fs/cgroup"], check=False)
    subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=True)
    root = f"{WORK}/root.tar"
    run(["tar", "-C", "/", "--one-file-system", "--exclude=./proc", "--exclude=./sys", "--exclude=./work",
         "--exclude=./dev", "-cf", root, "."])  # fmt: skip
    podman("import", "-q", root, "engine")
    os.unlink(root)
    variables = [
        word
        for name in VARIABLES
        for word in ("-e", f"{name}={os.environ.get(name, '')}")
        if os.environ.get(name)
    ]
    podman("run", "-d", "--name", "engine", "--network=host", "--pids-limit=0", "--shm-size", os.environ["SHM_SIZE"],
           "-v", f"{ENGINE[-1]}:{ENGINE[-1]}:ro", *variables, "engine", *ENGINE)  # fmt: skip
    wait_until_answering()
    podman(
        "container", "checkpoint", "--export", EXPORTED, "--compress", "none", "--tcp-established", "engine"
    )
    remove()


def remove():
    podman("rm", "-f", "-a", "-t", "0")


def restore(_context):
    """Until the engine answers. Podman ends it itself: it would wait for ever for what is killed behind its back."""
    began = time.monotonic()
    podman("container", "restore", "--import", EXPORTED, "--tcp-established")
    wait_until_answering()
    seconds = time.monotonic() - began
    remove()
    return {"seconds": seconds}
