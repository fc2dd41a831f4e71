"""Attributes and rights of another host never end a restore or an undo; what cannot be had is named."""

import errno
import io
import os
import shutil
import subprocess

import pytest

from dynamo_entry.rootfs import apply, changes, nodes, pack
from dynamo_entry.rootfs.guard import Land

LAND = Land(frozenset(), frozenset({"/"}), frozenset())


@pytest.fixture
def place(tmp_path):
    """A directory with a file, and a delta in which both are other than here."""
    (tmp_path / "work").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("of the image")
    return tmp_path


def delta_of(root, change):
    """What ``change`` does to the root, which is as before afterwards."""
    (start,) = changes.mark([str(root)])
    change()
    output = io.BytesIO()
    index = pack.pack(changes.find(start, frozenset()), output)
    output.seek(0)
    return index, output


def refusing(monkeypatch, *names):
    """A place that does not take these attributes, by whatever call."""
    real = os.setxattr

    def setxattr(target, name, value, *flags, **how):
        if name in names:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), target)
        real(target, name, value, *flags, **how)

    monkeypatch.setattr(os, "setxattr", setxattr)


@pytest.mark.parametrize("where", ["file", "."])
def test_an_attribute_that_cannot_be_set_is_named_and_all_else_is_there(place, monkeypatch, where):
    root = place / "root"

    def change():
        (root / "file").write_text("of the engine")
        os.setxattr(root / where, "user.etag", b"1")
        os.setxattr(root / where, "user.kept", b"2")

    index, tar = delta_of(root, change)
    for name in ("user.etag", "user.kept"):
        os.removexattr(root / where, name)
    (root / "file").write_text("of the image")
    refusing(monkeypatch, "user.etag")

    lost = apply.apply(apply.plan(index, LAND), tar, str(place / "work"))

    assert lost == {"user.etag": os.path.normpath(root / where)}
    assert (root / "file").read_text() == "of the engine"
    assert os.getxattr(root / where, "user.kept") == b"2"
    assert apply.undo(str(place / "work"))
    assert (root / "file").read_text() == "of the image"


def test_an_undo_goes_on_without_an_attribute_that_cannot_be_set(place, monkeypatch):
    root = place / "root"
    index, tar = delta_of(root, lambda: (root / "file").write_text("of the engine"))
    (root / "file").write_text("of the image")
    os.setxattr(root, "user.label", b"here")
    apply.apply(apply.plan(index, LAND), tar, str(place / "work"))
    os.removexattr(root, "user.label")
    refusing(monkeypatch, "user.label")

    assert apply.undo(str(place / "work"))
    assert (root / "file").read_text() == "of the image"


@pytest.mark.parametrize("name", ["security.selinux", "security.ima", "security.evm", "trusted.overlay.x"])
def test_labels_of_a_host_are_neither_taken_nor_set(tmp_path, monkeypatch, name):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: [name, "user.own"])
    monkeypatch.setattr(os, "getxattr", lambda *_, **__: b"value")
    assert nodes.extended_attributes(str(path)) == {"user.own": b"value"}

    done = []
    monkeypatch.setattr(os, "setxattr", lambda _, name, *__, **___: done.append(name))
    wanted = nodes.Attributes(os.getuid(), os.getgid(), 0o600, 1, {name: b"value", "user.own": b"value"})
    assert nodes.set_on_path(str(path), wanted) == []
    assert done == ["user.own"]


def test_a_file_whose_directory_is_somebody_elses_is_written_in_place(place, monkeypatch):
    """As a user of the image does with a file of its own, and OpenShift's with /etc/passwd."""
    root = place / "root"
    index, tar = delta_of(root, lambda: (root / "file").write_text("of the engine"))
    (root / "file").write_text("of the image, and longer")
    os.utime(root / "file", ns=(1, 1))
    number = (root / "file").stat().st_ino
    forbid_names(monkeypatch, root)

    assert apply.apply(apply.plan(index, LAND), tar, str(place / "work")) == {}
    assert (root / "file").read_text() == "of the engine"
    assert (root / "file").stat().st_ino == number

    assert apply.undo(str(place / "work"))
    assert (root / "file").read_text() == "of the image, and longer"
    assert (root / "file").stat().st_mtime_ns == 1
    assert os.listdir(place / "work") == []


@pytest.mark.parametrize(("here", "engines"), [(0o644, 0o600), (0o600, 0o644), (0o664, 0o646)])
def test_what_is_written_in_place_is_never_open_to_more_than_it_should_be(place, monkeypatch, here, engines):
    """Neither the engine's content by the mode of the file that it replaces, nor the other way round."""
    root, file = place / "root", place / "root" / "file"

    def change():
        file.write_text("of the engine")
        file.chmod(engines)

    index, tar = delta_of(root, change)
    file.write_text("of the image")
    file.chmod(here)
    forbid_names(monkeypatch, root)
    number, seen, write, copy = file.stat().st_ino, [], os.write, shutil.copyfileobj

    def look():
        seen.append(file.stat().st_mode & 0o777)

    def watched_write(descriptor, data):
        if os.fstat(descriptor).st_ino == number:
            look()
        return write(descriptor, data)

    def watched_copy(*files):
        look()
        copy(*files)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", watched_write)
        apply.apply(apply.plan(index, LAND), tar, str(place / "work"))
    assert seen
    assert not any(mode & ~engines for mode in seen)
    assert file.stat().st_mode & 0o777 == engines
    seen.clear()
    monkeypatch.setattr("dynamo_entry.rootfs.journal.shutil.copyfileobj", watched_copy)
    assert apply.undo(str(place / "work"))
    assert seen
    assert not any(mode & ~here for mode in seen)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("of the image", here)


def test_a_file_of_somebody_elses_that_was_written_in_place_has_another_time(place, monkeypatch):
    """Such as /etc/passwd of an OpenShift image, which is root's and the group's to write: only an owner sets times."""
    root = place / "root"
    index, tar = delta_of(root, lambda: (root / "file").write_text("of the engine"))
    (root / "file").write_text("of the image")
    forbid_names(monkeypatch, root)
    real, number = os.utime, (root / "file").stat().st_ino

    def utime(target, *times, **how):
        if os.stat(target).st_ino == number:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target)
        real(target, *times, **how)

    monkeypatch.setattr(os, "utime", utime)
    assert apply.apply(apply.plan(index, LAND), tar, str(place / "work")) == {}
    assert (root / "file").read_text() == "of the engine"
    assert apply.undo(str(place / "work"))
    assert (root / "file").read_text() == "of the image"
    assert os.listdir(place / "work") == []


def test_the_owner_and_mode_of_a_mount_are_the_places(place):
    """A kubelet gives an emptyDir those that the pod asks for, and who is not root cannot change them."""
    root, point = place / "root", place / "root" / "tmp"
    point.mkdir(mode=0o700)

    def change():
        point.chmod(0o750)
        (point / "made").write_text("engine's")

    index, tar = delta_of(root, change)
    (point / "made").unlink()
    point.chmod(0o711)
    land = LAND._replace(points=frozenset({str(point)}), roots=LAND.roots | {str(point)})
    apply.apply(apply.plan(index, land), tar, str(place / "work"))
    assert (point.stat().st_mode & 0o777, (point / "made").read_text()) == (0o711, "engine's")
    assert apply.undo(str(place / "work"))
    assert (point.stat().st_mode & 0o777, os.listdir(point)) == (0o711, [])


def test_what_was_written_in_place_stays_once_it_is_settled(place, monkeypatch):
    root = place / "root"
    index, tar = delta_of(root, lambda: (root / "file").write_text("of the engine"))
    forbid_names(monkeypatch, root)
    apply.apply(apply.plan(index, LAND), tar, str(place / "work"))

    apply.settle(str(place / "work"))

    assert (root / "file").read_text() == "of the engine"
    assert os.listdir(place / "work") == []


def forbid_names(monkeypatch, directory):
    """Nothing in this directory can be renamed."""
    real = os.rename

    def rename(old, new, **how):
        if os.path.dirname(old) == str(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), old)
        real(old, new, **how)

    monkeypatch.setattr(os, "rename", rename)


def test_a_copy_that_does_not_fit_takes_no_room_afterwards(place, monkeypatch):
    """The scratch directory is memory, as a rule."""
    root = place / "root"
    index, tar = delta_of(root, lambda: (root / "file").write_text("of the engine"))
    forbid_names(monkeypatch, root)

    def copyfile(_source, target, **_how):
        with open(target, "w") as file:
            file.write("a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr("dynamo_entry.rootfs.journal.shutil.copyfile", copyfile)
    with pytest.raises(OSError, match="No space"):
        apply.apply(apply.plan(index, LAND), tar, str(place / "work"))
    assert apply.undo(str(place / "work"))
    assert os.listdir(place / "work") == []


def test_a_program_that_runs_is_not_written_in_place(tmp_path):
    """It would be refused when the copy is made already, and so would its undo."""
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    assert nodes.is_writable_file(str(program))
    running = subprocess.Popen([program, "60"])
    try:
        assert not nodes.is_writable_file(str(program))
    finally:
        running.kill()
        running.wait()


def test_what_cannot_be_removed_does_not_keep_the_rest(place, monkeypatch):
    root = place / "root"
    (root / "second").write_text("of the image")
    index, tar = delta_of(root, lambda: [(root / name).write_text("new") for name in ("file", "second")])
    apply.apply(apply.plan(index, LAND), tar, str(place / "work"))
    kept = [name for name in os.listdir(root) if name.startswith(".dynamo_entry-")]
    assert len(kept) == 2
    real, refused = nodes.remove, []

    def remove(path, keep):
        if not refused:
            refused.append(path)
            raise PermissionError(errno.EPERM, "immutable", path)
        real(path, keep)

    monkeypatch.setattr(nodes, "remove", remove)
    with pytest.raises(PermissionError):
        apply.settle(str(place / "work"))
    assert sorted(os.listdir(root)) == sorted(["file", "second", os.path.basename(refused[0])])


def test_an_attribute_that_cannot_be_read_hides_no_other(place, monkeypatch):
    path = str(place / "root" / "file")
    for name in ("user.a", "user.b", "user.c"):
        os.setxattr(path, name, name.encode())
    real = os.getxattr

    def getxattr(target, name, **how):
        if name == "user.b":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), target)
        return real(target, name, **how)

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert nodes.extended_attributes(path).keys() == {"user.a", "user.c"}


def test_the_name_of_an_attribute_may_have_any_character(place):
    """A record of a pax header ends its keyword at the first "=", and a keyword is UTF-8."""
    root = place / "root"
    names = ("user.a=b", "user.50%", "user.%3D", "user.%FF", "user.\u00fc", os.fsdecode(b"user.\xff%\xc3"))

    def change():
        for name in names:
            os.setxattr(root / "file", name, os.fsencode(name))

    index, tar = delta_of(root, change)
    (root / "file").unlink()
    (root / "file").write_text("of the image")
    apply.apply(apply.plan(index, LAND), tar, str(place / "work"))
    assert nodes.extended_attributes(str(root / "file")) == {name: os.fsencode(name) for name in names}
