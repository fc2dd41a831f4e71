"""Files in the container's own layer, changed in every way there is, and descriptors of every kind of file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from pathlib import Path

from messy.memory import VOLUME
from messy.processes import Peer
from messy.things import Check, equal, thing

HOME = Path("/var/lib/messy")
MIB = 1 << 20


def home(name: str) -> Path:
    """A path in a directory that the image does not have."""
    path = HOME / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@thing
def created() -> Check:
    path = home("created/deep/down/file")
    path.write_bytes(b"created")
    return lambda: equal(path.read_bytes(), b"created")


@thing
def appended() -> Check:
    """To a file of the image."""
    path = Path("/etc/issue")
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"appended")
    return lambda: equal(path.read_bytes(), before + b"appended")


@thing
def replaced() -> Check:
    """A file of the image, by renaming another over it, while a child still has the old one open."""
    path = Path("/etc/issue.net")
    before = path.read_bytes()
    with path.open("rb") as old:
        peer = Peer(lambda _: os.pread(old.fileno(), 100, 0))
    home("new").write_bytes(b"replaced")
    home("new").rename(path)

    def check() -> None:
        equal(path.read_bytes(), b"replaced")
        equal(peer.ask(), before)

    return check


@thing
def truncated() -> Check:
    path = Path("/etc/services") if Path("/etc/services").exists() else Path("/etc/profile")
    os.truncate(path, 10)
    return lambda: equal(path.stat().st_size, 10)


@thing
def renamed() -> Check:
    old, new = Path("/etc/bash.bashrc"), home("renamed")
    content = old.read_bytes()
    old.rename(new)
    return lambda: equal((old.exists(), new.read_bytes()), (False, content))


@thing
def deleted() -> Check:
    """Files and a whole directory of the image."""
    file, directory = Path("/etc/debian_version"), Path("/usr/share/doc/tar")
    file.unlink()
    for path in sorted(directory.iterdir()):
        path.unlink()
    directory.rmdir()
    return lambda: equal((file.exists(), directory.exists()), (False, False))


@thing
def links() -> Check:
    first, second, symbolic = home("hard1"), home("hard2"), home("symbolic")
    first.write_bytes(b"linked")
    os.link(first, second)
    symbolic.symlink_to("hard1")

    def check() -> None:
        equal(first.stat().st_ino, second.stat().st_ino)
        equal((os.readlink(symbolic), symbolic.read_bytes()), ("hard1", b"linked"))

    return check


@thing
def attributes() -> Check:
    """Owner, mode with set-id, times to the nanosecond, extended attributes, on a file and a directory."""
    file, directory = home("attributes"), home("directory")
    file.write_bytes(b"x")
    directory.mkdir()
    for path, mode in ((file, 0o2750), (directory, 0o1777)):
        os.chown(path, 1234, 5678)
        path.chmod(mode)
        os.setxattr(path, "user.note", b"\x00\xffbinary")
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))

    def check() -> None:
        for path, mode in ((file, 0o2750), (directory, 0o1777)):
            status = path.stat()
            equal((status.st_uid, status.st_gid, status.st_mode & 0o7777), (1234, 5678, mode))
            equal(status.st_mtime_ns, 1_234_567_890_123_456_789)
            equal(os.getxattr(path, "user.note"), b"\x00\xffbinary")

    return check


@thing
def odd_names() -> Check:
    paths = [
        os.fsencode(HOME) + b"/" + name for name in (b"new\nline", b"sp ace", b"\xff\xfe", "ü€".encode())
    ]
    HOME.mkdir(parents=True, exist_ok=True)
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(path)
    return lambda: [equal(Path(os.fsdecode(path)).read_bytes(), path) for path in paths]


@thing
def sparse() -> Check:
    """8 GiB long, 2 MiB on disk: neither the archive nor the restored file may grow to its length."""
    path = home("sparse")
    with path.open("wb") as file:
        for offset in (0, 4 << 30, (8 << 30) - MIB):
            file.seek(offset)
            file.write(b"x" * (MIB if offset else 10))

    def check() -> None:
        status = path.stat()
        equal(status.st_size, 8 << 30)
        equal(status.st_blocks * 512 < 16 * MIB, True)
        with path.open("rb") as file:
            equal(file.read(11), b"x" * 10 + b"\0")
            file.seek(4 << 30)
            equal(file.read(MIB + 1), b"x" * MIB + b"\0")

    return check


@thing
def open_for_append() -> Check:
    """A log: what is written goes on where it was."""
    path = home("log")
    file = path.open("ab", buffering=0)
    file.write(b"line\n" * 3)

    def check() -> None:
        size = path.stat().st_size
        file.write(b"line\n")
        equal(path.read_bytes(), b"line\n" * (size // 5 + 1))

    return check


@thing
def log_on_a_volume() -> Check:
    """Goes on at the end of whatever is there: the volume may hold more, or nothing, in the new place."""
    path = Path(VOLUME, "log")
    file = path.open("ab", buffering=0)
    file.write(b"begun\n")

    def check() -> None:
        file.write(b"checked\n")
        equal(path.read_bytes().endswith(b"checked\n"), True)

    return check


@thing
def positions() -> Check:
    """Two descriptors of one description share a position; a third does not; flags stay."""
    path = home("positions")
    path.write_bytes(b"0123456789")
    first = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    second = os.dup(first)
    third = os.open(path, os.O_RDONLY)
    os.lseek(first, 4, os.SEEK_SET)
    os.lseek(third, 7, os.SEEK_SET)
    os.set_inheritable(third, True)

    def check() -> None:
        equal((os.read(second, 2), os.read(first, 2), os.pread(third, 2, 7)), (b"45", b"67", b"78"))
        os.lseek(first, 4, os.SEEK_SET)
        equal(os.lseek(third, 0, os.SEEK_CUR), 7)
        equal(bool(fcntl.fcntl(first, fcntl.F_GETFL) & os.O_NONBLOCK), True)
        equal((os.get_inheritable(first), os.get_inheritable(third)), (False, True))

    return check


def unlinked(name: str, size: int) -> Check:
    path = home(name)
    data = os.urandom(size)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, data)
    path.unlink()
    digest = hashlib.sha256(data).digest()

    def check() -> None:
        equal(hashlib.sha256(os.pread(descriptor, size + 1, 0)).digest(), digest)
        equal((os.fstat(descriptor).st_nlink, path.exists()), (0, False))

    return check


@thing
def unlinked_while_open() -> Check:
    return unlinked("unlinked", 1000)


@thing
def unlinked_large_file() -> Check:
    return unlinked("unlinked-large", 20 * MIB)


@thing
def anonymous_temporary_file() -> Check:
    """O_TMPFILE: it never had a name."""
    descriptor = os.open("/var/tmp", os.O_RDWR | os.O_TMPFILE, 0o600)
    os.write(descriptor, b"nameless")
    return lambda: equal(os.pread(descriptor, 100, 0), b"nameless")


@thing
def unlinked_with_another_name() -> Check:
    """Opened by a name that is gone, and still there under a second one."""
    gone, stays = home("gone"), home("stays")
    descriptor = os.open(gone, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"two names")
    os.link(gone, stays)
    gone.unlink()

    def check() -> None:
        equal((os.pread(descriptor, 100, 0), stays.read_bytes()), (b"two names", b"two names"))
        equal(gone.exists(), False)
        equal([name for name in os.listdir(HOME) if "link_remap" in name], [])

    return check


@thing
def open_directories() -> Check:
    """One that is there, and one that was removed."""
    there, gone = home("there"), home("removed")
    there.mkdir()
    gone.mkdir()
    one, other = os.open(there, os.O_RDONLY), os.open(gone, os.O_RDONLY)
    gone.rmdir()

    def check() -> None:
        equal(os.path.sameopenfile(one, os.open(there, os.O_RDONLY)), True)
        equal(os.listdir(other), [])

    return check


@thing
def devices() -> Check:
    """/dev/null, zero, full, urandom."""
    null, zero, full, random = (
        os.open(f"/dev/{name}", os.O_RDWR) for name in ("null", "zero", "full", "urandom")
    )

    def check() -> None:
        equal((os.write(null, b"x"), os.read(null, 1), os.read(zero, 2)), (1, b"", b"\0\0"))
        equal(len(os.read(random, 8)), 8)
        try:
            os.write(full, b"x")
        except OSError as error:
            equal(error.strerror, "No space left on device")

    return check


@thing
def image_file_open() -> Check:
    descriptor = os.open("/etc/passwd", os.O_RDONLY)
    return lambda: equal(os.pread(descriptor, 4, 0), b"root")


def _is_locked(try_to_lock) -> Check:
    """A lock that this process holds keeps a child out."""

    def answer(_: bytes) -> bytes:
        try:
            try_to_lock()
        except OSError:
            return b"locked"
        return b"free"

    peer = Peer(answer)
    return lambda: equal(peer.ask(), b"locked")


@thing
def flock() -> Check:
    path = home("flock")
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    check = _is_locked(lambda: fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))
    fcntl.flock(held, fcntl.LOCK_EX)
    return check


@thing
def posix_lock() -> Check:
    path = home("posix")
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    check = _is_locked(lambda: fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5))
    fcntl.lockf(held, fcntl.LOCK_EX, 10, 5)
    return check


@thing
def open_file_description_lock() -> Check:
    path = home("ofd")
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    check = _is_locked(lambda: fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_OFD_SETLK, lock))
    fcntl.fcntl(held, fcntl.F_OFD_SETLK, lock)
    return check


@thing
def fifo() -> Check:
    """A named pipe with bytes in it, both ends open here."""
    path = home("fifo")
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    os.write(descriptor, b"waiting")

    def check() -> None:
        equal(os.read(descriptor, 100), b"waiting")
        other = os.open(path, os.O_WRONLY)
        os.write(other, b"waiting")
        os.close(other)

    return check
