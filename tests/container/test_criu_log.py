"""CRIU's words are known, and its full log of a dump or a restore that failed outlives the container."""

from containers import CREATE, RESTORE
from criu_messages import MESSAGES, SINCE_4_3
from launcher import SETTINGS, published

#: Does nothing, and says why.
CRIU = r"""#!/bin/sh
case $1 in --version) echo "Version: 99.0"; exit ;; esac
while [ $# -gt 0 ]; do
    case $1 in --work-dir) work=$2 ;; --log-file) log=$2 ;; esac
    shift
done
echo "(00.1) Error (criu/x.c:9): new trouble" > "$work/$log"
exit 1
"""


def fail(containers, options, **settings):
    """A container whose CRIU fails, and the directory that outlives it."""
    state, criu = containers.directory / "state", containers.directory / "criu"
    state.mkdir()
    criu.write_text(CRIU)
    criu.chmod(0o755)
    volumes = (f"{state}:/state", f"{criu}:/usr/sbin/criu:ro")
    container = containers.start(
        "python3", "/tiny.py", options=options, volumes=volumes, settings={**SETTINGS, **settings}
    )
    return container, state


def test_of_a_restore(containers):
    published(containers)
    container, log = fail(containers, RESTORE, STATE_DIR="/state", ON_FAILURE="fail")
    assert container.exit_code() == 180
    assert container.event("CRIU log kept")["path"] == "/state/criu-restore.log"
    assert (log / "criu-restore.log").read_text().endswith("new trouble\n")


def test_of_a_dump_next_to_the_status_file(containers):
    container, log = fail(containers, CREATE, SIGNAL_FILE="/tmp/ready", STATUS_FILE="/state/status")
    assert container.exit_code() == 174
    event = container.event("Checkpoint not created")
    assert (event["reason"], "new trouble" in event["message"]) == ("CriuDumpFailed", True)
    assert (log / "criu-dump.log").read_text().endswith("new trouble\n")


def test_what_is_explained_is_what_this_criu_says(containers):
    """Its program has every message for which there is a remedy, in the words of one version."""
    command = ("-c", "cp /usr/sbin/criu /checkpoints")
    assert containers.start(*command, options=("--entrypoint", "sh")).exit_code() == 0
    program = (containers.checkpoints / "criu").read_bytes()
    known = {text for text, _, _ in MESSAGES if text.encode() in program}
    of_another = {old for old, new in SINCE_4_3.items() if new in known} | {
        SINCE_4_3.get(old) for old in known
    }
    assert {text for text, _, _ in MESSAGES} - known <= of_another
