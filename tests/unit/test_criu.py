"""The CRIU driver's pure parts, and the streamer protocol against a stand-in for CRIU."""

import array
import errno
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace

import criu_messages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_entry.criu import gate, log, options, process, remaps, remedies, streamer
from dynamo_entry.errors import CheckpointError, PlaceFailed
from dynamo_entry.linux import pages, proc
from dynamo_entry.settings import TERMINATION_LOG

PLACES = options.Places("/run/i", "/run/w", "criu.log")


def frame(name: str) -> bytes:
    body = name.encode()
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    message = b"\x0a" + length + body
    return struct.pack("=I", len(message)) + message


class StandIn:
    """The client half of the protocol, as criu/img-streamer.c speaks it."""

    def __init__(self, path: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(path)

    def _pass(self, descriptor: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        self.connection.sendmsg([b"\0"], [rights])
        os.close(descriptor)

    def put(self, name: str) -> int:
        self.connection.sendall(frame(name))
        reader, writer = os.pipe()
        self._pass(reader)
        return writer

    def get(self, name: str) -> int | None:
        self.connection.sendall(frame(name))
        (length,) = struct.unpack("=I", self.connection.recv(4))
        if self.connection.recv(length) == b"\x08\x00":
            return None
        reader, writer = os.pipe()
        self._pass(writer)
        return reader


class Memory:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.is_closed = False
        self._buffer = bytearray(1000)

    def buffer(self) -> memoryview:
        return memoryview(self._buffer)

    def advance(self, n: int) -> None:
        self.data += self._buffer[:n]

    def close(self) -> None:
        self.is_closed = True


def test_capture_takes_interleaved_images_from_one_connection(tmp_path):
    sinks: dict[str, Memory] = {}
    capture = streamer.Capture(str(tmp_path), lambda name: sinks.setdefault(name, Memory()))

    def dump() -> None:
        criu = StandIn(f"{tmp_path}/{streamer.CAPTURE_SOCKET}")
        first, second = criu.put("inventory.img"), criu.put("pages-1.img")
        for _ in range(50):
            os.write(first, b"a" * 7)
            os.write(second, b"b" * 3000)
        os.close(second)
        os.close(first)
        criu.connection.close()

    thread = threading.Thread(target=dump)
    thread.start()
    capture.run(until=lambda: len(sinks) == 2)
    thread.join()
    capture.close()
    assert sinks["inventory.img"].data == b"a" * 350
    assert sinks["pages-1.img"].data == b"b" * 150_000
    assert all(sink.is_closed for sink in sinks.values())


def test_a_closed_capture_breaks_the_writers_pipe(tmp_path):
    """That is how an aborted creation makes CRIU give up and thaw the engine."""
    capture = streamer.Capture(str(tmp_path), lambda _: Memory())
    criu = StandIn(f"{tmp_path}/{streamer.CAPTURE_SOCKET}")
    pipe = criu.put("pages-1.img")
    os.write(pipe, b"x")

    def call_off() -> bool:
        if capture.received_bytes:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        capture.run(until=call_off)
    capture.close()
    with pytest.raises(BrokenPipeError):
        os.write(pipe, b"x")
    os.close(pipe)
    criu.connection.close()


def test_serve_answers_in_any_order_and_again(tmp_path):
    images = {"inventory.img": [b"small"], "pages-1.img": [b"p" * 300_000, b"q" * 300_000]}
    failures: list[Exception] = []
    streamer.Serve(str(tmp_path), images.get, failures.append)
    criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
    assert criu.get("tty-info.img") is None
    for name in ("pages-1.img", "inventory.img", "inventory.img"):
        descriptor = criu.get(name)
        assert descriptor is not None
        with os.fdopen(descriptor, "rb") as file:
            assert file.read() == b"".join(images[name])
    criu.connection.close()
    assert failures == []


@pytest.mark.parametrize("withheld", [False, True])
def test_what_is_mapped_is_served_as_it_is_or_copied(tmp_path, monkeypatch, withheld):
    """Pages of a mapped file go into the pipe without a copy, unless a seccomp profile withholds the call."""
    data = os.urandom(3_000_000)
    (tmp_path / "archive").write_bytes(data)
    with open(tmp_path / "archive", "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    spliced = []
    splice = pages.splice

    def traced(pipe, piece):
        if withheld:
            raise PermissionError(errno.EPERM, "withheld")
        spliced.append(splice(pipe, piece))
        return spliced[-1]

    monkeypatch.setattr(pages, "splice", traced)
    failures: list[Exception] = []
    images = {"pages-1.img": [mapped[100:], mapped[:100], b"end"]}
    streamer.Serve(str(tmp_path), images.get, failures.append)
    criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
    for _ in range(2):
        with os.fdopen(criu.get("pages-1.img"), "rb") as file:
            assert file.read() == data[100:] + data[:100] + b"end"
    criu.connection.close()
    assert failures == []
    assert bool(spliced) is not withheld


def test_an_image_that_is_read_at_once_leaves_the_others_their_turn(monkeypatch):
    """Relatives read the same pages: if one got all of its image first, nothing could be read once for all."""
    monkeypatch.setattr(streamer.os, "write", lambda _pipe, data: len(data))
    pieces = iter([bytes(300_000)] * 10)
    assert streamer._Push(0, pieces).turn()
    assert len(list(pieces)) == 10 - 5
    assert not streamer._Push(0, iter([b"x"] * 3)).turn()


def test_only_some_images_of_pages_are_under_way_at_once(tmp_path, monkeypatch):
    """CRIU opens those of all processes at once: each takes memory, and 64 wide pipes are all that a user may have."""
    monkeypatch.setattr(streamer, "_PATIENCE_S", 60)
    count, size = 100, 3 << 20
    begun = []

    def image(name):
        if name == "mm-1.img":
            return [name.encode()]
        return (begun.append(name) or bytes(1 << 20) for _ in range(size >> 20))

    failures: list[Exception] = []
    streamer.Serve(str(tmp_path), image, failures.append)
    criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
    pipes = [criu.get(f"pages-{number}.img") for number in range(count)]
    with os.fdopen(criu.get("mm-1.img"), "rb") as file:
        assert file.read() == b"mm-1.img"
    assert len(set(begun)) == streamer._MOST_UNDER_WAY
    found = []

    def read(pipe):
        with os.fdopen(pipe, "rb") as file:
            found.append(len(file.read()))

    readers = [threading.Thread(target=read, args=(pipe,)) for pipe in reversed(pipes)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    criu.connection.close()
    assert found == [size] * count
    assert failures == []


def test_an_image_that_all_others_wait_for_comes_in_its_turn(tmp_path):
    """As the pages of a memfd that the memory of many processes is mapped from."""
    failures: list[Exception] = []
    streamer.Serve(str(tmp_path), lambda _: [bytes(3 << 20)], failures.append)
    criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
    pipes = [criu.get(f"pages-{number}.img") for number in range(2 * streamer._MOST_UNDER_WAY)]
    for pipe in reversed(pipes):
        with os.fdopen(pipe, "rb") as file:
            assert len(file.read()) == 3 << 20
    criu.connection.close()
    assert failures == []


def pushes(*ahead_mib):
    made = [streamer._Push(number, iter([bytes(1 << 20)] * 200)) for number in range(len(ahead_mib))]
    for push, mib in zip(made, ahead_mib, strict=True):
        push.done_bytes = mib << 20
    return made


def test_a_relative_that_is_a_little_ahead_waits_for_the_others():
    """They read the same: once the others have caught up, what one gets is at hand for all."""
    first, second, ahead, stranger = made = pushes(5, 6, 8, 90)
    assert streamer._whose_turn(made) == [first, second, stranger]
    assert streamer._whose_turn([ahead]) == [ahead]
    assert streamer._whose_turn([]) == []


@pytest.mark.parametrize(
    ("taken", "is_wide", "pauses"), [(4096, True, 1), (4096, False, 0), (1 << 20, True, 0)]
)
def test_pipes_that_take_a_page_at_a_time_are_left_to_empty(monkeypatch, taken, is_wide, pauses):
    """Filled page by page, a wide one costs a system call and Python's attention for each."""
    monkeypatch.setattr(streamer.os, "write", lambda _pipe, data: min(taken, len(data)))
    slept = []
    monkeypatch.setattr(streamer.time, "sleep", slept.append)
    (push,) = pushes(0)
    push.is_wide = is_wide
    serve = object.__new__(streamer.Serve)
    serve._waiting = ()
    serve._selector = SimpleNamespace(select=lambda _: [(SimpleNamespace(data=push, fileobj=push.pipe), 0)])
    serve._handle_events()
    assert push.done_bytes == taken
    assert len(slept) == pauses


def test_a_criu_that_ends_in_the_middle_of_a_request_tells_why_itself(tmp_path):
    """Whether it is gone before it sent its pipe, or with our answer unread."""
    for request in (b"", frame("pages-1.img")[:2], frame("pages-1.img")[:9], frame("pages-1.img")):
        failures: list[Exception] = []
        answered = threading.Event()

        def image(_name: str) -> list[bytes]:
            answered.set()  # noqa: B023
            return [b"x"]

        streamer.Serve(str(tmp_path), image, failures.append)
        criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
        criu.connection.sendall(request)
        if request == frame("pages-1.img"):
            assert answered.wait(10)
            time.sleep(0.1)
        criu.connection.close()
        time.sleep(0.1)
        assert failures == []


def test_a_reader_that_stops_early_is_no_failure(tmp_path):
    failures: list[Exception] = []
    done = threading.Event()

    def endless(_name):
        try:
            while True:
                yield b"x" * 100_000
        finally:
            done.set()

    streamer.Serve(str(tmp_path), endless, failures.append)
    criu = StandIn(f"{tmp_path}/{streamer.SERVE_SOCKET}")
    descriptor = criu.get("pages-1.img")
    assert descriptor is not None
    time.sleep(0.2)  # the pipe is full by now
    os.close(descriptor)
    assert done.wait(10)
    criu.connection.close()
    assert failures == []


@given(st.binary(max_size=200))
def test_no_request_crashes_the_parser(body):
    try:
        assert isinstance(streamer.parse_request(body), str)
    except streamer.ProtocolError:
        pass


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=300))
def test_every_name_is_parsed(name):
    assert streamer.parse_request(frame(name)[4:]) == name


def test_two_capabilities_are_enough():
    assert "--unprivileged" in options.dump(1000, PLACES, options.Hints())
    assert options.missing_capabilities(frozenset(options.REQUIRED)) == []
    assert options.missing_capabilities(frozenset()) == ["SYS_PTRACE", "CHECKPOINT_RESTORE"]


def test_inherited_descriptors_are_named_in_crius_words():
    argv = options.restore(PLACES, inherit={5: "pipe:[77]"}, keeps_connections=False, lazy_pages=False)
    assert argv[argv.index("--inherit-fd") + 1] == "fd[5]:pipe:[77]"


def test_what_criu_cannot_find_out_it_is_told():
    argv = options.dump(1000, PLACES, options.Hints(("file[1b:23]",), ("/etc/passwd",)))
    assert argv[argv.index("--external") + 1] == "file[1b:23]"
    assert argv[argv.index("--irmap-scan-path") + 1] == "/etc/passwd"


def test_crius_first_known_error_becomes_a_sentence_with_a_remedy():
    text = (
        "(00.010) Error (criu/cr-restore.c:1): Can't fork for 1000: File exists\n"
        "(00.011) Error (criu/cr-restore.c:2): Restoring FAILED.\n"
    )
    assert log.explain(text) == (
        "Can't fork for 1000: File exists",
        "a pid of the engine is taken in this container",
    )


@pytest.mark.parametrize(("text", "values", "words"), criu_messages.MESSAGES)
def test_what_criu_says_is_made_into_a_cause_and_a_remedy(text, values, words):
    what, remedy = log.explain(criu_messages.printed(text, values))
    assert what in criu_messages.printed(text, values)
    assert words in remedy


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        ("Zombies with threads are not supported", False),
        ("suspending seccomp failed: Operation not permitted", False),
        ("inet: Unknown inet socket 0x1f state 3", True),
        ("Unknown shit 600 (anon_inode:[io_uring])", True),
        ("1000 was killed by 9 unexpectedly: Killed", True),
        (
            "si_code=2 si_pid=1000 si_status=9\nError (criu/x.c:9): 1000 was killed by 9 unexpectedly: Killed",
            True,
        ),
        ("it was killed by signal 9", True),
        ("criu gave no reason", True),
        ("new trouble", True),
    ],
)
def test_a_dump_is_tried_again_only_where_that_can_help(error, passes):
    assert remedies.may_pass(error) is passes


def test_every_remedy_is_for_something_that_criu_says():
    said = [criu_messages.printed(text, values) for text, values, _ in criu_messages.MESSAGES]
    for pattern, _ in remedies.REMEDIES:
        assert any(re.search(pattern, line) for line in said), pattern


def test_the_first_error_that_is_known_is_the_cause():
    """Not a later one that follows from it, nor an earlier one that says nothing."""
    said = (
        ("Unable to open fd=%d id=%#x", (3, 7)),
        ("Can not set flock!", ()),
        ("Can't fork for %d: File exists", (5,)),
    )
    text = "".join(criu_messages.printed(*message) for message in said)
    assert log.explain(text)[0] == "Can not set flock!"


def test_a_task_that_was_killed_after_an_error_is_not_the_cause():
    """CRIU kills the tasks once one of them has failed, and reports that, too."""
    said = (
        "(00.1) Error (criu/x.c:9): new trouble\n(00.2) Error (criu/y.c:1): 1000 killed by signal 9: Killed\n"
    )
    assert log.explain(said) == ("new trouble", "")
    assert "memory" in log.explain(said.splitlines()[1])[1]


def test_an_unknown_error_is_told_as_it_is():
    assert (
        log.explain("(00.1) Error (criu/x.c:9): new trouble\n(00.2) Error (criu/y.c:1): more")[0]
        == "new trouble"
    )


def test_an_empty_log_is_said_to_be_one():
    assert log.explain("")[0] == "criu gave no reason"


def test_what_criu_says_on_the_way_to_success_is_no_error():
    text = "pie: 1000: Error (criu/include/sk-inet.h:80): Failed to turn off repair mode on socket 109: errno 1\n"
    text += "(00.1) Error (criu/namespaces.c:9): Unable to open the binfmt_misc file system: Operation not permitted\n"
    assert log.errors(text) == []
    assert not log.is_stuck(text)


def test_errors_of_the_restorer_mean_that_criu_hangs():
    assert log.is_stuck(
        "(00.2) pie: 1004: Error (criu/pie/restorer.c:317): Unable to drop capability 2: -1\n"
    )
    assert not log.is_stuck("(00.2) pie: 1004: Warn something\n")


def test_a_criu_that_does_not_say_its_version_in_time_is_named(tmp_path, monkeypatch):
    """It hangs in the container's file system, say: no defect of ours, and no traceback."""
    program = tmp_path / "criu"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(process, "_VERSION_S", 0.2)
    with pytest.raises(CheckpointError, match="did not say its version") as caught:
        process.version()
    assert caught.value.reason == "CriuBroken"


def dumping(tmp_path, script):
    """A dump by a program that is none."""
    return process.Dumping(["sh", "-c", script], str(tmp_path / "criu.log"), extra={}, before=None)


def test_a_criu_that_says_more_than_anybody_reads_goes_on(tmp_path):
    """The loader alone does, with LD_DEBUG."""
    running = dumping(
        tmp_path,
        "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; exit 3",
    )
    assert running.wait(20) == 3


def test_the_log_of_an_earlier_criu_says_nothing_of_this_one(tmp_path):
    """One that the loader refuses writes none."""
    (tmp_path / "criu.log").write_text("Error (criu/x.c:1): long ago\n")
    running = dumping(tmp_path, "echo criu: undefined symbol >&2; exit 127")
    running.wait(20)
    assert running.failure()[0] == "criu: undefined symbol"


def test_a_log_without_end_is_the_end_of_a_criu(tmp_path, monkeypatch):
    """It would count as progress, and fill the memory that scratch directories are."""
    monkeypatch.setattr(process, "_MOST_LOG_BYTES", 1000)
    running = dumping(tmp_path, "exit 0")
    running.wait(20)
    (tmp_path / "criu.log").write_text("Error (criu/x.c:1): again and again\n" * 20)
    assert not running.floods_its_log()
    (tmp_path / "criu.log").write_text("Error (criu/x.c:1): again and again\n" * 40)
    assert running.floods_its_log()
    assert running.is_stuck()
    assert running.failure()[0] == "again and again"


def test_the_signal_that_ended_a_criu_is_said(tmp_path):
    running = dumping(tmp_path, "kill -9 $$")
    running.wait(20)
    what, remedy = running.failure()
    assert what == "it was killed by signal 9"
    assert "memory" in remedy
    (tmp_path / "criu.log").write_text("Error (criu/x.c:1): no room\n")
    assert running.failure()[0] == "no room"


def test_a_criu_that_cannot_be_started_for_want_of_tasks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_ORPHAN", "echo sh: Cannot fork >&2; exit 2")
    with pytest.raises(PlaceFailed, match="Cannot fork") as caught:
        process.Restoring(["criu"], str(tmp_path / "criu.log"), keep=(), extra={}, before=None)
    assert caught.value.reason == "PidsLimit"


#: Holds a task, as CRIU does: PTRACE_SEIZE, PTRACE_INTERRUPT (linux/ptrace.h). A task of it writes on and on.
HOLDS = """
import ctypes, os, sys, time
path = sys.argv[1]
task = os.fork()
while not task:
    with open(path, "ab", 0) as file:
        file.write(b"x")
    time.sleep(0.001)
libc = ctypes.CDLL(None)
assert not libc.ptrace(0x4206, task, None, None) and not libc.ptrace(0x4207, task, None, None)
os.waitpid(task, 0)
with open(f"{path}.held", "w") as file:
    file.write(str(task))
time.sleep(60)
"""


def test_what_criu_holds_never_runs_again(tmp_path):
    written, held = tmp_path / "written", tmp_path / "written.held"
    written.touch()
    argv = [sys.executable, "-c", HOLDS, str(written)]
    criu = process.Restoring(argv, str(tmp_path / "criu.log"), keep=(), extra={}, before=None)
    with closing(criu):
        while not (held.exists() and held.read_text()):
            time.sleep(0.01)
        task, before = int(held.read_text()), written.stat().st_size
        try:
            criu.kill()
            deadline = time.monotonic() + 10
            while not proc.has_ended(task):
                assert time.monotonic() < deadline, "it runs on"
                time.sleep(0.01)
            assert written.stat().st_size == before
        finally:
            with suppress(ProcessLookupError):
                os.kill(task, signal.SIGKILL)


@pytest.mark.parametrize("said", ["yes", "yes >&2", "exec >&- 2>&-; sleep 60"])
def test_a_criu_that_says_too_much_or_nothing_of_its_version_is_named(tmp_path, monkeypatch, said):
    program = tmp_path / "criu"
    program.write_text(f"#!/bin/sh\n{said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        process.version()
    assert caught.value.reason == "CriuBroken"
    assert time.monotonic() - began < process._VERSION_S


@pytest.mark.parametrize(
    ("said", "found"), [("Version: 5", "5"), ("Version: 4.2.1", "4.2.1"), ("Version: 4.3-dev", "4.3")]
)
def test_any_version_is_read(tmp_path, monkeypatch, said, found):
    program = tmp_path / "criu"
    program.write_text(f"#!/bin/sh\necho '{said}'\necho 'GitID: v9'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert process.version() == found


def test_a_log_that_stays_where_it_is_is_not_kept_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_KEPT_BYTES", 100)
    path = tmp_path / "restore.log"
    path.write_text("x" * 1000 + "the end")
    log.keep(
        str(tmp_path),
        "restore.log",
        state_dir="",
        status_file=TERMINATION_LOG,
        log=SimpleNamespace(info=lambda *_, **__: None),
    )
    assert path.stat().st_size == 100
    assert path.read_text().endswith("the end")


def test_names_that_a_killed_dump_left_are_removed(tmp_path):
    """Of files that the engine had deleted before, and of no other."""
    for name in ("deleted", "kept"):
        (tmp_path / name).write_text(name)
    with (tmp_path / "deleted").open(), (tmp_path / "kept").open():
        os.link(tmp_path / "deleted", tmp_path / "link_remap.7")
        os.link(tmp_path / "deleted", tmp_path / "other")
        os.link(tmp_path / "kept", tmp_path / "link_remap.8")
        (tmp_path / "deleted").unlink()
        remaps.take_back([os.getpid()])
    assert sorted(os.listdir(tmp_path)) == ["kept", "link_remap.8", "other"]


def test_a_name_of_a_file_that_is_only_mapped_is_removed(tmp_path):
    """As a program is, and a library."""
    program = tmp_path / "deleted"
    shutil.copy(shutil.which("cat"), program)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        running.stdin.write(b"x")
        assert running.stdout.read(1) == b"x", "Popen returns before the kernel has mapped the program"
        os.link(program, tmp_path / "link_remap.7")
        program.unlink()
        remaps.take_back([running.pid])
        running.kill()
    assert not os.listdir(tmp_path)


def test_names_above_a_directory_that_is_gone_are_removed(tmp_path):
    """CRIU gives the name in the nearest directory that exists."""
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (place / "deleted").touch()
    with (place / "deleted").open():
        os.link(place / "deleted", tmp_path / "link_remap.7")
        (place / "deleted").unlink()
        place.rmdir()
        place.parent.rmdir()
        remaps.take_back([os.getpid()])
    assert not os.listdir(tmp_path)


def test_each_directory_is_listed_once_and_none_for_memory(tmp_path, monkeypatch):
    """An engine may have thousands of mappings of one deleted file, and of memory that no directory holds."""
    listed = []
    monkeypatch.setattr(
        remaps.os, "listdir", lambda path, list_=os.listdir: listed.append(path) or list_(path)
    )
    with ExitStack() as stack:
        for number in range(3):
            file = stack.enter_context((tmp_path / f"{number}").open("w+b"))
            file.truncate(4096)
            os.link(file.name, tmp_path / f"link_remap.{number}")
            os.unlink(file.name)
            stack.enter_context(mmap.mmap(file.fileno(), 4096))
            memory = stack.enter_context(os.fdopen(os.memfd_create("shared"), "w+b"))
            memory.truncate(4096)
            stack.enter_context(mmap.mmap(memory.fileno(), 4096))
            stack.enter_context(mmap.mmap(-1, 4096))
        remaps.take_back([os.getpid()])
    assert listed.count(str(tmp_path)) == 1
    assert "/" not in listed
    assert not os.listdir(tmp_path)


#: A launcher with a child that is busy with other things, and its worker, whose CRIU and root sleep.
BUSY_LAUNCHER = """
import subprocess, sys
busy = subprocess.Popen(["sh", "-c", "while :; do read line </etc/passwd; done"])
try:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
finally:
    busy.kill()
"""
WORKER = """
import subprocess, time
from dynamo_entry.criu import process
criu, root = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
restoring = process.Restoring.__new__(process.Restoring)
restoring.pid, restoring._log_path = criu.pid, "/nowhere"
def changes():
    before = restoring.steps(root.pid)
    time.sleep(0.1)
    return restoring.steps(root.pid) != before
deadline = time.monotonic() + 20
while changes():  # they are starting
    assert time.monotonic() < deadline
before = restoring.steps(root.pid)
root.kill()
root.wait()
assert restoring.steps(root.pid) != before
criu.kill()
"""


def test_what_else_a_launcher_started_is_no_progress_of_a_restore():
    subprocess.run([sys.executable, "-c", BUSY_LAUNCHER, WORKER], check=True, timeout=60)


def test_the_end_of_a_dump_is_known_at_once(tmp_path, monkeypatch):
    """``Popen.wait`` with a limit looks for it now and then, every 50 ms in the end."""
    running = dumping(tmp_path, "sleep 0.1")
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", lambda _s: pytest.fail("it looks for it now and then"))
        assert running.wait(float("inf")) == 0
        assert running.wait(20) == 0


def test_a_dump_that_does_not_end_is_killed(tmp_path):
    running = dumping(tmp_path, "exec sleep 60")
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        running.wait(0.05)
    assert running.was_killed


def test_a_killed_dump_is_told_from_one_that_failed(tmp_path):
    for script, was_killed in (("kill -9 $$", True), ("exit 1", False)):
        running = dumping(tmp_path, script)
        running.wait(20)
        assert running.was_killed is was_killed


@pytest.mark.parametrize(
    ("stage", "action", "verdict", "code", "lives"),
    [
        ("pre-resume", "pre-resume", "yes", 0, True),
        ("pre-resume", "pre-resume", "no", 1, False),
        ("pre-resume", "pre-resume", None, 1, False),
        ("pre-resume", "post-restore", None, 0, True),
        ("post-dump", "post-dump", "no", 1, True),
    ],
)
def test_held_tasks_go_on_only_after_a_yes(tmp_path, stage, action, verdict, code, lives):
    """Where nobody says anything any more, tasks that a dump has frozen go on, and half-filled ones end."""
    held = gate.Gate(str(tmp_path), stage)
    tasks = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        if stage == gate.PRE_RESUME:
            held.end_otherwise(task.pid for task in tasks)
        script = subprocess.Popen(
            ["/bin/sh", gate.SCRIPT],
            env={**os.environ, **held.environment, "CRTOOLS_SCRIPT_ACTION": action},
        )
        while stage == action and not _listens(script.pid):
            time.sleep(0.01)
        if verdict:
            held.go_on(yes=verdict == "yes")
        else:
            held.close()
        assert script.wait(10) == code
        if not lives:
            assert [task.wait(10) for task in tasks] == [-9, -9]
        assert [task.poll() is None for task in tasks] == [lives, lives]
    finally:
        for task in tasks:
            task.kill()
            task.wait()
        held.close()


def _listens(pid):
    """Whether the script has opened what the verdict comes through."""
    directory = f"/proc/{pid}/fd"
    return any(os.readlink(f"{directory}/{name}").endswith("/verdict") for name in os.listdir(directory))
