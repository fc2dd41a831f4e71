"""May this place run that archive: what differs is refused by name, with both values."""

import os
import shutil
import socket
import subprocess
from types import SimpleNamespace

import pytest

from dynamo_entry.checks import files, host, image
from dynamo_entry.criu.rewrite.files import Regular, deleted
from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import elf
from dynamo_entry.linux.cgroup import Room
from dynamo_entry.linux.mounts import Mount, flags
from dynamo_entry.linux.pages import PAGE
from dynamo_entry.rootfs.apply import Lacking

HERE = {
    "arch": "x86_64",
    "kernel": "6.8.0",
    "page_bytes": 4096,
    "cpu_model": "Old CPU",
    "cpu_flags": ["avx2", "sse4_2"],
    "cpu_hints": ["erms"],
    "criu": "4.2.1",
    "uid": 0,
    "gid": 0,
    "addresses": [],
    "image": "",
}


def refused(call, *arguments, **keywords):
    with pytest.raises(Incompatible) as caught:
        call(*arguments, **keywords)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("difference", "reason", "words"),
    [
        ({"arch": "aarch64"}, "ArchDiffers", ("aarch64", "x86_64")),
        ({"page_bytes": 65536}, "PageSizeDiffers", ("65536", "4096")),
        ({"cpu_flags": ["avx512f", "avx2"]}, "CpuLacksFeature", ("avx512f", "Old CPU")),
        ({"criu": "4.10"}, "CriuOlder", ("4.10", "4.2.1")),
        ({"uid": 1000}, "UserDiffers", ("1000", "0")),
        ({"gid": 1000}, "UserDiffers", ("group", "1000", "0")),
    ],
)
def test_a_host_that_cannot_run_it_is_refused(difference, reason, words):
    error = refused(host.check_host, {**HERE, **difference}, HERE, may_set_gid=False)
    assert error.reason == reason
    assert all(word in error.message for word in words), error.message


def test_what_does_not_matter_is_a_note():
    notes = host.check_host(
        {**HERE, "kernel": "6.18", "cpu_hints": [], "criu": "4.2"}, HERE, may_set_gid=False
    )
    assert [note.partition(":")[0] for note in notes] == ["kernel", "criu", "CPU hints"]
    assert host.check_host(HERE, HERE, may_set_gid=False) == []


def test_another_build_of_the_image_is_a_note_where_both_are_known():
    one, another = {**HERE, "image": "one"}, {**HERE, "image": "another"}
    assert host.check_host(one, another, may_set_gid=False) == [
        "build of the image: one at creation, another here"
    ]
    assert (
        host.check_host(one, HERE, may_set_gid=False) == host.check_host(HERE, one, may_set_gid=False) == []
    )


def test_another_group_is_fine_for_who_may_have_any():
    assert host.check_host({**HERE, "gid": 1000}, HERE, may_set_gid=True) == []


def test_an_archive_that_knows_less_is_not_refused():
    assert host.check_host({}, HERE, may_set_gid=False) == []


def test_an_engine_that_does_not_fit_is_refused():
    gib = 1 << 30
    for is_nodes, remedy in ((False, "the container's memory limit"), (True, "on a node that has more")):
        error = refused(host.check_room, {"memory_bytes": 3 * gib}, Room(2 * gib, None, is_nodes=is_nodes))
        assert error.reason == "NotEnoughMemory" and remedy in error.hint
    assert refused(host.check_room, {"tasks": 300}, Room(None, 200)).reason == "PidsLimit"
    small = Room(None, None, descriptors=1024, mappings=65530)
    assert refused(host.check_room, {"descriptors": 1003}, small).reason == "DescriptorLimit"
    assert refused(host.check_room, {"mappings": 65467}, small).reason == "MappingLimit"
    little = Room(None, None, locked_bytes=8 << 20)
    assert refused(host.check_room, {"locked_bytes": 9 << 20}, little).reason == "MemlockLimit"
    host.check_room({"locked_bytes": 8 << 20}, little)
    host.check_room({"descriptors": 900, "mappings": 65317}, small)
    host.check_room({"memory_bytes": 2 * gib, "tasks": 200}, Room(2 * gib, 200))
    host.check_room({}, Room(None, None))


def test_a_clock_that_would_go_back_is_refused_unless_it_can_be_set():
    then, now = {"monotonic_s": 500.0, "boottime_s": 900.0}, {"monotonic_s": 100.0, "boottime_s": 1000.0}
    error = refused(host.clock_offsets, then, now, may_set=False)
    assert error.reason == "ClockWouldGoBack"
    assert "monotonic" in error.message
    assert host.clock_offsets(then, now, may_set=True) == host.ClockOffsets(400.0, -100.0)
    assert host.clock_offsets(now, now, may_set=False) is None


def test_boottime_counts_as_well():
    then = {"monotonic_s": 1.0, "boottime_s": 2.0}
    assert (
        "boottime"
        in refused(host.clock_offsets, then, {"monotonic_s": 1.0, "boottime_s": 1.0}, may_set=False).message
    )


READ, LOG, BOTH = os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR


@pytest.fixture
def mounts(tmp_path):
    return [Mount(1, "/", "/", "overlay", "overlay"), Mount(2, "/pods", str(tmp_path), "ext4", "/dev/sda")]


def test_files_must_be_as_they_were(tmp_path, mounts):
    path = str(tmp_path / "model")
    assert refused(files.check_files, [Regular(path, READ, 4)], (), mounts).reason == "VolumeMissing"
    (tmp_path / "model").write_bytes(b"12345")
    error = refused(files.check_files, [Regular(path, READ, 4)], (), mounts)
    assert (error.reason, str(tmp_path) in error.hint) == ("VolumeDiffers", True)
    assert files.check_files([Regular(path, READ, 5)], (), mounts).sizes == {}
    assert files.check_files([Regular(path, READ, 4)], {path}, mounts).sizes == {}


def test_a_log_may_be_longer_or_missing(tmp_path, mounts):
    path = str(tmp_path / "new" / "log")
    free = files.check_files([Regular(path, LOG, 9, mode=0o100600)], (), mounts)
    assert (free.sizes, free.lacking) == ({path: 0}, (Lacking(path, 0o600),))
    (tmp_path / "log").write_bytes(b"1234567890")
    path = str(tmp_path / "log")
    assert files.check_files([Regular(path, LOG, 3)], (), mounts) == ({path: 10}, ())


@pytest.mark.parametrize(
    ("path", "mode", "is_kernels"),
    [
        ("/dev/termination-log", 0o100644, False),
        ("/dev/null", 0o020666, True),
        ("/dev/unknown", 0, True),
        ("/srv/null", 0o020666, True),
        ("/proc/meminfo", 0o100444, True),
        ("/sys/power/state", 0o100644, True),
        ("/devices", 0o100644, False),
    ],
)
def test_a_regular_file_in_dev_is_one_like_any_other(path, mode, is_kernels):
    assert Regular(path, LOG, 9, mode=mode).is_kernels == is_kernels


def test_an_empty_file_may_be_missing(tmp_path, mounts):
    path = str(tmp_path / "lock")
    assert files.check_files([Regular(path, BOTH, 0)], (), mounts).sizes == {path: 0}
    assert refused(files.check_files, [Regular(path, BOTH, 1)], (), mounts).reason == "VolumeMissing"


@pytest.mark.parametrize(
    ("at_creation", "here"), [(0o106755, 0o755), (0o102060, 0o060), (0o100000, 0), (0, 0o644)]
)
def test_a_missing_file_gets_its_permissions_but_no_set_id_bits(tmp_path, mounts, at_creation, here):
    """Its owner is the launcher's user. 0 says that the mode is not known."""
    path = str(tmp_path / "log")
    free = files.check_files([Regular(path, LOG, 9, mode=at_creation)], (), mounts)
    assert free.lacking == (Lacking(path, here),)


def test_what_sqlite_removes_at_its_end_may_be_missing_where_files_are_reopened(tmp_path, mounts):
    """The log and its index, of a database that is here and that the engine has open."""
    database = tmp_path / "db"
    log, index = (Regular(f"{database}{suffix}", BOTH, 32768, mode=0o100660) for suffix in ("-wal", "-shm"))
    opened = [Regular(str(database), BOTH, 4096), log, index]
    reopened = (str(tmp_path),)
    assert refused(files.check_files, opened, (), mounts, reopened).reason == "VolumeMissing"
    database.write_bytes(bytes(8192))
    free = files.check_files(opened, (), mounts, reopened)
    assert free.lacking == (
        Lacking(log.path, 0o660, stays=True), Lacking(index.path, 0o660, 32768, stays=True),
    )  # fmt: skip
    assert free.sizes == {str(database): 8192, log.path: 0, index.path: 32768}
    (tmp_path / "db-shm").write_bytes(b"1")
    assert files.check_files(opened, (), mounts, reopened) == free
    assert refused(files.check_files, opened[1:], (), mounts, reopened).reason == "VolumeMissing"
    assert files.check_files(opened, (), mounts, (str(database),)) == free
    database.write_bytes(bytes(4096))
    assert refused(files.check_files, opened, (), mounts).reason == "VolumeMissing"


def test_a_mapped_file_may_not_be_shorter_even_where_files_are_reopened(tmp_path, mounts):
    path = str(tmp_path / "data")
    (tmp_path / "data").write_bytes(bytes(PAGE + 1))
    opened = [Regular(path, BOTH, 2 * PAGE + 5)]
    free = files.check_files(opened, (), mounts, (str(tmp_path),))
    error = refused(files.check_mapped, opened, free, lambda: {path: 3 * PAGE})
    assert (error.reason, f"{PAGE + 1} here" in error.message) == ("VolumeDiffers", True)
    for reached in ({path: 2 * PAGE}, {}):  # what is read there is not beyond the end of the file
        files.check_mapped(opened, free, lambda reached=reached: reached)
    files.check_mapped([Regular(path, BOTH, PAGE)], free, None)  # a longer one does no harm


def test_a_file_of_the_image_that_differs_is_told_apart(tmp_path):
    image = [Mount(1, "/", "/", "overlay", "overlay")]
    assert (
        refused(files.check_files, [Regular("/usr/lib/nonesuch.so", READ, 1)], (), image).reason
        == "ImageDiffers"
    )
    (tmp_path / "x").write_bytes(b"1")
    assert (
        refused(files.check_files, [Regular(str(tmp_path / "x"), READ, 2)], (), image).reason
        == "ImageDiffers"
    )


def test_the_pods_own_files_may_hold_anything():
    """Every pod has its own; an engine that has one open finds the new one."""
    size = os.path.getsize("/etc/hosts")
    assert files.check_files([Regular("/etc/hosts", READ, size + 1)], (), []).sizes == {"/etc/hosts": size}


@pytest.mark.parametrize(
    ("path", "is_the_pods"),
    [
        ("/etc/hosts", True),
        ("/run/secrets/kubernetes.io/serviceaccount/..2026_11_28_10_00_00.111/token", True),
        ("/run/secrets/registry/password", True),
        ("/var/run/secrets/eks.amazonaws.com/serviceaccount/token", True),
        ("/run/secrets-of-others", False),
        ("/config/settings", False),
    ],
)
def test_what_is_the_pods_own_is_not_compared(monkeypatch, path, is_the_pods):
    """A secret elsewhere, too, is a file on a volume, which REOPEN_PATHS may name."""

    def look(at, real=os.stat, **how):
        return SimpleNamespace(st_mtime_ns=2) if at == path else real(at, **how)

    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(files, "sample", lambda _path: "another")
    recorded = [{"path": path, "mount": "/config", "mtime_ns": 1, "sample": "one"}]
    if not is_the_pods:
        assert refused(files.check_content, recorded, ()).reason == "VolumeDiffers"
    assert files.check_content(recorded, () if is_the_pods else (path,)) == []


def library(directory, text):
    """A library whose contents are others, and whose size is the same, with another text."""
    (directory / "a.c").write_text(f'const char *told(void) {{ return "{text}"; }}')
    path = str(directory / f"{text}.so")
    subprocess.run(["cc", "-shared", "-Wl,--build-id", "-o", path, directory / "a.c"], check=True)
    return path


def test_another_library_of_the_same_size_is_told_by_its_build_id(tmp_path, mounts):
    one, another = library(tmp_path, "one"), library(tmp_path, "two")
    recorded = Regular(one, READ, os.path.getsize(one), elf.build_id(one))
    assert len(recorded.build_id) == 20
    assert files.check_files([recorded], (), mounts).sizes == {}
    shutil.copy(another, one)
    error = refused(files.check_files, [recorded], (), mounts)
    assert (error.reason, recorded.build_id.hex() in error.message) == ("VolumeDiffers", True)
    assert elf.build_id(another).hex() in error.message


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh", b"\x7fELF\x02", b"\x7fELF\x02" + b"\xff" * 5000])
def test_what_has_no_build_id(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert elf.build_id(str(tmp_path / "x")) == b""


@pytest.fixture
def site(tmp_path):
    """A directory of Python packages, of which one has a mapped file."""
    directory = tmp_path / "site-packages"
    for name in ("torch", "torch-2.9.1+cpu.dist-info", "vllm-0.11.0.dist-info", "six-1.16.egg-info"):
        (directory / name).mkdir(parents=True)
    return directory


def test_a_package_in_another_version_is_refused_by_name(site):
    recorded = image.packages([f"{site}/torch/lib/libtorch.so", "/usr/lib/libc.so.6"])
    assert list(recorded) == [str(site)]
    image.check_packages(recorded, ())
    (site / "vllm-0.11.0.dist-info").rename(site / "vllm-0.12.0.dist-info")
    (site / "new-1.0.dist-info").mkdir()
    error = refused(image.check_packages, recorded, ())
    assert error.reason == "ImageDiffers"
    assert "vllm 0.11.0 at creation, vllm 0.12.0 here" in error.message
    shutil.rmtree(site)
    assert "six 1.16, torch 2.9.1+cpu, vllm 0.11.0 at creation, none of them here" in str(
        refused(image.check_packages, recorded, ())
    )


def test_a_package_that_was_installed_at_start_travels(site):
    recorded = image.packages([f"{site}/torch/lib/libtorch.so"])
    (site / "six-1.16.egg-info").rmdir()
    image.check_packages(recorded, {f"{site}/six-1.16.egg-info"})


@pytest.mark.parametrize("size", [10, 5 << 20])
def test_a_sample_changes_with_the_content(tmp_path, size):
    path = tmp_path / "model"
    path.write_bytes(b"a" * size)
    first = {
        "path": str(path),
        "mount": "/volume",
        "size": size,
        "mtime_ns": 1,
        "sample": files.sample(str(path)),
    }
    assert files.check_content([first], ()) == [str(path)]
    path.write_bytes(b"b" * size)
    with pytest.raises(Incompatible, match="something else"):
        files.check_content([first], ())
    assert files.check_content([first], (str(tmp_path),)) == []
    os.utime(path, ns=(1, 1))
    assert files.check_content([first], ()) == []


def test_a_sockets_directory_may_come_along_under_another_name(tmp_path, mounts):
    """``/var/run`` is a link to ``/run`` in Debian's images; an engine may have made a link of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to(tmp_path / "run")
    travelling = {f"{tmp_path}/run/vllm", f"{tmp_path}/run/latest"}
    files.check_sockets(
        [f"{tmp_path}/var/vllm/engine.sock", f"{tmp_path}/run/latest/a/b.sock"], travelling, mounts
    )
    with pytest.raises(Incompatible):
        files.check_sockets([f"{tmp_path}/var/other/engine.sock"], travelling, mounts)


@pytest.mark.parametrize(
    "kind", ["file", "directory", "link to a file", "link to a socket", "link to nothing"]
)
def test_a_socket_replaces_a_socket_and_nothing_else(tmp_path, mounts, kind):
    """CRIU would fail, or remove the link."""
    path, socket_path = tmp_path / "weights", tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path))
    files.check_sockets([str(socket_path), str(path)], set(), mounts)
    match kind.split():
        case ["file"]:
            path.write_text("precious")
        case ["directory"]:
            path.mkdir()
        case ["link", _, *to]:
            path.symlink_to({"a file": "/etc/passwd", "a socket": socket_path}.get(" ".join(to), "nowhere"))
    with pytest.raises(Incompatible) as caught:
        files.check_sockets([str(path)], set(), mounts)
    assert caught.value.reason == "NameTaken"
    assert str(path) in caught.value.message
    if kind != "directory":  # of the image, which the engine had removed
        files.check_sockets([str(path)], set(), mounts[:1])


def test_a_path_that_is_none_is_no_reason_to_search_for_ever():
    """Archives are anybody's."""
    files.check_executable(["", "x", "x/y"])
    assert isinstance(flags("x/y"), int)
    remaps = [SimpleNamespace(orig_id=1, remap_type=1)]
    entry = SimpleNamespace(id=1, reg=SimpleNamespace(name="x"), HasField=lambda name: name == "reg")
    assert deleted([entry], remaps) == []
