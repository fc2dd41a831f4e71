"""Attributes of files that another host has, or does not take."""

from containers import CREATE, RESTORE

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
