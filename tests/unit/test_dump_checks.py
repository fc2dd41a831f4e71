"""What may be dumped."""

import fcntl
import mmap
import os
import re
import socket
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from dynamo_entry.checks import (
    breakpoints,
    descriptors,
    dump,
    huge_pages,
    leases,
    left_behind,
    mappings,
    queues,
    sharing,
)
from dynamo_entry.errors import Incompatible, NotDumpable
from dynamo_entry.linux import capabilities, mounts, proc, tasks
from dynamo_entry.linux.sock_diag import Unix
from dynamo_entry.rootfs import changes


def test_a_zombie_is_no_obstacle():
    """It has neither memory, nor descriptors, nor namespaces for children."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        dump.check(proc.tables([child]), frozenset({capabilities.SYS_ADMIN, capabilities.SYS_RESOURCE}))
    finally:
        os.waitpid(child, 0)


def mapped(path, permissions="rw-s"):
    return f"7f0000000000-7f0000001000 {permissions} 00000000 00:01 7                  {path}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (mapped("/SYSV00005153 (deleted)"), "SysvShm"),
        (mapped("/secretmem (deleted)"), "SecretMemory"),
        (mapped("/anon_hugepage (deleted)", "r--p"), "HugePages"),
    ],
)
def test_memory_that_cannot_be_dumped_is_known_by_its_name(line, reason):
    with pytest.raises(NotDumpable) as refused:
        mappings.check(1, [line])
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "line",
    [
        mapped("/opt/SYSV/lib.so"), mapped("/SYSVfile (deleted)"), mapped("/opt/secretmem/lib.so"),
        mapped("/secretmem"), mapped("/data/anon_hugepage", "rw-p"), mapped("/anon_hugepage (deleted)", "rw-p"),
        mapped("/dev/shm/x"), mapped("/dev/nvidia0"), "7f0000000000-7f0000001000 rw-p 00000000 00:00 0   [heap]",
        "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",
    ],
)  # fmt: skip
def test_files_that_are_called_alike_are_no_obstacle(line):
    mappings.check(1, [line])


@pytest.mark.parametrize(
    ("name", "mode", "device", "reason"),
    [
        ("/dev/null", stat.S_IFCHR, os.makedev(1, 3), "DeviceOpen"),
        ("/tmp/fuse", stat.S_IFCHR, os.makedev(10, 229), "DeviceOpen"),
        ("/dmabuf:", 0, 0, "DeviceOpen"),
        ("anon_inode:[perf_event]", 0, 0, "AnonymousInode"),
        ("/dev/zero", stat.S_IFCHR, os.makedev(1, 5), ""),
        ("/dev/nvidia0", stat.S_IFCHR, os.makedev(195, 0), ""),
        ("/[aio] (deleted)", 0, 0, ""),
        ("socket:[7]", stat.S_IFSOCK, 0, ""),
        ("/dev/zero (deleted)", stat.S_IFREG, 0, ""),
    ],
)
def test_mappings_of_other_kinds_are_known_by_what_is_mapped(monkeypatch, name, mode, device, reason):
    """Whether it is still open or not; the kernel's names of entries have no leading zeros."""
    found = {"/proc/1/map_files/1000-2000": SimpleNamespace(st_mode=mode, st_rdev=device)}
    monkeypatch.setattr(os, "stat", found.__getitem__)
    line = f"00001000-00002000 rw-s 00000000 00:01 7                  {name}"
    if not reason:
        mappings.check(1, [line])
        return
    with pytest.raises(NotDumpable, match=re.escape(name)) as refused:
        mappings.check(1, [line])
    assert refused.value.reason == reason


def test_own_mappings_are_found_below_proc():
    lines = [line for line in proc.maps(os.getpid()) if proc.mapped_file(line)]
    assert lines and all(os.path.exists(f"/proc/self/{proc.map_entry(line)}") for line in lines)


def test_a_breakpoint_of_the_node_is_told_from_code_that_changed_itself():
    code = bytes(range(64))
    assert breakpoints.is_probed(code[:5] + b"\xcc" + code[6:], code, b"\xcc")
    assert not breakpoints.is_probed(code, code, b"\xcc")
    assert not breakpoints.is_probed(code[:5] + b"\xcc\x90" + code[7:], code, b"\xcc")
    assert breakpoints.is_probed(code[:4] + b"\xa0\0\x20\xd4" + code[8:], code, b"\xa0\0\x20\xd4")


def test_what_waits_at_a_unix_socket_is_told_apart():
    """A client that has sent nothing is restored."""
    there = [
        Unix(1, socket.SOCK_STREAM, waiting=(10,)), Unix(10, socket.SOCK_STREAM),
        Unix(2, socket.SOCK_STREAM, waiting=(20,)), Unix(20, socket.SOCK_STREAM, unread=5),
        Unix(3, socket.SOCK_SEQPACKET, waiting=(0,)),
    ]  # fmt: skip
    assert sorted(queues.unaccepted(there)) == [2, 3]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dump, "_LASTS_S", 0)


@pytest.mark.usefixtures("quick")
def test_what_lies_in_queues_is_named():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.send(b"data")
        queues.check([os.getpid()])
        other.recv(10)
        one.send(b"")
        with pytest.raises(NotDumpable, match="empty"):
            queues.check([os.getpid()])
        other.recv(10)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.send(bytes(20_000))
        with pytest.raises(NotDumpable, match="larger"):
            queues.check([os.getpid()])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("end", [socket.socket.close, lambda one: one.shutdown(socket.SHUT_WR)])
def test_the_end_of_a_stream_is_no_message(end):
    """With SO_PASSCRED the kernel says of nobody's bytes who sent them."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        end(one)
        queues.check([os.getpid()])


def test_a_file_that_is_held_for_a_moment_is_no_obstacle(monkeypatch):
    """A monitor reads /proc of another process: of the launcher's own worker, for one."""
    tables = [{3: f"/proc/{os.getpid()}/stat"}, {}]
    monkeypatch.setattr(proc, "descriptors", lambda _pid: tables.pop(0))
    descriptors.check([1 << 22])
    assert not tables


def test_a_file_of_a_thread_is_told_as_one(monkeypatch):
    me = os.getpid()
    monkeypatch.setattr(proc, "threads", lambda pid: [7, me] if pid == 7 else [])
    assert "threads" in descriptors.unknown(f"/proc/{me}/stat", [7], is_directory_to_work_in=False)
    assert "outside" in descriptors.unknown(f"/proc/{me}/stat", [8], is_directory_to_work_in=False)


@pytest.mark.parametrize("threads", [[7], [7, 8]])
def test_a_thread_that_ends_has_nothing_of_its_own(monkeypatch, threads):
    """It gives up what it shares before it is gone."""
    seen = [[7, 8], threads]
    monkeypatch.setattr(proc, "threads", lambda _pid: seen.pop(0))
    monkeypatch.setattr(tasks, "is_shared", lambda *_how: False)
    monkeypatch.setattr(sharing, "_parent", lambda _pid: 0)
    process = SimpleNamespace(pid=7)
    if 8 not in threads:
        seen.append(threads)
        sharing.check([process])
    else:
        with pytest.raises(NotDumpable, match="thread 8"):
            sharing.check([process])


@pytest.mark.parametrize(
    ("kind", "reason", "says"),
    [(tasks.VM, "MemoryShared", "the memory of"), (tasks.FS, "DirectoryShared", "the working directory of")],
)
def test_what_a_process_shares_with_its_parent_is_told_apart(monkeypatch, kind, reason, says):
    monkeypatch.setattr(proc, "threads", lambda _pid: [])
    monkeypatch.setattr(tasks, "is_shared", lambda _parent, _pid, asked: asked == kind)
    monkeypatch.setattr(sharing, "_parent", lambda _pid: 7)
    monkeypatch.setattr(dump, "_LASTS_S", 0)
    with pytest.raises(NotDumpable, match=f"process 8 shares {says} process 7") as refused:
        sharing.check([SimpleNamespace(pid=7), SimpleNamespace(pid=8)])
    assert refused.value.reason == reason


@pytest.mark.parametrize("is_device", [True, False])
def test_a_mapping_whose_file_the_kernel_does_not_show_is_known_by_its_path(monkeypatch, is_device):
    """Kernels before 5.9 show it to SYS_ADMIN alone."""

    def look(path, real=os.stat, **how):
        if "map_files" in str(path):
            raise PermissionError(1, "Operation not permitted")
        if path != "/tmp/fu se":
            return real(path, **how)
        kind = stat.S_IFCHR if is_device else stat.S_IFREG
        return SimpleNamespace(st_mode=kind, st_rdev=os.makedev(10, 229) if is_device else 0)

    monkeypatch.setattr(os, "stat", look)
    mappings.check(1, [mapped("socket:[7]"), mapped("/dev/shm/x (deleted)")])
    if not is_device:
        mappings.check(1, [mapped("/tmp/fu se")])
        return
    with pytest.raises(NotDumpable, match="/tmp/fu se") as refused:
        mappings.check(1, [mapped("/tmp/fu se")])
    assert refused.value.reason == "DeviceOpen"


def test_a_mapping_that_a_probe_left_is_told_as_one(monkeypatch):
    """The kernel keeps it after the tool has gone."""
    monkeypatch.setattr(proc, "maps", lambda _pid: ["7fff0000-7fff1000 --xp 00000000 00:00 0 [uprobes]"])
    with pytest.raises(NotDumpable, match="mapping"):
        breakpoints.check([1])


def test_what_is_taken_meanwhile_is_no_obstacle(monkeypatch):
    """The engine takes it while it is waited for."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.send(b"")
        monkeypatch.setattr(time, "sleep", lambda _seconds: other.recv(10))
        queues.check([os.getpid()])


def test_what_the_engine_has_mounted_is_known():
    """One that the node has added since (mountPropagation: HostToContainer) is none of the engine's."""
    lines = (
        "1 0 0:1 / / rw - overlay overlay rw",
        "9 1 0:9 / /data rw - tmpfs tmpfs rw",
        "10 2 0:10 / /nfs/one rw shared:8 master:7 - nfs server:/one rw",
    )
    root, made, propagated = mounts.parse("\n".join(lines) + "\n")
    assert left_behind.mounts_made([root], [root, made, propagated]) == ["the mount of tmpfs at /data"]
    assert left_behind.mounts_made([root, made], [root]) == []


def test_only_the_containers_own_output_need_not_be_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_how, **_ids: False)
    with (tmp_path / "log").open("w") as file:
        with pytest.raises(NotDumpable) as refused:
            dump.check_reopening(os.getpid(), f"fd/{file.fileno()}", file.name)
        assert refused.value.reason == "FileForbidden"
        monkeypatch.setattr(dump, "_own_output", lambda: [os.fstat(file.fileno())])
        dump.check_reopening(os.getpid(), f"fd/{file.fileno()}", file.name)


def test_files_are_opened_again_as_they_were(tmp_path, monkeypatch):
    """Of one that is only named (O_PATH) nothing is asked."""
    asked = []
    monkeypatch.setattr(os, "access", lambda _path, right, **_ids: not asked.append(right))
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH):
        descriptor = os.open(path, flags)
        dump.check_reopening(os.getpid(), f"fd/{descriptor}", str(path))
        os.close(descriptor)
    with path.open("r+b") as file:
        area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    held = [one for one in proc.files({}, proc.maps(os.getpid())) if one[1] == str(path)]
    assert [entry.startswith("map_files/") for entry, _ in held] == [True]
    dump.check_reopening(os.getpid(), *held[0])
    area.close()
    assert asked == [os.R_OK, os.W_OK, os.R_OK | os.W_OK, os.R_OK | os.W_OK]


@pytest.mark.parametrize(("policy", "named"), [("local", False), ("interleave:0-1", True)])
def test_memory_from_the_nearest_node_is_the_usual(monkeypatch, policy, named):
    """BLAS libraries ask for it by name, so that every engine with numpy has such memory."""
    rows = f"7f0000000000 default\n7f1000000000 {policy} anon=1\n".encode()
    monkeypatch.setattr(proc, "read", lambda _pid, name: rows if name == "numa_maps" else b"")
    found = left_behind.find({os.getpid(): {}})
    assert any("memory policy" in thing for thing in found) == named


def test_of_each_size_one_huge_page_is_asked_for_once(monkeypatch):
    """It may be the last one, and the engine runs meanwhile."""
    asked = []
    monkeypatch.setattr(huge_pages, "_page_bytes", lambda path: 1 << 30 if path.endswith("fd/7") else 2 << 20)
    monkeypatch.setattr(huge_pages, "_are_left", lambda size, total: asked.append((size, total)) or True)
    monkeypatch.setattr(huge_pages, "_check_shared", lambda *_: None)
    monkeypatch.setattr(proc, "maps", lambda _pid: [mapped("/anon_hugepage (deleted)", "rw-p")] * 3)
    huge_pages.check({1: {7: "/memfd:huge (deleted)"}, 2: {8: "/memfd:huge (deleted)"}})
    assert asked == [(1 << 30, 1 << 30), (2 << 20, 2 << 20)]


def test_pages_of_which_there_are_none_are_asked_for_by_the_name_that_kubernetes_has():
    """No machine has as many."""
    for size, name in ((64 << 10, "64Ki"), (2 << 20, "2Mi"), (1 << 30, "1Gi"), (16 << 30, "16Gi")):
        with pytest.raises(Incompatible) as refused:
            huge_pages.check_room({size: 1 << 50})
        assert refused.value.reason == "NotEnoughHugePages"
        assert f"Kubernetes hugepages-{name})" in refused.value.hint


def test_a_file_of_huge_pages_that_has_none_yet_takes_none():
    huge_pages.check_room({2 << 20: 0, 1 << 30: 0})


@pytest.fixture
def leased(tmp_path):
    """A leased file that is older than the mark, and its directory."""
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "leased").write_text("x")
    time.sleep(0.02)
    starts = changes.mark([str(tmp_path)])
    with (directory / "leased").open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)

        def check():
            found = changes.find_all(starts, frozenset(), frozenset(), {})
            leases.check(proc.tables([os.getpid()]), lambda: (change.path for change in found))

        yield directory, check


def test_a_leased_file_that_stays_behind_is_no_obstacle(leased):
    _, check = leased
    check()


@pytest.mark.parametrize("change", [lambda path: path.rename(path.with_name("renamed")),
                                    lambda path: (path / "leased").chmod(0o600)])  # fmt: skip
def test_a_leased_file_that_travels_is_refused(leased, change):
    """Also with a directory that was renamed: its own times say nothing."""
    directory, check = leased
    change(directory)
    with pytest.raises(NotDumpable, match="leased"):
        check()


def test_a_ring_takes_a_descriptor_of_the_process_that_maps_it():
    """CRIU maps it again by one of that very process (sk-packet.c, open_socket_map): its parent's is of no use."""
    lines = [mapped("socket:[7]")]
    mappings.check_rings(8, {3: "socket:[7]"}, lines)
    with pytest.raises(NotDumpable, match="ring") as refused:
        mappings.check_rings(8, {}, lines)
    assert refused.value.reason == "SocketKind"


#: What SELinux and AppArmor answer, too.
DENIED = """
import ctypes, errno, os, socket, struct
from dynamo_entry.checks import open_files
from dynamo_entry.linux import io_uring
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = {"x86_64": 55, "aarch64": 209}[os.uname().machine]  # getsockopt
steps = (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.EACCES), (6, 0, 0, 0x7FFF0000)
rules = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
libc = ctypes.CDLL(None)
assert not libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
program = struct.pack("HP", len(steps), ctypes.addressof(rules))
assert not libc.syscall(io_uring.MACHINES[os.uname().machine][1], 1, 0, program)
open_files.check_descriptor(os.getpid(), one.fileno(), "socket:[7]")
"""


def test_a_socket_of_which_nothing_may_be_asked_is_taken_for_one_without_a_program():
    subprocess.run([sys.executable, "-c", DENIED], check=True)
