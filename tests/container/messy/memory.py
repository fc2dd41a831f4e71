"""Memory of every kind."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import multiprocessing
import os
import platform

from messy.processes import Peer
from messy.things import Check, equal, thing

MIB = 1 << 20
PAGE = mmap.PAGESIZE
VOLUME = "/volume"

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)

MADV_GUARD_INSTALL = 102  # linux/mman.h, since 6.13


def filled(held: mmap.mmap) -> Check:
    """Fill with random bytes; check that they stay."""
    for offset in range(0, len(held), MIB):
        held[offset : offset + MIB] = os.urandom(min(MIB, len(held) - offset))
    digest = hashlib.sha256(held).digest()
    return lambda: equal(hashlib.sha256(held).digest(), digest)


def anonymous(size: int, prot: int = mmap.PROT_READ | mmap.PROT_WRITE, flags: int = mmap.MAP_PRIVATE) -> int:
    address = libc.mmap(None, size, prot, flags | mmap.MAP_ANONYMOUS, -1, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def madvise(address: int, size: int, advice: int) -> None:
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice):
        raise OSError(ctypes.get_errno(), "madvise")


def is_readable(address: int) -> bool:
    """Whether a byte can be read there: write() says EFAULT where a load would be a SIGSEGV."""
    reader, writer = os.pipe()
    try:
        return libc.write(writer, ctypes.c_void_p(address), 1) == 1
    finally:
        os.close(reader)
        os.close(writer)


@thing
def private_memory() -> Check:
    return filled(mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


@thing
def shared_anonymous() -> Check:
    """Shared with a child: what one writes, the other reads."""
    held = mmap.mmap(-1, MIB)
    keep = filled(held)
    peer = Peer(lambda line: held[: len(line)])

    def check() -> None:
        keep()
        before = held[:4]
        held[:4] = b"word"
        equal(peer.ask(b"????"), b"word")
        held[:4] = before

    return check


@thing
def copy_on_write_child() -> Check:
    """Two processes over the same pages, of which each changed some."""
    held = mmap.mmap(-1, 4 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    filled(held)
    original = hashlib.sha256(held).hexdigest()

    def change() -> None:
        held[:5] = b"child"

    peer = Peer(lambda _: held[:5] + hashlib.sha256(held[PAGE:]).hexdigest().encode(), change)
    held[:6] = b"parent"
    rest = hashlib.sha256(held[PAGE:]).hexdigest()
    assert original

    def check() -> None:
        equal(peer.ask(), b"child" + rest.encode())
        equal(held[:6], b"parent")

    return check


@thing
def memfd_mapped() -> Check:
    descriptor = os.memfd_create("mapped")
    os.ftruncate(descriptor, 2 * MIB)
    return filled(mmap.mmap(descriptor, 2 * MIB))


@thing
def memfd_not_mapped() -> Check:
    descriptor = os.memfd_create("unmapped")
    data = os.urandom(MIB)
    os.pwrite(descriptor, data, 4 * MIB)
    return lambda: equal((os.pread(descriptor, MIB, 4 * MIB), os.fstat(descriptor).st_size), (data, 5 * MIB))


@thing
def memfd_sealed() -> Check:
    import fcntl

    descriptor = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"for ever")
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)

    def check() -> None:
        equal(os.pread(descriptor, 100, 0), b"for ever")
        equal(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS), seals)

    return check


def shm_file(name: str, size: int) -> tuple[str, mmap.mmap]:
    path = f"/dev/shm/{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
    os.ftruncate(descriptor, size)
    held = mmap.mmap(descriptor, size)
    os.close(descriptor)
    return path, held


@thing
def posix_shm() -> Check:
    """The memory is the file: a process that opens it by name finds the same bytes."""
    path, held = shm_file("messy-shm", 2 * MIB)
    keep = filled(held)

    def check() -> None:
        keep()
        with open(path, "rb") as file:
            equal(hashlib.sha256(file.read()).digest(), hashlib.sha256(held).digest())
        held[:3] = held[:3][::-1]
        with open(path, "rb") as file:
            equal(file.read(3), held[:3])
        held[:3] = held[:3][::-1]

    return check


@thing
def posix_shm_unlinked() -> Check:
    path, held = shm_file("messy-unlinked", 2 * MIB)
    os.unlink(path)
    return filled(held)


@thing
def unnamed_semaphore() -> Check:
    """multiprocessing's: created by name in /dev/shm, mapped, unlinked at once; shared with a child."""
    semaphore, done = multiprocessing.Semaphore(0), multiprocessing.Semaphore(0)

    def take(_: bytes) -> bytes:
        done.release()
        return b"taken" if semaphore.acquire(timeout=5) else b"timeout"

    peer = Peer(take)

    def check() -> None:
        semaphore.release()
        equal(peer.ask(), b"taken")
        equal(done.acquire(timeout=5), True)

    return check


@thing
def named_semaphore() -> Check:
    """Stays in /dev/shm: whoever opens it by name gets the same one."""
    pthread = ctypes.CDLL("libc.so.6", use_errno=True)
    pthread.sem_open.restype = ctypes.c_void_p
    semaphore = ctypes.c_void_p(pthread.sem_open(b"/messy-named", os.O_CREAT, 0o600, 3))

    def check() -> None:
        value = ctypes.c_int()
        again = ctypes.c_void_p(pthread.sem_open(b"/messy-named", 0))
        equal(pthread.sem_post(semaphore), 0)
        pthread.sem_getvalue(again, ctypes.byref(value))
        equal(value.value, 4)
        equal(pthread.sem_trywait(again), 0)
        pthread.sem_close(again)

    return check


@thing
def mapped_file_of_the_image() -> Check:
    """Private, with a page written to: copied for this process, read from the file by the others."""
    with open("/usr/bin/python3.13", "rb") as file:
        held = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    held[PAGE : PAGE + 4] = b"mine"
    with open("/usr/bin/python3.13", "rb") as file:
        rest = hashlib.sha256(file.read()[2 * PAGE :]).digest()

    def check() -> None:
        equal(held[PAGE : PAGE + 4], b"mine")
        equal(hashlib.sha256(held[2 * PAGE :]).digest(), rest)

    return check


@thing
def mapped_file_of_a_volume() -> Check:
    path = f"{VOLUME}/model"
    with open(path, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    digest = hashlib.sha256(held).digest()
    return lambda: equal(hashlib.sha256(held).digest(), digest)


@thing
def mapped_file_that_was_written() -> Check:
    """Shared, writable, in the container's own layer: the file follows the memory."""
    path = "/var/tmp/messy/mapped"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb+") as file:
        file.truncate(MIB)
        held = mmap.mmap(file.fileno(), MIB)
    keep = filled(held)

    def check() -> None:
        keep()
        with open(path, "rb") as file:
            equal(hashlib.sha256(file.read()).digest(), hashlib.sha256(held).digest())

    return check


@thing
def mapped_file_that_was_deleted() -> Check:
    path = "/var/tmp/messy/deleted"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb+") as file:
        file.truncate(3 * MIB)
        held = mmap.mmap(file.fileno(), 3 * MIB)
    os.unlink(path)
    return filled(held)


@thing
def transparent_huge_pages() -> Check:
    held = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_HUGEPAGE)
    return filled(held)


def flags_of(address: int) -> set[str]:
    """VmFlags of the mapping at an address (proc_pid_smaps(5))."""
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            head = line.split(" ", 1)[0]
            if "-" in head and ":" not in head:
                begin, end = (int(part, 16) for part in head.split("-"))
                inside = begin <= address < end
            elif inside and line.startswith("VmFlags:"):
                return set(line.split()[1:])
    return set()


@thing
def locked_memory() -> Check:
    address = anonymous(64 << 10)
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(64 << 10)):
        raise OSError(ctypes.get_errno(), "mlock")
    ctypes.memset(address, 0x5A, 64 << 10)

    def check() -> None:
        equal("lo" in flags_of(address), True)
        equal(ctypes.string_at(address, 64 << 10), b"\x5a" * (64 << 10))

    return check


@thing
def advice() -> Check:
    """Madvise flags that a mapping keeps: not in core dumps, not in children, zeroed in children."""
    kept = {"dd": 16, "dc": 10, "wf": 18}
    addresses = {flag: anonymous(PAGE) for flag in kept}
    for flag, number in kept.items():
        madvise(addresses[flag], PAGE, number)
        ctypes.memset(addresses[flag], 1, PAGE)

    def check() -> None:
        for flag, address in addresses.items():
            equal((flag, flag in flags_of(address)), (flag, True))
            equal(ctypes.string_at(address, PAGE), b"\1" * PAGE)

    return check


@thing
def guard_page() -> Check:
    address = anonymous(3 * PAGE)
    libc.mprotect(ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), 0)

    def check() -> None:
        equal([is_readable(address + offset) for offset in (0, PAGE, 2 * PAGE)], [True, False, True])

    return check


@thing
def guard_region() -> Check:
    """MADV_GUARD_INSTALL: a guard inside a mapping, as current C libraries put below thread stacks."""
    address = anonymous(3 * PAGE)
    ctypes.memset(address, 1, 3 * PAGE)
    madvise(address + PAGE, PAGE, MADV_GUARD_INSTALL)

    def check() -> None:
        equal([is_readable(address + offset) for offset in (0, PAGE, 2 * PAGE)], [True, False, True])

    return check


@thing
def jit_code() -> Check:
    """Machine code written at run time, in pages that are executable by now."""
    code = {"x86_64": "b82a000000c3", "aarch64": "40058052c0035fd6"}[platform.machine()]
    address = anonymous(PAGE)
    ctypes.memmove(address, bytes.fromhex(code), len(code) // 2)
    libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_EXEC)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address)
    return lambda: equal(function(), 42)


@thing
def writable_code() -> Check:
    code = {"x86_64": "b82b000000c3", "aarch64": "60058052c0035fd6"}[platform.machine()]
    address = anonymous(PAGE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ctypes.memmove(address, bytes.fromhex(code), len(code) // 2)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address)
    return lambda: equal(function(), 43)


@thing
def shared_code() -> Check:
    """In shared memory, which the kernel shows as /dev/zero, though /dev may be mounted noexec."""
    code = bytes.fromhex({"x86_64": "b82c000000c3", "aarch64": "80058052c0035fd6"}[platform.machine()])
    held = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    held.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(held)))
    return lambda: equal((function(), held[: len(code)]), (44, code))
