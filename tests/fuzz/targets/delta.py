"""A filesystem delta, index and tar: applied and undone. The tree, and a volume in it, is then as it was."""

import io
import json
import os
import tarfile

from trees import entries

from dynamo_entry.errors import ArchiveError
from dynamo_entry.rootfs import apply, nodes
from dynamo_entry.rootfs.guard import Land
from dynamo_entry.rootfs.index import parse
from dynamo_entry.rootfs.members import XATTR

REFUSALS = (ArchiveError, OSError)

#: What the folder of every run is called in a case: as long as its real name, so that sizes stay right.
_PLACE = "/tmp/fuzz-00000000/work"


def _seed(members, **directories):
    root, output = f"{_PLACE}/root", io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(f"{root}/{name}"[1:])
            info.type, info.mode, info.mtime = kind, 0o644, 1.5
            if kind == tarfile.REGTYPE:
                info.size, info.pax_headers = len(content), {f"{XATTR}user.x": "1"}
            else:
                info.linkname = content.decode()
            tar.addfile(info, io.BytesIO(content))
    index = {
        "paths": [f"{root}/{name}" for name, _, _ in members],
        "directories": {f"{root}/{name}": names for name, names in directories.items()},
    }
    return {"index.json": json.dumps(index).encode(), "delta.tar": output.getvalue()}


SEEDS = [
    _seed([("file", tarfile.REGTYPE, b"other"), ("new", tarfile.REGTYPE, b"new")]),
    _seed([("dir", tarfile.DIRTYPE, b""), ("dir/x", tarfile.REGTYPE, b"x" * 700)], dir=["x", "deep"]),
    _seed([("link", tarfile.SYMTYPE, b"../volume"), ("pipe", tarfile.FIFOTYPE, b"")]),
    _seed(
        [
            ("a", tarfile.REGTYPE, b"a"),
            ("hard", tarfile.LNKTYPE, f"{_PLACE}/root/a"[1:].encode()),
            ("dir", tarfile.SYMTYPE, b"file"),
        ]
    ),
]


def feed(case, place):
    """One restore that is refused, or that fails afterwards."""
    assert len(place) == len(_PLACE)
    root, work, old, new = f"{place}/root", f"{place}/scratch", _PLACE[1:].encode(), place[1:].encode()
    _build(root)
    before = _picture(root)
    os.mkdir(work)
    land = Land(frozenset({f"{root}/volume"}), frozenset({"/"}), frozenset({f"{root}/launcher"}))
    try:
        what = apply.plan(parse(case["index.json"].replace(old, new)), land)
        touched = {*what.expected.files, *what.expected.directories, *what.doomed}
        # What leads out of this folder is not the guard's to refuse: for an engine the whole root is its own.
        if all(path.startswith(f"{root}/") for path in touched):
            apply.apply(what, io.BytesIO(_moved(case["delta.tar"], old, new)), work)
    finally:
        apply.undo(work)
        assert os.listdir(work) == []
        assert _picture(root) == before


def _build(root):
    for directory in ("dir/deep", "volume/models", "launcher"):
        os.makedirs(f"{root}/{directory}")
    for name in ("dir/deep/old", "dir/other", "file", "volume/models/weights", "launcher/code"):
        with open(f"{root}/{name}", "w", encoding="utf-8") as file:
            file.write(name)
    os.symlink("volume", f"{root}/link")


def _moved(data, old, new):
    """With the names of this place; a header whose checksum was right keeps a right one."""
    blocks = []
    for at in range(0, len(data), tarfile.BLOCKSIZE):
        block = data[at : at + tarfile.BLOCKSIZE]
        changed = block.replace(old, new)
        if changed != block and len(block) == tarfile.BLOCKSIZE and _checksum(block) == block[148:156]:
            changed = changed[:148] + _checksum(changed) + changed[156:]
        blocks.append(changed)
    return b"".join(blocks)


def _checksum(block):
    return b"%06o\0 " % tarfile.calc_chksums(block)[0]


def _picture(root):
    return {
        path: (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, content,
            nodes.extended_attributes(path),
        )
        for path, status, content in entries(root)
    }  # fmt: skip
