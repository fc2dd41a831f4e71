"""vLLM's snapshot server: commands that become it, and serve again; its two files; where a replica listens."""

import json
import os

import pytest

from dynamo_entry.engine import vllm_snapshot
from dynamo_entry.errors import Corrupt, NotDumpable, RestoreFailed, SettingsError

FILES = ["--ready-file", "/c/vllm-ready", "--release-file", "/c/vllm-release", "--"]


@pytest.fixture
def path(tmp_path):
    """A PATH with vLLM's script."""
    (tmp_path / "vllm").write_text("#!/opt/engine/bin/python\nimport re\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (["vllm", "serve", "/m", "--port", "1"], ["/opt/engine/bin/python", "-m", "vllm.snapshot.server", *FILES, "/m", "--port", "1"]),
        (["env", "A=b", "vllm", "serve"], ["env", "A=b", "/opt/engine/bin/python", "-m", "vllm.snapshot.server", *FILES]),
        (["python3", "-m", "vllm.entrypoints.cli.main", "serve", "/m"], ["python3", "-m", "vllm.snapshot.server", *FILES, "/m"]),
        (["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "/m"], ["python3", "-m", "vllm.snapshot.server", *FILES, "--model", "/m"]),
        (["python3", "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", "/m"], ["python3", "-m", "vllm.snapshot.server", *FILES, "--model", "/m"]),
        (["/bin/sh", "-c", "exec vllm serve $M --x 'a b'"], ["/bin/sh", "-c", f"exec /opt/engine/bin/python -m vllm.snapshot.server {' '.join(FILES)} $M --x 'a b'"]),
        (["sh", "-c", "cd /x;vllm serve m && echo"], ["sh", "-c", f"cd /x;/opt/engine/bin/python -m vllm.snapshot.server {' '.join(FILES)} m && echo"]),
        (["python3", "-um", "vllm.entrypoints.openai.api_server"], ["python3", "-um", "vllm.snapshot.server", *FILES]),
        (["uv", "run", "--module", "vllm.entrypoints.openai.api_server"], ["uv", "run", "--module", "vllm.snapshot.server", *FILES]),
        (["my-vllm", "serve", "/m"], ["my-vllm", "serve", "/m"]),
        (["vllm", "bench"], ["vllm", "bench"]),
    ],
)  # fmt: skip
def test_a_command_that_serves_becomes_one_that_pauses(path, command, becomes):
    assert vllm_snapshot.paused(command, "/c", {"PATH": f"/nowhere:{path}"}) == becomes


@pytest.mark.parametrize(
    ("script", "python"),
    [
        ("#!/usr/bin/env python3\n", "python3"),
        ('#!/bin/sh\n\'\'\'exec\' "/a/very/long/python3.12" "$0" "$@"\n', "/a/very/long/python3.12"),
        ("#!/bin/sh\n'''exec' /a/python \"$0\" \"$@\"\n", "/a/python"),
        ("\x7fELF", "python3"),
    ],
)
def test_the_interpreter_is_that_of_the_script(tmp_path, script, python):
    (tmp_path / "vllm").write_text(script)
    assert vllm_snapshot.paused([f"{tmp_path}/vllm", "serve"], "/c", {})[0] == python


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (
            ["python3", "-m", "vllm.snapshot.server", "--ready-file", "/r", "--release-file=/l", "--", "/m", "--x", "--", "y"],
            ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "/m", "--x", "--", "y"],
        ),
        (
            ["python3", "-m", "vllm.snapshot.server", "/m", "--ready-file", "/r", "--release-file", "/l", "--release-timeout-s", "9"],
            ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "/m"],
        ),
        (
            ["sh", "-c", "python3 -m vllm.snapshot.server --ready-file /r --release-file /l -- /m --port 1"],
            ["sh", "-c", "python3 -m vllm.entrypoints.cli.main serve /m --port 1"],
        ),
        (
            ["python3", "-um", "vllm.snapshot.server", "--ready-file", "/r", "--release-file", "/l", "--", "/m"],
            ["python3", "-um", "vllm.entrypoints.cli.main", "serve", "/m"],
        ),
        (["vllm", "serve", "/m"], ["vllm", "serve", "/m"]),
    ],
)  # fmt: skip
def test_a_cold_start_serves_at_once(command, becomes):
    """With its own command it would wait for a release that does not come."""
    assert vllm_snapshot.cold(command) == becomes


def test_both_ways_lead_back():
    command = ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "/m", "--port", "1"]
    assert vllm_snapshot.cold(vllm_snapshot.paused(command, "/c", {})) == command


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["python3", "server.py"], "neither"),
        (["python3", "-m", "vllm.snapshot.server", "--", "m"], "absolute"),
        (["python3", "-m", "vllm.snapshot.server", "--ready-file", "r", "--release-file", "/l", "m"], "absolute"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_pause_is_refused(command, why):
    with pytest.raises(SettingsError, match=why):
        vllm_snapshot.Handshake.of_pod(command, {}, "/c")


@pytest.fixture
def handshake(tmp_path):
    made = vllm_snapshot.Handshake(f"{tmp_path}/c/ready", f"{tmp_path}/c/release")
    made.prepare_creation()
    return made


def test_ready_is_a_file_that_is_whole(handshake):
    assert not handshake.ready(tuple)
    path = f"{handshake.directory}/ready"
    with open(path, "w", encoding="ascii") as file:
        assert not handshake.ready(lambda: [file.name])
    assert handshake.ready(tuple)


@pytest.mark.parametrize("name", ["ready", "release"])
def test_what_an_earlier_container_left_is_removed(handshake, name):
    """A stale release would wake the engine before its GPU is there."""
    path = f"{handshake.directory}/{name}"
    for prepare in (handshake.prepare_creation, handshake.prepare_restore):
        with open(path, "w", encoding="ascii") as file:
            file.write("old")
        prepare()
        assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("command", "marker", "url"),
    [
        (["vllm", "serve", "m"], (None, 8000), "http://127.0.0.1:8000/health"),
        (["vllm", "serve", "m", "--port", "8123", "--host=0.0.0.0"], ("0.0.0.0", 8123), "http://127.0.0.1:8123/health"),
        (["sh", "-c", "vllm serve m --host '::1' --port=\"9\""], ("::1", 9), "http://[::1]:9/health"),
        (["vllm", "serve", "m", "--port", "1", "--port", "9001"], (None, 9001), "http://127.0.0.1:9001/health"),
        (["sh", "-c", "vllm serve m --port 9000; true"], (None, 9000), "http://127.0.0.1:9000/health"),
        (["sh", "-c", "vllm serve m --port $PORT --host ${POD_IP}"], ("10.1.2.3", 8124), "http://10.1.2.3:8124/health"),
        (["vllm", "serve", "m", "--config", "c.yaml", "--port", "9"], (None, 9), "http://127.0.0.1:9/health"),
        (["vllm", "serve", "m", "--port=9", "--ssl-certfile", "/x"], (None, 9), "https://127.0.0.1:9/health"),
        (["vllm", "serve", "m", "--port=9", "--ssl_keyfile=/x"], (None, 9), "https://127.0.0.1:9/health"),
        (["sh", "-c", "vllm serve m --uds=/run/x"], (None, 8000), ""),
    ],
)  # fmt: skip
def test_a_replica_listens_where_its_own_command_says(handshake, command, marker, url):
    environ = {"PORT": "8124", "POD_IP": "10.1.2.3"}
    handshake.let_go(environ, command, [])
    with open(f"{handshake.directory}/release", encoding="utf-8") as file:
        assert json.load(file) == {"release": True, "host": marker[0], "port": marker[1]}
    assert os.listdir(handshake.directory) == ["release"]
    assert handshake.health_url(environ, command, ()) == url


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "vllm serve m --port $PORT"],
        ["sh", "-c", "vllm serve m --host ${POD_IP"],
        ["vllm", "serve", "m", "--port", "65536"],
        ["vllm", "serve", "m", "--port", "9" * 5000],
        ["vllm", "serve", "m", "--config", "c.yaml"],
        ["python3", "-m", "vllm.snapshot.server", "--ready-file", "/r", "--release-file", "/l", "--", "m", "--port", "$(p)"],
    ],
)  # fmt: skip
def test_where_a_replica_would_listen_is_known_at_creation(command):
    """Else it would answer where nobody asks."""
    with pytest.raises(SettingsError, match="where vLLM listens"):
        vllm_snapshot.Handshake.of_pod(command, {}, "/c")


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    handshake = vllm_snapshot.Handshake(f"{tmp_path}/file/ready", f"{tmp_path}/file/release")
    with pytest.raises(NotDumpable) as refused:
        handshake.prepare_creation()
    assert refused.value.reason == "ControlDirectoryInvalid"
    with pytest.raises(RestoreFailed):
        handshake.prepare_restore()


@pytest.mark.parametrize(
    "record",
    [{"ready": "/a"}, "text", {"ready": "a", "release": "/b"}, {"ready": "/a", "release": "/b/../c"}],
)
def test_a_record_that_makes_no_sense_is_corrupt(record):
    with pytest.raises(Corrupt):
        vllm_snapshot.recorded({"vllm_snapshot": record})
