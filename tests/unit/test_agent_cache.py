"""The node's copies of checkpoints: whole and verified, or not there."""

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from archive_store import MemoryStore, build, noise, text

from dynamo_entry.archive import Archive, Head, Keys, segments
from dynamo_entry.errors import Corrupt, Incompatible, NotFound, SettingsError, UsageError
from dynamo_entry.kube.agent import cache as module
from dynamo_entry.kube.agent.cache import Busy, Cache

HASH = "0123456789abcdef"


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Archives of some kilobytes get many segments."""
    monkeypatch.setattr(module, "segments", lambda archive: segments.segments(archive, size=16 << 10))


@pytest.fixture
def source(tmp_path):
    """The path of a published archive."""
    path = tmp_path / "storage" / f"{HASH}.tar"
    path.parent.mkdir()
    streams = {"criu/pages-1.img": noise(300_000), "criu/core-1.img": text(9000), "zeros": bytes(50_000)}
    path.write_bytes(build(streams, head=Head(hash=HASH)))
    return path


@pytest.fixture
def cache(tmp_path):
    return Cache(str(tmp_path / "cache"))


def damage(path, like, number):
    """Change a chunk of the file at ``path``, which has the layout of the archive ``like``."""
    with Archive.open(MemoryStore(like)) as archive:
        chunk = archive.manifest.streams["criu/pages-1.img"].chunks[number]
    with open(path, "r+b") as file:
        file.seek(chunk.offset + 100)
        file.write(b"torn")


def fetch(cache, source, name=HASH, progress=lambda count: None):
    return cache.fetch(name, str(source), HASH, progress)


def test_only_the_archive_of_the_status_is_copied(cache, source):
    """What somebody put in its place is refused, and leaves nothing."""
    with pytest.raises(Incompatible) as refused:
        cache.fetch(HASH, str(source), HASH, lambda count: None, digest="blake3:" + "0" * 64)
    assert refused.value.reason == "DigestMismatch"
    assert not cache.entries()
    digest = fetch(cache, source).digest
    assert cache.fetch(HASH, str(source), HASH, lambda count: None, digest=digest).digest == digest


def test_a_namespaces_copies_can_be_read_by_its_pods(cache, source):
    """Whatever their user: its directory alone is mounted in them."""
    fetch(cache, source, "team-a/" + HASH)
    path = cache.path("team-a/" + HASH)
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o755
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_segments_make_up_the_archive(source):
    """Put together they are the very bytes, and each passes its check."""
    data = source.read_bytes()
    with Archive.open(MemoryStore(data)) as archive:
        parts = list(segments.segments(archive, size=16 << 10))
        assert b"".join(data[part.offset : part.offset + part.length] for part in parts) == data
        assert len(parts) > 10
        for part in parts:
            segments.check(archive, part, data[part.offset : part.offset + part.length])


def test_each_segment_notices_a_changed_byte(source):
    """In a chunk, and in the manifest."""
    data = source.read_bytes()
    with Archive.open(MemoryStore(data)) as archive:
        for part in segments.segments(archive, size=16 << 10):
            changed = bytearray(data[part.offset : part.offset + part.length])
            place = part.chunks[-1].offset - part.offset if part.chunks else len(changed) - 3000
            changed[place] ^= 1
            with pytest.raises(Corrupt):
                segments.check(archive, part, changed)


def test_a_copy_is_exact(cache, source):
    """It has the archive's bytes, and its facts."""
    entry = fetch(cache, source)
    with open(cache.path(HASH), "rb") as file:
        assert file.read() == source.read_bytes()
    assert cache.entries() == {HASH: entry}
    assert (entry.source, entry.size) == (str(source), source.stat().st_size)
    assert sorted(os.listdir(cache.directory)) == [f"{HASH}.json", f"{HASH}.tar"]


def test_a_copy_may_belong_to_a_namespace(cache, source):
    """Its name then has two parts."""
    fetch(cache, source, "team-a/" + HASH)
    assert list(cache.entries()) == ["team-a/" + HASH]


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc/x", "a/b/c", "", ".x", "a//b"])
def test_no_name_leads_out_of_the_cache(cache, name):
    """Names come from objects that users write."""
    with pytest.raises(UsageError):
        cache.path(name)


def test_a_damaged_archive_is_not_copied(cache, source):
    """Nothing appears, and the error says what is wrong."""
    damage(source, source.read_bytes(), 40)
    with pytest.raises(Corrupt):
        fetch(cache, source)
    assert cache.entries() == {}


def test_another_hash_is_refused(cache, source):
    """The location and the identity must belong together; nothing is left of the attempt."""
    with pytest.raises(Incompatible):
        cache.fetch(HASH, str(source), "f" * 16, lambda count: None)
    with pytest.raises(NotFound):
        fetch(cache, source.with_name("absent.tar"))
    assert os.listdir(cache.directory) == []


def test_an_interrupted_copy_goes_on_where_it_was(cache, source):
    """What is there and intact is not read again; what a crash tore is."""
    read = []

    def progress(count):
        read.append(count)
        if sum(read) > 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(cache, source, progress=progress)
    damage(cache.path(HASH) + ".part", source.read_bytes(), 2)
    again = []
    fetch(cache, source, progress=again.append)
    assert 0 < sum(again) < source.stat().st_size - 60_000
    with open(cache.path(HASH), "rb") as file:
        assert file.read() == source.read_bytes()


def test_one_writer_at_a_time(cache, source):
    """A second process is told that the first is at it."""
    entered, leave = threading.Event(), threading.Event()

    def progress(count):
        entered.set()
        assert leave.wait(30)

    first = threading.Thread(target=fetch, args=(cache, source), kwargs={"progress": progress})
    first.start()
    assert entered.wait(30)
    with pytest.raises(Busy):
        fetch(Cache(cache.directory), source)
    leave.set()
    first.join()
    assert HASH in cache.entries()


def test_a_renewed_copy_replaces_the_old_one_at_once(cache, source):
    """A reader of the old copy keeps it; new readers get the new one."""
    old = fetch(cache, source)
    with open(cache.path(HASH), "rb") as reader:
        source.write_bytes(build({"criu/pages-1.img": noise(200_000, 2)}, head=Head(hash=HASH)))
        new = fetch(cache, source)
        assert new.digest != old.digest
        assert len(reader.read()) == old.size
    assert os.path.getsize(cache.path(HASH)) == new.size


def test_a_damaged_copy_is_removed(cache, source):
    """Verification finds it; an intact one is noted as verified."""
    fetch(cache, source)
    before = cache.entries()[HASH].verified_at
    cache.verify(HASH)
    assert cache.entries()[HASH].verified_at >= before
    damage(cache.path(HASH), source.read_bytes(), 2)
    with pytest.raises(Corrupt):
        cache.verify(HASH)
    assert os.listdir(cache.directory) == []


def test_use_is_remembered(cache, source):
    """The later time counts, also after a restart."""
    fetch(cache, source)
    cache.note(HASH, used_at=200)
    cache.note(HASH, used_at=100)
    assert Cache(cache.directory).entries()[HASH].used_at == 200


def test_a_copy_without_its_facts_counts(cache, source):
    """The agent may die between the rename and the facts."""
    entry = fetch(cache, source)
    os.unlink(os.path.join(cache.directory, f"{HASH}.json"))
    found = cache.entries()[HASH]
    assert (found.size, found.digest) == (entry.size, "")


def test_only_abandoned_partial_copies_are_removed(cache):
    """Neither young ones nor one that is being written."""
    paths = {name: os.path.join(cache.directory, f"{name}.tar.part") for name in ("young", "old", "held")}
    for path in paths.values():
        with open(path, "wb") as file:
            file.write(b"x")
    long_ago = time.time() - 1000
    for name in ("old", "held"):
        os.utime(paths[name], (long_ago, long_ago))
    with open(paths["held"], "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.remove_stale_parts(500) == 1
    assert sorted(os.listdir(cache.directory)) == ["held.tar.part", "young.tar.part"]


def test_a_copy_may_be_removed_while_it_is_looked_at(cache, source, monkeypatch):
    """The loop evicts what the verification in its own thread reads: nothing fails, and no facts stay behind."""
    fetch(cache, source)
    monkeypatch.setattr(Archive, "verify", lambda _archive: cache.remove(HASH))
    cache.verify(HASH)
    assert os.listdir(cache.directory) == []
    monkeypatch.setattr(cache, "_names", lambda _suffix: [HASH])  # it was listed before it was removed
    assert cache.entries() == {}
    assert cache.remove_stale_parts(0) == 0


def test_two_threads_note_the_same_copy(cache, source):
    """The loop notes its use, the verification its time; neither gets lost, or in the way of the other."""
    fetch(cache, source)
    later = time.time() + 1

    def note(field):
        for number in range(300):
            cache.note(HASH, **{field: later + number})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(note, ("used_at", "verified_at")))
    found = cache.entries()[HASH]
    assert (found.used_at, found.verified_at) == (later + 299, later + 299)


def test_keys_are_read_for_each_archive(tmp_path):
    """A Secret gets another key while the agent runs: what is sealed with it is copied, what the old one sealed is verified."""
    given = [Keys((b"1" * 32,))]
    kept = Cache(str(tmp_path / "cache"), keys=lambda: given[-1])
    for number in (b"1", b"2"):
        given.append(Keys((number * 32,)))
        path = tmp_path / f"{HASH}.tar"
        path.write_bytes(build({"criu/pages-1.img": noise(10_000)}, head=Head(hash=HASH), key=given[-1]))
        fetch(kept, path)
        kept.verify(HASH)
    given.append(Keys((b"3" * 32,)))
    with pytest.raises(Incompatible):
        kept.verify(HASH)
    assert not kept.entries(), "nobody can open it any more"


def test_keys_that_cannot_be_read_say_nothing_about_a_copy(tmp_path, source):
    """It stays."""

    def keys():
        if is_away:
            raise SettingsError("no key")

    is_away = False
    kept = Cache(str(tmp_path / "cache"), keys=keys)
    fetch(kept, source)
    is_away = True
    with pytest.raises(SettingsError):
        kept.verify(HASH)
    assert kept.entries()
