"""The filesystem delta: every change is found, nothing escapes, and what was applied can be taken back."""

import errno
import fcntl
import io
import os
import shutil
import socket
import stat
import struct
import time

import pytest
from trees import entries

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import mounts
from dynamo_entry.rootfs import apply, changes, journal, nodes, pack
from dynamo_entry.rootfs.guard import Guard, Land
from dynamo_entry.rootfs.index import Index

MOUNTINFO = """\
22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/l
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /dev rw - tmpfs tmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs shm rw
26 22 8:1 /pods/x /models rw - ext4 /dev/sda1 rw
27 22 8:1 /pods/y /my\\040volume rw - ext4 /dev/sda1 rw
28 22 0:24 / /run/secrets ro - tmpfs tmpfs ro
29 22 8:1 /hosts /etc/hosts rw - ext4 /dev/sda1 rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 8:1 /z /var/tmp rw - ext4 /dev/sda1 rw
"""


def test_the_root_and_private_tmpfs_travel_and_volumes_do_not():
    parsed = mounts.parse(MOUNTINFO)
    assert mounts.captured_roots(parsed) == ["/", "/dev/shm", "/tmp"]
    assert mounts.captured_roots(parsed, ("/models",)) == ["/", "/dev/shm", "/tmp", "/models"]


@pytest.mark.parametrize(
    ("asked", "added"),
    [
        (("/models/sub",), ["/models/sub"]),
        (("/models/sub", "/models", "/models/sub/deep"), ["/models"]),
        (("/opt/in/the/image", "/tmp", "/tmp/sub", "/"), []),
        (("/my volume", "/models"), ["/models", "/my volume"]),
    ],
)
def test_what_travels_anyhow_is_not_captured_twice(asked, added):
    """An index that names a path twice is none."""
    assert mounts.captured_roots(mounts.parse(MOUNTINFO), asked) == ["/", "/dev/shm", "/tmp", *added]


@pytest.mark.parametrize(
    ("path", "volume"),
    [("/models/sub", ""), ("/models/sub/x", ""), ("/models/other", "/models"), ("/models", "/models")],
)
def test_a_directory_of_a_mount_may_travel_alone(path, volume):
    parsed = mounts.parse(MOUNTINFO)
    roots = mounts.captured_roots(parsed, ("/models/sub",))
    assert mounts.volume_of(path, parsed, roots) == volume
    land = Land(frozenset(mount.point for mount in parsed) - {"/"}, frozenset(roots), frozenset())
    assert Guard(land).volume_of(path) == volume


@pytest.mark.parametrize(
    ("path", "volume"),
    [
        ("/models/a/b", "/models"),
        ("/modelsother", ""),
        ("/my volume/x", "/my volume"),
        ("/etc/hosts", "/etc/hosts"),
        ("/tmp/x", ""),
        ("/usr/bin/python3", ""),
    ],
)
def test_a_path_belongs_to_its_nearest_mount(path, volume):
    parsed = mounts.parse(MOUNTINFO)
    assert mounts.volume_of(path, parsed, mounts.captured_roots(parsed)) == volume


@pytest.fixture
def tree(tmp_path):
    """A small filesystem as an image would have it, settled before the mark."""
    for name in ("kept", "written", "chmodded", "backdated", "deleted", "replaced", "mapped"):
        (tmp_path / name).write_text(name)
    (tmp_path / "dir" / "deep").mkdir(parents=True)
    (tmp_path / "dir" / "deep" / "old").write_text("old")
    time.sleep(0.02)
    return tmp_path


def found(tree, start, skip=()):
    return {change.path: change for change in changes.find(start, frozenset(map(str, skip)))}


def test_caches_that_are_rebuilt_are_left_out(tmp_path):
    """Byte code of thousands of modules would be most of a delta; a file of that name is a file like any other."""
    (start,) = changes.mark([str(tmp_path)])
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "package" / "__pycache__" / "a.pyc").touch()
    (tmp_path / "package" / "a.py").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__pycache__").touch()
    found = changes.find(start, frozenset(), frozenset(("__pycache__",)))
    names = {os.path.relpath(change.path, tmp_path) for change in found}
    assert names == {".", "package", "package/a.py", "other", "other/__pycache__"}


def test_a_clock_that_is_set_back_hides_no_change(tree):
    """By a step of NTP, or the host of a machine that was suspended: an hour, here, since the mark."""
    (start,) = changes.mark([str(tree)])
    hour = 3600 * 10**9
    marked = start._replace(ctime_ns=start.ctime_ns + hour, offset_ns=start.offset_ns + hour)
    (tree / "written").write_text("other")
    assert not found(tree, marked)
    (corrected,) = changes.set_back([marked])
    assert str(tree / "written") in found(tree, corrected)
    assert changes.set_back([corrected._replace(offset_ns=0)])[0].ctime_ns == corrected.ctime_ns, (
        "set forward"
    )


def test_changes_are_found_by_ctime_alone(tree):
    (start,) = changes.mark([str(tree)])
    (tree / "written").write_text("other")
    (tree / "chmodded").chmod(0o600)
    old = (tree / "backdated").stat()
    (tree / "backdated").write_text("backdateD")
    os.utime(tree / "backdated", ns=(old.st_atime_ns, old.st_mtime_ns))
    (tree / "deleted").unlink()
    (tree / "new").write_text("new")
    (tree / "dir" / "deep" / "link").symlink_to("/nowhere")
    changed = found(tree, start)
    names = {os.path.relpath(path, tree) for path in changed}
    assert names >= {"written", "chmodded", "backdated", "new", "dir/deep/link", "dir/deep", "."}
    assert not names & {"kept", "deleted", "dir", "dir/deep/old"}
    assert "deleted" not in changed[str(tree)].names


def test_what_a_renamed_directory_holds_travels_with_it(tree):
    """Its files keep their change times, wherever directories are renamed and not copied."""
    (start,) = changes.mark([str(tree)])
    (tree / "dir").rename(tree / "moved")
    names = {os.path.relpath(path, tree) for path in found(tree, start)}
    assert names >= {".", "moved", "moved/deep", "moved/deep/old"}


def test_what_a_renamed_directory_holds_is_lost_where_its_names_changed_afterwards(tree):
    """It looks like any old directory with a new file. A copy has a new time in every file."""
    (start,) = changes.mark([str(tree)])
    shutil.copytree(tree / "dir", tree / "copied")
    (tree / "dir").rename(tree / "moved")
    for name in ("copied", "moved"):
        (tree / name / "new").touch()
    names = {os.path.relpath(path, tree) for path in found(tree, start)}
    assert names == {".", "moved", "moved/new", "copied", "copied/new", "copied/deep", "copied/deep/old"}


def test_a_directory_that_was_not_renamed_is_not_taken_whole(tree):
    """One whose own attributes changed, in one whose names did not; any, where directories are copied."""
    (start,) = changes.mark([str(tree)])
    (tree / "dir" / "deep").chmod(0o700)
    names = {os.path.relpath(path, tree) for path in found(tree, start)}
    assert "dir/deep" in names
    assert "dir/deep/old" not in names
    (copying,) = changes.mark([str(tree)], without_renames={str(tree)})
    (tree / "dir").rename(tree / "moved")
    assert str(tree / "moved" / "deep" / "old") not in found(tree, copying)


@pytest.mark.parametrize(
    ("mount", "is_copying"),
    [
        ("/ / rw - overlay overlay rw,lowerdir=/l,redirect_dir=off", True),
        ("/ / rw - overlay overlay rw,lowerdir=/l,redirect_dir=nofollow,metacopy=off", True),
        ("/ / rw - overlay overlay rw,lowerdir=/l,redirect_dir=on,metacopy=on", False),
        ("/ / rw - overlay overlay rw,lowerdir=/l", True),
        ("/ / rw - btrfs /dev/vda rw", False),
    ],
)
def test_where_directories_are_copied_and_not_renamed(monkeypatch, mount, is_copying):
    monkeypatch.setattr(mounts, "_redirects_by_default", lambda: False)
    found = mounts.without_renames(mounts.parse(f"22 1 0:20 {mount}\n"))
    assert found == ({"/"} if is_copying else set())


def test_any_name_of_a_mount_point_is_read():
    """A line ends at a newline alone, whatever else ends one for Python."""
    text = "22 1 0:20 / /a\x85b\u2028c\x0cd rw - tmpfs tmpfs rw\n"
    assert [mount.point for mount in mounts.parse(text)] == ["/a\x85b\u2028c\x0cd"]


def test_what_cannot_be_looked_at_is_not_passed_over(tree, monkeypatch):
    """But for what is gone, or not this user's business."""
    (start,) = changes.mark([str(tree)])
    (tree / "dir" / "new").touch()
    real = os.lstat

    def failing(number):
        def lstat(path):
            if path == str(tree / "dir"):
                raise OSError(number, os.strerror(number), path)
            return real(path)

        return lstat

    for number in (errno.ENOENT, errno.EACCES):
        monkeypatch.setattr(os, "lstat", failing(number))
        assert str(tree / "dir" / "new") not in found(tree, start)
    monkeypatch.setattr(os, "lstat", failing(errno.EIO))
    with pytest.raises(OSError, match=str(tree / "dir")):
        found(tree, start)


def test_what_is_made_where_nothing_was_yet_is_found(tmp_path):
    """A directory of CAPTURE_PATHS that the engine makes, or a single file."""
    starts = changes.mark([str(tmp_path / "later"), str(tmp_path / "file")])
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "x").touch()
    (tmp_path / "file").touch()
    found = {change.path for change in changes.find_all(starts, frozenset(), frozenset(), {})}
    assert found == {str(tmp_path / name) for name in ("later", "later/x", "file")}


def test_an_excluded_path_is_known_by_the_names_that_a_walk_meets(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other").symlink_to("real/file")
    names = {
        path: {*changes.as_found([str(tmp_path / path)])} for path in ("link/file", "other", "real/file")
    }
    real, other = str(tmp_path / "real" / "file"), str(tmp_path / "other")
    assert names == {
        "link/file": {str(tmp_path / "link/file"), real},
        "other": {other, real},
        "real/file": {real},
    }


def test_a_change_right_after_the_mark_is_not_missed(tmp_path):
    for attempt in range(50):
        (start,) = changes.mark([str(tmp_path)])
        path = tmp_path / f"file{attempt}"
        path.write_text("x")
        assert str(path) in found(tmp_path, start)


def test_skipped_paths_are_not_entered_but_still_count_as_present(tree):
    (start,) = changes.mark([str(tree)])
    (tree / "secret").mkdir()
    (tree / "secret" / "token").write_text("t")
    changed = found(tree, start, skip=[tree / "secret"])
    assert not any("secret" in path for path in changed)
    assert "secret" in changed[str(tree)].names


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_mark_needs_neither_room_nor_right(tmp_path, monkeypatch, number):
    """The root may be full, or another user's, and the engine changes files below it all the same."""

    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number))

    for number_of_file in range(50):
        with monkeypatch.context() as patched:
            patched.setattr("tempfile.TemporaryFile", refuse)
            (start,) = changes.mark([str(tmp_path)])
        (tmp_path / str(number_of_file)).touch()
        assert str(tmp_path / str(number_of_file)) in [
            found.path for found in changes.find(start, frozenset())
        ]


def test_a_filesystem_that_cannot_be_written_has_no_mark(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert changes.mark([str(tmp_path)]) == []


def delta(start, skip=()):
    output = io.BytesIO()
    index = pack.pack(changes.find(start, frozenset(skip)), output)
    output.seek(0)
    return index, output


def snapshot(root):
    rows = {}
    for path, status, content in entries(root):
        mtime = status.st_mtime_ns if not stat.S_ISLNK(status.st_mode) else 0
        rows[path] = (status.st_mode, status.st_uid, status.st_gid, content, mtime)
    return rows


def change_everything(tree):
    (tree / "written").write_text("w" * 100_000)
    (tree / "deleted").unlink()
    (tree / "replaced").unlink()
    (tree / "replaced").mkdir()
    (tree / "replaced" / "inside").write_text("i")
    (tree / "new").write_text("new")
    os.link(tree / "new", tree / "hard")
    (tree / "sym").symlink_to("new")
    os.mkfifo(tree / "fifo")
    (tree / "empty").mkdir(mode=0o711)
    (tree / "dir" / "deep" / "old").rename(tree / "dir" / "moved")
    os.utime(tree / "new", ns=(1, 1_234_567_890_123_456_789))
    os.setxattr(tree / "new", "user.mark", b"\xff\x00x")


#: tmp_path may lie on a tmpfs of the test machine, whose deletions a real container would ignore.
LAND = Land(frozenset(), frozenset({"/"}), frozenset())


def applied(index, tar, work):
    apply.apply(apply.plan(index, LAND), tar, work)


def test_a_delta_is_applied_in_a_fresh_place_and_taken_back(tree, tmp_path_factory):
    work = str(tmp_path_factory.mktemp("work"))
    before = snapshot(tree)
    (start,) = changes.mark([str(tree)])
    change_everything(tree)
    after = snapshot(tree)
    index, tar = delta(start)
    # the fresh place: the image's state at the very same path
    for path in sorted(after, key=len, reverse=True):
        if path != str(tree):
            nodes.remove(path)
    (tree / "dir" / "deep").mkdir(parents=True)
    for path, (mode, _, _, content, mtime) in before.items():
        if stat.S_ISREG(mode):
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, stat.S_IMODE(mode))
            os.utime(path, ns=(mtime, mtime))
    for path in (tree / "dir" / "deep", tree / "dir", tree):
        os.utime(path, ns=(before[str(path)][4],) * 2)
    fresh = snapshot(tree)
    assert fresh == before

    applied(index, tar, work)
    present = snapshot(tree)
    for path, row in after.items():
        assert present[path] == row, path
    assert not (tree / "deleted").exists()
    assert (tree / "new").stat().st_ino == (tree / "hard").stat().st_ino
    assert os.getxattr(tree / "new", "user.mark") == b"\xff\x00x"

    assert apply.undo(work)
    assert snapshot(tree) == before
    assert not apply.undo(work)


def test_what_is_gone_before_it_is_packed_is_left_out(tree):
    """Another container may remove what is its own in a directory that both have; a second name does not need the first."""
    (start,) = changes.mark([str(tree)])
    for name in ("file", "later"):
        (tree / name).write_text("x")
    (tree / "link").symlink_to("file")
    os.link(tree / "later", tree / "another")
    found = sorted(changes.find(start, frozenset()), key=lambda change: change.path != str(tree / "later"))
    for name in ("file", "link", "later"):
        (tree / name).unlink()
    output = io.BytesIO()
    index = pack.pack(found, output)
    assert index.paths == [str(tree), str(tree / "another")]
    output.seek(0)
    nodes.remove(str(tree / "another"))
    applied(index, output, str(tree))
    assert (tree / "another").read_text() == "x"


@pytest.mark.parametrize("content", [b"x", b"y" * 200_000, b""])
def test_a_file_is_packed_as_it_is_when_it_is_packed(tree, tmp_path_factory, content):
    """Another container may write to it, in a directory that both have, while CRIU still dumps."""
    (start,) = changes.mark([str(tree)])
    (tree / "new").write_bytes(b"x" * 100_000)
    found = list(changes.find(start, frozenset()))
    (tree / "new").write_bytes(content)
    (tree / "new").chmod(0o751)
    os.utime(tree / "new", ns=(1, 1_234_567_890_123_456_789))
    expected = snapshot(tree)[str(tree / "new")]
    output = io.BytesIO()
    index = pack.pack(found, output)
    output.seek(0)
    nodes.remove(str(tree / "new"))
    applied(index, output, str(tmp_path_factory.mktemp("work")))
    assert snapshot(tree)[str(tree / "new")] == expected


def test_a_file_that_gets_shorter_while_it_is_read_ends_in_zeros(tree, tmp_path_factory):
    class Output(io.BytesIO):
        def write(self, data):
            os.truncate(tree / "new", 1000)
            return super().write(data)

    (start,) = changes.mark([str(tree)])
    (tree / "new").write_bytes(b"x" * (3 << 20))
    output = Output()
    index = pack.pack(changes.find(start, frozenset()), output)
    output.seek(0)
    nodes.remove(str(tree / "new"))
    applied(index, output, str(tmp_path_factory.mktemp("work")))
    data = (tree / "new").read_bytes()
    assert len(data) == 3 << 20
    assert set(data[:1000]) == {ord("x")}
    assert not any(data[-1000:])


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_a_file_that_became_something_else_is_left_out(tree, kind):
    (start,) = changes.mark([str(tree)])
    (tree / "new").write_text("x")
    found = list(changes.find(start, frozenset()))
    (tree / "new").unlink()
    (tree / "new").mkdir() if kind == "directory" else os.mkfifo(tree / "new")
    assert str(tree / "new") not in pack.pack(found, io.BytesIO()).paths


def test_a_file_that_cannot_be_read_is_named(tree, monkeypatch):
    """What a descriptor is refused does not say of which file."""

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (start,) = changes.mark([str(tree)])
    (tree / "new").write_bytes(b"x" * 100_000)
    found = list(changes.find(start, frozenset()))
    monkeypatch.setattr(pack._Padded, "read", fails)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        pack.pack(found, io.BytesIO())
    assert caught.value.filename == str(tree / "new")
    assert caught.value.strerror


def test_an_empty_delta_is_fine(tmp_path_factory):
    apply.apply(*no_change(), str(tmp_path_factory.mktemp("work")))


def test_what_is_going_to_be_touched_is_known_beforehand(tree):
    """New files, changed ones, directories that are not here; not a directory that is."""
    index = Index([str(tree / name) for name in ("new", "kept", "dir", "no")], {str(tree / "dir"): ["deep"]})
    index.directories[str(tree / "no")] = []
    assert set(apply.plan(index, LAND).touched()) == {str(tree / name) for name in ("new", "kept", "no")}
    (tree / "dir" / "extra").touch()
    assert str(tree / "dir" / "extra") in set(apply.plan(index, LAND).touched())
    (tree / "link").symlink_to(tree / "dir")
    with pytest.raises(Incompatible):
        apply.plan(Index([str(tree / "link" / "x")], {}), LAND)


HOLES = {
    "only a hole": ((), 5 << 20),
    "data first": (((0, b"x" * 5000),), 5 << 20),
    "data last": (((4 << 20, b"y" * (1 << 20)),), 5 << 20),
    "data in the middle": (((1 << 20, b"a" * 70_000), (3 << 20, b"b")), (5 << 20) + 123),
}


@pytest.mark.parametrize("case", HOLES)
def test_files_with_holes_keep_them(tree, tmp_path_factory, case):
    """In the tar there is no more than their data, and GNU tar reads it, too."""
    import subprocess

    pieces, size = HOLES[case]
    (start,) = changes.mark([str(tree)])
    path = tree / "sparse"
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    expected = path.read_bytes()
    index, output = delta(start)
    assert len(output.getvalue()) < sum(len(data) for _, data in pieces) + 200_000
    path.unlink()
    applied(index, output, str(tmp_path_factory.mktemp("work")))
    assert path.read_bytes() == expected
    assert path.stat().st_blocks * 512 < size or not any(pieces)
    path.unlink()
    subprocess.run(["tar", "-xf", "-", "-C", "/", str(path)[1:]], input=output.getvalue(), check=True)
    assert path.read_bytes() == expected


def stale_socket(path):
    """What an ended process leaves."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("way", [".", "link"])
def test_what_is_made_later_is_taken_back_too(tmp_path, tmp_path_factory, way):
    """A socket gives way to CRIU's, which is bound anew, by whatever name; a file that comes and goes was not there."""
    work = str(tmp_path_factory.mktemp("work"))
    (tmp_path / "link").symlink_to(".")
    taken, fresh, passing, kept = (
        str(tmp_path / way / name) for name in ("taken", "fresh", "passing", "kept")
    )
    stale_socket(taken)
    number = os.lstat(taken).st_ino
    with open(kept, "w") as file:
        file.write("before")
    before = snapshot(tmp_path)
    others = apply.Others(bound=(taken, fresh), passing=(passing, kept))
    apply.apply(*no_change(), work, others)
    assert not os.path.lexists(taken)
    assert os.path.lexists(kept)
    for path in (taken, fresh, passing):
        with open(path, "w") as file:
            file.write("CRIU's")
    assert apply.undo(work)
    assert os.lstat(taken).st_ino == number
    assert {path: row[3] for path, row in snapshot(tmp_path).items()} == {
        path: row[3] for path, row in before.items()
    }


@pytest.mark.parametrize("is_volume", [True, False])
def test_a_file_on_a_volume_never_gives_way_to_a_socket(tmp_path, tmp_path_factory, is_volume):
    """Whatever an archive names: nothing would bring it back once it is settled. One of the image's was gone at the freeze."""
    work = str(tmp_path_factory.mktemp("work"))
    weights = tmp_path / "weights"
    weights.write_text("precious")
    points = LAND.points | {str(tmp_path)} if is_volume else LAND.points
    apply.apply(*no_change(LAND._replace(points=points)), work, apply.Others(bound=(str(weights),)))
    apply.settle(work)
    assert weights.exists() == is_volume


def test_a_socket_is_found_where_a_link_of_the_delta_leads(tree, tmp_path_factory):
    work, volume = str(tmp_path_factory.mktemp("work")), tmp_path_factory.mktemp("volume")
    stale_socket(volume / "socket")
    (start,) = changes.mark([str(tree)])
    (tree / "way").symlink_to(volume)
    index, tar = delta(start)
    (tree / "way").unlink()
    others = apply.Others(bound=(f"{tree}/way/socket", f"{tree}/way/fresh"))
    apply.apply(apply.plan(index, LAND), tar, work, others)
    assert not (volume / "socket").exists()
    for name in ("socket", "fresh"):
        stale_socket(volume / name)
    assert apply.undo(work)
    assert os.listdir(volume) == ["socket"]


def no_change(land=LAND):
    """A delta of nothing: its plan, its tar file."""
    tar = io.BytesIO()
    pack.pack([], tar)
    tar.seek(0)
    return apply.plan(Index([], {}), land), tar


def test_a_missing_log_is_made_with_its_mode_and_taken_back(tmp_path, tmp_path_factory):
    work = str(tmp_path_factory.mktemp("work"))
    log, index = str(tmp_path / "logs" / "log"), str(tmp_path / "db-shm")
    lacking = (apply.Lacking(log, 0o620), apply.Lacking(index, 0o400, 32768, stays=True))
    before = contents(tmp_path)
    apply.apply(*no_change(), work, apply.Others(lacking))
    made = {log: (0o100620, b""), index: (0o100400, bytes(32768))}
    assert contents(tmp_path).items() >= made.items()
    assert apply.undo(work)
    assert contents(tmp_path) == before | {index: made[index]}


@pytest.mark.parametrize("is_flock", [True, False])
def test_an_empty_file_that_another_replica_has_locked_is_not_taken_back(
    tmp_path, tmp_path_factory, is_flock
):
    """A third one would make and lock another file of that name, and two would have the lock."""
    work = str(tmp_path_factory.mktemp("work"))
    locked, free = tmp_path / "new" / "locked", tmp_path / "free"
    lacking = tuple(apply.Lacking(str(path), 0o600) for path in (locked, free))
    apply.apply(*no_change(), work, apply.Others(lacking))
    with locked.open("r+") as other:
        if is_flock:
            fcntl.flock(other, fcntl.LOCK_EX)
        else:
            fcntl.fcntl(other, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
        assert apply.undo(work)
    assert (locked.exists(), free.exists()) == (True, False)


def contents(root):
    """What is at and below a path, without the times: those of directories change."""
    return {path: (row[0], row[3]) for path, row in snapshot(root).items()}


def test_what_another_replica_may_have_mapped_is_never_taken_back(tmp_path, tmp_path_factory):
    """The index of a running SQLite keeps its size, and its log begins empty: a second one of either would corrupt."""
    work = str(tmp_path_factory.mktemp("work"))
    log, index = tmp_path / "new" / "db-wal", tmp_path / "new" / "db-shm"
    lacking = (
        apply.Lacking(str(log), 0o600, stays=True),
        apply.Lacking(str(index), 0o600, 32768, stays=True),
    )
    apply.apply(*no_change(), work, apply.Others(lacking))
    with index.open("r+b") as other:
        other.write(b"an index in use")
    before = contents(tmp_path)
    assert apply.undo(work)
    assert contents(tmp_path) == before


def test_a_file_that_is_too_short_is_enlarged_and_one_that_is_not_stays(tmp_path, tmp_path_factory):
    short, long = tmp_path / "short-shm", tmp_path / "long-shm"
    short.write_bytes(b"s")
    long.write_bytes(b"l" * 3_000_000)
    lacking = tuple(apply.Lacking(str(path), 0o600, 2_500_000, stays=True) for path in (short, long))
    apply.apply(*no_change(), str(tmp_path_factory.mktemp("work")), apply.Others(lacking))
    assert short.read_bytes() == b"s" + bytes(2_499_999)
    assert long.read_bytes() == b"l" * 3_000_000


def test_a_file_that_another_replica_enlarges_meanwhile_does_not_shrink(
    tmp_path, tmp_path_factory, monkeypatch
):
    """Whoever has it mapped would be killed by SIGBUS."""
    index = tmp_path / "db-shm"
    index.touch()
    fstat = os.fstat

    def late(descriptor):
        status = fstat(descriptor)
        if status.st_ino == index.stat().st_ino and status.st_size == 0:
            index.write_bytes(b"x" * 65536)
        return status

    lacking = (apply.Lacking(str(index), 0o600, 32768, stays=True),)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", late)
        apply.apply(*no_change(), str(tmp_path_factory.mktemp("work")), apply.Others(lacking))
    assert index.read_bytes()[:65536] == b"x" * 65536


@pytest.mark.parametrize("has_reader", [True, False])
def test_what_is_no_file_is_not_enlarged(tmp_path, tmp_path_factory, has_reader):
    """A pipe would take the launcher for a writer, or keep it waiting."""
    pipe = str(tmp_path / "db-shm")
    os.mkfifo(pipe)
    reader = os.open(pipe if has_reader else os.devnull, os.O_RDONLY | os.O_NONBLOCK)
    lacking = (apply.Lacking(pipe, 0o600, 32768, stays=True),)
    try:
        with pytest.raises(OSError, match=pipe):
            apply.apply(*no_change(), str(tmp_path_factory.mktemp("work")), apply.Others(lacking))
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


BREAKS = [
    ("note logs", 1),
    ("open log", 1),
    ("note log", 1),
    ("chmod", 1),
    ("open db-shm", 1),
    ("chmod", 2),
    ("write", 1),
    ("write", 2),
]


@pytest.mark.parametrize("broken", BREAKS)
def test_making_files_that_breaks_off_anywhere_is_undone(tmp_path, tmp_path_factory, monkeypatch, broken):
    """Of the index a part may stay: it is all zeros."""
    work = str(tmp_path_factory.mktemp("work"))
    index = str(tmp_path / "db-shm")
    lacking = (
        apply.Lacking(str(tmp_path / "logs" / "log"), 0o620),
        apply.Lacking(index, 0o600, 2_500_000, stays=True),
    )
    before = contents(tmp_path)
    seen = []

    def failing(name, call):
        def wrapped(*arguments):
            seen.append(at_work(name, arguments))
            if broken == (seen[-1], seen.count(seen[-1])):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments)

        return wrapped

    with monkeypatch.context() as patched:
        for owner, name in ((os, "open"), (os, "fchmod"), (os, "write"), (journal.Journal, "_write")):
            patched.setattr(owner, name, failing(name, getattr(owner, name)))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            apply.apply(*no_change(), work, apply.Others(lacking))
    assert apply.undo(work)
    after = contents(tmp_path)
    mode, data = after.pop(index, (0o100600, b""))
    assert after == before
    assert (mode, any(data)) == (0o100600, False)


def at_work(name, arguments):
    """What a call does while files are made; nothing if it does something else."""
    if name == "open" and arguments[1] & os.O_CREAT and arguments[1] & os.O_NONBLOCK:
        return f"open {os.path.basename(arguments[0])}"
    if name == "_write" and arguments[1] and arguments[1][0][0] == "added":
        return f"note {os.path.basename(arguments[1][0][1])}"
    if name == "write" and not any(arguments[1]):
        return "write"
    return "chmod" if name == "fchmod" else ""


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS, errno.ESTALE, errno.EIO])
def test_a_volume_that_refuses_does_not_keep_the_rest_from_being_undone(
    tmp_path, tmp_path_factory, monkeypatch, refusal
):
    """The failure is reported at the end, and the undo can be repeated: it keeps an empty log that existed before the restore."""
    work = str(tmp_path_factory.mktemp("work"))
    taken, doomed, refused = (tmp_path / name for name in ("taken", "doomed", "refused"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(taken))
    doomed.mkdir()
    (doomed / "log").touch()
    before = contents(tmp_path)
    lacking = tuple(apply.Lacking(f"{directory}/log", 0o600) for directory in (refused, doomed))
    plan, tar = no_change()
    plan = plan._replace(doomed=(str(doomed),))
    apply.apply(plan, tar, work, apply.Others(lacking, bound=(str(taken), f"{tmp_path}/fresh")))
    (tmp_path / "fresh").write_text("CRIU's")
    unlink = os.unlink

    def refuses(path, *more, **options):
        if path == f"{refused}/log":
            raise OSError(refusal, os.strerror(refusal), path)
        unlink(path, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuses)
        with pytest.raises(OSError, match=f"{refused}/log"):
            apply.undo(work)
    assert contents(tmp_path).keys() == before.keys() | {str(refused), f"{refused}/log"}
    assert apply.undo(work)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_another_pod_put_in_place_of_what_was_made_stays(tmp_path, tmp_path_factory, kind):
    work = str(tmp_path_factory.mktemp("work"))
    log = tmp_path / "logs" / "log"
    apply.apply(*no_change(), work, apply.Others((apply.Lacking(str(log), 0o600),)))
    log.unlink()
    if kind == "directory":
        log.mkdir()
    else:
        log.parent.rmdir()
        log.parent.touch()
    before = contents(tmp_path)
    assert apply.undo(work)
    assert contents(tmp_path) == before


def test_replicas_make_the_same_log_at_once(tmp_path, tmp_path_factory):
    """On a volume that all of them have, and each with its own files in the same directory."""
    works = [str(tmp_path_factory.mktemp("work")) for _ in range(2)]
    shared, own = tmp_path / "logs" / "shared", tmp_path / "logs" / "own"

    class Tar(io.BytesIO):
        """While one replica unpacks its delta another one does the same."""

        def read(self, *size):
            if not shared.exists():
                apply.apply(*no_change(), works[0], apply.Others((apply.Lacking(str(shared), 0o600),)))
                shared.write_text("a line of the other one's")
            return super().read(*size)

    plan, tar = no_change()
    both = (apply.Lacking(str(shared), 0o644), apply.Lacking(str(own), 0o644))
    apply.apply(plan, Tar(tar.read()), works[1], apply.Others(both))
    assert own.stat().st_size == 0
    assert apply.undo(works[1])
    assert [*shared.parent.iterdir()] == [shared]
    assert shared.read_text() == "a line of the other one's"
    shared.rename(own)
    assert apply.undo(works[0])
    assert own.exists()
