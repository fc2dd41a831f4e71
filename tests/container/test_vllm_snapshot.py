"""vLLM's snapshot server by one setting: the command that serves is frozen paused, and replicas listen where theirs say."""

import os
import signal

import pytest
from containers import CREATE, RESTORE, ROOT
from launcher import FALLBACK, NAME, SETTINGS, worker_of

DOUBLE = ROOT / "tests" / "support" / "vllm_double"
CONTROL = "/run/dynamo_entry/control"
PATH = "/double/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SERVE = ("vllm", "serve", "/models/m")
FILES = ("--ready-file", "/tmp/s/ready", "--release-file", "/tmp/s/release")
SERVER = ("python3", "-m", "vllm.snapshot.server", *FILES, "--", "/models/m")
WANTED = {"MODE": "create", "PROTOCOL": "vllm-snapshot"}


@pytest.fixture
def start(containers):
    def start(options, *, command=SERVE, volumes=(), **settings):
        return containers.start(
            *command, options=options, settings={**SETTINGS, **settings},
            env={"PATH": PATH, "PYTHONPATH": "/double"}, volumes=(f"{DOUBLE}:/double:ro", *volumes),
        )  # fmt: skip

    return start


@pytest.fixture
def published(start):
    def published(**kwargs):
        creator = start(CREATE, **kwargs)
        assert creator.exit_code() == 0, creator.output()
        assert creator.event("vllm snapshot server paused"), creator.output()
        return creator

    return published


def identity(container, port=8000):
    return container.json("/identity", port=port)


@pytest.mark.parametrize(
    "command",
    [SERVE, ("vllm serve /models/m",), ("sh", "-c", "exec vllm serve /models/m")],
    ids=["list", "one string", "shell"],
)
def test_one_setting_on_the_creating_pod(start, published, command):
    published(command=command, **WANTED)
    found = []
    for port in (8123, 8124):
        container = start(RESTORE, command=(*SERVE, "--port", str(port)))
        container.wait_for_event("Restored")
        found.append(identity(container, port))
    assert [one["was_paused"] for one in found] == [True, True]
    assert found[0]["nonce"] == found[1]["nonce"]


def test_the_servers_own_command_needs_no_setting(start, published):
    published(command=SERVER, MODE="create")
    container = start(RESTORE, command=SERVER)
    container.wait_for_event("Restored")
    assert identity(container)["was_paused"]


@pytest.mark.parametrize("command", [SERVE, SERVER], ids=["vllm serve", "server"])
def test_a_cold_start_in_place_of_a_restore_serves_at_once(start, published, containers, command):
    published(**WANTED)
    path = containers.checkpoints / NAME
    path.write_bytes(path.read_bytes()[:-100_000])
    container = start(RESTORE, command=command)
    assert not identity(container)["was_paused"]
    assert container.event(FALLBACK)


@pytest.mark.parametrize("pre_dump", ["", "exit 3"], ids=["published", "failed"])
def test_an_engine_that_is_to_serve_on_is_let_go(start, pre_dump):
    container = start(CREATE, AFTER_DUMP="continue", PRE_DUMP=pre_dump, **WANTED)
    container.wait_for_event("Checkpoint not created" if pre_dump else "Checkpoint published")
    assert identity(container)["was_paused"]


def test_an_engine_is_let_go_although_the_launchers_helper_is_lost(start):
    container = start(CREATE, AFTER_DUMP="continue", PRE_DUMP="sleep 60", **WANTED)
    container.wait_for_event("vllm snapshot server paused")
    os.kill(worker_of(container), signal.SIGKILL)
    container.wait_for_event("Checkpoint not created")
    assert identity(container)["was_paused"]


def test_a_release_that_an_earlier_container_left_wakes_nobody(start, published, tmp_path):
    """It would serve where the old one did, before its GPU is back."""
    control = tmp_path / "control"
    control.mkdir()
    volumes = (f"{control}:/tmp/s",)
    stale = '{"release": true, "host": null, "port": 8999}'
    (control / "release").write_text(stale)
    published(command=SERVER, volumes=volumes, MODE="create")
    (control / "release").write_text(stale)
    container = start(RESTORE, command=SERVE, volumes=volumes)
    container.wait_for_event("Restored")
    assert identity(container)["was_paused"]


def test_what_is_beside_the_servers_files_travels(start, published):
    """They may lie in /tmp, where everything else is the engine's."""
    files = "--ready-file /tmp/ready --release-file /tmp/release"
    command = ("sh", "-c", f"echo kept >/tmp/kept; exec python3 -m vllm.snapshot.server {files} -- /models/m")
    published(command=command, MODE="create")
    container = start(RESTORE, command=command)
    container.wait_for_event("Restored")
    assert container.run_inside("cat", "/tmp/kept") == "kept\n"


@pytest.mark.parametrize(
    ("settings", "command", "why"),
    [
        ({"READY_URL": "http://127.0.0.1:8000/health"}, SERVE, "READY_URL"),
        ({}, ("python3", "server.py"), "neither vllm serve"),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(start, settings, command, why):
    container = start(CREATE, command=command, **WANTED, **settings)
    assert container.exit_code() == 170
    assert why in container.event("Checkpoint not created")["message"]
