"""What cannot be frozen is refused by name before the freeze, and what cannot be restored before the first byte."""

import socket
import tempfile

import pytest
from containers import CREATE, ROOT
from launcher import SETTINGS, skip_what_this_machine_lacks

from engines import Engine

UNDUMPABLE = ROOT / "tests" / "container" / "undumpable.py"

#: What an engine holds → reason, and words of the message.
HELD = {
    "io_uring": ("IoUring", "SYS_ADMIN"),
    "sysv_shm": ("SysvShm", "POSIX shared memory"),
    "userfaultfd": ("AnonymousInode", "userfaultfd"),
    "multipath_tcp": ("SocketKind", "MPTCP"),
    "device": ("DeviceOpen", "/dev/fuse"),
    "debugger": ("Traced", "detach the debugger"),
    "seccomp_filter": ("SeccompFilter", "SYS_ADMIN"),
    "other_user": ("OtherUser", "1234"),
    "other_group_for_a_while": ("OtherUser", "effective group"),
    "main_thread_that_ended": ("MainThreadEnded", "main thread"),
    "own_namespace": ("OwnNamespace", "user namespace"),
    "watch_of_a_removed_directory": ("WatchNotFound", "watches inode"),
}


@pytest.mark.parametrize("thing", HELD)
def test_an_engine_that_cannot_be_frozen_is_refused_by_name(containers, thing):
    """Before the freeze; nothing is published, and the message says what to do."""
    reason, words = HELD[thing]
    container = containers.start(
        "python3", "/undumpable.py", thing, *(("--mlock",) if thing == "io_uring" else ()),
        options=(*CREATE, *(("--device", "/dev/fuse") if thing == "device" else ())),
        settings={**SETTINGS, "SIGNAL_FILE": "/tmp/ready"}, volumes=(f"{UNDUMPABLE}:/undumpable.py:ro",),
    )  # fmt: skip
    code = container.exit_code()
    skip_what_this_machine_lacks(container)
    event = container.event("Checkpoint not created")
    assert (code, event["reason"], event["phase"]) == (171, reason, "freeze"), container.output()
    assert words in event["message"]
    assert list(containers.checkpoints.iterdir()) == []
    foretold = container.event("io_uring not withheld")
    assert bool(foretold) == (thing == "io_uring"), "before the engine was started"


def test_what_an_engine_holds_for_a_moment_is_no_obstacle(containers):
    """Such as a pidfd of a child that began after the tree was listed: asyncio has one of each."""
    engine = Engine(
        containers,
        """
        import threading
        threading.Timer(1, os.close, [os.pidfd_open(1)]).start()
        wait()
        done()
        """,
    )
    engine.created()
    engine.restored()


def test_a_connection_that_leads_out_of_the_container(containers):
    """To a daemon of the node, whose socket is mounted."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(f"{directory}/socket")
        daemon.listen()
        container = containers.start(
            "python3", "/undumpable.py", "peer_outside", options=CREATE,
            settings={**SETTINGS, "SIGNAL_FILE": "/tmp/ready"},
            volumes=(f"{UNDUMPABLE}:/undumpable.py:ro", f"{directory}:/outside"),
        )  # fmt: skip
        daemon.settimeout(60)
        accepted, _ = daemon.accept()
        with accepted:
            assert container.exit_code() == 171
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("PeerOutside", "freeze"), container.output()
    assert f"{directory}/socket" in event["message"]
    assert list(containers.checkpoints.iterdir()) == []
