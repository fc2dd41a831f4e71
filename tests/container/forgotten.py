"""An engine that holds one thing which the kernel tells nobody about: named by its argument.

It says ``before VALUE`` when it is ready, and ``after VALUE`` once it was restored. A thing that is to be refused is
only held.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.shmat.restype = ctypes.c_void_p

#: System calls that libc has no function for, of x86_64 and of arm64.
_NUMBERS = {
    "x86_64": {
        "timer_create": 222,
        "timer_settime": 223,
        "io_setup": 206,
        "io_submit": 209,
        "io_getevents": 208,
    },
    "aarch64": {"timer_create": 107, "timer_settime": 110, "io_setup": 0, "io_submit": 2, "io_getevents": 4},
}[os.uname().machine]
MEMFD_SECRET, PIDFD_OPEN = 447, 434

MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_HUGETLB = 2, 0x20, 0x4000, 0x40000
CLONE_VM, CLONE_FS, CLONE_FILES = 0x100, 0x200, 0x400
IPC_CREAT = 0o1000

CONTEXT = Path("/run/dynamo_entry/context.json")

kept: list[Any] = []
Check = Callable[[], Any]


def checked(result: int) -> int:
    if result < 0:
        sys.exit(f"forgotten: not on this machine: {os.strerror(ctypes.get_errno())}")
    return result


def in_thread(work: Callable[[], object]) -> int:
    """Run it in a thread that stays; returns its id."""
    ready = threading.Event()

    def run() -> None:
        work()
        ready.set()
        time.sleep(1e6)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    return thread.native_id or 0


def reserved(prot: int) -> Check:
    """More address space than any machine has memory."""
    size = 400 << 30
    address = libc.mmap(None, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        sys.exit("forgotten: not on this machine: no 400 GiB of address space")
    return lambda: any(
        line.startswith(f"{address:x}-{address + size:x} ") for line in open("/proc/self/maps")
    )


def reservation() -> Check:
    return reserved(0)


def reservation_to_be_read() -> Check:
    return reserved(mmap.PROT_READ)


def timer(tid: int, clock: int = time.CLOCK_MONOTONIC) -> int:
    number = ctypes.c_int(-1)
    event = ctypes.create_string_buffer(struct.pack("QiiI", 0, signal.SIGUSR2, 4, tid).ljust(64, b"\0"))
    checked(libc.syscall(_NUMBERS["timer_create"], clock, event, ctypes.byref(number)))
    return number.value


def arm(number: int, seconds: float) -> None:
    nanoseconds = int(seconds * 1e9)
    value = struct.pack("qqqq", *[*divmod(nanoseconds, 10**9)] * 2)
    checked(libc.syscall(_NUMBERS["timer_settime"], number, 0, ctypes.create_string_buffer(value), None))


def timers_of_threads(*, is_armed: bool) -> Check:
    """One of a thread that ended, one of a thread that lives."""
    hits: list[int] = []
    signal.signal(signal.SIGUSR2, lambda *_: hits.append(1))
    tids: list[int] = []
    thread = threading.Thread(target=lambda: (tids.append(threading.get_native_id()), time.sleep(0.3)))
    thread.start()
    time.sleep(0.1)
    ended = timer(tids[0])
    if is_armed:
        arm(ended, 1000)
    thread.join()
    arm(timer(in_thread(lambda: None)), 0.1)

    def check() -> bool:
        hits.clear()
        time.sleep(0.5)
        return len(hits) > 1

    return check


def timer_of_a_threads_time() -> Check:
    """As a profiler has it: it expires while the thread works, and at no other time."""
    hits: list[int] = []
    signal.signal(signal.SIGUSR2, lambda *_: hits.append(1))
    works = threading.Event()

    def work() -> None:
        arm(timer(threading.get_native_id(), time.CLOCK_THREAD_CPUTIME_ID), 0.02)
        while works.wait():
            sum(range(1000))

    def expires() -> bool:
        hits.clear()
        end = time.monotonic() + 1
        while time.monotonic() < end:  # a signal ends no wait of the main thread
            time.sleep(0.01)
        return bool(hits)

    def check() -> list[bool]:
        works.set()
        found = [expires()]
        works.clear()
        time.sleep(0.1)
        return [*found, expires()]

    threading.Thread(target=work, daemon=True).start()
    return check


def timer_of_an_ended_thread() -> Check:
    return timers_of_threads(is_armed=False)


def armed_timer_of_an_ended_thread() -> Check:
    return timers_of_threads(is_armed=True)


def many_descriptors() -> Check:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept.extend(os.eventfd(0) for _ in range(int(sys.argv[2])))
    return lambda: len(os.listdir("/proc/self/fd"))


def many_zombies() -> Check:
    """Children that ended, and that nobody has waited for: orphans of shells among them."""
    pids = [os.fork() or os._exit(number % 7) for number in range(100)]
    subprocess.run("for i in $(seq 100); do (sleep 0.1 &); done", shell=True, check=True)
    time.sleep(1)

    def ended(pid: int) -> int | None:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return found.si_status if found else None

    return lambda: [ended(pid) for pid in pids]


def signals_of_a_thread() -> Check:
    """Files that signal one thread, and not its process, when they can be read (``F_SETOWN_EX``)."""
    number, got = signal.SIGRTMIN + 4, []
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    tids: list[int] = []

    def wait() -> None:
        tids.append(threading.get_native_id())
        while True:
            got.append(signal.sigwaitinfo({number}).si_signo)

    threading.Thread(target=wait, daemon=True).start()
    time.sleep(0.1)
    ends = [os.pipe(), tuple(end.detach() for end in socket.socketpair())]
    for reader, _ in ends:
        fcntl.fcntl(reader, 15, struct.pack("ii", 0, tids[0]))  # F_SETOWN_EX, F_OWNER_TID
        fcntl.fcntl(reader, fcntl.F_SETSIG, number)
        fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)

    def signals(reader: int, writer: int) -> bool:
        got.clear()
        os.write(writer, b"x")
        time.sleep(0.1)
        os.read(reader, 1)
        owner = struct.unpack("ii", fcntl.fcntl(reader, 16, bytes(8)))  # F_GETOWN_EX
        return bool(got) and owner == (0, tids[0])

    return lambda: [signals(*pair) for pair in ends]


def file_of_a_thread() -> None:
    tid = in_thread(lambda: None)
    kept.append(os.open(f"/proc/self/task/{tid}/stat", os.O_RDONLY))


def directory_of_a_process_outside() -> None:
    kept.append(os.open("/proc/1", os.O_RDONLY))


def file_of_a_process_outside() -> None:
    """The launcher's worker."""
    worker = next(pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid()))
    kept.append(os.open(f"/proc/{worker}/stat", os.O_RDONLY))


def working_directory_of_a_process() -> None:
    os.chdir("/proc/self")


def files_of_processes() -> Check:
    """Of itself, of PID 1, of a child that lives and of one that has ended."""
    children = [subprocess.Popen(["sleep", "300"]) for _ in range(2)]
    paths = [
        "/proc/self/stat",
        "/proc/self",
        "/proc/self/task",
        "/proc/1/stat",
        *(f"/proc/{child.pid}" for child in children),
    ]
    held = [os.open(path, os.O_RDONLY) for path in paths]
    kept.extend(children)
    children[0].kill()
    children[0].wait()
    return lambda: [os.readlink(f"/proc/self/fd/{number}") for number in held]


def sysv_semaphore() -> None:
    checked(libc.semget(0x5151, 1, IPC_CREAT | 0o600))


def sysv_queue() -> None:
    checked(libc.msgget(0x5152, IPC_CREAT | 0o600))


def sysv_shm_detached() -> None:
    checked(libc.shmget(0x5153, 4096, IPC_CREAT | 0o600))


def posix_queue() -> None:
    checked(libc.mq_open(b"/queue", os.O_RDWR | os.O_CREAT, 0o600, None))


def posix_queue_closed() -> None:
    libc.mq_close(checked(libc.mq_open(b"/queue", os.O_RDWR | os.O_CREAT, 0o600, None)))


def posix_queue_without_a_name() -> None:
    posix_queue()
    libc.mq_unlink(b"/queue")


def sockets() -> None:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.bind((0, 0))
    kept.extend((*socket.socketpair(), socket.create_server(("127.0.0.1", 8000)), netlink))


def secret_memory() -> None:
    descriptor = checked(libc.syscall(MEMFD_SECRET, 0))
    os.ftruncate(descriptor, 4096)
    kept.append(mmap.mmap(descriptor, 4096))
    os.close(descriptor)


def secret_memory_open() -> None:
    checked(libc.syscall(MEMFD_SECRET, 0))


def thread_with_its_own_directory() -> None:
    in_thread(lambda: (checked(libc.unshare(CLONE_FS)), os.chdir("/usr")))


def thread_with_its_own_descriptors() -> None:
    in_thread(lambda: checked(libc.unshare(CLONE_FILES)))


def child_in_the_same_memory() -> None:
    """As vfork leaves one, for good."""
    stack = mmap.mmap(-1, 1 << 16)
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    pause = {
        "x86_64": b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7",
        "aarch64": struct.pack("<IIII", 0xD2800928, 0xD2800000, 0xD4000001, 0x17FFFFFD),
    }
    code.write(pause[os.uname().machine])
    start, top = (ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in (code, stack))
    kept.extend((stack, code))
    checked(libc.clone(ctypes.c_void_p(start), ctypes.c_void_p(top + 65536 - 256), CLONE_VM | 17, None))


def child_in_the_same_directory() -> None:
    """It goes where its parent goes."""
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if libc.syscall(clone, CLONE_FS | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        time.sleep(1e6)


def descriptor_of_a_process_outside() -> None:
    kept.append(os.pidfd_open(1))


def descriptor_of_a_thread() -> None:
    tid = in_thread(lambda: None)
    checked(libc.syscall(PIDFD_OPEN, tid, os.O_EXCL))


def program_in_memory() -> None:
    descriptor = os.memfd_create("program", 0)
    with open(shutil.which("sleep") or "", "rb") as file:
        os.write(descriptor, file.read())
    kept.append(subprocess.Popen([f"/proc/self/fd/{descriptor}", "300"], pass_fds=[descriptor]))


def deleted_file_with_another_name() -> None:
    """Not on the root filesystem."""
    Path("/dev/shm/one").write_text("one")
    os.link("/dev/shm/one", "/dev/shm/two")
    kept.append(os.open("/dev/shm/one", os.O_RDONLY))
    os.unlink("/dev/shm/one")


def deleted_directory_of_the_image() -> None:
    os.chdir("/srv")
    os.rmdir("/srv")


def deleted_file_whose_directory_is_a_file_now() -> None:
    directory = Path("/tmp/directory")
    directory.mkdir()
    kept.append(os.open(directory / "file", os.O_CREAT | os.O_RDWR))
    shutil.rmtree(directory)
    directory.touch()


def deleted_directory_that_was_made_again() -> None:
    directory = Path("/tmp/directory")
    directory.mkdir()
    kept.append(os.open(directory, os.O_RDONLY))
    directory.rmdir()
    directory.mkdir()


def deleted_working_directory_that_was_made_again() -> None:
    deleted_directory_that_was_made_again()
    os.fchdir(kept[0])
    os.close(kept.pop())


def go_deep() -> None:
    """Into a directory whose path is too long for the kernel to show."""
    os.chdir("/var/tmp")
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)


def working_directory_by_a_long_path() -> None:
    go_deep()


def file_by_a_long_path() -> None:
    go_deep()
    kept.append(os.open("file", os.O_CREAT | os.O_RDWR))
    os.chdir("/")


def mapped_file_by_a_long_path() -> None:
    go_deep()
    with open("file", "w+") as file:
        file.write("text")
        file.flush()
        libc.mmap(None, 4, mmap.PROT_READ, MAP_PRIVATE, file.fileno(), 0)
    os.chdir("/")


def ring_of_a_closed_socket() -> None:
    """A packet ring: struct tpacket_req of packet(7)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as found:
        found.setsockopt(263, 5, struct.pack("IIII", 4096, 4, 2048, 8))
        checked(-1 if libc.mmap(None, 4 * 4096, 3, mmap.MAP_SHARED, found.fileno(), 0) is None else 0)


def file_that_is_leased() -> None:
    file = os.open("/tmp/leased", os.O_CREAT | os.O_RDWR)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def huge_pages_that_are_not_written_to() -> None:
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE
    if libc.mmap(None, 2 << 20, 1, flags, -1, 0) in (None, ctypes.c_void_p(-1).value):
        sys.exit("forgotten: not on this machine: MAP_HUGETLB")


def no_huge_pages() -> None:
    if int(Path("/proc/sys/vm/nr_hugepages").read_text()):
        sys.exit("forgotten: not on this machine: it has huge pages")


def shared_huge_pages_of_which_none_is_left() -> None:
    """None is taken either: that may be one of a machine that has none."""
    no_huge_pages()
    size = 2 << 20
    if libc.mmap(None, size, 3, mmap.MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0) in (
        None, ctypes.c_void_p(-1).value,
    ):  # fmt: skip
        sys.exit("forgotten: not on this machine: MAP_HUGETLB")


def file_in_memory_of_huge_pages() -> None:
    no_huge_pages()
    os.ftruncate(os.memfd_create("huge", os.MFD_HUGETLB), 2 << 20)


def socket_with_a_program() -> None:
    """It lets no datagram pass: r0 = 0; exit."""
    instructions = ctypes.create_string_buffer(struct.pack("QQ", 0xB7, 0x95))
    text = ctypes.create_string_buffer(b"GPL")
    given = struct.pack("IIQQ", 1, 2, ctypes.addressof(instructions), ctypes.addressof(text)).ljust(
        128, b"\0"
    )
    load = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    program = checked(libc.syscall(load, 5, ctypes.create_string_buffer(given), 128))
    kept.append(found := socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    found.setsockopt(socket.SOL_SOCKET, 50, program)
    os.close(program)


def its_own_program() -> None:
    kept.append(os.open("/proc/self/exe", os.O_PATH))


def what_nobody_has_read_yet() -> Check:
    """A datagram, an event of a watched directory, an urgent byte; and hints and notifications of files."""
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(("127.0.0.1", 8002))
    receiver.setblocking(False)
    sender.sendto(b"early", ("127.0.0.1", 8002))
    watched = Path("/tmp/watched")
    watched.mkdir()
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, str(watched).encode(), 0x100)  # IN_CREATE
    (watched / "early").touch()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(b"abc")
    theirs.send(b"!", socket.MSG_OOB)
    hinted = os.open("/tmp/hinted", os.O_RDWR | os.O_CREAT)
    fcntl.fcntl(hinted, 1036, struct.pack("Q", 3))  # F_SET_RW_HINT
    notified: list[int] = []
    signal.signal(signal.SIGIO, lambda *_: notified.append(1))
    directory = os.open(watched, os.O_RDONLY)
    fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)
    named, from_whom = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    named.bind("/tmp/named")
    from_whom.bind("/tmp/from")
    from_whom.sendto(b"early", "/tmp/named")
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader.setblocking(False)
    for message in (b"first", b"", b"behind it"):
        writer.send(message)
    master, slave = os.openpty()
    os.write(master, b"half a ")
    hung_up, closed = os.openpty()
    os.close(closed)
    for descriptor in (slave, hung_up):
        os.set_blocking(descriptor, False)
    kept.extend((theirs, sender, from_whom, writer))

    def behind() -> bool:
        if not CONTEXT.exists():
            return True  # it can be read once only
        reader.recv(10)
        return bool(select.select([reader], [], [], 0)[0])

    def typed() -> bool:
        if not CONTEXT.exists():
            return True
        os.write(master, b"line\n")
        return os.read(slave, 100) == b"half a line\n"

    def is_hung_up() -> bool:
        try:
            return not os.read(hung_up, 1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def arrives() -> bool:
        notified.clear()
        (watched / f"{time.monotonic()}").touch()
        time.sleep(0.1)
        return bool(notified)

    def check() -> dict[str, bool]:
        waiting = select.select([receiver, watch], [], [], 0)[0]
        urgent = select.select([], [], [ours], 0)[2]
        hint = struct.unpack("Q", fcntl.fcntl(hinted, 1035, bytes(8)))[0]
        return {
            "datagram": receiver in waiting,
            "event": watch in waiting,
            "urgent byte": bool(urgent),
            "hint": hint == 3,
            "notification": arrives(),
            "sender": named.recvfrom(10, socket.MSG_PEEK)[1] == "/tmp/from",
            "behind an empty message": behind(),
            "half a line": typed(),
            "hang-up": is_hung_up(),
        }

    return check


def what_was_asked_of_the_kernel() -> Check:
    """A word when something is short (PSI), one event of a watch only, to look for packets instead of sleeping, and a terminal
    for nobody else."""
    asked: dict[str, Callable[[], bool]] = {}
    try:
        pressure = os.open("/proc/pressure/memory", os.O_RDWR)
        os.write(pressure, b"some 150000 2000000\0")
        asked["pressure"] = lambda: not taken(pressure)
    except OSError:
        pass  # not in this kernel, or not here
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, b"/var/tmp", 0x80000100)  # IN_ONESHOT | IN_CREATE
    asked["one event"] = lambda: "mask:80000100" in Path(f"/proc/self/fdinfo/{watch}").read_text()
    waiting = select.epoll()
    try:
        fcntl.ioctl(waiting, 0x40088A01, struct.pack("IHBx", 100, 8, 0))  # EPIOCSPARAMS
        asked["polling"] = lambda: any(fcntl.ioctl(waiting, 0x80088A02, bytes(8)))
    except OSError:
        pass
    kept.append(waiting)
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCEXCL)
    kept.append(master)
    asked["terminal"] = lambda: any(fcntl.ioctl(terminal, 0x80045440, bytes(4)))  # TIOCGEXCL

    def taken(pressure: int) -> bool:
        try:
            return os.write(pressure, b"some 150000 2000000\0") > 0
        except OSError:
            return False

    return lambda: {name: check() for name, check in asked.items()}


def socket_by_its_path() -> None:
    kept.append(socket.create_server("/tmp/listening", family=socket.AF_UNIX))
    kept.append(os.open("/tmp/listening", os.O_PATH))


def fifo_by_its_path() -> None:
    os.mkfifo("/tmp/fifo")
    kept.append(os.open("/tmp/fifo", os.O_PATH))


def terminal_of_a_session() -> None:
    """That of a child, which has it open as /dev/tty."""
    master, slave = os.openpty()
    kept.append(master)
    if not os.fork():
        os.setsid()
        terminal = os.open(os.ttyname(slave), os.O_RDWR)
        kept.extend((terminal, os.open("/dev/tty", os.O_RDWR)))
        os.close(master)
        time.sleep(1e6)
    os.close(slave)


def fifo_that_its_owner_may_not_open() -> None:
    os.mkfifo("/tmp/fifo", 0o600)
    kept.append(os.open("/tmp/fifo", os.O_RDWR))
    os.chmod("/tmp/fifo", 0o400)


def file_in_memory_by_its_path() -> None:
    descriptor = os.memfd_create("memory")
    kept.append(os.open(f"/proc/self/fd/{descriptor}", os.O_PATH))


def on_the_link(port: int) -> tuple[str, int, int, int]:
    """An address that is one only together with its interface."""
    rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    address, name = next((row[0], row[5]) for row in rows if row[3] == "20")
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)), port, 0, socket.if_nametoindex(name)


def socket_on_a_link() -> Check:
    listening = socket.socket(socket.AF_INET6)
    listening.bind(on_the_link(8003))
    listening.listen()

    def check() -> str:
        with socket.socket(socket.AF_INET6) as client:
            client.connect(listening.getsockname())
            listening.accept()[0].close()
        return True

    return check


def connection_on_a_link() -> Check:
    """Of UDP, to the engine's own server."""
    server, client = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    server.bind(on_the_link(8004))
    server.settimeout(5)
    client.connect(server.getsockname())

    def check() -> str:
        client.send(b"datagram")
        return server.recv(9).decode()

    return check


def socket_bound_to_a_group() -> None:
    """On one link, as mDNS has it."""
    kept.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    kept[-1].bind(("ff02::fb", 5353, 0, socket.if_nametoindex("lo")))


def socket_with_a_name_from_elsewhere() -> None:
    os.chdir("/tmp")
    kept.append(socket.create_server("listening", family=socket.AF_UNIX))
    os.chdir("/")


def sockets_that_were_renamed() -> Check:
    """As who lets nobody see one that is not ready yet: supervisord, with another link. A client has come already.

    The next one is not ready yet, at the name that all of them had.
    """
    names = ["/tmp/listening 1", "/tmp/listening 2", "/tmp/new"]
    for name in names:
        kept.append(server := socket.create_server("/tmp/new", family=socket.AF_UNIX))
        os.chmod("/tmp/new", 0o720)
        if name != "/tmp/new":
            os.link("/tmp/new", name)
            os.unlink("/tmp/new")
        kept.append(client := socket.socket(socket.AF_UNIX))
        client.connect(name)
        kept.append((server.accept()[0], client))

    def check() -> dict[str, Any]:
        said = []
        for name, (server, _, (ours, theirs)) in zip(names, zip(*[iter(kept)] * 3, strict=True), strict=True):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(name)
                server.accept()[0].sendall(b"new")
                ours.sendall(b"old")
                said += [client.recv(9).decode(), theirs.recv(9).decode()]
        there = sorted(name for name in os.listdir("/tmp") if "new" in name or "listening" in name)
        return {"said": said, "names": there, "mode": oct(os.stat("/tmp/listening 1").st_mode)}

    return check


def socket_by_way_of_a_descriptor() -> None:
    """As for a path that has more than 107 bytes."""
    directory = os.open("/tmp", os.O_PATH)
    kept.append(socket.create_server(f"/proc/self/fd/{directory}/listening", family=socket.AF_UNIX))


def counter_of_single_steps() -> None:
    """An eventfd that counts down by one at each reading."""
    kept.append(os.eventfd(5, os.EFD_SEMAPHORE))
    if "eventfd-semaphore: 1" not in Path(f"/proc/self/fdinfo/{kept[-1]}").read_text():
        sys.exit("forgotten: not on this machine: a kernel that does not tell")


def what_does_not_travel() -> Check:
    """The pid of a connection's other end, when a timer that waits for a time of day is due, and what a mapping still shows.

    The latter is a file of the image that was overwritten in place.
    """
    with open("/etc/profile", "rb") as file:
        old = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    shown = old[:4]
    with open("/etc/profile", "r+b") as file:
        file.write(b"####")
    listening = socket.create_server("/tmp/listening", family=socket.AF_UNIX)
    child = os.fork()
    if not child:
        client = socket.socket(socket.AF_UNIX)
        client.connect("/tmp/listening")
        time.sleep(1e6)
    accepted, _ = listening.accept()
    timer, due = libc.timerfd_create(0, 0), int(time.time()) + 3600  # CLOCK_REALTIME
    libc.timerfd_settime(timer, 1, ctypes.create_string_buffer(struct.pack("4q", 0, 0, due, 0)), None)

    def check() -> dict[str, bool]:
        peer = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        left = ctypes.create_string_buffer(32)
        earliest = time.time_ns()
        libc.timerfd_gettime(timer, left)
        seconds, nanoseconds = struct.unpack("4q", left.raw)[2:]
        asked = due * 10**9 - seconds * 10**9 - nanoseconds  # when it was asked, if it is due then
        is_due_then = earliest - 10**6 <= asked <= time.time_ns() + 10**6
        is_old = old[:4] == shown != b"####"
        return {
            "old content": is_old,
            "peer's pid": struct.unpack("3i", peer)[0] == child,
            "time of day": is_due_then,
        }

    return check


def sent(to: socket.socket, *descriptors: int) -> None:
    """On their way, and with nobody else any more."""
    socket.send_fds(to, [b"x"], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def pipes_in_flight(*kind: int) -> Check:
    """Both ends of two, with data: in one message, and in two behind others."""
    one, other = socket.socketpair(socket.AF_UNIX, *kind)
    counter = os.eventfd(7)
    for is_apart in (False, True):
        reader, writer = os.pipe()
        os.write(writer, b"early")
        if is_apart:
            one.send(b"-")
            sent(one, counter)
            sent(one, reader)
            sent(one, writer)
        else:
            sent(one, reader, writer)

    def check() -> list[str]:
        if not CONTEXT.exists():
            return ["early", "late"] * 2  # they can be received once only
        received: list[int] = []
        while len(received) < 5:
            received += socket.recv_fds(other, 1, 2)[1]
        both, last = received[:2], received[3:]
        found = []
        for reader, writer in (both, last):
            os.set_blocking(reader, False)
            found.append(os.read(reader, 10).decode())
            os.write(writer, b"late")
            found.append(os.read(reader, 10).decode())
        return found

    kept.append(one)
    return check


def pipes_in_flight_as_messages() -> Check:
    return pipes_in_flight(socket.SOCK_SEQPACKET)


def descriptors_in_a_socket_in_flight() -> None:
    one, other = socket.socketpair()
    outer, inner = socket.socketpair()
    kept.extend((one, other))
    sent(outer, os.open("/etc/hostname", os.O_RDONLY))
    sent(one, outer.detach(), inner.detach())


def pipe_of_packets() -> None:
    kept.extend(os.pipe2(os.O_DIRECT))


def unread_messages_of_the_kernel() -> None:
    """An answer of a netlink socket."""
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    asked.bind((0, 0))
    asked.send(struct.pack("=IHHIIB", 17, 18, 0x301, 1, 0, 0))  # RTM_GETLINK
    kept.append(asked)


def corked_datagrams() -> None:
    corked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    corked.setsockopt(socket.IPPROTO_UDP, 1, 1)  # UDP_CORK
    kept.append(corked)


def group_of_netlink(number: int, *, is_bound: bool) -> None:
    member = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    if is_bound:
        member.bind((0, 0))
    member.setsockopt(270, 1, number)  # NETLINK_ADD_MEMBERSHIP
    kept.append(member)


def netlink_group_of_a_high_number() -> None:
    group_of_netlink(33, is_bound=True)


def netlink_group_without_a_port() -> None:
    group_of_netlink(1, is_bound=False)


def message_of_known_senders() -> None:
    one, other = socket.socketpair()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    one.send(b"unread")
    kept.extend((one, other))


def empty_message() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.send(b"")
    one.send(b"behind it")
    kept.extend((one, other))


def client_that_is_not_accepted(*, sends: bool, stays: bool) -> None:
    listening = socket.create_server("/tmp/listening", family=socket.AF_UNIX)
    client = socket.socket(socket.AF_UNIX)
    client.connect("/tmp/listening")
    if sends:
        client.send(b"hello")
    if stays:
        kept.append(client)
    kept.append(listening)


def client_that_has_sent_something() -> None:
    client_that_is_not_accepted(sends=True, stays=True)


def client_that_is_gone() -> None:
    client_that_is_not_accepted(sends=False, stays=False)


def filter_of_a_thread() -> None:
    allow = (ctypes.c_uint64 * 1)(0x7FFF0000_00000006)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    kept.extend((allow, program))
    seccomp = {"x86_64": 317, "aarch64": 277}[os.uname().machine]

    def install() -> None:
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        checked(libc.syscall(seccomp, 1, 0, ctypes.byref(program)))

    in_thread(install)


def device_outside_of_dev() -> None:
    os.mknod("/tmp/fuse", 0o20600, os.makedev(10, 229))
    try:
        kept.append(os.open("/tmp/fuse", os.O_RDWR))
    except OSError as error:
        sys.exit(f"forgotten: not on this machine: {error}")


def breakpoint_in_a_library() -> None:
    """As a uprobe leaves one: in this process's own copy of a page."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    code = next(line for line in lines if "libc.so" in line and " r-xp " in line)
    instruction = {"x86_64": b"\xcc", "aarch64": b"\xa0\0\x20\xd4"}[os.uname().machine]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        end = int(code.split(maxsplit=1)[0].partition("-")[2], 16)
        os.pwrite(memory.fileno(), instruction, end - 8)  # where no code is


def file_of_an_interface() -> None:
    name = next(name for name in os.listdir("/sys/class/net") if name != "lo")
    kept.append(os.open(f"/sys/class/net/{name}/mtu", os.O_RDONLY))


def locked_memory() -> Check:
    size = 64 << 20
    address = libc.mmap(None, size, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    checked(libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)))
    return lambda: "65536 kB" in Path("/proc/self/status").read_text()


def marked_socket() -> Check:
    kept.append(socket.socket())
    kept[-1].setsockopt(socket.SOL_SOCKET, 36, 7)  # SO_MARK
    return lambda: kept[-1].getsockopt(socket.SOL_SOCKET, 36)


def urgent_socket() -> Check:
    kept.append(socket.socket())
    kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 7)
    return lambda: kept[-1].getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)


def packet_socket() -> Check:
    kept.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    return lambda: kept[-1].type


def audit_socket() -> Check:
    kept.append(found := socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9))
    found.bind((0, 0))
    return lambda: found.getsockname()[1] == 0


def ping_socket() -> Check:
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))

    def check() -> int:
        kept[-1].sendto(b"\x08\0\0\0\0\0\0\1data", ("127.0.0.1", 0))
        return len(kept[-1].recv(100))

    return check


def waits_that_end_early() -> Check:
    """As a C library makes them: Python's own go on. The last two have no limit."""
    ended: dict[str, str] = {}
    reader, writer = socket.socketpair()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 1000, 0))
    events, signals = select.epoll(), ctypes.create_string_buffer(struct.pack("Q", 1 << 62), 128)
    kept.extend((reader, writer))
    second = struct.pack("qq", 1000, 0)
    waits: dict[str, Callable[[], int]] = {
        "poll": lambda: libc.poll(None, 0, 1_000_000),
        "nanosleep": lambda: libc.nanosleep(ctypes.create_string_buffer(second), None),
        "recv": lambda: libc.recv(reader.fileno(), ctypes.create_string_buffer(1), 1, 0),
        "epoll_wait": lambda: libc.epoll_wait(events.fileno(), ctypes.create_string_buffer(12), 1, -1),
        "sigwaitinfo": lambda: libc.sigwaitinfo(signals, None),
    }

    def wait(name: str) -> None:
        waits[name]()
        ended[name] = errno.errorcode[ctypes.get_errno()]

    for name in waits:
        threading.Thread(target=wait, args=[name], daemon=True).start()
    time.sleep(0.2)

    def check() -> dict[str, str]:
        time.sleep(0.2)
        return ended

    return check


def forced_buffer() -> Check:
    kept.append(socket.socket())
    kept[-1].setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    return lambda: kept[-1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 128 << 20


def deadline() -> Check:
    """10 ms of every 100 ms (sched(7)), of one thread."""
    attributes = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8)
    thread = in_thread(
        lambda: checked(libc.syscall(SCHED_SETATTR, 0, ctypes.create_string_buffer(attributes), 0))
    )
    return lambda: os.sched_getscheduler(thread) == 6


def high_priority() -> Check:
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return lambda: os.getpriority(os.PRIO_PROCESS, 0) == -5


def real_time() -> Check:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    except PermissionError:
        sys.exit("forgotten: not on this machine: real-time scheduling in a container (RT_GROUP_SCHED)")
    return lambda: os.sched_getscheduler(0) == os.SCHED_RR


def what_it_changed_of_the_pod() -> Check:
    """Its host name, a mount, and a child that the engine gave to its own parent (CLONE_PARENT)."""
    socket.sethostname("changed")
    os.mkdir("/mnt/made")
    checked(libc.mount(b"made", b"/mnt/made", b"tmpfs", 0, None))
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    child = libc.syscall(clone, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        time.sleep(1e6)
    return lambda: {
        "host name": socket.gethostname() == "changed",
        "mount": os.path.ismount("/mnt/made"),
        "child": os.path.exists(f"/proc/{child}"),
    }


def socket_whose_directory_was_renamed() -> Check:
    os.mkdir("/tmp/new")
    listening = socket.create_server("/tmp/new/listening", family=socket.AF_UNIX)
    os.rename("/tmp/new", "/tmp/now")

    def check() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("/tmp/now/listening")
                listening.accept()
        except OSError:
            return False
        return True

    return check


def process_that_hides() -> None:
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def on_its_way(descriptor: int) -> None:
    one, other = socket.socketpair()
    sent(one, descriptor)
    kept.extend((one, other))


def timer_in_flight() -> None:
    on_its_way(libc.timerfd_create(1, 0))


def watch_in_flight() -> None:
    on_its_way(libc.inotify_init1(0))


def terminal_in_flight() -> None:
    master, slave = os.openpty()
    kept.append(master)
    on_its_way(slave)


def datagrams_in_flight() -> None:
    on_its_way(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())


def counter_of_single_steps_in_flight() -> None:
    counter_of_single_steps()
    on_its_way(kept.pop())


def socket_with_a_name_of_all_bytes() -> None:
    """No zero ends it."""
    name = b"/tmp/".ljust(108, b"n")
    made = socket.socket(socket.AF_UNIX)
    address = struct.pack("H", socket.AF_UNIX) + name
    checked(libc.bind(made.fileno(), address, len(address)))
    made.listen()
    kept.append(made)


def socket_with_two_names() -> None:
    kept.append(socket.create_server("/tmp/listening", family=socket.AF_UNIX))
    os.link("/tmp/listening", "/tmp/another")


def memory_reserved_beyond_eight_tib() -> None:
    size = 9 << 40
    address = libc.mmap(None, size, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        sys.exit("forgotten: not on this machine: no 9 TiB of address space")


def memory_reserved_up_to_eight_tib() -> Check:
    size = 8 << 40
    address = libc.mmap(None, size, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    last = address + size - 4096
    ctypes.memset(last, 7, 1)
    return lambda: ctypes.string_at(last, 1)[0]


def file_that_its_owner_may_not_open() -> None:
    kept.append(os.open("/tmp/key", os.O_RDWR | os.O_CREAT, 0o400))


def mapped_file_that_its_owner_may_not_open() -> None:
    """And that is not open any more."""
    descriptor = os.open("/dev/shm/key", os.O_RDWR | os.O_CREAT, 0o400)
    os.ftruncate(descriptor, 4096)
    kept.append(libc.mmap(None, 4096, 3, mmap.MAP_SHARED, descriptor, 0))
    os.close(descriptor)


def file_in_a_directory_that_was_shut() -> None:
    directory = Path("/tmp/shut")
    directory.mkdir()
    kept.append((directory / "file").open("w"))
    directory.chmod(0)


def pid_namespace_for_children() -> None:
    checked(libc.unshare(0x20000000))  # CLONE_NEWPID


def time_namespace_for_children() -> None:
    checked(libc.unshare(0x80))  # CLONE_NEWTIME


def tunnel() -> None:
    Path("/dev/net").mkdir(exist_ok=True)
    if not Path("/dev/net/tun").exists():
        os.mknod("/dev/net/tun", 0o20600, os.makedev(10, 200))
    try:
        kept.append(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        sys.exit(f"forgotten: not on this machine: {error}")


def bpf_map() -> None:
    array = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 4, 4, 0).ljust(128, b"\0"))
    checked(libc.syscall({"x86_64": 321, "aarch64": 280}[os.uname().machine], 0, array, 128))


def fanotify() -> None:
    checked(libc.fanotify_init(0x200, 0))  # FAN_REPORT_FID, which everybody may


def directory_that_cannot_be_listed() -> None:
    """By a user other than root, who owns it."""
    directory = Path("/tmp/private")
    directory.mkdir()
    (directory / "file").touch()
    directory.chmod(0o300)


#: Options of a listening TCP socket: level, number, value.
TCP_OPTIONS = {
    "SO_ZEROCOPY": (socket.SOL_SOCKET, 60, 1),
    "TCP_FASTOPEN": (socket.IPPROTO_TCP, 23, 5),
    "TCP_DEFER_ACCEPT": (socket.IPPROTO_TCP, 9, 3),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, 18, 5000),
}


def socket_options() -> Check:
    listening = socket.create_server(("127.0.0.1", 8001))
    for level, number, value in TCP_OPTIONS.values():
        listening.setsockopt(level, number, value)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    listening.setsockopt(socket.SOL_SOCKET, 61, struct.pack("iI", time.CLOCK_MONOTONIC, 2))  # SO_TXTIME

    def check() -> dict[str, Any]:
        found: dict[str, Any] = {
            name: listening.getsockopt(level, number) for name, (level, number, _) in TCP_OPTIONS.items()
        }
        name = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        times = listening.getsockopt(socket.SOL_SOCKET, 61, 8).hex()
        return found | {"TCP_CONGESTION": name.rstrip(b"\0").decode(), "SO_TXTIME": times}

    return check


#: Options of sockets of other kinds: family, type, level, number, value.
OTHER_OPTIONS = {
    "SO_SELECT_ERR_QUEUE": (socket.AF_INET, socket.SOCK_DGRAM, socket.SOL_SOCKET, 45, 1),
    "IP_RECVTTL": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_IP, 12, 1),
    "IP_MULTICAST_ALL": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_IP, 49, 0),
    "TCP_INQ": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, 36, 1),
    "IPV6_UNICAST_HOPS": (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_IPV6, 16, 9),
    "IPV6_RECVTCLASS": (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_IPV6, 66, 1),
    "IP_LOCAL_PORT_RANGE": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_IP, 51, 30000 << 16 | 20000),
    "SO_TIMESTAMPING": (socket.AF_INET, socket.SOCK_DGRAM, socket.SOL_SOCKET, 37, 16),
    "IPV6_ADDR_PREFERENCES": (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_IPV6, 72, 2),
    "SO_LOCK_FILTER": (socket.AF_INET, socket.SOCK_DGRAM, socket.SOL_SOCKET, 44, 1),
    "SO_PEEK_OFF": (socket.AF_UNIX, socket.SOCK_DGRAM, socket.SOL_SOCKET, 42, 0),
    "SO_PASSPIDFD": (socket.AF_UNIX, socket.SOCK_STREAM, socket.SOL_SOCKET, 76, 1),
    "NETLINK_PKTINFO": (socket.AF_NETLINK, socket.SOCK_RAW, 270, 3, 1),
}


def options_of_other_sockets() -> Check:
    held = []
    for name, (family, kind, level, number, value) in OTHER_OPTIONS.items():
        made = socket.socket(family, kind)
        try:
            made.setsockopt(level, number, value)
        except OSError:
            continue  # not in this kernel
        held.append((name, made, level, number))
    return lambda: {name: made.getsockopt(level, number) for name, made, level, number in held}


def multicast() -> Check:
    """A member of a group of IPv4, of one source only in a second one, and of a group of IPv6."""
    loopback = socket.inet_aton("127.0.0.1")
    member, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    member.bind(("0.0.0.0", 5353))
    member.settimeout(0.3)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + loopback)
    other = socket.inet_aton("127.0.0.9")
    member.setsockopt(socket.IPPROTO_IP, 39, socket.inet_aton("232.1.2.3") + loopback + other)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3)
    member6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    group6 = socket.inet_pton(socket.AF_INET6, "ff15::77")
    member6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group6 + struct.pack("i", 1))
    kept.append(member6)

    def arrives(group: str) -> bool:
        sender.sendto(b"x", (group, 5353))
        try:
            return member.recv(1) == b"x"
        except TimeoutError:
            return False

    def check() -> dict[str, Any]:
        return {
            "member": arrives("239.1.2.3"),
            "of another source": arrives("232.1.2.3"),
            "IPv6": group6.hex() in Path("/proc/net/igmp6").read_text(),
            "TTL": sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
        }

    return check


def landlock(right: int, probe: Callable[[], object]) -> Check:
    """A domain of landlock(7) without any rule, of which no descriptor stays."""
    create_ruleset, restrict_self = 444, 446
    rights = ctypes.create_string_buffer(struct.pack("Q", right))
    ruleset = checked(libc.syscall(create_ruleset, rights, 8, 0))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    checked(libc.syscall(restrict_self, ruleset, 0))
    os.close(ruleset)

    def check() -> bool:
        try:
            probe()
        except PermissionError:
            return True
        return False

    return check


def landlock_against_directories() -> Check:
    return landlock(1 << 7, lambda: os.mkdir(f"/tmp/{time.monotonic()}"))


def landlock_against_reading() -> Check:
    return landlock(1 << 2, lambda: Path("/proc/self/cgroup").read_text())


def asynchronous_io() -> None:
    """A request that nothing answers: to read from a pipe that nobody writes to."""
    context = ctypes.c_ulong(0)
    checked(libc.syscall(_NUMBERS["io_setup"], 8, ctypes.byref(context)))
    reading, writing = os.pipe()
    request = ctypes.create_string_buffer(
        struct.pack("QIIHhIQQqQII", 9, 0, 0, 5, 0, reading, 1, 0, 0, 0, 0, 0)
    )
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(request))
    checked(libc.syscall(_NUMBERS["io_submit"], context, 1, pointers) - 1)
    kept.extend((request, writing))


def names_of_any_bytes() -> Check:
    """Files that are open and mapped, by names that are no Unicode, or look like something else."""
    names = [b"new\nline", b"back\\slash\x0c", b"\xff\xfe", b"it is (deleted)"]
    held = []
    for name in names:
        descriptor = os.open(b"/tmp/" + name, os.O_RDWR | os.O_CREAT)
        os.write(descriptor, name)
        os.link(b"/tmp/" + name, b"/tmp/another " + name)
        held.append((descriptor, mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)))
    return lambda: [os.pread(fd, 99, 0).hex() for fd, _ in held] + [bytes(area).hex() for _, area in held]


def executable(directory: str) -> Path:
    path = Path(directory) / "kernel.so"
    shutil.copy(next(Path("/usr/lib").glob("*-linux-gnu/libz.so.1*")).resolve(), path)
    return path


def library_in_tmp() -> Check:
    library = ctypes.CDLL(str(executable("/tmp")))
    return lambda: library.zlibVersion is not None


def deleted_library_in_tmp() -> Check:
    path = executable("/tmp")
    library = ctypes.CDLL(str(path))
    path.unlink()
    return lambda: library.zlibVersion is not None


def program_in_tmp() -> Check:
    shutil.copy("/bin/sleep", "/tmp/program")
    child = subprocess.Popen(["/tmp/program", "300"])
    return child.poll


def key_and_seal() -> Check:
    """A key of a session's keyring, and a mapping that is sealed (mseal(2))."""
    add_key, request_key = {"x86_64": (248, 249), "aarch64": (217, 218)}[os.uname().machine]
    checked(libc.syscall(add_key, b"user", b"mine", b"secret", 6, -3))
    address = libc.mmap(None, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    checked(libc.syscall(462, ctypes.c_void_p(address), 4096, 0))

    def check() -> dict[str, bool]:
        found = libc.syscall(request_key, b"user", b"mine", None, -3) > 0
        sealed = libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ) != 0
        return {"key": found, "seal": sealed}

    return check


def files_of_the_pod() -> Check:
    """Which hold something else in every pod."""
    held = [os.open(f"/etc/{name}", os.O_RDONLY) for name in ("hostname", "hosts", "resolv.conf")]
    return lambda: [os.pread(descriptor, 4096, 0) != b"" for descriptor in held[:2]]


def what_is_asked_for_later() -> Check:
    """Memory is locked when it is mapped, or first used; a watch ends for what is deleted."""
    checked(libc.mlockall(2))  # MCL_FUTURE
    once_used = libc.mmap(None, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    checked(libc.mlock2(ctypes.c_void_p(once_used), ctypes.c_size_t(4096), 1))  # MLOCK_ONFAULT
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, b"/var/tmp", 0x04000100)  # IN_EXCL_UNLINK | IN_CREATE

    def flags_of(address: int) -> list[str]:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        next(line for line in lines if line.startswith(f"{address:x}-"))
        return next(line for line in lines if line.startswith("VmFlags:")).split()

    def check() -> dict[str, bool]:
        new = libc.mmap(None, 1 << 16, 3, mmap.MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        return {
            "mapped": "lo" in flags_of(new),
            "used": "lf" in flags_of(once_used),
            "watch": "mask:4000100" in Path(f"/proc/self/fdinfo/{watch}").read_text(),
        }

    return check


def identities() -> Check:
    """Of a file: number, device, its birth, the last change, flags (chattr); a link in /dev; the signal at a child's end."""
    made = Path("/var/tmp/made")
    made.write_text("text")
    os.symlink("/var/tmp", "/dev/made")
    file = made.open()
    before = os.stat(made)

    def born() -> str:
        return subprocess.run(["stat", "-c", "%w", made], capture_output=True, check=True, text=True).stdout

    no_dump = 0x40
    fcntl.ioctl(file, 0x40086602, struct.pack("q", no_dump))  # FS_IOC_SETFLAGS
    changed, birth = os.stat(made).st_ctime_ns, born()
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    child = libc.syscall(clone, signal.SIGUSR1, 0, 0, 0, 0)
    if child == 0:
        time.sleep(1e6)

    def check() -> dict[str, bool]:
        now = os.stat(made)
        flags = struct.unpack("q", fcntl.ioctl(file, 0x80086601, bytes(8)))[0]
        at_end = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[35]
        return {
            "number": (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev),
            "birth": born() == birth,
            "time of the last change": now.st_ctime_ns == changed,
            "flags": bool(flags & no_dump),
            "link in /dev": os.path.lexists("/dev/made"),
            "signal": int(at_end) == signal.SIGUSR1,
        }

    return check


def times() -> Check:
    """When it began, and how long it has run, as the kernel has it."""
    end = time.process_time() + 1
    while time.process_time() < end:
        pass
    began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]

    def check() -> dict[str, bool]:
        now = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        return {"start time": now == began, "CPU time": time.process_time() >= 1}

    return check


#: struct sched_attr of sched_setattr(2), of which the last but two is the time slice.
SCHED_ATTR = struct.Struct("=IIQiIQQQ8x")
SCHED_SETATTR, SCHED_GETATTR = {"x86_64": (314, 315), "aarch64": (274, 275)}[os.uname().machine]


def set_slice(ns: int) -> None:
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, 0, os.nice(0), 0, ns, 0, 0)
    checked(libc.syscall(SCHED_SETATTR, 0, ctypes.create_string_buffer(attributes), 0))


def slice_ns() -> int:
    answer = ctypes.create_string_buffer(SCHED_ATTR.size)
    checked(libc.syscall(SCHED_GETATTR, 0, answer, SCHED_ATTR.size, 0))
    return int(SCHED_ATTR.unpack(answer)[5])


def attributes() -> Check:
    """Of a process; the numbers are of prctl(2), ioprio_set(2) and set_mempolicy(2)."""
    Path("/proc/self/timerslack_ns").write_text("12345")
    Path("/proc/self/coredump_filter").write_text("0x7f")
    numbers = {"x86_64": (251, 252, 238, 239), "aarch64": (30, 31, 237, 236)}[os.uname().machine]
    ioprio_set, ioprio_get, set_mempolicy, get_mempolicy = numbers
    libc.syscall(ioprio_set, 1, 0, (2 << 13) | 6)
    libc.syscall(set_mempolicy, 3, ctypes.byref(ctypes.c_ulong(1)), 64)
    libc.prctl(67, 1, 0, 0, 0)
    libc.prctl(65, 1, 0, 0, 0)
    libc.prctl(33, 1, 1, 0, 0)  # PR_MCE_KILL
    Path("/proc/self/oom_score_adj").write_text("321")
    set_slice(5_000_000)
    libc.personality(0x40000)  # ADDR_NO_RANDOMIZE

    def check() -> dict[str, Any]:
        policy = ctypes.c_int(-1)
        libc.syscall(get_mempolicy, ctypes.byref(policy), None, 0, 0, 0)
        return {
            "timer slack": Path("/proc/self/timerslack_ns").read_text(),
            "coredump filter": Path("/proc/self/coredump_filter").read_text(),
            "I/O priority": libc.syscall(ioprio_get, 1, 0),
            "memory policy": policy.value,
            "KSM": libc.prctl(68, 0, 0, 0, 0),
            "MDWE": libc.prctl(66, 0, 0, 0, 0),
            "faulty memory": libc.prctl(34, 0, 0, 0, 0),
            "OOM score": Path("/proc/self/oom_score_adj").read_text(),
            "time slice": slice_ns(),
            "personality": libc.personality(0xFFFFFFFF),
        }

    return check


def main() -> None:
    check = globals()[sys.argv[1]]() or (lambda: None)
    time.sleep(0.2)  # children are where they are going to be
    print("before", json.dumps(check()), flush=True)
    Path(os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE", "/tmp/ready")).touch()
    while not CONTEXT.exists():
        time.sleep(0.05)
    print("after", json.dumps(check()), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
