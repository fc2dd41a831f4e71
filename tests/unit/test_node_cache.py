"""The directory that pods of a node share: what it saves, and what neighbours can do to those who use it."""

import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from archive_store import CHUNK, MemoryStore, build, noise, text

from dynamo_entry import stores
from dynamo_entry.archive import Archive
from dynamo_entry.archive.manifest import TRAILER_BYTES
from dynamo_entry.errors import Corrupt, StorageUnavailable
from dynamo_entry.settings import from_environment
from dynamo_entry.storage import node_cache, shared_file
from dynamo_entry.storage.node_cache import NodeCache
from dynamo_entry.storage.shared_file import SharedFile

pytestmark = pytest.mark.usefixtures("short_tail", "small_blocks")

BLOCK = 4 * CHUNK
NEIGHBOUR = 1000

#: Longer than any test may take: who waits for it hangs.
FOR_EVER = 3600


class RemoteStore(MemoryStore):
    """A store that is read ahead of need, by spans that end in the middle of blocks."""

    parallel_reads = 4
    read_bytes = 10 * CHUNK

    def read_bytes_in_all(self):
        return sum(length for _, length in self.reads)


@pytest.fixture
def small_blocks(monkeypatch):
    for module in (shared_file, node_cache):
        monkeypatch.setattr(module, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(node_cache, "_FREE_SHARE", 0)  # the machine's disk may be full


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture(scope="module")
def streams():
    return {"a": noise(90 * CHUNK, 1), "b": noise(50 * CHUNK + 17, 2)}


@pytest.fixture(scope="module")
def data(streams):
    return build(streams)


def reader(directory, data, *, patience=FOR_EVER, **options):
    """An archive in a store of its own, read by way of the directory."""
    return Archive.open(RemoteStore(data), near=partial(NodeCache, str(directory), patience), **options)


def read(archive):
    return {name: archive.read(name) for name in archive.names()}


def from_store(archive):
    """Beyond what it takes to open an archive."""
    return archive.near.report()["from_store_bytes"]


def restore(directory, data, streams, **options):
    """One restore: right whatever neighbours do. Returns the bytes it took from the store."""
    with reader(directory, data, **options) as archive:
        assert read(archive) == streams
        return from_store(archive)


def only_file(directory):
    (found,) = directory.iterdir()
    return found


def test_many_at_once_read_the_store_once(directory, data, streams):
    begin = threading.Barrier(6)

    def one(_):
        with reader(directory, data) as archive:
            begin.wait()
            found = read(archive)
            return found, archive.near.report()

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(one, range(6)))
    assert all(found == streams for found, _ in done)
    taken = sum(report["from_store_bytes"] for _, report in done)
    assert len(data) * 0.9 < taken <= len(data)
    assert sum(report["from_node_bytes"] for _, report in done) >= 5 * sum(map(len, streams.values()))


def test_who_comes_later_reads_only_the_end(directory, data, streams):
    assert restore(directory, data, streams) > 0
    with reader(directory, data) as archive:
        assert read(archive) == streams
        assert from_store(archive) == 0
        assert archive._store.read_bytes_in_all() < TRAILER_BYTES + 64 * 1024


def test_archives_do_not_meet(directory, data, streams):
    """A file's name is the digest of what is in it."""
    restore(directory, data, streams)
    other = {"a": noise(90 * CHUNK, 3)}
    assert restore(directory, build(other), other) > 0
    assert len(list(directory.iterdir())) == 2


def test_sealed_bytes_stay_sealed(directory):
    streams, key = {"a": text(40 * CHUNK)}, b"k" * 32
    data = build(streams, compression="none", key=key)
    restore(directory, data, streams, key=key)
    kept = only_file(directory).read_bytes()
    assert len(kept.rstrip(b"\0")) > 40 * CHUNK
    assert text(40) not in kept


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o700, 0o600), (0o755, 0o644), (0o1777, 0o644), (0o750, 0o640)]
)
def test_who_may_enter_the_directory_may_read(directory, data, streams, mode, expected):
    """And nobody but the owner may write, whatever the umask is."""
    directory.chmod(mode)
    restore(directory, data, streams)
    assert stat.S_IMODE(only_file(directory).stat().st_mode) == expected


def test_a_directory_that_is_not_there_is_made_for_this_user_alone(tmp_path, data, streams):
    restore(tmp_path / "new/cache", data, streams)
    assert stat.S_IMODE((tmp_path / "new/cache").stat().st_mode) == 0o700
    assert restore(tmp_path / "new/cache", data, streams) == 0


def test_no_directory_no_cache(tmp_path, data, streams):
    (tmp_path / "file").touch()
    with reader(tmp_path / "file", data) as archive:
        assert read(archive) == streams
        assert archive.near.report() == {"trouble": f"[Errno 17] File exists: '{tmp_path / 'file'}'"} | {
            "from_store_bytes": archive.near.report()["from_store_bytes"], "from_node_bytes": 0,
        }  # fmt: skip


def truncate(path):
    os.truncate(path, path.stat().st_size // 3)


def truncate_marks_kept(path):
    """The bytes are gone, the marks are there: holes."""
    marks = path.read_bytes()[-200:]
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size - 200)
    with path.open("ab") as file:
        file.write(marks)


def overwrite(path):
    """Every byte of the archive, not the marks."""
    size = path.stat().st_size
    blocks = size // (BLOCK + 1)
    with path.open("r+b") as file:
        file.write(os.urandom(size - blocks))


def damage_one_byte(path):
    """Of a chunk: the first of a page may be a header's, of the next one it is not."""
    with path.open("r+b") as file:
        for at in (5 * BLOCK, 5 * BLOCK + CHUNK):
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)


def grow(path):
    os.truncate(path, 1 << 40)


def empty(path):
    os.truncate(path, 0)


def replaced(make):
    def act(path):
        path.unlink()
        make(path)

    return act


def link_elsewhere(path):
    path.symlink_to(path.parent.parent / "precious")


def hard_link_elsewhere(path):
    os.link(path.parent.parent / "precious", path)


def open_to_all(path):
    path.chmod(0o666)


HOSTILE = {
    "truncated": truncate,
    "holes": truncate_marks_kept,
    "wrong bytes": overwrite,
    "one wrong byte": damage_one_byte,
    "grown": grow,
    "empty": empty,
    "link": replaced(link_elsewhere),
    "hard link": replaced(hard_link_elsewhere),
    "fifo": replaced(os.mkfifo),
    "directory": replaced(os.mkdir),
    "dangling link": replaced(lambda path: path.symlink_to("/nowhere")),
    "open to all": open_to_all,
}


@pytest.mark.parametrize("act", HOSTILE.values(), ids=HOSTILE)
def test_whatever_lies_there_the_restore_is_right(directory, data, streams, act):
    precious = directory.parent / "precious"
    precious.write_bytes(b"untouched")
    restore(directory, data, streams)
    act(only_file(directory))
    taken = restore(directory, data, streams)
    assert 0 <= taken <= 2 * len(data)
    assert precious.read_bytes() == b"untouched"


@pytest.mark.parametrize("act", [truncate, overwrite, empty], ids=lambda act: act.__name__)
def test_whatever_happens_meanwhile_the_restore_is_right(directory, data, streams, act):
    with reader(directory, data) as archive:
        first = archive.read("a")
        act(only_file(directory))
        assert first == streams["a"]
        assert read(archive) == streams


def test_a_removed_file_is_read_on(directory, data, streams):
    restore(directory, data, streams)
    with reader(directory, data) as archive:
        only_file(directory).unlink()
        assert read(archive) == streams
        assert from_store(archive) == 0


def test_damage_is_mended(directory, data, streams):
    restore(directory, data, streams)
    damage_one_byte(only_file(directory))
    assert restore(directory, data, streams) > 0
    restore(directory, data, streams)
    assert restore(directory, data, streams) == 0


def test_who_was_lied_to_often_asks_the_store_alone(directory, data, streams):
    restore(directory, data, streams)
    overwrite(only_file(directory))
    with reader(directory, data, threads=1) as archive:
        for index in range(archive.count_of("a")):
            assert archive.chunk("a", index) == streams["a"][index * CHUNK :][:CHUNK]
        before = archive.near.report()
        assert archive.read("b") == streams["b"]
        assert archive.near.report()["from_node_bytes"] == before["from_node_bytes"]


def test_damage_in_the_store_is_found(directory, data):
    """One more read does not make it right."""
    damaged = bytearray(data)
    for at in (20 * CHUNK, 21 * CHUNK):
        damaged[at] ^= 1
    with reader(directory, bytes(damaged)) as archive, pytest.raises(Corrupt):
        read(archive)


def shared(directory, data):
    """This user's file, as a process of its own would have it open."""
    with reader(directory, data) as archive:
        digest, size = archive.digest, archive.size
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        return SharedFile.ours(descriptor, shared_file.file_name(digest), size)
    finally:
        os.close(descriptor)


def in_a_child(act):
    """A process that has done ``act`` and lives until it is killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            act()
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


@pytest.fixture
def holder(directory, data):
    """A pod that has begun to bring in half of the blocks, and does not go on."""

    def hold():
        global held  # noqa: PLW0603 - until the process ends
        held = shared(directory, data).claimed(range(len(data) // BLOCK // 2))
        assert held.__enter__()

    pid = in_a_child(hold)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_filler_that_was_killed_is_taken_over(directory, data, streams, holder):
    """Without anybody's patience."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(restore, directory, data, streams)
        time.sleep(0.05)
        assert not waiting.done()
        os.kill(holder, signal.SIGKILL)
        assert 0 < waiting.result(60) <= len(data)
    assert restore(directory, data, streams) == 0


@pytest.mark.usefixtures("holder")
def test_who_waits_in_vain_asks_the_store(directory, data, streams):
    """Once: another wait of the same restore would be seen by the number of looks."""
    with reader(directory, data, patience=0.05) as archive:
        looks = []
        wait = archive.near._closing.wait
        archive.near._closing.wait = lambda pause: looks.append(pause) or wait(pause)
        assert read(archive) == streams
        assert looks
        del looks[:]
        assert archive.read("a") == streams["a"]
        assert not looks


@pytest.mark.usefixtures("holder")
def test_closing_does_not_wait(directory, data):
    archive = reader(directory, data)
    is_waiting, wait = threading.Event(), archive.near._closing.wait
    archive.near._closing.wait = lambda pause: is_waiting.set() or wait(pause)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(archive.chunk, "a", 0)
        assert is_waiting.wait(60)
        archive.close()
        assert waiting.result(60)


def test_who_may_only_read_cannot_keep_others_waiting(directory, data, streams):
    """A lock for readers is enough to keep a filler out, and costs no more than its patience."""

    def hold():
        global held  # noqa: PLW0603 - until the process ends
        shared(directory, data)
        held = os.open(only_file(directory), os.O_RDONLY)
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))

    pid = in_a_child(hold)
    try:
        assert restore(directory, data, streams, patience=0.05) > 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_who_holds_a_lease_cannot_keep_others_waiting(directory, data, streams):
    """The kernel lets whoever opens such a file wait for 45 s, unless it says otherwise."""
    restore(directory, data, streams)

    def hold():
        global held  # noqa: PLW0603 - until the process ends
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        held = os.open(only_file(directory), os.O_RDWR)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    pid = in_a_child(hold)
    try:
        with reader(directory, data) as archive:
            assert read(archive) == streams
            assert "temporarily unavailable" in archive.near.report()["trouble"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_store_that_fails_lets_the_next_one_try(directory, data, streams):
    class Failing(RemoteStore):
        def read_range(self, offset, length):
            raise StorageUnavailable("not now")

    with reader(directory, data) as archive:
        archive.near._store = Failing(data)
        with pytest.raises(StorageUnavailable):
            read(archive)
        assert restore(directory, data, streams) > 0


def test_a_full_disk_fails_nobody(directory, data, streams, monkeypatch):
    def keep(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SharedFile, "keep", keep)
    with reader(directory, data) as archive:
        assert read(archive) == streams
        assert "No space left" in archive.near.report()["trouble"]
    assert not any(only_file(directory).read_bytes())


def failing_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks_is_of_no_use(directory, data, streams, monkeypatch):
    monkeypatch.setattr(fcntl, "fcntl", failing_locks)
    with reader(directory, data) as archive:
        assert read(archive) == streams
        assert "No locks available" in archive.near.report()["trouble"]


def test_a_part_of_the_disk_stays_free(directory, data, streams, monkeypatch):
    monkeypatch.setattr(node_cache, "_FREE_SHARE", 1.01)
    with reader(directory, data) as archive:
        assert read(archive) == streams
        assert "is free" in archive.near.report()["trouble"]
    assert not any(only_file(directory).read_bytes())


def made(directory, number, age_s, size=4096):
    path = directory / f"{number:064x}.{os.geteuid()}.v1"
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_what_nobody_has_read_for_a_day_goes(directory, data, streams):
    old, young = made(directory, 1, 90_000), made(directory, 2, 80_000)
    strange = directory / "somebody's"
    strange.write_bytes(b"")
    os.utime(strange, (0, 0))
    restore(directory, data, streams)
    assert (old.exists(), young.exists(), strange.exists()) == (False, True, True)


def test_the_least_recently_used_make_room(directory, data, streams, monkeypatch):
    first, second, third = (made(directory, number, 1000 - number) for number in (1, 2, 3))
    monkeypatch.setattr(node_cache, "_has_room", lambda *_: not second.exists())
    restore(directory, data, streams)
    assert (first.exists(), second.exists(), third.exists()) == (False, False, True)


def test_a_read_keeps_a_file_young(directory, data, streams):
    restore(directory, data, streams)
    os.utime(only_file(directory), (0, 0))
    restore(directory, data, streams)
    assert only_file(directory).stat().st_mtime > time.time() - 3600


def as_neighbours(directory):
    """This user's file becomes another's."""
    path = only_file(directory)
    theirs = path.with_name(path.name.replace(f".{os.geteuid()}.", f".{NEIGHBOUR}."))
    path.rename(theirs)
    os.chown(theirs, NEIGHBOUR, NEIGHBOUR)
    return theirs


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")


@needs_root
def test_another_users_file_is_read_and_not_written(directory, data, streams):
    restore(directory, data, streams)
    theirs = as_neighbours(directory)
    before = theirs.read_bytes()
    assert restore(directory, data, streams) == 0
    assert theirs.read_bytes() == before
    (ours,) = set(directory.iterdir()) - {theirs}
    assert not any(ours.read_bytes())


@needs_root
@pytest.mark.parametrize(
    "act", [truncate, overwrite, damage_one_byte, open_to_all, empty], ids=lambda act: act.__name__
)
def test_another_users_file_is_not_believed(directory, data, streams, act):
    restore(directory, data, streams)
    theirs = as_neighbours(directory)
    act(theirs)
    before = theirs.read_bytes()
    assert restore(directory, data, streams) > 0
    assert theirs.read_bytes() == before


@needs_root
def test_a_file_is_its_names_users_or_nobodys(directory, data, streams):
    restore(directory, data, streams)
    os.chown(as_neighbours(directory), NEIGHBOUR + 1, 0)
    assert restore(directory, data, streams) > 0


@needs_root
def test_where_this_user_may_not_write_others_are_followed(directory, data, streams):
    """Another user's pod fills; this one reads what is there, and the rest from the store."""
    directory.chmod(0o755)
    restore(directory, data, streams)
    program = (
        "import os, sys\n"
        "from functools import partial\n"
        "from dynamo_entry.archive import Archive\n"
        "from dynamo_entry.storage import local, node_cache, shared_file, open_store\n"
        f"os.setgid({NEIGHBOUR}); os.setuid({NEIGHBOUR})\n"
        f"shared_file.BLOCK_BYTES = node_cache.BLOCK_BYTES = {BLOCK}\n"
        "near = partial(node_cache.NodeCache, sys.argv[1], 3600)\n"
        "with Archive.open(open_store(sys.argv[2]), near=near) as archive:\n"
        "    archive.verify()\n"
        "    print(archive.near.report())\n"
    )
    archive = directory / "archive.tar"
    archive.write_bytes(data)
    for parent in directory.parents:
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory), str(archive)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'from_store_bytes': 0" in done.stdout
    assert "Permission denied" in done.stdout


def test_only_what_comes_over_the_network(directory):
    settings = from_environment({"DYNAMO_CHECKPOINT_NODE_CACHE_DIR": str(directory)})
    assert stores.node_cache(settings, "/checkpoints/x.tar") is None
    assert stores.node_cache(from_environment({}), "s3://bucket/x.tar") is None
    assert stores.node_cache(settings, "s3://bucket/x.tar") is not None


def test_waits_are_short_beside_the_stall_timeout(directory):
    def patience(stall):
        settings = from_environment(
            {"DYNAMO_CHECKPOINT_NODE_CACHE_DIR": str(directory), "DYNAMO_CHECKPOINT_STALL_TIMEOUT": stall}
        )
        return stores.node_cache(settings, "s3://bucket/x.tar").args[1]

    assert [patience(stall) for stall in ("0", "60", "6")] == [10, 10, 1.5]


def test_nothing_is_loaded_where_it_is_not_set():
    program = "import sys, dynamo_entry.worker.restore; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "dynamo_entry.stores" in done.stdout.split()
    assert not {"dynamo_entry.storage.node_cache", "dynamo_entry.storage.shared_file"} & {
        *done.stdout.split()
    }


def test_doctor_s_look_leaves_nothing_and_finds_what_is_wrong(directory, data, monkeypatch):
    with reader(directory, data) as archive:
        read(archive)
    before = os.listdir(directory)
    assert node_cache.examine(str(directory)).startswith("1 archives of 1 users")
    assert os.listdir(directory) == before
    with pytest.raises(FileNotFoundError):
        node_cache.examine(str(directory / "none"))
    with monkeypatch.context() as patched:
        patched.setattr(node_cache, "_FREE_SHARE", 1.1)
        with pytest.raises(OSError, match="free"):
            node_cache.examine(str(directory))
    assert os.listdir(directory) == before
    monkeypatch.setattr(fcntl, "fcntl", failing_locks)
    with pytest.raises(OSError, match="locks"):
        node_cache.examine(str(directory))
    assert os.listdir(directory) == before
