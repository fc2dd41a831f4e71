"""Creations and restores where something usual is missing: they work, or one line says what they lack."""

import json
import os
from pathlib import Path

import pytest
from containers import CREATE, RESTORE
from garbage import SAYINGS
from launcher import COMMAND, FALLBACK, NAME, create, published, restore, restored

LAUNCHER = ("/opt/dynamo_entry/bin/python", "-m", "dynamo_entry", "--")
MAIN = "/opt/dynamo_entry/lib/python3.13/site-packages/dynamo_entry/worker/__main__.py"
GARBLED = ("-v", f"{Path(__file__).with_name('garbage.py')}:{MAIN}:ro")


@pytest.mark.parametrize("kind", SAYINGS)
def test_a_worker_that_talks_garbage(containers, kind):
    """A creation fails and the engine serves all the same; PID 1 neither grows nor waits."""
    container = create(
        containers, options=(*CREATE, *GARBLED), env={"GARBAGE": kind}, settings={"AFTER_DUMP": "continue"}
    )
    assert container.wait_for_event("Checkpoint not created")["reason"] == "WorkerLost"
    assert container.json("/health") == {"status": "ok"}
    assert resident_mib(container) < 20
    assert list(containers.checkpoints.iterdir()) == []
    published(containers)
    container = restore(containers, options=(*RESTORE, *GARBLED), env={"GARBAGE": kind})
    assert container.wait_for_event(FALLBACK)["reason"] == "WorkerLost"
    assert container.json("/health") == {"status": "ok"}


def resident_mib(container):
    status = Path(f"/proc/{container.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) >> 10


def through(shell):
    """Options and the beginning of a command that change things by a shell before the launcher starts."""
    return ("--entrypoint", "sh"), ("-c", f'{shell} exec "$@"', "sh", *LAUNCHER)


PLACES = {
    "a launcher inside a launcher": ((), LAUNCHER),
    "not as PID 1": (("--entrypoint", "sh"), ("-c", '"$@"; exit $?', "sh", *LAUNCHER)),
    "without a standard input": through("exec <&-;"),
    "without a standard output": through("exec >&-;"),
    "without a standard error": through("exec 2>&-;"),
    "without any of the three": through("exec <&- >&- 2>&-;"),
    "a read-only root": (("--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp"), ()),
    "other users' processes hidden": (("--security-opt", "proc-opts=hidepid=2"), ()),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_engine_is_created_and_restored(containers, place):
    options, prefix = PLACES[place]
    created = create(containers, options=(*CREATE, *options), command=(*prefix, *COMMAND))
    assert created.exit_code() == 0, created.output()
    status = {"STATUS_FILE": "/checkpoints/status"}
    container = restore(
        containers, options=(*RESTORE, *options), command=(*prefix, *COMMAND), settings=status
    )
    assert container.json("/state")["pid"] >= 1000, container.output()
    written = containers.checkpoints / "status"  # in place, as a termination message has to be
    container.wait(lambda: written.exists() and written.read_text(), "status")
    assert json.loads(written.read_text())["result"] == "restored"


def test_nobody_reads_what_the_launcher_writes(containers):
    """Standard output and error are one full pipe: nothing waits for a reader."""
    full = '{ dd if=/dev/zero bs=64k count=1 2>&-; exec "$@"; } 2>&1 | sleep 200'
    engine = ("sh", "-c", "touch $DYNAMO_CHECKPOINT_SIGNAL_FILE; exec sleep 200")
    command = ("-c", full, "sh", *LAUNCHER, *engine)
    status = containers.checkpoints / "status"
    for start, options, outcome in ((create, CREATE, "published"), (restore, RESTORE, "restored")):
        container = start(
            containers, options=(*options, "--entrypoint", "sh"), command=command,
            settings={"STATUS_FILE": "/checkpoints/status"},
        )  # fmt: skip
        container.wait(lambda outcome=outcome: status.exists() and outcome in status.read_text(), outcome)


def test_a_signal_file_in_a_place_that_is_not_writable(containers):
    """Said before the engine is started; with another place everything works, /tmp is not needed."""
    options = (*CREATE, "--tmpfs", "/tmp:ro")
    container = create(containers, options=options)
    assert container.exit_code() == 171
    assert container.event("Checkpoint not created")["reason"] == "SignalFileInvalid"
    published(containers, options=options, settings={"SIGNAL_FILE": "/run/ready"})
    restored(containers, options=(*RESTORE, "--tmpfs", "/tmp:ro")).json("/health")


def test_a_user_without_rights(containers):
    """A creation says which are missing; a restore says so, and the pod serves."""
    options, prefix = through("exec setpriv --reuid 65534 --regid 65534 --clear-groups")
    command = (prefix[0], prefix[1].replace(" exec ", " ", 1), *prefix[2:], *COMMAND)
    created = create(containers, options=(*CREATE, *options), command=command)
    assert created.exit_code() == 171
    assert created.event("Checkpoint not created")["reason"] == "CapabilityMissing"
    published(containers)
    container = restore(containers, options=(*RESTORE, *options), command=command)
    assert container.json("/health") == {"status": "ok"}
    assert container.event(FALLBACK)["reason"] == "CapabilityMissing"


def test_limits_that_are_too_low(side_by_side):
    """Told as what they are."""
    limits = {"12": "LimitReached", "10": "LimitReached"}
    for limit, containers in side_by_side(*limits).items():
        options, prefix = through(f"ulimit -n {limit};")
        engine = ("sh", "-c", "touch /tmp/ready; sleep 200")
        container = create(
            containers,
            options=(*CREATE, *options),
            command=(*prefix, *engine),
            settings={"AFTER_DUMP": "continue"},
        )
        told = container.wait_for_event("Checkpoint not created")
        assert told["reason"] == limits[limit], container.output()
        assert "open files" in told["message"] and told["retry"] is False
        assert not container.event("unexpected error")


#: Setting → the message about it, before the engine is started.
UNUSABLE = {
    ("COMPRESSION", "zstd:999"): "SettingsInvalid",
    ("PRE_DUMP", "http://127.0.0.1:port/"): "SettingsInvalid",
    ("POST_RESTORE", "http://[::1/"): "SettingsInvalid",
    ("READY_URL", "http://127.0.0.1:port/"): "SettingsInvalid",
    ("CANARY", "/checkpoints/fifo"): "CanaryInvalid",
    ("KEY_FILE", "/checkpoints/fifo"): "KeyFileInvalid",
    ("WORK_DIR", "/tmp/" + "x" * 100): "NoWorkDir",
}


def test_what_cannot_be_used_is_told_before_the_engine_is_started(side_by_side):
    started = []
    for key, containers in side_by_side(*range(len(UNUSABLE))).items():
        (name, value), reason = [*UNUSABLE.items()][key]
        os.mkfifo(containers.checkpoints / "fifo")
        started.append((reason, create(containers, settings={name: value})))
    for reason, container in started:
        assert container.exit_code() in (170, 174), container.output()
        assert container.event("Checkpoint not created")["reason"] == reason, container.output()
        assert not container.event("engine started")


def test_the_termination_message_says_how_it_went(containers):
    """Phase, outcome and seconds, where Kubernetes shows them."""
    log = containers.directory / "termination-log"
    log.touch()
    options = ("-v", f"{log}:/dev/termination-log")
    create(containers, options=(*CREATE, *options)).exit_code()
    told = json.loads(log.read_text())
    assert told["result"] == "published"
    assert told["seconds"]["dump"] > 0
    log.write_text("")
    restored(containers, options=(*RESTORE, *options))
    told = json.loads(log.read_text())
    assert (told["result"], told["phase"]) == ("restored", "settle")
    (containers.checkpoints / NAME).write_bytes(b"")
    restore(containers, options=(*RESTORE, *options)).wait_for_event(FALLBACK)
    told = json.loads(log.read_text())
    assert (told["result"], told["reason"]) == ("cold", "NotAnArchive")
