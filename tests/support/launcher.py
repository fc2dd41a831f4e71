"""The launcher in containers: an archive created here, restored there, and what tests ask about both."""

import json
import subprocess
import time

import pytest
from containers import CREATE, ENGINE, MACHINE, RESTORE, WORKER, Containers

from dynamo_entry.archive import Archive
from dynamo_entry.storage import open_store

HASH = "d936422b4f953f99"
NAME = f"{HASH}.tar"
ARCHIVE = f"/checkpoints/{NAME}"
SETTINGS = {"STORAGE_TYPE": "pvc", "LOCATION": ARCHIVE, "PATH": ARCHIVE, "HASH": HASH}
FALLBACK = "Falling back to cold start"
SIGNAL = {"SIGNAL_FILE": "/tmp/ready"}
COMMAND = ("python3", "/tiny.py")


def create(containers: Containers, *, settings=None, options=CREATE, command=COMMAND, **how):
    return containers.start(
        *command, options=options, settings={**SETTINGS, **SIGNAL, **(settings or {})}, **how
    )


def restore(containers: Containers, *, settings=None, options=RESTORE, command=COMMAND, **how):
    return containers.start(*command, options=options, settings={**SETTINGS, **(settings or {})}, **how)


def published(containers: Containers, *, limit_s=60, **kwargs):
    """A creation that succeeded; returns its container."""
    creator = create(containers, **kwargs)
    assert creator.exit_code(limit_s) == 0, creator.output()
    assert creator.event("Checkpoint published"), creator.output()
    return creator


def restored(containers: Containers, **kwargs):
    container = restore(containers, **kwargs)
    container.wait(lambda: container.event("Restored") or container.event(FALLBACK), "end of the restore", 60)
    assert container.event("Restored"), container.output()
    return container


def worker_of(container):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid, line in container.processes().items():
            if "dynamo_entry.worker" in line:
                return pid
        time.sleep(0.005)
    raise AssertionError(f"no worker\n{container.output()}")


def assert_all_or_nothing(containers):
    path = containers.checkpoints / NAME
    if path.exists():
        with Archive.open(open_store(str(path))) as archive:
            archive.verify()
    return path.exists()


CTL = "/opt/dynamo_entry/bin/dynamo-entryctl"


def doctor(*arguments, options, volumes=()):
    done = subprocess.run(
        ["timeout", "-s", "KILL", "60", ENGINE, "run", "--rm", "--network=none", *MACHINE, *options,
         *(part for volume in volumes for part in ("-v", volume)),
         "--entrypoint", CTL, WORKER, "doctor", "--json", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    return done.returncode, report, {row["name"]: row for row in report["findings"]}


def skip_what_this_machine_lacks(container):
    """Skip the test if its engine ended because this kernel lacks what it needs (``container/forgotten.py``)."""
    lack = [line for line in container.stderr.splitlines() if "not on this machine" in line]
    if lack:
        pytest.skip(lack[0])
