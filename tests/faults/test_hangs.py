"""What hangs in a creation or a restore, with no limit set but STALL_TIMEOUT: the pod serves all the same.

Phases that are held by the test itself, and a worker that stops: test_matrix.
"""

import contextlib
import fcntl
import socket
import threading

import pytest
from containers import CREATE, RESTORE
from gate import RESTORE_PHASES, assert_clean, begin, hold, release
from launcher import FALLBACK, SIGNAL, create, published, restore
from servers import process

#: An engine that has a lock on a volume, as far as nobody else has it.
LOCKING = """
import fcntl, pathlib, time
file = open("/checkpoints/lock", "a")
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("somebody else has the lock", flush=True)
pathlib.Path("/tmp/ready").touch()
time.sleep(300)
"""


def test_a_lock_that_another_replica_takes(containers):
    """After the check that would have named it: CRIU waits for as long as it takes."""
    command = ("python3", "-c", LOCKING)
    published(containers, command=command)
    phase = RESTORE_PHASES["restore"]
    container = begin(containers, restore, phase, command=command, STALL_TIMEOUT="3")
    hold(container, containers, phase)
    with (containers.checkpoints / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release(containers)
        event = container.wait_for_event(FALLBACK)
        container.wait_for_text("somebody else has the lock", limit_s=10)
    assert (event["reason"], event["phase"]) == ("WorkerLost", "restore")


#: In place of the shell that starts CRIU.
SLEEPER = "#!/usr/bin/python3\nimport time\ntime.sleep(600)\n"


def test_a_criu_that_does_not_even_start(containers):
    """It is started early, while an archive may be waited for: WAIT does not count once there is one."""
    published(containers)
    sleeper = containers.checkpoints / "sleeper"
    sleeper.write_text(SLEEPER)
    sleeper.chmod(0o755)
    volumes = (f"{sleeper}:/usr/bin/dash:ro",)
    container = restore(containers, settings={"WAIT": "600", "STALL_TIMEOUT": "1"}, volumes=volumes)
    event = container.wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("WorkerLost", "open")
    assert container.json("/health", limit_s=10) == {"status": "ok"}
    container.wait(lambda: len(container.processes()) == 2, "end of everything but launcher and engine", 10)


@pytest.fixture
def silent_port():
    """A server that accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


@pytest.mark.parametrize("scheme", ["s3+http", "oci+http"])
def test_a_store_that_accepts_and_says_nothing(side_by_side, silent_port, scheme):
    """It gives up by itself, before PID 1 would, and says what it waited for."""
    settings = {
        "STORAGE_TYPE": scheme[:2].replace("oc", "oci"), "PATH": "", "STALL_TIMEOUT": "1",
        "LOCATION": f"{scheme}://127.0.0.1:{silent_port}/bucket/archives",
    }  # fmt: skip
    started = []
    for start, containers in side_by_side(create, restore).items():
        port = process.free_port()
        started.append((
            port,
            containers.start(
                "python3", "/tiny.py", options=CREATE if start is create else RESTORE, network="host",
                settings={**settings, "HASH": "d936422b4f953f99", **(SIGNAL if start is create else {}),
                          "AFTER_DUMP": "continue"},
                env={"PORT": str(port), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                     "AWS_REGION": "us-east-1"},
            ),
        ))  # fmt: skip
    for (port, container), event in zip(started, ("Checkpoint not created", FALLBACK), strict=True):
        told = container.wait_for_event(event)
        assert told["reason"] == "Stalled", container.output()
        assert container.json("/health", port=port, limit_s=10) == {"status": "ok"}
        assert_clean(container)
