"""Every phase and every error that the system may answer with in it: no room, no right, an archive that ends early.

Rooms that are full are real ones (tmpfs); everything else is ``refuse.c``, which makes one call of one program fail
as the kernel would. Each fault comes twice: once to an engine that is to serve whatever happens, once to a pod that is
to exit with the code of what happened.
"""

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from containers import CREATE, RESTORE, ROOT
from gate import (
    CREATE_PHASES,
    GATE,
    RESTORE_PHASES,
    assert_clean,
    begin,
    hold,
    release,
    status,
    visible,
)
from launcher import FALLBACK, NAME, create, published, restore, restored

REFUSE = ROOT / ".build" / "refuse.so"

#: What the engine of a test holds: files in the delta, memory that is filled in both ways.
ENGINE = {"BALLAST_MIB": "8", "MEMFD_MIB": "8", "FILES": "/var/lib/engine/notes:/dev/shm/s"}

SMALL = {"LOCATION": f"/small/{NAME}", "PATH": f"/small/{NAME}"}
READY_URL = {"READY_URL": "http://127.0.0.1:8000/health", "MODE": "create"}


@dataclass(frozen=True)
class Fault:
    """What fails, and the reason, exit code and phase that are told of it.

    ``refused``: program, call, part of the path, error, and how many such calls succeed before.
    ``there`` is put at the location beforehand.
    """

    reason: str
    code: int
    refused: tuple = ()
    options: tuple = ()
    settings: dict = field(default_factory=dict)
    there: str = ""
    phase: str = ""


def worker(call, path, error, begin=0):
    return ("dynamo_entry.worker", call, path, error, begin)


def criu(call, path, error, begin=0):
    return ("criu ", call, path, error, begin)


CREATE_FAULTS = {
    "prepare": {
        "no right to the volume": Fault("StorageDenied", 176, worker("open", ".partial", errno.EACCES)),
        "no inode on the volume": Fault("DiskFull", 175, worker("open", ".partial", errno.ENOSPC)),
        "a volume without rename": Fault("VolumeUnfit", 176, worker("rename", "/checkpoints", errno.ENOSYS)),
        "a volume without fsync": Fault("VolumeUnfit", 176, worker("fsync", ".partial", errno.EINVAL)),
        "no scratch directory": Fault(
            "NoWorkDir", 174, worker("mkdir", "/nowhere", errno.EPERM), settings={"WORK_DIR": "/nowhere"}
        ),
        "a short archive is there": Fault("LocationTaken", 174, there="short"),
    },
    "wait-ready": {
        "no right to the signal file": Fault(
            "SignalFileInvalid", 171, worker("open", "/tmp/ready", errno.EACCES), settings=READY_URL
        ),
        "no room for the signal file": Fault(
            "SignalFileInvalid", 171, worker("open", "/tmp/ready", errno.ENOSPC), settings=READY_URL
        ),
    },
    "pre-dump": {
        "a hook that may not be executed": Fault("HookFailed", 174, settings={"PRE_DUMP": "/etc/hostname"}),
    },
    "freeze": {
        "the right to the volume is gone": Fault(
            "StorageDenied", 176, worker("open", ".partial", errno.EACCES, 2), phase="wait-ready"
        ),
        "no right to a fifo": Fault("PermissionDenied", 174, worker("mkfifo", "/", errno.EPERM)),
        "no room for a fifo": Fault("DiskFull", 174, worker("mkfifo", "/", errno.ENOSPC)),
        "the volume was filled meanwhile": Fault(
            "DiskFull", 175, options=("--tmpfs", "/small:size=1m"),
            settings={**SMALL, "PRE_DUMP": "cat /dev/zero >/small/full || true"}, phase="pre-dump",
        ),
    },
    "dump": {
        "no right to trace": Fault("CriuDumpFailed", 174, criu("ptrace", "-", errno.EPERM)),
        "no room for criu's log": Fault("CriuDumpFailed", 174, criu("open", "dump.log", errno.ENOSPC)),
        "no room after the first chunk": Fault("DiskFull", 175, options=("--tmpfs", "/small:size=6m"), settings=SMALL),
    },
    "delta": {
        "no right to a file of the engine": Fault(
            "FileNotCaptured", 174, worker("open", "/var/lib/engine/notes", errno.EACCES)
        ),
    },
    "publish": {
        "a failing disk": Fault("StorageUnavailable", 175, worker("fsync", ".partial", errno.EIO, 1)),
        "no right to rename": Fault("StorageDenied", 176, worker("rename", NAME, errno.EPERM)),
        "no inode for the name": Fault("DiskFull", 175, worker("rename", NAME, errno.ENOSPC)),
        "no right to replace": Fault(
            "StorageDenied", 176, worker("rename", NAME, errno.EPERM), settings={"FORCE": "1"}, there="whole"
        ),
    },
}  # fmt: skip

RESTORE_FAULTS = {
    "open": {
        "no right to the archive": Fault("StorageDenied", 176, worker("open", NAME, errno.EACCES)),
        "a failing disk": Fault("StorageUnavailable", 175, worker("open", NAME, errno.EIO)),
        "an archive without an end": Fault("Incomplete", 181, there="short"),
        "no scratch directory": Fault(
            "NoWorkDir", 180, worker("mkdir", "/nowhere", errno.EPERM), settings={"WORK_DIR": "/nowhere"},
        ),
        "no right to a fifo": Fault("PermissionDenied", 180, worker("mkfifo", "/", errno.EPERM)),
    },
    "check": {
        "no room for the context": Fault("ContextNotWritten", 180, worker("open", "context.json", errno.ENOSPC)),
        "no right to the context": Fault("ContextNotWritten", 180, worker("rename", "context.json", errno.EPERM)),
    },
    "delta": {
        "no room for the journal": Fault("FileNotRestored", 180, worker("open", "undo.json", errno.ENOSPC, 1)),
        "no right to make a directory": Fault("FileNotRestored", 180, worker("mkdir", "/var/lib/engine", errno.EPERM)),
        "no right to write a file": Fault("FileNotRestored", 180, worker("open", "/var/lib/engine/notes", errno.EACCES)),
        "no room for a file": Fault("FileNotRestored", 180, worker("open", "/dev/shm/s", errno.ENOSPC)),
    },
    "restore": {
        "no room for criu's log": Fault("CriuRestoreFailed", 180, criu("open", "restore.log", errno.ENOSPC)),
        "no right to a file of the engine": Fault(
            "CriuRestoreFailed", 180, criu("open", "var/lib/engine/notes", errno.EACCES)
        ),
    },
    "fill": {
        "no right to write memory": Fault("FillFailed", 180, worker("process_vm_writev", "-", errno.EPERM)),
        "no room for shared memory": Fault("NotEnoughSpace", 180, worker("pwrite", "memfd", errno.ENOSPC)),
    },
    "settle": {
        "a hook that may not be executed": Fault("HookFailed", 180, settings={"POST_RESTORE": "/etc/hostname"}),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(stored):
    """Made once for all restores, with the library that its engine never saw."""
    return stored(**ENGINE)


@pytest.fixture(scope="module")
def large(stored):
    """More than a restore keeps ready before the tasks are there (fill/filler.py)."""
    return stored(BALLAST_MIB="250")


@pytest.fixture(scope="module", autouse=True)
def refuse():
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    REFUSE.parent.mkdir(exist_ok=True)
    source = Path(__file__).with_name("refuse.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", REFUSE, source], check=True
    )


def refused(containers, start, fault, archive, **settings):
    if fault.there:
        shutil.copy(archive, containers.checkpoints)
    if fault.there == "short":
        os.truncate(containers.checkpoints / NAME, archive.stat().st_size - 10_000)
    options, env = CREATE if start is create else RESTORE, dict(ENGINE)
    if fault.refused:
        options = (*options, "-v", f"{REFUSE}:/refuse.so:ro")
        env |= {"LD_PRELOAD": "/refuse.so", "REFUSE": "|".join(map(str, fault.refused))}
    return start(
        containers, options=(*options, *fault.options), env=env,
        settings={"DROP_ENV": "LD_PRELOAD,REFUSE", "STALL_TIMEOUT": "3", **fault.settings, **settings},
    )  # fmt: skip


def begin_all(side_by_side, start, faults, archive, **settings):
    """(name, fault, its place, the container that is to serve, the place and container that are to exit)."""
    serving, ending = settings["serving"], settings["ending"]
    places = side_by_side(
        *(f"{kind} {number}" for kind in ("serves", "ends") for number in range(len(faults)))
    )
    return [
        (
            name, fault,
            (places[f"serves {number}"], refused(places[f"serves {number}"], start, fault, archive, **serving)),
            (places[f"ends {number}"], refused(places[f"ends {number}"], start, fault, archive, **ending)),
        )
        for number, (name, fault) in enumerate(faults.items())
    ]  # fmt: skip


def assert_told(container, event, name, phase, fault):
    assert event, f"{name}\n{container.output()}"
    assert event["reason"] == fault.reason, f"{name}\n{container.output()}"
    assert event["phase"] == (fault.phase or phase), f"{name}\n{container.output()}"
    assert "Traceback" not in container.stderr, f"{name}\n{container.output()}"


def left(containers, archive, fault):
    """What is at the location and in its directory, as it was."""
    found = sorted(path.name for path in containers.checkpoints.iterdir())
    size = (containers.checkpoints / NAME).stat().st_size if fault.there else 0
    expected = archive.stat().st_size - 10_000 * (fault.there == "short") if fault.there else 0
    return found == [NAME] * bool(fault.there) and size == expected


@pytest.mark.parametrize("phase", CREATE_FAULTS)
def test_a_creation_that_is_refused_something(side_by_side, archive, phase):
    """The engine serves, or the pod exits with the code; nothing is visible that was not there."""
    serving, ending = {"AFTER_DUMP": "continue"}, {"AFTER_DUMP": "exit"}
    started = begin_all(side_by_side, create, CREATE_FAULTS[phase], archive, serving=serving, ending=ending)
    for name, fault, (place, container), (other_place, other) in started:
        told = container.wait_for_event("Checkpoint not created")
        assert_told(container, told, name, phase, fault)
        assert container.json("/health", limit_s=10) == {"status": "ok"}, name
        assert_clean(container, own=["/dev/shm/s"])
        if "/small" in str(fault.settings):
            assert container.run_inside("find", "/small", "-name", "*.tar*") == "", name
        assert left(place, archive, fault), name
        assert other.exit_code(20) == fault.code, f"{name}\n{other.output()}"
        assert_told(other, other.event("Checkpoint not created"), name, phase, fault)
        assert left(other_place, archive, fault), name


@pytest.mark.parametrize("phase", RESTORE_FAULTS)
def test_a_restore_that_is_refused_something(side_by_side, archive, phase):
    """The engine is started cold as if nothing had been tried, or the pod exits with the code; the archive stays."""
    serving, ending = {"ON_FAILURE": "cold"}, {"ON_FAILURE": "fail"}
    faults = {
        name: fault if fault.there else Fault(**{**vars(fault), "there": "whole"})
        for name, fault in RESTORE_FAULTS[phase].items()
    }
    started = begin_all(side_by_side, restore, faults, archive, serving=serving, ending=ending)
    for name, fault, (place, container), (other_place, other) in started:
        assert_told(container, container.wait_for_event(FALLBACK), name, phase, fault)
        container.wait_for_text(container.json("/state", limit_s=10)["nonce"])
        assert not container.event("filesystem delta not undone"), f"{name}\n{container.output()}"
        assert_clean(container, own=["/dev/shm/s"])
        assert left(place, archive, fault), name
        assert other.exit_code(20) == fault.code, f"{name}\n{other.output()}"
        assert_told(other, other.event("Restore failed"), name, phase, fault)
        assert "tiny: listening" not in other.stdout, name
        assert left(other_place, archive, fault), name


def test_a_root_without_room_for_a_mark_is_captured_all_the_same(containers):
    published(containers, options=(*CREATE, "-v", f"{REFUSE}:/refuse.so:ro"), settings={"DROP_ENV": "LD_PRELOAD,REFUSE"},
              env={**ENGINE, "LD_PRELOAD": "/refuse.so",
                   "REFUSE": f"dynamo_entry.worker|open|/.dynamo_entry-|{errno.ENOSPC}|0"})  # fmt: skip
    assert len(restored(containers).json("/state")["files"]) == 2


def held(containers, start, phase, *, options=(), **settings):
    """A container that stands still in that phase, and goes on at ``release``."""
    container = begin(containers, start, phase, options, **settings)
    hold(container, containers, phase)
    return container


@pytest.mark.parametrize("after_dump", ["continue", "exit"])
def test_a_volume_that_gets_full_while_the_engine_is_frozen(containers, after_dump):
    """All of the memory is written; the engine's files or the manifest do not fit any more."""
    container = held(
        containers,
        create,
        CREATE_PHASES["frozen"],
        options=("--tmpfs", "/small:size=64m"),
        **SMALL,
        AFTER_DUMP=after_dump,
    )
    container.run_inside("sh", "-c", "cat /dev/zero >/small/full || true")
    release(containers)
    event = container.wait_for_event("Checkpoint not created")
    assert event["reason"] == "DiskFull", container.output()
    assert event["phase"] in ("delta", "publish")
    if after_dump == "exit":
        assert container.exit_code(20) == 175
        return
    assert container.json("/health", limit_s=10) == {"status": "ok"}
    assert container.run_inside("ls", "-A", "/small") == "full\n"
    assert_clean(container)


def test_a_short_archive_of_somebody_else_appears_meanwhile(containers, archive):
    """It is not taken for ours, and it stays."""
    container = held(containers, create, CREATE_PHASES["frozen"], AFTER_DUMP="exit")
    (containers.checkpoints / NAME).write_bytes(archive.read_bytes()[:100_000])
    release(containers)
    assert container.exit_code(20) == 174, container.output()
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("LocationTaken", "publish")
    assert visible(containers) == [NAME]
    assert (containers.checkpoints / NAME).stat().st_size == 100_000


@pytest.mark.parametrize("phase", ["restore", "rebuilt"])
def test_an_archive_that_is_cut_short_while_it_is_read(side_by_side, large, phase):
    """More of it than is kept ready is still to come: a cold start, or an exit, and nothing half-filled runs."""
    places = side_by_side("cold", "fail")
    started = {}
    for on_failure, containers in places.items():
        shutil.copy(large, containers.checkpoints)
        started[on_failure] = held(
            containers, restore, RESTORE_PHASES[phase], STALL_TIMEOUT="15", ON_FAILURE=on_failure
        )
    for containers in places.values():
        os.truncate(containers.checkpoints / NAME, 1 << 20)
        release(containers)
    # What was mapped already and is gone is a bad address to the kernel, and a SIGBUS to whoever reads it.
    reasons = {"Truncated": 181, "FillFailed": 180, "WorkerLost": 180}
    event = started["cold"].wait_for_event(FALLBACK)
    assert "Traceback" not in started["cold"].stderr, started["cold"].output()
    assert event["reason"] in reasons, started["cold"].output()
    # CRIU's part of it may have been fetched by then.
    assert event["phase"] in (("restore", "fill") if phase == "restore" else ("fill",))
    started["cold"].wait_for_text(started["cold"].json("/state", limit_s=10)["nonce"])
    assert_clean(started["cold"])
    code = started["fail"].exit_code(20)
    assert code == reasons[status(places["fail"])["reason"]], started["fail"].output()


def test_a_criu_that_breaks_off_is_what_failed(side_by_side, archive):
    """And not the conversation with it: its own log says why, on both ways."""
    creation, restoration = side_by_side("creation", "restoration").values()
    shutil.copy(archive, restoration.checkpoints)
    broken = ("-v", f"{GATE}/criu-that-breaks-off:/usr/local/bin/criu:ro")
    created = create(creation, options=(*CREATE, *broken))
    fallen_back = restore(restoration, options=(*RESTORE, *broken))
    assert created.exit_code(20) == 174, created.output()
    events = created.event("Checkpoint not created"), fallen_back.wait_for_event(FALLBACK)
    assert [event["reason"] for event in events] == ["CriuDumpFailed", "CriuRestoreFailed"], events
    assert all("broken off by a test" in event["message"] for event in events)
