"""Files on a volume: the contract, and what only file systems do."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import time

import pytest
from archive_store import noise
from store_contract import MIB, StoreContract, publish

from dynamo_entry.archive import Archive
from dynamo_entry.errors import (
    AlreadyExists,
    Corrupt,
    NotFound,
    SettingsError,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from dynamo_entry.storage import Leftover, Retry, direct, open_store, partial, posix
from dynamo_entry.storage.local import LocalStore


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "volume" / "sub" / "a.tar")


@pytest.fixture
def store(path):
    return LocalStore(path, Retry(limit_s=0.5, stall_s=0.1))


@pytest.fixture
def again(path):
    return lambda: LocalStore(f"file://{path}")


class TestContract(StoreContract):
    pass


def failing(number, name):
    """A stand-in for a system call that fails."""

    def call(*_arguments, **_options):
        raise OSError(number, os.strerror(number), name)

    return call


def hidden(path):
    return [name for name in os.listdir(os.path.dirname(path)) if name.startswith(".")]


@pytest.mark.parametrize(
    "location", ["/", "/a/", "a.tar", "./a.tar", "/a/..", "file://host", "file://a.tar", ""]
)
def test_refused_locations(location):
    """A location must name a file, absolutely."""
    with pytest.raises(SettingsError):
        LocalStore(location)


def test_locations():
    """A path and a URL of it are the same place; opening touches nothing."""
    assert open_store("/nowhere/a b.tar").location == open_store("file:///nowhere/a%20b.tar").location


def test_files_are_their_owners_alone(store, path):
    """Mode 0600 while being written and afterwards; directories made on the way 0700."""
    umask = os.umask(0)
    try:
        writer = store.open_writer()
        (temporary,) = hidden(path)
        assert stat.S_IMODE(os.stat(f"{os.path.dirname(path)}/{temporary}").st_mode) == 0o600
        writer.commit()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(os.path.dirname(path))).st_mode) == 0o700
    assert os.stat(path).st_nlink == 1


def test_ranges_copied_or_mapped(store):
    """Any offset and length gives the same bytes, whichever way they come."""
    data = noise(3 * MIB)
    publish(store, data)
    chance = random.Random(1)
    for _ in range(200):
        offset = chance.choice([chance.randrange(len(data)), chance.randrange(700) * 4096])
        length = chance.choice([1, 4096, 131072, 262144, chance.randrange(len(data))])
        length = min(length, len(data) - offset)
        assert store.read_range(offset, length) == data[offset : offset + length]


def test_large_ranges_are_mapped_and_unmapped(store, path):
    """A large range is no copy; nothing stays mapped once nobody looks at it."""
    publish(store, bytes(4 * MIB))

    def mappings():
        with open("/proc/self/maps") as file:
            return sum(path in line for line in file)

    view = memoryview(store.read_range(MIB, 2 * MIB))
    assert view.readonly
    assert mappings() == 1
    part = view[5:10]
    del view
    assert mappings() == 1
    del part
    assert mappings() == 0


def test_where_mapping_does_not_work(store, monkeypatch):
    """File systems or kernels that cannot are read from instead."""
    publish(store, noise(MIB))
    monkeypatch.setattr(posix, "_MADV_POPULATE_READ", 9999)
    assert store.read_range(0, MIB) == noise(MIB)
    monkeypatch.setattr(posix.mmap, "mmap", failing(errno.ENODEV, "x"))
    assert store.read_range(4096, MIB - 4096) == noise(MIB)[4096:]


def test_the_same_file_from_stat_on(store, again):
    """A reader is not disturbed when the object is replaced or deleted under it; stat looks anew."""
    publish(store, b"first")
    store.stat()
    publish(again(), b"later", replace=True)
    assert bytes(store.read_range(0, 5)) == b"first"
    store.stat()
    assert bytes(store.read_range(0, 5)) == b"later"
    again().delete()
    assert bytes(store.read_range(0, 5)) == b"later"
    with pytest.raises(NotFound):
        store.stat()


def test_cut_short_under_our_feet(store, path):
    """A file that was truncated after it was opened is damaged, not a crash."""
    publish(store, bytes(4 * MIB))
    store.stat()
    os.truncate(path, MIB)
    with pytest.raises(Corrupt):
        store.read_range(0, 2 * MIB)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_its_place(path, make):
    """A directory or a fifo is refused without waiting."""
    os.makedirs(os.path.dirname(path))
    make(path)
    with pytest.raises(StorageError) as caught:
        LocalStore(path).stat()
    assert caught.value.reason == "NotAFile"


def test_only_files_are_deleted(tmp_path):
    """Not a device that a location names by mistake; of a link, the link."""
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(StorageError) as caught:
        LocalStore(str(tmp_path / "fifo.tar")).delete()
    assert caught.value.reason == "NotAFile"
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "link.tar").symlink_to("a.tar")
    LocalStore(str(tmp_path / "link.tar")).delete()
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "fifo.tar"]


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENOENT, NotFound, "NotFound"),
        (errno.EACCES, StorageDenied, "StorageDenied"),
        (errno.EROFS, StorageDenied, "ReadOnly"),
        (errno.EIO, StorageUnavailable, "StorageUnavailable"),
        (errno.ESTALE, StorageUnavailable, "StorageUnavailable"),
        (errno.EMFILE, StorageError, "StorageError"),
    ],
)
def test_what_errors_mean(store, monkeypatch, number, kind, reason):
    """An errno becomes the error that says what can be done, with the path."""
    publish(store, bytes(MIB))
    monkeypatch.setattr(os, "open", failing(number, "x"))
    with pytest.raises(kind) as caught:
        store.stat()
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert store.location in caught.value.message


def test_a_read_that_fails(store, monkeypatch):
    """An I/O error while reading may pass."""
    publish(store, bytes(MIB))
    monkeypatch.setattr(os, "pread", failing(errno.EIO, "x"))
    with pytest.raises(StorageUnavailable):
        store.read_range(0, 10)


def test_a_listing_on_a_server_that_forgets(store, monkeypatch):
    """An archive that is deleted meanwhile is none; one that cannot be looked at is not passed over."""
    publish(store, b"x")
    monkeypatch.setattr(os, "lstat", failing(errno.ENOENT, "x"))
    assert list(store.archives()) == []
    monkeypatch.setattr(os, "lstat", failing(errno.ESTALE, "x"))
    with pytest.raises(StorageUnavailable):
        list(store.archives())


def stale_once(monkeypatch, name):
    """A stand-in for a system call on a handle that the server forgets once."""
    real, failures = getattr(os, name), [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def call(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["open", "pread"])
def test_a_stale_handle(store, monkeypatch, name):
    """NFS forgets a handle: the file is opened again."""
    publish(store, b"same")
    store.stat()
    if name == "open":
        store.close()
    stale_once(monkeypatch, name)
    assert bytes(store.read_range(0, 4)) == b"same"


def test_a_stale_handle_of_a_replaced_file(store, again, monkeypatch):
    """What is opened again must be the file that was being read."""
    publish(store, b"first")
    store.stat()
    publish(again(), b"later", replace=True)
    stale_once(monkeypatch, "pread")
    with pytest.raises(StorageError) as caught:
        store.read_range(0, 5)
    assert caught.value.reason == "Replaced"


@pytest.mark.parametrize("call", ["pwrite", "fsync", "fdatasync"])
@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [(errno.ENOSPC, StorageError, "DiskFull"), (errno.EDQUOT, StorageError, "DiskFull"),
     (errno.EIO, StorageUnavailable, "StorageUnavailable")],
)  # fmt: skip
def test_a_full_or_failing_disk(store, path, monkeypatch, call, number, kind, reason):
    """Whichever call the disk fails in: the error is told, and nothing is left."""
    writer = store.open_writer()
    monkeypatch.setattr(partial, "_WRITEBACK_BYTES", MIB)
    monkeypatch.setattr(os, call, failing(number, "x"))
    with pytest.raises(kind) as caught:
        for _ in range(4):
            writer.append(bytes(MIB))
            time.sleep(0.01)
        writer.commit()
    assert caught.value.reason == reason
    assert caught.value.hint
    writer.abort()
    monkeypatch.undo()
    assert os.listdir(os.path.dirname(path)) == []


def aligned(length):
    """Noise at the start of a page."""
    memory = memoryview(mmap.mmap(-1, length))
    memory[:] = noise(length)
    return memory


def resident_bytes(path):
    """How much of a file the page cache holds."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
    pages = (ctypes.c_ubyte * (-(-len(mapped) // mmap.PAGESIZE)))()
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
    assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(mapped)), pages) == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def on_a_disk(path):
    with open(path, "wb") as file:
        return direct.filesystem_type(file.fileno()) in direct._ON_A_DISK


def test_large_aligned_buffers_go_past_the_page_cache(store, tmp_path, path):
    """Nobody waits for a second copy of them to be written back."""
    if not on_a_disk(tmp_path / "x"):
        pytest.skip(
            "pytest's temporary files are not on ext4, xfs or f2fs: --basetemp=DIRECTORY of one that is"
        )
    writer = store.open_writer()
    for _ in range(4):
        writer.append(bytes(4096), aligned(4 * MIB), b"")
    writer.commit()
    assert resident_bytes(path) < MIB


@pytest.mark.parametrize("direct_limit", [None, 4 * MIB, 0])
def test_what_goes_past_the_page_cache_and_what_through_it_is_one_file(
    store, again, monkeypatch, direct_limit
):
    """Odd lengths and unaligned places, disks that write less than they were asked to, and that refuse."""
    pwrite = os.pwrite

    def limited(descriptor, data, offset):
        if os.O_DIRECT & fcntl.fcntl(descriptor, fcntl.F_GETFL):
            if direct_limit == 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            data = data[: direct_limit and direct_limit // 3]
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)
    pieces = [aligned(n) for n in (4096, 4 * MIB, 4 * MIB, 5000, 4 * MIB, 3192, MIB + 777, 3319, 4 * MIB, 1)]
    publish(store, *pieces)
    whole = b"".join(pieces)
    assert bytes(again().read_range(0, len(whole))) == whole
    assert again().stat().size == len(whole)


def test_a_read_only_volume(store, monkeypatch):
    """Told before the engine starts."""
    monkeypatch.setattr(os, "mkdir", failing(errno.EROFS, "x"))
    with pytest.raises(StorageDenied) as caught:
        store.check_writable()
    assert caught.value.reason == "ReadOnly"


@pytest.mark.parametrize(
    ("calls", "number"),
    [(("link", "rename"), errno.ENOSYS), (("link", "rename"), errno.EOPNOTSUPP), (("fsync",), errno.EINVAL)],
)
def test_a_volume_on_which_nothing_can_be_published(store, path, monkeypatch, calls, number):
    """A bucket that is mounted: told before the engine starts, and nothing is left."""
    for call in calls:
        monkeypatch.setattr(os, call, failing(number, "x"))
    monkeypatch.setattr(posix, "_libc", object())
    with pytest.raises(StorageDenied) as caught:
        store.check_writable()
    assert caught.value.reason == "VolumeUnfit"
    assert "s3://" in caught.value.hint
    assert os.listdir(os.path.dirname(path)) == []


def test_a_mounted_bucket_that_opens_no_file_to_read_and_write(store, monkeypatch):
    """Amazon's own mount of S3 (EINVAL)."""
    open_ = os.open
    refuse = failing(errno.EINVAL, "x")
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, *a, **k: (refuse if flags & os.O_CREAT else open_)(path, flags, *a, **k),
    )
    with pytest.raises(StorageDenied) as caught:
        store.check_writable()
    assert caught.value.reason == "VolumeUnfit"


def test_a_volume_that_is_fit_is_left_as_it_was(store, path):
    publish(store, b"first")
    store.check_writable()
    assert os.listdir(os.path.dirname(path)) == ["a.tar"]


@pytest.mark.parametrize("missing", [(), ("link",), ("link", "renameat2")])
def test_publishing_without_hard_links(store, again, path, monkeypatch, missing):
    """Where there are no hard links, and no exclusive rename either, it is still one step and exclusive."""
    if "link" in missing:
        monkeypatch.setattr(os, "link", failing(errno.EPERM, "x"))
    if "renameat2" in missing:
        monkeypatch.setattr(posix, "_libc", object())
    publish(store, b"first")
    assert os.stat(path).st_nlink == 1
    with pytest.raises(AlreadyExists):
        publish(again(), b"second")
    assert bytes(again().read_range(0, 5)) == b"first"
    assert os.listdir(os.path.dirname(path)) == ["a.tar"]
    TestContract().test_racing_writers(*map(LocalStore, [path + "2"]), lambda: LocalStore(path + "2"))


def test_a_link_that_was_made_and_not_answered(store, path, monkeypatch):
    """NFS: the request is sent again and finds its own link; that is no other creator's."""
    link = os.link

    def twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    publish(store, b"mine")
    assert os.listdir(os.path.dirname(path)) == ["a.tar"]


def test_leftovers(store, path, again):
    """What nobody holds any more is left over; what is being written, or is no file of ours, is not."""
    live = store.open_writer()
    directory = os.path.dirname(path)
    stale = f"{directory}/.b.tar.0123456789abcdef.partial"
    for other in (stale, f"{directory}/.a.tar.partial", f"{directory}/c.partial"):
        with open(other, "wb") as file:
            file.write(bytes(10))
    (found,) = store.leftovers()
    assert found[:2] == (os.path.basename(stale), 10)
    assert 0 <= found.age_s < 60
    store.remove_leftover(found)
    assert list(again().leftovers()) == []
    assert not os.path.exists(stale)
    (temporary,) = [name for name in hidden(path) if name != ".a.tar.partial"]
    with pytest.raises(StorageError) as caught:
        store.remove_leftover(Leftover(temporary, 0, 0.0))
    assert caught.value.reason == "InUse"
    for name in ("c.partial", "../a.tar", "a.tar"):
        with pytest.raises(StorageError, match="not a temporary file"):
            store.remove_leftover(Leftover(name, 0, 0.0))
    live.append(b"x")
    live.commit()


def test_a_new_writer_sweeps_its_own_name(store, path):
    """Leftovers of the same name go when the next writer comes; others' and live ones stay."""
    live = store.open_writer()
    directory = os.path.dirname(path)
    for name in (".a.tar.0123456789abcdef.partial", ".b.tar.0123456789abcdef.partial"):
        open(f"{directory}/{name}", "w").close()
    store.open_writer().abort()
    left = hidden(path)
    assert ".b.tar.0123456789abcdef.partial" in left
    assert ".a.tar.0123456789abcdef.partial" not in left
    assert len(left) == 2
    live.abort()


def test_a_creator_on_another_node_whose_lock_is_not_seen(store, path, again, monkeypatch):
    """NFS without locks, and the like: what is being written stays. What nobody has written to for long goes."""
    monkeypatch.setattr(partial, "filesystem_type", lambda _descriptor: 0x6969)
    first = store.open_writer()
    first.append(b"fir")
    fcntl.flock(first._descriptor, fcntl.LOCK_UN)
    left = f"{os.path.dirname(path)}/.a.tar.0123456789abcdef.partial"
    open(left, "w").close()
    os.utime(left, (time.time() - 600,) * 2)
    second = again().open_writer()
    assert not os.path.exists(left)
    first.append(b"st")
    first.commit()
    with pytest.raises(AlreadyExists):
        second.commit()
    assert bytes(again().read_range(0, 5)) == b"first"


def test_a_sweep_between_creation_and_lock(store, path, monkeypatch):
    """A new file that is swept before it is locked is made again."""
    flock, swept = fcntl.flock, []

    def late(descriptor, operation):
        if not swept:
            swept.extend(hidden(path))
            os.unlink(f"{os.path.dirname(path)}/{swept[0]}")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    publish(store, b"x")
    assert len(swept) == 1
    assert bytes(store.read_range(0, 1)) == b"x"


def test_without_locks_nothing_is_stale(store, path, monkeypatch):
    """A file system without flock: writing works, and nobody's file is taken for left over."""
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK, "x"))
    live = store.open_writer()
    assert list(store.leftovers()) == []
    store.open_writer().abort()
    live.append(b"x")
    live.commit()
    assert os.listdir(os.path.dirname(path)) == ["a.tar"]


_KILLED = """
import os, sys
from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.storage import open_store
sink = open_store(sys.argv[1]).open_writer()
print("begun", flush=True)
writer = ArchiveWriter(sink, compression=Compression(1), threads=2, chunk_size=1 << 16)
for name in "abc":
    stream = writer.stream(name)
    stream.write(os.urandom(20 << 20))
    stream.close()
writer.finish(Head(hash="h"))
sink.commit()
print("done", flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    """kill -9 leaves either nothing at the name or a complete archive; the next writer cleans up."""
    chance = random.Random(7)
    seen = set()
    for attempt in range(14):
        path = str(tmp_path / f"{attempt}.tar")
        child = subprocess.Popen([sys.executable, "-c", _KILLED, path], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"begun\n"
        time.sleep(chance.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store = LocalStore(path)
        try:
            with Archive.open(store, expected_hash="h") as archive:
                archive.verify()
                assert archive.names() == ["a", "b", "c"]
            seen.add("complete")
        except NotFound:
            seen.add("nothing")
        publish(store, b"next", replace=True)
        assert not [name for name in os.listdir(tmp_path) if name.startswith(f".{attempt}.")]
        store.delete()
    assert "nothing" in seen


def test_racing_processes(tmp_path):
    """Two creators at once, each in its own process: one publishes, the other learns of it."""
    path = str(tmp_path / "a.tar")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _KILLED, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [child.communicate() for child in children]
    assert sorted(child.returncode for child in children) == [0, 1]
    assert any(b"AlreadyExists" in stderr for _, stderr in outputs)
    with Archive.open(LocalStore(path)) as archive:
        archive.verify()
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_restore_imports_nothing_that_it_has_no_use_for(tmp_path):
    """Each of these takes 3 to 100 ms, in front of an engine that is there after 200."""
    (tmp_path / "engine.tar").write_bytes(b"bytes")
    code = (
        "import sys\n"
        "from dynamo_entry.worker.__main__ import _loaded\n"
        "_loaded('restore')\n"
        "from dynamo_entry.storage import open_store\n"
        f"store = open_store({str(tmp_path / 'engine.tar')!r})\n"
        "store.stat(), store.read_range(0, 5), store.close()\n"
        "print(*sorted({'tenacity', 'ssl', '_hashlib', 'http', 'requests', 'boto3', 'oras', 'typer', 'structlog',\n"
        "               'typing_extensions', 'inspect'}\n"
        "              & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def advised(monkeypatch):
    """What the kernel is told to read."""
    told = []

    def posix_fadvise(_descriptor, offset, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        told.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", posix_fadvise)
    return told


def test_what_will_be_read_is_asked_for_in_pieces_that_the_kernel_takes_whole(tmp_path, monkeypatch, advised):
    """One call for all of it would bring in the first 128 KiB."""
    monkeypatch.setattr(posix, "_is_cached", lambda _descriptor, _offset: False)
    (tmp_path / "a.tar").write_bytes(noise(MIB))
    store = LocalStore(str(tmp_path / "a.tar"))
    store.stat()
    store.will_read(4096, 512 << 10)
    assert advised == [(4096 + start, 128 << 10) for start in range(0, 512 << 10, 128 << 10)]


def test_what_is_in_the_page_cache_is_not_asked_for(tmp_path, advised):
    (tmp_path / "a.tar").write_bytes(noise(MIB))
    store = LocalStore(str(tmp_path / "a.tar"))
    store.stat()
    store.will_read(0, MIB)
    assert advised == []


def test_asking_beforehand_never_fails(tmp_path):
    """Whatever there is to say, the read will say it."""
    store = LocalStore(str(tmp_path / "a.tar"))
    store.will_read(0, MIB)
    (tmp_path / "a.tar").write_bytes(b"short")
    store.stat()
    store.will_read(MIB, MIB)
