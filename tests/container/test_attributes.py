"""Attributes of files that another host has, or does not take."""

import shims
from containers import CREATE, RESTORE, ROOT
from launcher import FALLBACK, restore

from engines import Engine

CAPABLE = """
import struct
path = "/var/tmp/tool"
pathlib.Path(path).write_text("#!/bin/sh\\n")
os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
pathlib.Path("/var/tmp/cached").write_text("cached")
wait()
done(os.listxattr(path), pathlib.Path("/var/tmp/cached").read_text())
"""


def test_a_capability_that_cannot_be_given_is_named_and_the_engine_restored(containers):
    engine = Engine(containers, CAPABLE)
    engine.created(options=CREATE)
    container = engine.restored(options=("--cap-drop", "ALL", *RESTORE))
    event = container.event("file attributes not restored")
    assert event and event["paths"] == {"security.capability": "/var/tmp/tool"}, container.output()
    assert "after [] cached" in container.stdout


def test_one_that_can_be_given_is(containers):
    engine = Engine(containers, CAPABLE)
    engine.created(options=CREATE)
    container = engine.restored(options=RESTORE)
    assert "after ['security.capability'] cached" in container.stdout, container.output()
    assert not container.event("file attributes not restored")


#: Files of the image that are written to, one that is deleted, and a new one.
CHANGES = """
written, deleted, made = (pathlib.Path(path) for path in ("/etc/issue", "/etc/host.conf", "/opt/made"))
print("found", "Debian" in written.read_text(), deleted.exists(), made.exists(), flush=True)
written.write_text("written by the engine")
deleted.unlink()
made.write_text("made")
wait()
done(written.read_text(), deleted.exists(), made.read_text())
"""


def test_labels_of_selinux_are_no_obstacle_to_a_restore_or_its_undo(containers, tmp_path):
    """They cannot be set; a cold start after a restore that failed finds the files of its image."""
    labels = shims.preloaded(tmp_path, ROOT / "tests" / "container" / "selinux.c")
    engine = Engine(containers, CHANGES)
    creator = engine.created(options=(*CREATE, *labels))
    assert "found True True False" in creator.stdout
    container = engine.restored(options=(*RESTORE, *labels))
    assert "after written by the engine False made" in container.stdout, container.output()
    assert not container.event("file attributes not restored")
    cold = restore(
        containers, command=engine.command, options=(*RESTORE, *labels), settings={"POST_RESTORE": "exit 3"}
    )
    assert cold.wait_for_event(FALLBACK)["reason"] == "HookFailed"
    cold.wait_for_text("found True True False")
    assert not cold.event("filesystem delta not undone")
