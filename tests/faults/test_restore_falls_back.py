"""Whatever is wrong with a checkpoint: one clear line, nothing half-restored, and the pod serves all the same."""

import json
import os
import re
import signal

import pytest
from containers import CREATE, RESTORE
from launcher import ARCHIVE, COMMAND, FALLBACK, SETTINGS, published, restore, restored, worker_of


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at if at >= 0 else path.stat().st_size + at)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def chunk_offset(path):
    """An offset in the middle of the largest chunk member."""
    import tarfile

    with tarfile.open(path) as tar:
        member = max(
            (member for member in tar if member.name.startswith("streams/")), key=lambda member: member.size
        )
    return member.offset_data + member.size // 2


def replace_in(path, old, new):
    data = path.read_bytes()
    assert data.count(old), old
    path.write_bytes(data.replace(old, new))


DAMAGES = {
    "missing": (lambda path: path.unlink(), {}, {"NotFound"}),
    "empty": (lambda path: path.write_bytes(b""), {}, {"NotAnArchive"}),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100_000]), {}, None),
    "no archive": (lambda path: path.write_bytes(b"x" * 100_000), {}, None),
    "bit flipped in memory pages": (lambda path: flip(path, chunk_offset(path)), {}, None),
    "bit flipped in the manifest": (lambda path: flip(path, -5000), {}, None),
    "bit flipped in the trailer": (lambda path: flip(path, -1500), {}, None),
    "wrong hash": (lambda path: None, {"HASH": "0123456789abcdef"}, None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_archive_costs_a_cold_start(containers, damage):
    spoil, settings, reasons = DAMAGES[damage]
    published(containers, env={"BALLAST_MIB": "8"})
    spoil(containers.checkpoints / "d936422b4f953f99.tar")
    container = restore(containers, settings=settings, env={"FILES": "/tmp/cold"})
    state = container.json("/state")
    event = container.wait_for_event(FALLBACK)
    assert event["phase"]
    assert event["message"]
    assert reasons is None or event["reason"] in reasons
    container.wait_for_text(state["nonce"])  # the answering engine is the one that was started cold
    assert state["pid"] < 1000, "no pid of a restored engine"
    assert "Traceback" not in container.stderr
    engines = [
        line for line in container.processes().values() if "tiny.py" in line and "dynamo_entry" not in line
    ]
    assert len(engines) == 1, engines
    container.signal(signal.SIGTERM)
    assert container.exit_code() == 0


@pytest.mark.parametrize(
    ("damage", "code"),
    [("missing", 175), ("truncated", 181), ("bit flipped in memory pages", 181), ("wrong hash", 181)],
)
def test_on_failure_fail_exits_with_a_code_per_phase(containers, damage, code):
    spoil, settings, _ = DAMAGES[damage]
    published(containers, env={"BALLAST_MIB": "8"})
    spoil(containers.checkpoints / "d936422b4f953f99.tar")
    container = restore(
        containers, settings={**settings, "ON_FAILURE": "fail", "STATUS_FILE": "/checkpoints/status"}
    )
    assert container.exit_code() == code, container.output()
    assert "tiny: listening" not in container.stdout
    result = json.loads((containers.checkpoints / "status").read_text())
    assert result["result"] == "failed"
    assert result["reason"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--cap-drop", "ALL"), "CapabilityMissing"),
        ((*RESTORE, "-v", "/dev/null:/usr/sbin/criu"), "CriuMissing"),
        ((*RESTORE, "-v", "{old}:/usr/sbin/criu:ro"), "CriuTooOld"),
        ((*RESTORE, "-v", "/dev/null:/bin/sh"), "ShellMissing"),
        ((*RESTORE, "-v", "{empty}:/usr/lib/python3/dist-packages/pycriu"), "PycriuMissing"),
        ((*RESTORE, "-e", "DYNAMO_CHECKPOINT_WORK_DIR=/proc/none"), "NoWorkDir"),
        ((*RESTORE, "-v", "{empty}:/run/dynamo_entry/context.json.new"), "ContextNotWritten"),
    ],
)
def test_a_container_that_cannot_restore_starts_cold(containers, options, reason):
    published(containers)
    empty = containers.directory / "empty"
    empty.mkdir()
    old = containers.directory / "criu"
    old.write_text("#!/bin/sh\necho Version: 3.19\n")
    old.chmod(0o755)
    container = restore(containers, options=tuple(option.format(empty=empty, old=old) for option in options))
    assert container.json("/health") == {"status": "ok"}
    event = container.wait_for_event(FALLBACK)
    assert event["reason"] == reason, event


#: Uses up pids until a few processes beyond the wanted one are there, and leaves those behind.
TAKE_PIDS = """
import os, sys, time
pid, wanted = 0, int(sys.argv[1])
while pid < wanted + 2:
    pid = os.fork()
    if pid == 0:
        time.sleep(200 if os.getpid() >= wanted else 0)
        os._exit(0)
    if pid < wanted:
        os.waitpid(pid, 0)
"""

#: CRIU, from under which the first time somebody takes the engine's port: after the check, which ends before that file is made.
TAKING_THE_PORT = """#!/bin/sh
[ "$1" = restore ] && mkdir /checkpoints/taken || exec /usr/sbin/criu "$@"
exec python3 -c '
import os, socket, subprocess, sys, time
while not os.path.exists(os.environ["DYNAMO_ENTRY_PIDS"]):
    time.sleep(0.01)
held = socket.create_server(("127.0.0.1", 8000))
sys.exit(subprocess.run(sys.argv[1:], close_fds=False).returncode)' /usr/sbin/criu "$@"
"""


def taking_the_port(containers):
    """Options of a container with such a CRIU."""
    criu = containers.directory / "criu"
    criu.write_text(TAKING_THE_PORT)
    criu.chmod(0o755)
    return ("-v", f"{criu}:/usr/local/bin/criu:ro")


def restore_after(containers, script, *arguments):
    """A restore in a container where a Python script ran first."""
    command = f"python3 -c '{script}' {' '.join(arguments)} && exec /opt/dynamo_entry/bin/python -m dynamo_entry -- python3 /tiny.py"
    return containers.start(
        "-c",
        command,
        options=("--entrypoint", "sh", *CREATE),
        settings={"PATH": ARCHIVE, "HASH": "d936422b4f953f99"},
    )


def test_a_taken_pid_is_found_before_anything_is_touched(containers):
    published(containers, env={"CHILDREN": "2", "FILES": "/var/lib/engine/notes"})
    container = restore_after(containers, TAKE_PIDS, "1001")
    container.json("/state")
    event = container.wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("PidTaken", "check"), container.output()
    assert re.search(r"pid 100[12] of the engine is taken here by python3", event["message"])


def test_a_port_of_a_shared_network_that_is_taken_is_refused_by_name(containers):
    """Two containers of one pod, or of a node's network: CRIU alone would let both have it."""
    published(containers)
    first = restored(containers)
    assert first.json("/count")["count"] == 1
    second = containers.start(
        *COMMAND,
        options=RESTORE,
        settings={**SETTINGS, "ON_FAILURE": "fail"},
        network=f"container:{first.name}",
    )
    assert second.exit_code() == 181, second.output()
    event = second.event("Restore failed")
    assert (event["reason"], event["phase"]) == ("PortTaken", "check")
    assert "TCP port 8000" in event["message"]
    assert first.json("/count")["count"] == 2


def test_criu_failing_leaves_no_half_restored_process(containers):
    """A port gets taken: CRIU fails half-way, the files that were put in place are taken back, the pod cold-starts."""
    published(containers, env={"CHILDREN": "2", "FILES": "/var/lib/engine/notes"})
    container = restore(containers, options=(*RESTORE, *taking_the_port(containers)))
    state = container.json("/state")
    event = container.wait_for_event(FALLBACK)
    assert event["reason"] == "CriuRestoreFailed", container.output()
    assert "Address already in use" in event["message"]
    assert container.event("filesystem delta undone")
    assert not container.event("filesystem delta not undone")
    container.wait_for_text(state["nonce"])
    engines = [
        line for line in container.processes().values() if "/tiny.py" in line and "dynamo_entry" not in line
    ]
    assert len(engines) == 1, engines
    assert container.run_inside("sh", "-c", "ls /var/lib/engine 2>&1 || true").startswith("ls: cannot access")


def test_another_attempt_in_the_same_container_starts_clean(containers):
    """Files, shared memory and pids of a restore that failed half-way are gone, and so is the engine started cold."""
    env = {"CHILDREN": "2", "FILES": "/var/lib/engine/notes:/dev/shm/s", "UNLINKED_MIB": "8"}
    creator = published(containers, env=env)
    launcher = "/opt/dynamo_entry/bin/python -m dynamo_entry -- python3 /tiny.py"
    container = containers.start(
        "-c",
        f"{launcher}; echo again; {launcher}",
        options=("--entrypoint", "sh", *CREATE, *taking_the_port(containers)),
        settings={"PATH": ARCHIVE, "HASH": "d936422b4f953f99"},
    )
    cold = container.json("/state")
    assert container.event(FALLBACK)["reason"] == "CriuRestoreFailed"
    engine = next(pid for pid, line in container.processes().items() if line.startswith("python3 /tiny.py"))
    os.kill(engine, signal.SIGKILL)
    container.wait_for_event("Restored")
    again = container.json("/state?digest=1")
    assert again["nonce"] != cold["nonce"]
    assert again["nonce"] in creator.stderr
    assert len(again["files"]) == 2


#: Ends as soon as it finds itself restored.
UNWILLING = """
import os, pathlib, sys, time
if signal_file := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
    pathlib.Path(signal_file).touch()
while not os.path.exists("/run/dynamo_entry/context.json"):
    time.sleep(0.001)
sys.exit(5)
"""


def test_an_engine_that_ends_right_after_its_restore_is_started_cold(containers):
    command = ("python3", "-c", UNWILLING)
    published(containers, command=command)
    container = restore(containers, command=command)
    event = container.wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("EngineDied", "settle")
    container.wait(
        lambda: any(line.startswith("python3 -c") for line in container.processes().values()), "cold engine"
    )


#: Answers 200 until it finds itself restored; a cold one always does.
ANSWERS_ONCE = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("/run/dynamo_entry/context.json") else 200)
        self.end_headers()

http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""


def test_a_restored_engine_must_answer_where_it_did_when_it_was_created(containers):
    """The archive says where: the restoring pod has no READY_URL."""
    command = ("python3", "-c", ANSWERS_ONCE)
    url = {"SIGNAL_FILE": "", "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health"}
    published(containers, command=command, settings=url)
    container = restore(containers, command=command, settings={"STALL_TIMEOUT": "2"})
    event = container.wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("NotReady", "settle")
    assert "HTTP status 503" in event["message"]
    container.get("/health")


def test_a_worker_that_hangs_costs_a_cold_start(containers):
    published(containers, env={"BALLAST_MIB": "64"})
    container = restore(containers, settings={"STALL_TIMEOUT": "1"})
    os.kill(worker_of(container), signal.SIGSTOP)
    assert container.json("/health") == {"status": "ok"}
    event = container.wait_for_event(FALLBACK)
    assert event["reason"] == "WorkerLost"


def test_invalid_settings_do_not_stop_a_pod_that_restores(containers):
    container = containers.start("python3", "/tiny.py", settings={"PATH": ARCHIVE, "STOP_GRACE": "soon"})
    assert container.json("/health") == {"status": "ok"}
    event = container.event(FALLBACK)
    assert event["reason"] == "SettingsInvalid"
    assert "STOP_GRACE" in event["message"]
