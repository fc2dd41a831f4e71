"""Standard output and error: whatever they were, in the new place they go where the new place's go.

Lines written before the dump are in the first container's log, later ones in the second's, each once.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from containers import CREATE, ENGINE, RESTORE
from launcher import SETTINGS, SIGNAL

pytestmark = pytest.mark.skipif(
    ENGINE != "podman", reason="needs podman's log drivers: scripts/test container"
)

#: How a container is run so that its output is a pipe, a terminal, a file outside of it, or nothing.
KINDS = {
    "pipe": ((), ()),
    "terminal": (("--tty",), ()),
    "file": (("--log-driver", "passthrough"), ()),
    "null": (("--log-driver", "passthrough"), ("sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh")),
}
STATUS = {"STATUS_FILE": "/checkpoints/status", "LOG_FORMAT": "json"}


def create(containers, kind, command=("python3", "/tiny.py"), env=None):
    options, under = KINDS[kind]
    container = containers.start(
        *command, options=(*CREATE, *options), under=under, settings={**SETTINGS, **SIGNAL, **STATUS}, env=env
    )
    assert container.exit_code() == 0, container.output()
    assert result(containers) == "published"
    return container


def restore(containers, kind):
    options, under = KINDS[kind]
    container = containers.start(
        "python3", "/tiny.py", options=(*RESTORE, *options), under=under, settings={**SETTINGS, **STATUS}
    )
    container.json("/state")
    container.wait(lambda: result(containers) not in ("published", None), "result")
    assert result(containers) == "restored", container.output()
    return container


def result(containers):
    return json.loads((containers.checkpoints / "status").read_text() or "{}").get("result")


def says(container):
    container.get("/print?text=on-stdout&stream=stdout")
    container.get("/print?text=on-stderr&stream=stderr")
    return container


@pytest.mark.parametrize("first", KINDS)
def test_from_anything_to_pipes(containers, first):
    creator = create(containers, first)
    assert first == "null" or "tiny: listening" in creator.stdout
    container = says(restore(containers, "pipe"))
    container.wait_for_text("on-stderr")
    assert container.stdout.splitlines() == ["on-stdout"]
    assert [line for line in container.stderr.splitlines() if not line.startswith("{")] == ["on-stderr"]


@pytest.mark.parametrize("second", ["terminal", "file", "null"])
def test_from_pipes_to_anything(containers, second):
    create(containers, "pipe")
    container = says(restore(containers, second))
    if second == "null":
        assert container.stdout + container.stderr == ""
        return
    container.wait_for_text("on-stderr")
    lines = (container.stdout + container.stderr).splitlines()
    assert [line for line in lines if not line.startswith("{")] == ["on-stdout", "on-stderr"]


def test_a_logger_that_reads_the_engines_output_goes_on(containers):
    create(containers, "pipe", ("python3 /tiny.py | sed -u s/^/logged:/",))
    container = restore(containers, "pipe")
    container.get("/print?text=hello&stream=stdout")
    container.wait_for_text("logged:hello")


def test_both_into_one_pipe(containers):
    create(containers, "pipe", ("exec python3 /tiny.py 2>&1",))
    container = says(restore(containers, "pipe"))
    container.wait(
        lambda: container.stdout.splitlines() == ["on-stdout", "on-stderr"], "both lines, in order"
    )


def test_an_engine_that_was_sent_elsewhere_stays_there(containers):
    create(containers, "pipe", ("exec python3 /tiny.py >/var/log/engine.log 2>&1",))
    container = says(restore(containers, "pipe"))
    assert container.run_inside("cat", "/var/log/engine.log").splitlines()[-2:] == ["on-stdout", "on-stderr"]


def test_children_keep_the_containers_output_where_their_parent_gave_it_up(containers):
    """As vLLM's snapshot server does: the first process writes to /dev/null, its workers to the container's log."""
    create(containers, "pipe", ("python3 /tiny.py & exec >/dev/null 2>&1; wait",))
    container = says(restore(containers, "pipe"))
    container.wait_for_text("on-stderr")
    assert container.stdout.splitlines() == ["on-stdout"]


def test_lines_that_nobody_has_read_yet_are_neither_lost_nor_doubled(containers):
    """The runtime's log reader is slow: at the dump the engine's lines are still in the pipe."""
    creator = containers.start(
        "python3",
        "/tiny.py",
        options=CREATE,
        settings={**SETTINGS, **SIGNAL, **STATUS},
        env={"READY_DELAY": "1"},
    )
    creator.wait_for_text("tiny: started")
    reader = int(Path(f"/proc/{creator.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(reader, signal.SIGSTOP)
    try:
        creator.get("/print?text=just-before&stream=stdout")
        creator.wait((containers.checkpoints / "d936422b4f953f99.tar").exists, "archive")
    finally:
        os.kill(reader, signal.SIGCONT)
    assert creator.exit_code() == 0
    assert creator.stdout.count("just-before") == 1
    container = says(restore(containers, "pipe"))
    container.wait_for_text("on-stdout")
    assert container.stdout.splitlines() == ["on-stdout"]
