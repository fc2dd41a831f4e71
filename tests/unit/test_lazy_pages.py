"""Memory filled by userfaultfds that are handed over as CRIU's tasks do it, in real processes."""

import errno
import hashlib
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time

import pytest
from archive_store import build, open_bytes

from dynamo_entry.criu import lazy_pages
from dynamo_entry.errors import RestoreFailed
from dynamo_entry.fill.filler import Filler
from dynamo_entry.fill.memory import Left, Piece, Writer
from dynamo_entry.fill.plan import Extent, Plan, Task
from dynamo_entry.linux import pages, userfault
from dynamo_entry.linux.pages import PAGE

PAGES = 64
SIZE = PAGES * PAGE
DATA = bytes(range(1, 129)) * (SIZE // 128)
FINISHED = struct.pack("=I", 0x52535446)

needs_userfaultfd = pytest.mark.skipif(
    not userfault.is_allowed(), reason="userfaultfd(2) is not allowed here"
)

#: What a task of CRIU's does: registers its memory, hands the descriptor over, and later looks at its memory.
TASK = """
import ctypes, hashlib, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
size = int(sys.argv[2])
number = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(held))
descriptor = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
for call, words in ((0xC018AA3F, (0xAA, 0, 0)), (0xC020AA00, (at, size, 1, 0))):
    argument = ctypes.create_string_buffer(struct.pack(f"={len(words)}Q", *words))
    assert libc.ioctl(descriptor, ctypes.c_ulong(call), argument) == 0
to = socket.socket(socket.AF_UNIX)
to.connect(sys.argv[1])
to.send(struct.pack("=i", -7))
to.send(struct.pack("=i", os.getpid()))
socket.send_fds(to, [b"\\0"], [descriptor])
os.close(descriptor)
print(at, flush=True)
for line in sys.stdin:
    if line == "finished\\n":
        to.send(struct.pack("=I", 0x52535446))
    elif line == "look\\n":
        print(held[0], flush=True)
    elif line == "all\\n":
        print(hashlib.sha256(held).hexdigest(), flush=True)
"""


class Subject:
    def __init__(self, directory):
        self.process = subprocess.Popen(
            [sys.executable, "-c", TASK, f"{directory}/{lazy_pages.SOCKET}", str(SIZE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self.process.pid

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def said(self):
        return self.process.stdout.readline().strip()


@pytest.fixture
def handover(tmp_path):
    made = lazy_pages.Handover(str(tmp_path))
    yield made
    made.close()


@pytest.fixture
def subject(handover, tmp_path):
    made = Subject(tmp_path)
    while made.pid not in handover.descriptors:
        handle(handover)
    made.address = int(made.said())
    yield made
    made.process.kill()
    made.process.communicate()


def handle(handover):
    ready = select.select(handover.watched, [], [], 20)[0]
    assert ready, "nothing came"
    handover.handle(ready)


def finish(handover, subject, huge=()):
    subject.tell("finished")
    handover.finish({subject.pid: huge})
    assert handover.watched == list(handover.descriptors.values())


def write(handover, subject, *pieces):
    task = Task(subject.pid, by_fault=True)
    Writer(handover.descriptors).write(task, DATA, pieces)


@needs_userfaultfd
def test_what_is_put_is_there_and_what_is_not_reads_as_zeros_once_all_is_given_up(handover, subject):
    finish(handover, subject)
    half = SIZE // 2
    write(handover, subject, Piece(PAGE, PAGE, subject.address), Piece(0, half, subject.address + half))
    handover.close()
    subject.tell("all")
    wanted = DATA[PAGE : 2 * PAGE] + bytes(half - PAGE) + DATA[:half]
    assert subject.said() == hashlib.sha256(wanted).hexdigest()


@needs_userfaultfd
def test_who_waits_for_a_page_before_it_is_filled_gets_zeros_and_the_page_is_filled_all_the_same(
    handover, subject
):
    subject.tell("look")
    handle(handover)
    assert subject.said() == "0"
    finish(handover, subject)
    write(handover, subject, Piece(0, SIZE, subject.address))
    handover.close()
    subject.tell("all")
    assert subject.said() == hashlib.sha256(DATA).hexdigest()


@needs_userfaultfd
def test_a_task_that_is_still_rebuilt_takes_what_it_can(handover, subject):
    """The first page exists, other memory is not registered yet: both are left, and nothing else."""
    subject.tell("look")
    handle(handover)
    assert subject.said() == "0"
    task, writer = Task(subject.pid, by_fault=True), Writer(handover.descriptors)
    inside, beyond = Piece(0, SIZE, subject.address), Piece(0, PAGE, PAGE)
    assert writer.write_early(Task(subject.pid), DATA, [inside]) == Left([], [inside]), (
        "not through a userfaultfd"
    )
    absent = Task(subject.pid + 1, by_fault=True)
    assert writer.write_early(absent, DATA, [inside]) == Left([inside], []), "it is not there"
    left = writer.write_early(task, DATA, [inside, beyond])
    assert left == Left([beyond], [Piece(0, PAGE, subject.address)])
    finish(handover, subject)
    writer.write(task, DATA, left.late)
    handover.close()
    subject.tell("all")
    assert subject.said() == hashlib.sha256(DATA).hexdigest()


@needs_userfaultfd
def test_a_task_that_ended_while_it_was_rebuilt_is_left_to_those_who_know_why(handover, subject):
    subject.process.kill()
    subject.process.wait()
    pieces = [Piece(0, SIZE, subject.address)]
    task = Task(subject.pid, by_fault=True)
    assert Writer(handover.descriptors).write_early(task, DATA, pieces) == Left([], pieces)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EFAULT])
def test_what_was_written_before_an_error_is_not_written_again(monkeypatch, number):
    """The rest waits until the tasks are held; only then is an error reported."""
    copied = iter([(PAGE, 0), (PAGE, number), (0, number)])
    monkeypatch.setattr(userfault, "copy", lambda *_: next(copied))
    pieces = [Piece(0, PAGE, 0), Piece(PAGE, 3 * PAGE, PAGE), Piece(4 * PAGE, PAGE, 9 * PAGE)]
    left = Writer({1000: 0}).write_early(Task(1000, by_fault=True), DATA, pieces)
    assert left == Left([], [Piece(2 * PAGE, 2 * PAGE, 2 * PAGE), pieces[2]])


@needs_userfaultfd
def test_the_threads_fill_what_is_mapped_before_the_tasks_are_held(handover, subject):
    with open_bytes(build({"criu/pages-1.img": DATA})) as archive:
        extent = Extent("pages-1.img", 0, SIZE, Task(subject.pid, by_fault=True), subject.address)
        late = Extent("pages-1.img", 0, PAGE, Task(os.getpid(), by_fault=True), PAGE)
        filler = Filler(archive, Plan([], [], [extent, late], [], {}, {}), 2, handover.descriptors)
        deadline = time.monotonic() + 20
        while filler.done_bytes < SIZE and time.monotonic() < deadline:
            assert not filler.wait(0.001)
        assert filler.done_bytes == SIZE, "and not what is late"
        handover.close()
        subject.tell("all")
        assert subject.said() == hashlib.sha256(DATA).hexdigest()
        filler.close()


@needs_userfaultfd
def test_a_mapping_that_wants_huge_pages_is_let_go_of_and_filled(handover, subject):
    half = SIZE // 2
    finish(handover, subject, huge=[(subject.address, subject.address + half)] * 2)
    subject.tell("look")
    assert subject.said() == "0", "nobody is asked"
    write(handover, subject, Piece(0, half, subject.address), Piece(half, half, subject.address + half))
    subject.tell("all")
    assert subject.said() == hashlib.sha256(DATA).hexdigest()


@needs_userfaultfd
def test_a_task_that_ended_meanwhile_is_a_failure_that_says_where(handover, subject):
    finish(handover, subject)
    subject.process.kill()
    subject.process.wait()
    with pytest.raises(RestoreFailed, match=f"process {subject.pid} cannot be filled.*{subject.address:#x}"):
        write(handover, subject, Piece(0, SIZE, subject.address))


@pytest.mark.parametrize(
    ("setting", "everywhere"),
    [("[always] madvise never", True), ("always [madvise] never", False), (None, False)],
)
def test_huge_pages_are_made_everywhere_where_the_kernel_is_set_to(
    monkeypatch, tmp_path, setting, everywhere
):
    if setting:
        (tmp_path / "enabled").write_text(f"{setting}\n")
    monkeypatch.setattr(pages, "_HUGE_PAGES", str(tmp_path / "enabled"))
    assert pages.are_huge_by_default() == everywhere


@pytest.mark.parametrize("said", [b"", b"\1\0", struct.pack("=i", 1000), struct.pack("=i", -5)])
def test_a_criu_that_breaks_off_is_waited_for_no_longer(handover, tmp_path, said):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/{lazy_pages.SOCKET}")
        handle(handover)
        connection.send(said)
    handover.finish({1000: [(0, PAGE)]})
    assert handover.watched == []


def test_a_task_that_passes_no_descriptor_is_a_failure(handover, tmp_path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/{lazy_pages.SOCKET}")
        handle(handover)
        connection.send(struct.pack("=i", 1000) + b"\0")
        with pytest.raises(RestoreFailed, match="no descriptor was passed") as failed:
            handover.finish({})
    assert failed.value.reason == "CriuRestoreFailed"


def test_a_criu_that_never_came_is_no_reason_to_wait(handover):
    handover.finish({})
    assert not handover.descriptors


def test_a_descriptor_for_which_there_is_no_room_is_a_failure(handover, tmp_path):
    """Whoever wrote to that task's memory another way would wait for an answer that nobody gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/{lazy_pages.SOCKET}")
        handle(handover)
        connection.send(struct.pack("=i", 1000))
        socket.send_fds(connection, [b"\0"], [0])
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                handover.finish({})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_are_told_from_the_end(handover, tmp_path):
    """Each belongs to the pid before it."""
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/{lazy_pages.SOCKET}")
        connection.send(struct.pack("=i", -3))
        for pid, descriptor in ((1000, reader), (1003, writer)):
            connection.send(struct.pack("=i", pid))
            socket.send_fds(connection, [b"\0"], [descriptor])
        connection.send(FINISHED + b"more")
        handle(handover)
        handover.finish({})
    assert list(handover.descriptors) == [1000, 1003]
    assert not any(map(os.get_inheritable, handover.descriptors.values()))
    os.write(handover.descriptors[1003], b"x")
    assert os.read(handover.descriptors[1000], 1) == b"x"
    os.close(reader)
    os.close(writer)
