"""Whatever a delta asks for, what is not the engine's stays as it is, and what was refused or undone leaves no trace."""

import io
import json
import os
import shutil
import struct
import tarfile
import tempfile
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import entries

from dynamo_entry.errors import ArchiveError, Corrupt, Incompatible, RestoreFailed
from dynamo_entry.rootfs import apply, guard, journal, nodes
from dynamo_entry.rootfs.guard import Land
from dynamo_entry.rootfs.index import Index, parse
from dynamo_entry.rootfs.members import XATTR

OPEN = Land(frozenset(), frozenset({"/"}), frozenset())


def picture(root):
    """All that lstat, readlink, read and getxattr say of a tree, but change times and numbers of inodes."""
    rows = {}
    for path, status, content in entries(root):
        rows[path] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, content,
            nodes.extended_attributes(path),
        )  # fmt: skip
    return rows


def member(name, kind=tarfile.REGTYPE, data=b"", **fields):
    info = tarfile.TarInfo(name.lstrip("/"))
    info.type, info.size, info.mode = kind, len(data), 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar_of(*members):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    output.seek(0)
    return output


@pytest.fixture
def place(tmp_path):
    """A container's tree beside a scratch directory and a volume that is none of the engine's."""
    root, volume, work = tmp_path / "root", tmp_path / "volume", tmp_path / "work"
    for directory in (root / "dir" / "deep", volume / "models", work):
        directory.mkdir(parents=True)
    (root / "dir" / "deep" / "old").write_text("old")
    (root / "file").write_text("file")
    (root / "link").symlink_to("file")
    (volume / "models" / "weights").write_text("precious")
    os.setxattr(root / "dir", "user.kept", b"\xff")
    return tmp_path


def transact(place, index, tar, land=OPEN):
    """Apply and undo; whatever is refused must be undone, and everything is as before then."""
    before = picture(place / "root"), picture(place / "volume")
    error = None
    try:
        apply.apply(apply.plan(index, land), tar, str(place / "work"))
    except (ArchiveError, OSError) as found:
        error = found
    apply.undo(str(place / "work"))
    assert (picture(place / "root"), picture(place / "volume")) == before
    assert os.listdir(place / "work") == []
    return error


def test_a_directory_that_a_volume_is_mounted_at_is_never_replaced(place):
    """The engine had made a link of it; here it is a volume: refused, and nothing on it is touched."""
    volume = str(place / "volume")
    land = Land(frozenset({volume}), frozenset({"/"}), frozenset())
    index = Index([volume], {})
    error = transact(place, index, tar_of(member(volume, tarfile.SYMTYPE, linkname="/data")), land)
    assert isinstance(error, Incompatible)
    assert error.reason == "VolumeInTheWay"


@pytest.mark.parametrize("below", ["models", "models/weights", "models/new", "new"])
def test_nothing_is_made_or_replaced_on_a_volume(place, below):
    volume = str(place / "volume")
    land = Land(frozenset({volume}), frozenset({"/"}), frozenset())
    path = f"{volume}/{below}"
    error = transact(place, Index([path], {}), tar_of(member(path, data=b"x")), land)
    assert error is not None
    assert error.reason == "VolumeInTheWay"


def test_what_leads_to_a_volume_is_not_replaced_or_deleted(place):
    point = str(place / "root" / "dir" / "deep")
    land = Land(frozenset({point}), frozenset({"/"}), frozenset())
    above = str(place / "root" / "dir")
    assert transact(place, Index([above], {}), tar_of(member(above)), land).reason == "VolumeInTheWay"
    root = str(place / "root")
    what = apply.plan(Index([root], {root: ["file", "link"]}), land)
    assert what.doomed == ()


def test_a_directory_on_a_volume_keeps_its_attributes(place):
    """It was the container's own when the checkpoint was made: mode and times are the volume's business here."""
    volume = str(place / "volume")
    land = Land(frozenset({volume}), frozenset({"/"}), frozenset())
    before = picture(volume)
    tar = tar_of(member(volume, tarfile.DIRTYPE, mode=0o700))
    apply.apply(apply.plan(Index([volume], {volume: []}), land), tar, str(place / "work"))
    assert picture(volume) == before


def test_a_directory_that_gives_way_comes_back_with_all_it_held(place):
    path = str(place / "root" / "dir")
    before = picture(place / "root")
    tar = tar_of(member(path, tarfile.SYMTYPE, linkname="/elsewhere"))
    apply.apply(apply.plan(Index([path], {}), OPEN), tar, str(place / "work"))
    assert os.readlink(path) == "/elsewhere"
    assert apply.undo(str(place / "work"))
    assert picture(place / "root") == before


def test_a_link_that_gives_way_to_a_directory_is_not_followed(place):
    """Not even to see what is in there: all of the new directory's files are new."""
    link, root = place / "root" / "way", place / "root"
    link.symlink_to(place / "volume" / "models")
    index = Index([str(link), f"{link}/weights"], {str(link): ["weights"]})
    members = member(str(link), tarfile.DIRTYPE, mode=0o755), member(f"{link}/weights", data=b"other")
    before = picture(root), picture(place / "volume")
    apply.apply(apply.plan(index, OPEN), tar_of(*members), str(place / "work"))
    assert (link / "weights").read_text() == "other"
    assert picture(place / "volume") == before[1]
    apply.undo(str(place / "work"))
    assert (picture(root), picture(place / "volume")) == before


def test_what_is_settled_cannot_be_undone_and_leaves_nothing_behind(place):
    path = str(place / "root" / "file")
    apply.apply(apply.plan(Index([path], {}), OPEN), tar_of(member(path, data=b"new")), str(place / "work"))
    times = os.stat(place / "root").st_mtime_ns
    apply.settle(str(place / "work"))
    assert not apply.undo(str(place / "work"))
    assert (place / "root" / "file").read_text() == "new"
    assert sorted(os.listdir(place / "root")) == ["dir", "file", "link"]
    assert os.stat(place / "root").st_mtime_ns == times


@pytest.mark.parametrize("listed", ["file", "no/such"])
def test_a_member_that_the_index_does_not_name_is_never_written(place, listed):
    root = str(place / "root")
    tar = tar_of(
        member(f"{root}/{listed}", data=b"1"), member(f"{root}/ld.so.preload", data=b"evil", mode=0o4755)
    )
    error = transact(place, Index([f"{root}/{listed}"], {}), tar)
    assert isinstance(error, Corrupt)
    assert "unannounced" in str(error)


def test_a_path_is_named_once(place):
    """A directory, and then a link in its place, would have the link's target get the directory's mode."""
    path, victim = str(place / "root" / "a"), str(place / "root" / "file")
    twice = tar_of(member(path, tarfile.DIRTYPE, mode=0o777), member(path, tarfile.SYMTYPE, linkname=victim))
    assert isinstance(transact(place, Index([path], {path: []}), twice), Corrupt)
    assert isinstance(transact(place, Index([path, path], {path: []}), twice), Corrupt)


def test_a_member_that_is_missing_is_an_error(place):
    root = str(place / "root")
    error = transact(place, Index([f"{root}/x", f"{root}/y"], {}), tar_of(member(f"{root}/x")))
    assert isinstance(error, Corrupt)


@pytest.mark.parametrize("kind", [tarfile.BLKTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, b"Z", tarfile.DIRTYPE])
def test_other_kinds_of_members_are_refused(place, kind):
    path = str(place / "root" / "device")
    error = transact(place, Index([path], {}), tar_of(member(path, kind)))
    assert isinstance(error, Corrupt)


def modes_while_unpacking(place, monkeypatch, index, tar, path):
    """The modes of a path whenever data of the delta is read, until something is given its owner, and then."""
    seen, owned, real = [], [], os.fchown

    def look():
        if os.path.lexists(path) and not owned:
            seen.append(os.lstat(path).st_mode & 0o7777)

    class Watched(io.BytesIO):
        def read(self, *size):
            look()
            return super().read(*size)

    def fchown(descriptor, *owner):
        look()
        owned.append(owner)
        real(descriptor, *owner)

    monkeypatch.setattr(os, "fchown", fchown)
    apply.apply(apply.plan(index, OPEN), Watched(tar.getvalue()), str(place / "work"))
    return seen


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o4755, 0o400, 0o666])
def test_a_new_file_is_nobody_elses_before_it_is_complete(place, monkeypatch, mode):
    """Its directory may give it a group (set-group-ID) that is not to read it."""
    root = place / "root"
    os.chown(root, -1, 1234)
    root.chmod(0o2755)
    path = str(root / "secret")
    tar = tar_of(member(path, data=b"x" * 5000, mode=mode, gid=os.getegid()))
    seen = modes_while_unpacking(place, monkeypatch, Index([path], {}), tar, path)
    assert seen
    assert not any(found & 0o077 for found in seen)
    status = os.stat(path)
    assert (status.st_mode & 0o7777, status.st_gid) == (mode, os.getegid())


def test_the_group_of_a_file_with_an_access_list_never_gets_the_rights_of_its_mask(place, monkeypatch):
    """The mode of such a file has the mask where others have the group's (acl(5))."""
    path, real, seen = str(place / "root" / "secret"), os.setxattr, []
    # version 2; the owner rw, user 1234 r, the group nothing, the mask r, others nothing
    rows = [(1, 6, -1), (2, 4, 1234), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    pax = {f"{XATTR}system.posix_acl_access": listed.decode("utf-8", "surrogateescape")}
    tar = tar_of(member(path, data=b"x", mode=0o640, pax_headers=pax))

    def setxattr(target, name, value, *flags, **how):
        seen.append(os.stat(target).st_mode & 0o777)
        real(target, name, value, *flags, **how)

    monkeypatch.setattr(os, "setxattr", setxattr)
    apply.apply(apply.plan(Index([path], {}), OPEN), tar, str(place / "work"))
    assert seen == [0o600]
    assert os.getxattr(path, "system.posix_acl_access") == listed
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_a_new_directory_is_nobody_elses_before_it_is_complete(place, monkeypatch):
    """One that was closed to others has files that are not; one that the delta only passes is as mkdir makes it."""
    root = str(place / "root")
    paths = [f"{root}/new", f"{root}/new/secret", f"{root}/way/file"]
    tar = tar_of(
        member(paths[0], tarfile.DIRTYPE, mode=0o700),
        member(paths[1], data=b"x"),
        member(paths[2], data=b"x"),
    )
    seen = modes_while_unpacking(place, monkeypatch, Index(paths, {paths[0]: ["secret"]}), tar, paths[0])
    assert {*seen} == {0o700}
    assert os.stat(f"{root}/way").st_mode & 0o777 == 0o755


@pytest.mark.parametrize("target", ["/etc/passwd", "file", "later"])
def test_a_hard_link_names_an_earlier_file_of_the_delta(place, target):
    root = str(place / "root")
    target = target if target.startswith("/") else f"{root}/{target}"
    tar = tar_of(member(f"{root}/hard", tarfile.LNKTYPE, linkname=target[1:]), member(f"{root}/later"))
    error = transact(place, Index([f"{root}/hard", f"{root}/later"], {}), tar)
    assert isinstance(error, Corrupt)


@pytest.mark.parametrize("path", ["/", "/..", "/a/../b", "/a\0b"])
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(ArchiveError):
        apply.plan(Index([path], {}), OPEN)


def test_the_launcher_and_the_kernel_have_their_own():
    """Package, environment, interpreter, standard library, libraries and pseudo filesystems, whatever is mounted."""
    import sys

    import blake3

    import dynamo_entry

    land = Land.here()
    for path in (
        dynamo_entry.__file__, sys.executable, os.__file__, f"{sys.prefix}/x", blake3.__file__,
        "/proc/x", "/sys/x", "/dev/null", "/proc", os.path.dirname(os.path.dirname(dynamo_entry.__file__)),
    ):  # fmt: skip
        with pytest.raises(Incompatible) as caught:
            apply.plan(Index([path], {}), land)
        assert caught.value.reason == "PathReserved", path


@pytest.mark.parametrize("kind", ["lacking", "bound", "passing"])
def test_nothing_is_made_where_the_launcher_has_its_files(place, kind):
    """Before anything is touched; if a link of the delta leads there, before it is made."""
    root = str(place / "root")
    land = OPEN._replace(
        reserved=frozenset({f"{root}/dir", "/dev", "/dev/shm/scratch"}), exempt=frozenset({"/dev/shm"})
    )

    def others(path):
        return apply.Others(**{kind: (apply.Lacking(path, 0o644) if kind == "lacking" else path,)})

    for path in (f"{root}/dir/new", f"{root}/dir/deep/../new", f"{root}/dir", root, "/dev/shm/scratch/new"):
        with pytest.raises(Incompatible) as caught:
            apply.plan(Index([], {}), land).check(others(path))
        assert caught.value.reason == "PathReserved"
    for path in (f"{root}/new", "/dev/log", "/dev/shm/new"):
        apply.plan(Index([], {}), land).check(others(path))
    what = apply.plan(Index([f"{root}/way"], {}), land)
    what.check(others(f"{root}/way/new"))
    tar = tar_of(member(f"{root}/way", tarfile.SYMTYPE, linkname=f"{root}/dir"))
    before = picture(root)
    with pytest.raises(Incompatible):
        apply.apply(what, tar, str(place / "work"), others(f"{root}/way/new"))
    apply.undo(str(place / "work"))
    assert picture(root) == before


def test_byte_code_that_the_engine_left_in_the_interpreter_is_passed_over(place):
    library = str(place / "root" / "dir")
    cache = f"{library}/__pycache__"
    land = OPEN._replace(reserved=frozenset({library}))
    index = Index([cache, f"{cache}/x.pyc"], {cache: ["x.pyc"]})
    tar = tar_of(member(cache, tarfile.DIRTYPE), member(f"{cache}/x.pyc", data=b"code"))
    before = picture(library)
    apply.apply(apply.plan(index, land), tar, str(place / "work"))
    assert picture(library) == before


def test_dev_shm_is_the_engines(tmp_path):
    land = Land.here()
    assert apply.plan(Index(["/dev/shm/of-an-engine"], {}), land).expected.files == {"/dev/shm/of-an-engine"}


def deep(root, levels):
    """A path of so many directories."""
    return f"{root}/" + "/".join("d" * levels)


@pytest.mark.parametrize("levels", [400, 1500])
def test_a_delta_of_any_depth_is_undone(place, levels):
    """Neither Python's stack nor the limit of descriptors ends an undo in the middle."""
    path = deep(place / "root", levels)
    index = Index([path, f"{path}/x"], {path: ["x"]})
    tar = tar_of(member(path, tarfile.DIRTYPE, mode=0o755), member(f"{path}/x", data=b"x"))
    assert transact(place, index, tar) is None


def test_a_deep_tree_that_is_removed_keeps_what_is_mounted_in_it(place):
    path = deep(place / "root" / "dir", 50)
    os.makedirs(f"{path}/gone")
    os.makedirs(f"{path}/mounted/below")
    nodes.remove(str(place / "root" / "dir"), frozenset({f"{path}/mounted"}))
    assert os.listdir(place / "root" / "dir") == ["d"]
    assert os.listdir(path) == ["mounted"]
    assert os.listdir(f"{path}/mounted") == ["below"]


def test_a_tree_that_is_moved_while_it_is_removed_is_left(place, monkeypatch):
    """The way back up must not lead to somebody else's directory."""
    root, real = place / "root", os.unlink
    (root / "other").mkdir()

    def unlink(name, **where):
        if name == "old":
            (root / "dir" / "deep").rename(root / "other" / "deep")
        real(name, **where)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(nodes, "_HELD", 0)
    with pytest.raises(OSError, match="moved during"):
        nodes.remove(str(root / "dir"))
    assert os.listdir(root / "other") == ["deep"]


def test_removal_stops_at_mount_points(place):
    volume = str(place / "volume")
    nodes.remove(volume, frozenset({f"{volume}/models"}))
    assert (place / "volume" / "models" / "weights").read_text() == "precious"


def test_undo_follows_no_link_that_took_a_directorys_place(place):
    """A restored engine ran for a moment: it may have put links where the delta had made directories."""
    made = place / "root" / "made"
    index = Index([str(made), f"{made}/models"], {str(made): ["models"]})
    tar = tar_of(member(str(made), tarfile.DIRTYPE, mode=0o755), member(f"{made}/models", data=b"x"))
    before = picture(place / "volume")
    apply.apply(apply.plan(index, OPEN), tar, str(place / "work"))
    shutil.rmtree(made)
    made.symlink_to(place / "volume")
    assert apply.undo(str(place / "work"))
    assert picture(place / "volume") == before
    assert not os.path.lexists(made)


def test_undo_gives_up_where_a_directory_of_the_image_became_a_link(place):
    directory = place / "root" / "dir"
    index = Index([f"{directory}/models"], {})
    apply.apply(apply.plan(index, OPEN), tar_of(member(f"{directory}/models")), str(place / "work"))
    directory.rename(place / "root" / "other")
    directory.symlink_to(place / "volume")
    before = picture(place / "volume")
    with pytest.raises(RestoreFailed):
        apply.undo(str(place / "work"))
    assert picture(place / "volume") == before


@pytest.mark.parametrize("at", range(1, 9))
def test_an_apply_and_an_undo_that_break_off_anywhere_are_undone(place, monkeypatch, at):
    """overlayfs refuses to rename directories: taken apart, and brought back from wherever it stopped."""
    import errno

    calls = {"rename": 0}
    rename = os.rename
    shy = {str(place / "root" / "dir"), str(place / "root" / "dir" / "deep")}

    def break_off(source, target):
        if source in shy:
            raise OSError(errno.EXDEV, "not within a layer", source)
        calls["rename"] += 1
        if calls["rename"] == at:
            raise OSError(errno.EIO, "power of the test", source)
        rename(source, target)

    root = place / "root"
    (root / "dir" / "deep" / "second").write_text("2")
    (root / "dir" / "third").write_text("3")
    before = picture(root)
    index = Index([str(root), str(root / "link")], {str(root): ["file", "link"]})
    tar = tar_of(
        member(str(root), tarfile.DIRTYPE, mode=0o700), member(str(root / "link"), data=b"no link any more")
    )
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", break_off)
        for attempt in (
            lambda: apply.apply(apply.plan(index, OPEN), tar, str(place / "work")),
            undo_of(place),
        ):
            try:
                attempt()
            except OSError as error:
                assert error.errno == errno.EIO
    apply.undo(str(place / "work"))
    assert picture(root) == before


def undo_of(place):
    return lambda: apply.undo(str(place / "work"))


def test_a_journal_that_is_none_undoes_nothing(tmp_path):
    for text in (
        "[1]\n", '["made"]\n', "no json\n", '{"a": 1}\n', '["other", "/x"]\n', '["made", 5]\n', '["moved", "/a", 5]\n',
        '["rewritten", "/a", [], 0, 0, 0, 0, {}]\n', '["parting", "/b", 0, 0, 493, "x", "y"]\n', "[" * 100_000 + "\n",
        '["directory", "/b", 0, 0, 493, 1, {"a": 5}]\n', '["moved", "/a", []]\n',
    ):  # fmt: skip
        (tmp_path / "undo.json").write_text(text)
        with pytest.raises(RestoreFailed):
            journal.read(str(tmp_path))


def test_a_journal_that_is_too_long_is_not_undone_in_part(tmp_path, monkeypatch):
    (tmp_path / "undo.json").write_text('["made", "/x"]\n' * 10)
    monkeypatch.setattr(journal, "_LIMIT_BYTES", 100)
    with pytest.raises(RestoreFailed, match="too long"):
        journal.read(str(tmp_path))


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"{}", b'{"paths": 1, "directories": {}}', b'{"paths": [1], "directories": {}}',
        b'{"paths": [], "directories": {"/": "names"}}', b'{"paths": [], "directories": []}', b"[" * 100_000,
        b'{"paths": [' + b'"",' * 500_000 + b'""], "directories": {}}', b"\xff",
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(document):
    with pytest.raises(Corrupt):
        parse(document)


def test_an_index_of_any_names_comes_back():
    index = Index(["/a", os.fsdecode(b"/\xff")], {"/a": ["x", os.fsdecode(b"\xfe")]})
    assert parse(index.encode()) == index


NAMES = st.sampled_from(
    ["dir", "dir/deep", "dir/deep/old", "file", "link", "new", "new/inside", "dir/x", "..", ""]
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE]
)
MEMBERS = st.lists(
    st.tuples(NAMES, KINDS, st.binary(max_size=20), NAMES, st.integers(0, 0o7777), st.booleans()), max_size=8
)


@given(
    members=MEMBERS,
    extra=st.lists(NAMES, max_size=2),
    names=st.lists(st.sampled_from(["dir", "file", "link", "new"])),
    cut=st.none() | st.integers(0, 4096),
    volume=st.booleans(),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_delta_is_undone_bit_for_bit(members, extra, names, cut, volume):
    """Applied or refused, cut short or not: the tree, and what is beside it, is as it was."""
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        build(place)
        root = f"{place}/root"
        made, paths, directories = [], [*(f"{root}/{name}".rstrip("/") for name in extra)], {}
        for name, kind, data, link, mode, is_listed in members:
            path = f"{root}/{name}".rstrip("/")
            fields = {"mode": mode, "linkname": f"{root}/{link}"[1:], "pax_headers": {f"{XATTR}user.x": "1"}}
            if kind != tarfile.REGTYPE:
                fields["pax_headers"] = {}
            made.append(member(path, kind, data if kind == tarfile.REGTYPE else b"", **fields))
            if is_listed or len(members) < 5:
                paths.append(path)
                if kind == tarfile.DIRTYPE:
                    directories[path] = names
        tar = tar_of(*made)
        if cut is not None:
            tar = io.BytesIO(tar.getvalue()[:cut])
        points = frozenset({f"{root}/dir/deep"}) if volume else frozenset()
        transact(place, Index(paths, directories), tar, OPEN._replace(points=points))


def build(place):
    for directory in ("root/dir/deep", "volume", "work"):
        os.makedirs(f"{place}/{directory}")
    for name in ("dir/deep/old", "dir/other", "file"):
        with open(f"{place}/root/{name}", "w", encoding="utf-8") as file:
            file.write(name)
    os.symlink(f"{place}/volume", f"{place}/root/link")


@given(data=st.binary(max_size=2048))
@settings(max_examples=200, deadline=None)
def test_a_journal_of_garbage_is_refused_or_empty(data):
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/undo.json", "wb") as file:
            file.write(data)
        try:
            journal.read(directory)
        except RestoreFailed:
            pass


def test_a_header_is_bounded(place):
    """One of a gigabyte costs no more than one of a megabyte."""
    path = str(place / "root" / "x")
    info = member(path)[0]
    info.pax_headers = {"comment": "x" * (2 << 20)}
    error = transact(place, Index([path], {}), tar_of((info, b"")))
    assert isinstance(error, Corrupt)
    assert "header" in str(error)


def test_the_index_has_a_bound_that_a_creation_knows(monkeypatch):
    from dynamo_entry.errors import DumpFailed

    index = Index([f"/{number}" for number in range(1000)], {})
    monkeypatch.setattr("dynamo_entry.rootfs.index.INDEX_BYTES", 1000)
    with pytest.raises(DumpFailed):
        index.encode()
    assert json.loads(Index([], {}).encode()) == {"paths": [], "directories": {}}


def test_a_header_for_all_members_is_refused(place):
    """What it says is kept for every member that follows: a thousand of them would be a gigabyte."""
    path = str(place / "root" / "new")
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"x": "y"}) as tar:
        tar.addfile(member(path)[0])
    output.seek(0)
    assert transact(place, Index([path], {}), output).reason == "BadDelta"


def test_removal_stops_at_another_filesystem(place, monkeypatch):
    """One that was mounted after the mounts were read."""
    status_of = os.stat

    def stat(path, **how):
        status = status_of(path, **how)
        if path != "models":
            return status
        return SimpleNamespace(st_mode=status.st_mode, st_dev=status.st_dev + 1)

    monkeypatch.setattr(os, "stat", stat)
    nodes.remove(str(place / "volume"))
    monkeypatch.undo()
    assert (place / "volume" / "models" / "weights").read_text() == "precious"


def test_what_runtimes_make_is_not_taken_for_deleted():
    """Every new container has them, and no image does."""
    theirs = {"hosts", "hostname", "resolv.conf"} & {*os.listdir("/etc")}
    assert theirs
    index = Index(["/etc"], {"/etc": sorted({*os.listdir("/etc")} - theirs)})
    assert apply.plan(index, OPEN).doomed == ()


def test_what_the_launcher_runs_from_is_not_taken_for_deleted(place):
    """It may lie in a directory of the delta in which the engine's list of names has it not."""
    directory = f"{place}/root/dir"
    index = Index([directory], {directory: []})
    assert apply.plan(index, OPEN).doomed == (f"{directory}/deep",)
    below = Land(frozenset(), frozenset({"/"}), frozenset({f"{directory}/deep/old"}))
    assert apply.plan(index, below).doomed == ()


def test_criu_and_what_this_process_has_mapped_are_the_launchers(tmp_path, monkeypatch):
    """By the names that lead there, and by those of the files."""
    (tmp_path / "real").touch()
    (tmp_path / "criu").symlink_to("real")
    package = SimpleNamespace(submodule_search_locations=["/somewhere/pycriu"])
    monkeypatch.setattr(guard.shutil, "which", lambda _name: str(tmp_path / "criu"))
    monkeypatch.setattr(guard.importlib.util, "find_spec", lambda _name: package)
    monkeypatch.setattr(guard.proc, "mapped_files", lambda _pids: {"/somewhere/lib.so", "/dev/zero"})
    expected = {str(tmp_path / "criu"), str(tmp_path / "real"), "/somewhere/pycriu", "/somewhere/lib.so"}
    assert expected <= Land.here().reserved
