"""Creations of one engine, by the launcher and by `criu dump` + tar. Prints one JSON object."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial

import baseline
from trial import ENGINE, WORK, Launcher, end_everything, footprints, measure, run, summary

ARCHIVE, IMAGES, TAR = f"{WORK}/engine.tar", f"{WORK}/images", f"{WORK}/images.tar"
READY = "/tmp/ready"

#: What is not the engine's own start.
PHASES = ("freeze", "dump", "delta", "publish", "thaw")


def remove():
    shutil.rmtree(IMAGES, ignore_errors=True)
    for path in (ARCHIVE, TAR, f"{TAR}.zst", READY):
        if os.path.exists(path):
            os.unlink(path)


def engine():
    """A ready one."""
    remove()
    process = subprocess.Popen(
        ENGINE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, "DYNAMO_CHECKPOINT_SIGNAL_FILE": READY},
    )  # fmt: skip
    while not os.path.exists(READY):
        time.sleep(0.01)
    return process


def ours(_context, python=sys.executable):
    """From the freeze to the end of the engine, the archive being published; the engine's start is not counted."""
    started = Launcher(python, LOCATION=ARCHIVE, SIGNAL_FILE=READY, COMPRESSION=os.environ["COMPRESSION"])
    phases = started.wait_for("Checkpoint published")["seconds"]
    found = {name: phases.get(name, 0) for name in PHASES}
    return {"seconds": sum(found.values()), "phases": found, "stored_bytes": os.path.getsize(ARCHIVE)}


def dump(process):
    os.makedirs(IMAGES)
    run(
        ["criu", "dump", "-t", str(process.pid), "-D", IMAGES, "-W", "/tmp", "-o", "dump.log", "-v1", "--unprivileged",
         "--tcp-close", "--file-locks", "--ext-unix-sk", "--link-remap", "--shell-job", "--skip-in-flight",
         "--ghost-limit", str(1 << 40)],
    )  # fmt: skip


def peer(*tar, and_then=None):
    def act(process):
        began = time.monotonic()
        dump(process)
        run(["tar", "-C", IMAGES, *tar, "."])
        if and_then:
            run(and_then)
        return {"seconds": time.monotonic() - began}

    return act


SIDES = {
    "launcher": (remove, ours),
    "baseline": (remove, partial(ours, python=baseline.PYTHON)),
    "criu+tar": (engine, peer("-cf", TAR)),
    "criu+tar+sync": (engine, peer("-cf", TAR, and_then=["sync", TAR])),
    "criu+zstd": (engine, peer("-I", "zstd -1 -T0", "-cf", f"{TAR}.zst")),
}


def main():
    for name in set(SIDES) - set(os.environ["SIDES"].split(",")):
        del SIDES[name]
    if "baseline" in SIDES:
        baseline.install()
    size = int(os.environ["SIZE_MIB"]) << 20
    found = measure(SIDES, rounds=int(os.environ["ROUNDS"]), size=size)
    end_everything()
    taken = footprints(SIDES)
    rows = {name: summary(rows) | taken[name] for name, rows in found.items()}
    print(json.dumps({"summary": rows, "runs": found}))


main()
