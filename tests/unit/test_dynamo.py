"""Dynamo's handshake: whose command speaks it, and the files that the launcher and a worker leave for each other."""

import json
import os
import subprocess
import sys

import pytest

from dynamo_entry.engine import dynamo
from dynamo_entry.errors import Corrupt, NotDumpable, RestoreFailed

COMPLETE, CONTEXT = "restore-complete", "restore-context.json"


@pytest.mark.parametrize(
    "command",
    [
        ["python3", "-m", "dynamo.vllm", "--model", "m"],
        ["python3 -m dynamo.sglang --model m"],
        ["/opt/venv/bin/python3", "-u", "-m", "dynamo.trtllm"],
        ["/bin/sh", "-c", "exec python -m dynamo.vllm"],
        ["sh", "-c", "cd /workspace && python3 -m dynamo.vllm --model m; echo ended"],
        ["env", "A=b", "python3", "-mdynamo.vllm"],
        ["bash", "-c", 'python3 -m "dynamo.vllm" --model m'],
        ["python3", "/opt/dynamo/venv/lib/python3.12/site-packages/dynamo/vllm/__main__.py"],
        ["python3", "-m", "dynamo.vllm.main"],
        ["/usr/bin/python3.12", "-u", "/opt/dynamo/vllm", "--model", "m"],
        ["sh", "-c", "exec python dynamo/sglang/"],
        ["python", "-m", "dynamo_entry", "--", "python3", "-m", "dynamo.vllm"],
        ["python3", "-um", "dynamo.vllm"],
        ["torchrun", "--nproc-per-node", "2", "--module", "dynamo.vllm"],
        ["torchrun", "--module=dynamo.sglang"],
        ["python3 -m dynamo.vllm>/tmp/log 2>&1"],
        ["nsys", "profile", "python3", "-m", "dynamo.vllm"],
        ["/usr/bin/env", "-S", "python3 -m dynamo.vllm --model m"],
        ["python3", "-X", "faulthandler", "-W", "ignore", "-OBuEsI", "-m", "dynamo.vllm"],
        [
            "tini",
            "--",
            "gosu",
            "user",
            "setpriv",
            "--nnp",
            "numactl",
            "-N",
            "0",
            "python3",
            "-m",
            "dynamo.vllm",
        ],
        ["conda", "run", "--no-capture-output", "-n", "e", "python", "-m", "dynamo.vllm"],
        ["/entrypoint.sh", "python3", "-m", "dynamo.vllm"],
        ["sh", "-c", 'exec "${PYTHON:-python3}" -m dynamo.vllm "$@"', "sh", "--model", "m"],
        ["mpirun", "-n", "2", "python3", "-m", "dynamo.trtllm"],
        ["accelerate", "launch", "-m", "dynamo.vllm"],
        ["bash", "-c", "python3 - <<E\nprint(1)\nE\nexec python3 -m dynamo.vllm"],
    ],
)
def test_a_worker_is_known_by_its_command(command):
    assert dynamo.is_worker(command)


@pytest.mark.parametrize(
    "command",
    [
        ["vllm", "serve", "m"],
        ["python3", "-m", "dynamo.frontend"],
        ["python3", "-m", "dynamo.mocker"],
        ["python3", "-m", "dynamo.vllm_omni"],
        ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "dynamo.vllm"],
        ["python3", "/models/dynamo/vllm-notes.py"],
        ["python3", "-m", "dynamo_entry"],
        ["python3", "server.py", "--model", "dynamo.vllm"],
        ["serve", "-model", "dynamo.vllm"],
        ["python3", "x.py", "--model", "dynamo/vllm"],
        ["python3", "x.py", "dynamo/vllm"],
        ["ls", "/opt/python/dynamo/vllm"],
        ["python3", "/opt/dynamo/vllm-notes"],
        ["python3", "-m", "http.server", "-d", "dynamo/vllm"],
        ["vllm", "serve", "/models/dynamo/vllm"],
        ["python3", "-m", "dynamo.vllm.sidecar"],
        [],
    ],
)
def test_other_commands_are_not_workers(command):
    assert not dynamo.is_worker(command)


def test_a_worker_to_be_frozen_gets_every_releases_variables_and_is_no_standby():
    given = dynamo.Handshake("/c").environment()
    assert given["DYN_SNAPSHOT_CONTROL_DIR"] == given["SNAPSHOT_CONTROL_DIR"] == "/c"
    assert given["DYN_READY_FOR_CHECKPOINT_FILE"] == "/c/ready"
    assert given["SNAPSHOT_RESTORE_STANDBY"] is None
    assert given["DYN_SNAPSHOT_RESTORE_STANDBY"] is None


@pytest.fixture
def handshake(tmp_path):
    made = dynamo.Handshake(str(tmp_path / "control"))
    made.prepare_creation()
    return made


@pytest.mark.parametrize("release", dynamo.RELEASES, ids=lambda release: release.ready)
def test_ready_is_a_file_that_is_written_and_closed(handshake, release):
    path = f"{handshake.directory}/{release.ready}"
    assert not handshake.ready(tuple)
    with open(path, "w", encoding="ascii"):
        assert not handshake.ready(tuple), "nothing is in it yet"
    with open(path, "w", encoding="ascii") as file:
        file.write("ready")
        file.flush()
        assert not handshake.ready(lambda: [path]), "it is still open"
    assert handshake.ready(tuple)
    assert handshake.release == release


def test_an_open_ready_file_is_seen_through_a_link(tmp_path):
    """/var/run is one."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    handshake = dynamo.Handshake(str(tmp_path / "link"))
    (tmp_path / "run" / "ready").write_text("ready")
    assert not handshake.ready(lambda: [str(tmp_path / "run" / "ready")])
    assert handshake.ready(tuple)


@pytest.mark.parametrize("name", [COMPLETE, CONTEXT, "snapshot-complete", "ready-for-checkpoint", "ready"])
def test_what_an_earlier_container_left_is_removed(handshake, name):
    """A stale restore-complete would wake the worker before its GPU and its identity are there."""
    path = f"{handshake.directory}/{name}"
    for prepare in (handshake.prepare_creation, handshake.prepare_restore):
        with open(path, "w", encoding="ascii") as file:
            file.write("old")
        prepare()
        assert not os.path.exists(path)


def test_a_restored_worker_finds_its_ready_file_and_reacts_by_removing_it(handshake):
    handshake.prepare_restore()
    assert not handshake.has_reacted()
    os.unlink(f"{handshake.directory}/{handshake.release.ready}")
    assert handshake.has_reacted()


def test_the_new_identity_names_every_variable(handshake):
    handshake.let_go({"POD_UID": "new", "HF_TOKEN": "secret"}, [], [])
    with open(f"{handshake.directory}/{CONTEXT}", encoding="utf-8") as file:
        context = json.load(file)
    assert set(context["env"]) == set(dynamo.CONTEXT_NAMES)
    assert context["env"]["POD_UID"] == "new"
    assert context["env"]["DYN_NAMESPACE"] is None, "null clears what the worker had"
    assert sorted(os.listdir(handshake.directory)) == [COMPLETE, CONTEXT]


def test_a_worker_that_may_go_on_finds_its_new_identity(handshake, monkeypatch):
    """It polls for the one file, and ends where the other is not there by then."""
    written = []
    monkeypatch.setattr(dynamo, "write_new", lambda path, *_: written.append(os.path.basename(path)))
    handshake.let_go({}, [], [])
    assert written == [CONTEXT, COMPLETE]


def test_a_worker_of_the_first_release_is_signalled_and_others_of_its_tree_are_not(handshake):
    waits = "import signal, sys, time; {}; print('set', flush=True); time.sleep(20)"
    handler = "signal.signal(signal.SIGCONT, lambda *_: sys.exit(7))"
    processes = [
        subprocess.Popen([sys.executable, "-c", waits.format(what)], stdout=subprocess.PIPE)
        for what in (handler, "pass")
    ]
    try:
        for process in processes:
            process.stdout.readline()
        handshake.release = dynamo.RELEASES[-1]
        handshake.let_go({}, [], [process.pid for process in processes])
        assert processes[0].wait(10) == 7
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_directory_that_cannot_be_used_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    handshake = dynamo.Handshake(str(tmp_path / "file"))
    with pytest.raises(NotDumpable, match="control directory") as refused:
        handshake.prepare_creation()
    assert refused.value.reason == "ControlDirectoryInvalid"
    with pytest.raises(RestoreFailed, match="control directory"):
        handshake.prepare_restore()


@pytest.mark.parametrize("release", dynamo.RELEASES, ids=lambda release: release.ready)
def test_an_archive_records_directory_and_release(release):
    found = dynamo.recorded(dynamo.Handshake("/c", release).facts({}, ()))
    assert found is not None
    assert (found.directory, found.release) == ("/c", release)
    assert dynamo.recorded({}) is None


@pytest.mark.parametrize(
    "record",
    [
        {"directory": "/c"},
        {"directory": "/c", "ready": "other"},
        "text",
        {"directory": "c", "ready": "ready"},
        {"directory": "/c/../etc", "ready": "ready"},
        {"directory": "/c", "ready": "ready", "sets": 1},
        ["directory", "ready"],
    ],
)
def test_a_record_that_makes_no_sense_is_corrupt(record):
    with pytest.raises(Corrupt):
        dynamo.recorded({"dynamo": record})


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"DYN_SYSTEM_PORT": "9090"}, "http://127.0.0.1:9090/health"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HEALTH_PATH": "/h"}, "http://127.0.0.1:9090/h"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HEALTH_PATH": "h"}, "http://127.0.0.1:9090/h"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HOST": "0.0.0.0"}, "http://127.0.0.1:9090/health"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HOST": "::"}, "http://127.0.0.1:9090/health"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HOST": "10.1.2.3"}, "http://10.1.2.3:9090/health"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HOST": "fd00::1"}, "http://[fd00::1]:9090/health"),
        ({"DYN_SYSTEM_PORT": "9090", "DYN_SYSTEM_HOST": "[::1]"}, "http://[::1]:9090/health"),
        ({"DYN_SYSTEM_PORT": "90900"}, ""),
        ({"DYN_SYSTEM_PORT": "-1"}, ""),
        ({}, ""),
        ({"DYN_SYSTEM_PORT": "9090", "FAILOVER_LOCK_PATH": "/lock"}, ""),
    ],
)
def test_a_registered_worker_answers_on_its_system_port(environ, url):
    assert dynamo.Handshake("/c").health_url(environ, [], ()) == url


@pytest.fixture
def started():
    """Starts a process whose command is a worker's; returns the pids of a tree with it."""
    processes = []

    def started(environ):
        command = [
            sys.executable,
            "-c",
            "import time; print(flush=True); time.sleep(60)",
            "-m",
            "dynamo.vllm",
        ]
        processes.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE))
        processes[-1].stdout.readline()
        return [os.getpid(), processes[-1].pid]

    yield started
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def context(handshake):
    with open(f"{handshake.directory}/{CONTEXT}", encoding="utf-8") as file:
        return json.load(file)["env"]


def test_what_a_command_sets_itself_stays_as_at_a_cold_start(handshake, started):
    """DYN_SYSTEM_PORT=9091 exec python3 -m dynamo.vllm: the pod knows nothing of it."""
    pod = {"DYN_NAMESPACE": "n", "NATS_SERVER": "x", "POD_UID": "u"}
    pids = started({"DYN_NAMESPACE": "mine", "DYN_SYSTEM_PORT": "9091", "POD_UID": "u", "OTHER": "o"})
    sets = {"DYN_NAMESPACE", "DYN_SYSTEM_PORT", "NATS_SERVER"}
    facts = handshake.facts(pod, pids)
    assert set(facts["dynamo"]["sets"]) == sets
    handshake.let_go(pod, [], pids)
    assert set(context(handshake)) == {*dynamo.CONTEXT_NAMES} - sets, "it goes on in the same pod"
    restored = dynamo.recorded({"dynamo": {**facts["dynamo"], "directory": handshake.directory}})
    restored.let_go({**pod, "POD_UID": "another", "DYN_SYSTEM_PORT": "1"}, [], pids)
    assert not sets & {*context(restored)}
    assert context(restored)["POD_UID"] == "another"
    assert restored.health_url({**pod, "DYN_SYSTEM_PORT": "1"}, [], pids) == "http://127.0.0.1:9091/health"


def test_a_command_that_sets_nothing_takes_all_of_the_new_pod(handshake, started):
    pod = {"DYN_NAMESPACE": "n", "POD_UID": "u"}
    assert handshake.facts(pod, started({**pod, "PATH": "/"}))["dynamo"]["sets"] == []
    assert handshake.facts(pod, [])["dynamo"]["sets"] == [], "its processes are gone"


@pytest.mark.parametrize("release", dynamo.RELEASES)
def test_a_worker_that_takes_no_new_environment_answers_where_it_did(release, started):
    """1.0 to 1.2 keep the port of the pod that created the archive."""
    here, pids = {"DYN_SYSTEM_PORT": "1"}, started({"DYN_SYSTEM_PORT": "2"})
    port = 1 if release.ready == "ready-for-snapshot" else 2
    url = dynamo.Handshake("/c", release, frozenset()).health_url(here, [], pids)
    assert url == f"http://127.0.0.1:{port}/health"


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 2), ("", 2), ("10.1.2.3", 0), ("metadata.internal", 0)]
)
@pytest.mark.parametrize("release", dynamo.RELEASES)
def test_an_archive_does_not_choose_where_a_pod_asks(release, host, port, started):
    """Of releases that keep the environment of the pod that created the archive, or where the command sets the host."""
    sets = frozenset(("DYN_SYSTEM_HOST", "DYN_SYSTEM_PORT"))
    pids = started({"DYN_SYSTEM_PORT": "2", "DYN_SYSTEM_HOST": host})
    url = dynamo.Handshake("/c", release, sets).health_url({}, [], pids)
    assert url == (f"http://127.0.0.1:{port}/health" if port else "")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("DYN_SNAPSHOT_CONTROL_DIR=/c exec python3 -m dynamo.vllm", "DYN_SNAPSHOT_CONTROL_DIR"),
        ("DYN_SNAPSHOT_CONTROL_DIR='/c' exec python3 -m dynamo.vllm", "DYN_SNAPSHOT_CONTROL_DIR"),
        ("DYN_SNAPSHOT_CONTROL_DIR= exec python3 -m dynamo.vllm", ""),
        ('export DYN_SNAPSHOT_CONTROL_DIR=""; python3 -m dynamo.vllm', ""),
    ],
)
def test_a_command_that_clears_the_control_directory_sets_none(line, name):
    assert dynamo.set_by(["sh", "-c", line]) == name
