"""A launcher that is held in a phase: by a CRIU that waits (``gate_scripts/criu``), an engine or a hook; then faults come."""

import errno
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from containers import CREATE, RESTORE
from launcher import COMMAND, NAME, create

GATE = Path(__file__).parent / "gate_scripts"

#: Phase → what holds the launcher there, the file or text that says that it is held.
CREATE_PHASES = {
    "prepare": {"env": {"GATE": "version"}},
    "wait-ready": {
        "settings": {"MODE": "create", "SIGNAL_FILE": "", "READY_URL": "http://127.0.0.1:9/never"},
        "held": "tiny: listening",
    },
    "pre-dump": {"settings": {"PRE_DUMP": "touch /checkpoints/gate/hook; sleep 60"}},
    "dump": {"env": {"GATE": "start"}},
    "frozen": {"env": {"GATE": "before", "GATE_STAGE": "post-dump"}},
    "written": {"env": {"GATE": "after", "GATE_STAGE": "post-dump"}},
}
RESTORE_PHASES = {
    "open": {"env": {"GATE": "version"}},
    "restore": {"env": {"GATE": "start"}},
    "rebuilt": {"env": {"GATE": "before", "GATE_STAGE": "pre-resume"}},
    "filled": {"env": {"GATE": "after", "GATE_STAGE": "pre-resume"}},
    "settle": {"settings": {"POST_RESTORE": "touch /checkpoints/gate/hook; sleep 60"}},
}


#: What the launcher calls a phase of these where it has another name for it.
TOLD = {"frozen": "dump", "rebuilt": "restore", "filled": "fill"}


def begin(containers, start, phase, more=(), command=COMMAND, options=(), **settings):
    """A container, with ``more`` than the usual options or with other ``options``, whose launcher is going to stand still."""
    gate = containers.checkpoints / "gate"
    gate.mkdir()
    options = (*(options or (CREATE if start is create else RESTORE)), "-v", f"{GATE}/criu:/usr/local/bin/criu:ro",
               "-v", f"{GATE}/at-the-gate:/usr/local/bin/at-the-gate:ro", *more)  # fmt: skip
    return start(
        containers, options=options, env=phase.get("env"), command=command,
        settings={"STATUS_FILE": "/checkpoints/gate/status", **phase.get("settings", {}), **settings},
    )  # fmt: skip


def hold(container, containers, phase):
    if "held" in phase:
        container.wait_for_text(phase["held"])
    else:
        gate = containers.checkpoints / "gate"
        container.wait(lambda: any(entry.name != "status" for entry in gate.iterdir()), "gate")


def release(containers):
    """Let CRIU go on."""
    (gate,) = (path for path in (containers.checkpoints / "gate").iterdir() if path.is_fifo())
    deadline = time.monotonic() + 10
    while True:
        try:
            descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:  # ENXIO: nobody reads
                raise
            time.sleep(0.01)
    os.write(descriptor, b"go\n")
    os.close(descriptor)


def held(places, start, phase, archive=None, then=lambda _container, _key: None, **settings):
    """(key, its place, its container), all of them held in that phase. ``then`` is called as soon as one is."""
    started = []
    for key, containers in places.items():
        if archive is not None:
            shutil.copy(archive, containers.checkpoints)
        limits = LIMITS.get(key, {})
        started.append((key, containers, begin(containers, start, phase, **settings, **limits)))
    assert started, "a test of no case shows nothing"
    for key, containers, container in started:
        hold(container, containers, phase)
        then(container, key)
    return started


def status(containers):
    """The result object, as the termination message has it."""
    return json.loads((containers.checkpoints / "gate" / "status").read_text())


def visible(containers):
    return sorted(path.name for path in containers.checkpoints.iterdir() if path.name != "gate")


def assert_hidden(containers):
    """A killed writer may leave a file that nobody takes for an archive, and that the next creation removes."""
    assert all(name.endswith(".partial") for name in visible(containers) if name != NAME)


def kill(container, victim):
    """With kill -9, and at least one; ``stops`` stops the worker. What hangs is ended by a limit."""
    words = {
        "criu": ("criu dump", "criu restore", "bin/criu", "at-the-gate"),
        "worker": ("dynamo_entry.worker",),
        "stops": ("dynamo_entry.worker",),
    }
    if victim in words:
        found = [
            pid for pid, line in container.processes().items() if any(word in line for word in words[victim])
        ]
        hit = 0
        for pid in found:
            with suppress(ProcessLookupError):  # it ended with the one before
                os.kill(pid, signal.SIGSTOP if victim == "stops" else signal.SIGKILL)
                hit += 1
        assert hit


#: What ends a phase in which nothing happens any more: the one limit that is set. A worker that is to be stopped must not have
#: given up before.
LIMITS = {
    "hangs": {"STALL_TIMEOUT": "1"},
    "stops": {"STALL_TIMEOUT": "3"},
    "deadline": {"RESTORE_TIMEOUT": "2", "DUMP_TIMEOUT": "2"},
}


def faults(phase):
    """What may happen in a phase; first what must happen soon.

    ``criu`` runs in no phase before the dump; readiness and PRE_DUMP have limits of their own. A deadline is that of a whole
    dump or restore, not of what comes before and after.
    """
    found = {
        "wait-ready": ["worker"],
        "pre-dump": ["worker"],
        "settle": ["stops", "worker", "hangs"],
    }.get(phase, ["stops", "criu", "worker", "hangs"])
    return [*found, "deadline"] if phase in ("dump", "frozen", "restore", "rebuilt", "filled") else found


#: Scratch files that say nothing to a later attempt: it makes its own in their place. CRIU's logs stay for people, and so does
#: what lets a worker go that a script may start later.
SCRATCH = {"reached", "verdict", "held", "streamer-capture.sock", "streamer-serve.sock", "root.pid", "stats-dump",
           "stats-restore", "dump.log", "restore.log",
           "control", "control/restore-complete", "control/restore-context.json"}  # fmt: skip

#: All that may be left in files, one path a line.
LEFT = (
    "find /dev/shm /tmp /var/tmp /run/dynamo_entry -mindepth 1 2>/dev/null; "
    "find / -xdev '(' -name 'link_remap.*' -o -name '*.cr.*.ghost' ')' -not -path '/proc/*'"
)


def assert_clean(container, own=()):
    """One launcher, one engine, not even a zombie beside them, and no file but the engine's ``own``.

    (Nobody has the right to mount anything but in the cell that has it.)
    """
    container.wait(lambda: len(container.processes()) == 2, "end of everything but launcher and engine", 10)
    assert all("/tiny.py" in line for line in container.processes().values()), container.processes()
    found = {Path(line) for line in container.run_inside("sh", "-c", LEFT).splitlines()}
    scratch = {Path("/run/dynamo_entry", name) for name in SCRATCH}
    assert found - scratch <= {Path("/tmp/ready"), *map(Path, own)}, found
