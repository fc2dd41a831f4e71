"""Archives that somebody made by hand, every digest right: refused at little cost, and everything is as it was."""

import io
import json
import struct
import tarfile

import pytest
from archive_store import build, contents, open_bytes
from containers import RESTORE, Containers
from launcher import COMMAND, FALLBACK, NAME, restore

from dynamo_entry.archive.streams import DELTA_INDEX, DELTA_TAR

MAGIC = struct.pack("<II", 0x54564319, 0x57492820)


def records(*bodies):
    return MAGIC + b"".join(struct.pack("<I", len(body)) + body for body in bodies)


#: Image → what takes many times its size once it is decoded: parts of two bytes, records of none, entries without end.
IMAGES = {
    "mappings of nothing": ("mm-1000.img", records(b"\x72\x00" * 8_000_000)),
    "mappings of next to nothing": ("mm-1000.img", records(b"\x72\x02\x08\x00" * 4_000_000)),
    "a task of nothing, many times": ("core-1000.img", records(b"\x1a\x02\x1a\x00" * 4_000_000)),
    "files of nothing": ("files.img", records(b"\x1a\x00" * 8_000_000)),
    "records of nothing": ("fdinfo-2.img", records(*[b""] * 4_000_000)),
    "a pagemap of pages that are not there": (
        "pagemap-1000.img",
        records(b"\x08\x01", *[b"\x08\x80\x80\x80\x80\xf0\x0f\x10\x01\x20\x01"] * 1_500_000),
    ),
    "threads without end": ("pstree.img", records(b"\x08\xe8\x07\x10\x00\x18\xe8\x07\x20\xe8\x07" + b"\x28\xe8\x07" * 5_000_000)),
    "zeros without end": ("mm-1000.img", bytes(200 << 20)),
}  # fmt: skip


def forged(stored, change, **options):
    """The archive with other streams; its head is as it was, and so the launcher believes it."""
    data = stored.read_bytes()
    streams = contents(data)
    change(streams)
    with open_bytes(data) as archive:
        head = archive.manifest.head
    return build(streams, head=head, compression="zstd:3", chunk_size=4 << 20, **options)


@pytest.fixture(scope="module")
def archive(stored):
    return stored()


@pytest.fixture
def refused(containers, archive):
    """Restores a forged archive in 192 MiB; returns the container that started cold, and why."""

    def run(change, **how):
        (containers.checkpoints / NAME).write_bytes(forged(archive, change))
        options = (*RESTORE, "--memory", "192m", "--memory-swap", "192m")
        container = restore(containers, options=options, **how)
        event = container.wait_for_event(FALLBACK)
        assert container.json("/health") == {"status": "ok"}
        return container, event

    return run


@pytest.mark.parametrize("what", IMAGES)
def test_an_image_that_would_fill_the_memory(refused, what):
    name, image = IMAGES[what]
    _, event = refused(lambda streams: streams.update({f"criu/{name}": image}))
    assert event["reason"] in ("ImagesInvalid", "TooLarge", "PidTaken"), event
    assert event["phase"] in ("check", "plan")


def delta(*members):
    """A tar of (name, kind, content or target), and the index that names them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6755
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.decode()
                tar.addfile(info)
    return buffer.getvalue(), [f"/{name.lstrip('/')}" for name, _, _ in members]


REG, SYM, LNK, DIR, CHR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE

DELTAS = {
    "the same name twice": [("tmp/x", REG, b"1"), ("tmp/x", REG, b"2")],
    "a link, then through it": [("tmp/l", SYM, b"/etc"), ("tmp/l/passwd", REG, b"evil")],
    "a directory that becomes a link": [("tmp/d", DIR, b""), ("tmp/d", SYM, b"/etc"), ("tmp/d/passwd", REG, b"evil")],
    "over the launcher": [("tmp/first", REG, b"1"), ("opt/dynamo_entry/bin/python", REG, b"evil")],
    "over CRIU": [("tmp/first", REG, b"1"), ("usr/sbin/criu", SYM, b"/tmp/first")],
    "onto the volume": [("tmp/first", REG, b"1"), ("checkpoints", SYM, b"/tmp")],
    "into the volume": [("tmp/first", REG, b"1"), ("checkpoints/planted", REG, b"evil")],
    "into /proc": [("tmp/first", REG, b"1"), ("proc/sys/kernel/core_pattern", REG, b"|/tmp/x")],
    "into /dev": [("tmp/first", REG, b"1"), ("dev/planted", REG, b"evil")],
    "upwards": [("tmp/first", REG, b"1"), ("tmp/../../etc/passwd", REG, b"evil")],
    "a device": [("tmp/first", REG, b"1"), ("tmp/sda", CHR, b"")],
    "a hard link to what is not its own": [("tmp/first", REG, b"1"), ("tmp/shadow", LNK, b"etc/shadow")],
    "in place of a directory": [("tmp/first", REG, b"1"), ("etc", REG, b"evil")],
    "in place of everything": [("tmp/first", REG, b"1"), ("", SYM, b"/tmp")],
    "what the index does not name": None,
    "an index that names more": None,
}  # fmt: skip

#: Every path of the container's own filesystem but the launcher's log directory: kind, mode, owner, size, time, target.
TREE = (
    "find / -xdev '(' -path /proc -o -path /run -o -path /sys -o -path /checkpoints -o -path /etc/hosts -o -path /etc/hostname "
    "-o -path /etc/resolv.conf ')' -prune -o -printf '%p %y %m %U %G %s %T@ %l\\n' | "
    "grep -v '^/ \\|^/tmp d \\|^/tmp/ready\\|^/run \\|__pycache__'; find /checkpoints; sha256sum /etc/passwd /etc/shadow"
)


def tree(container):
    return set(container.run_inside("sh", "-c", TREE).splitlines())


def spoil(what):
    def change(streams):
        members = DELTAS[what]
        named = None
        if what == "what the index does not name":
            members, named = [("tmp/first", REG, b"1"), ("tmp/second", REG, b"evil")], ["/tmp/first"]
        elif what == "an index that names more":
            members, named = [("tmp/first", REG, b"1")], ["/tmp/first", "/tmp/second"]
        streams[DELTA_TAR], paths = delta(*members)
        streams[DELTA_INDEX] = json.dumps(
            {"paths": named or [*dict.fromkeys(paths)], "directories": {}}
        ).encode()

    return change


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """The tree of a container that was never restored."""
    place = Containers(tmp_path_factory.mktemp("untouched"))
    container = place.start(*COMMAND, options=RESTORE)
    container.json("/health")
    yield in_the_container(container)
    place.close()


def in_the_container(container):
    """But for what podman makes anew in every container."""
    made = ("/checkpoints", "/etc d", "/dev d", "/etc/mtab")
    return {line for line in tree(container) if not line.startswith(made)}


@pytest.mark.parametrize("what", DELTAS)
def test_a_delta_that_reaches_for_what_is_not_the_engines(refused, untouched, what):
    container, event = refused(spoil(what))
    assert event["reason"] not in ("InternalError", "WorkerLost"), event
    assert in_the_container(container) == untouched
    on_the_volume = {line for line in tree(container) if line.startswith("/checkpoints")}
    assert on_the_volume == {"/checkpoints", f"/checkpoints/{NAME}"}
