"""What processes talk to each other with, and the descriptors that stand for something in the kernel."""

from __future__ import annotations

import array
import ctypes
import os
import pty
import select
import signal
import socket
import struct
import time
from collections.abc import Callable

from messy.files import home
from messy.memory import libc
from messy.processes import Peer
from messy.things import Check, equal, thing


@thing
def pipe_with_data() -> Check:
    reader, writer = os.pipe()
    data = os.urandom(40_000)
    os.write(writer, data)

    def check() -> None:
        equal(os.read(reader, 100_000), data)
        os.write(writer, data)

    return check


@thing
def pipe_that_was_widened() -> Check:
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    data = os.urandom(600_000)
    os.write(writer, data)

    def check() -> None:
        got = b""
        while len(got) < len(data):
            got += os.read(reader, 1 << 20)
        equal(got == data, True)
        equal(fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ), 1 << 20)
        os.write(writer, data)

    return check


@thing
def pipe_whose_writer_is_gone() -> Check:
    reader, writer = os.pipe()
    os.close(writer)
    return lambda: equal(os.read(reader, 1), b"")


def _with_queued_data(kind: int) -> Check:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.settimeout(5)
    other.settimeout(5)
    one.send(b"first")
    one.send(b"second")

    def check() -> None:
        got = [other.recv(5), other.recv(6)]
        equal(got, [b"first", b"second"])
        other.send(b"back")
        equal(one.recv(10), b"back")
        one.send(b"first")
        one.send(b"second")

    return check


@thing
def stream_socketpair() -> Check:
    return _with_queued_data(socket.SOCK_STREAM)


@thing
def datagram_socketpair() -> Check:
    return _with_queued_data(socket.SOCK_DGRAM)


@thing
def seqpacket_socketpair() -> Check:
    return _with_queued_data(socket.SOCK_SEQPACKET)


def _listening(address: str, connect_to: Callable[[], socket.socket] | None = None) -> Check:
    """A listener with an accepted connection; new clients find it by its name."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(5)
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    server, _ = listener.accept()
    client.send(b"queued")

    def check() -> None:
        equal(server.recv(10), b"queued")
        with socket.socket(socket.AF_UNIX) as fresh:
            fresh.connect(address)
            accepted, _ = listener.accept()
            fresh.send(b"hello")
            equal(accepted.recv(10), b"hello")
            accepted.close()
        client.send(b"queued")

    return check


@thing
def named_unix_socket() -> Check:
    return _listening(str(home("listener.sock")))


@thing
def unix_socket_in_tmp() -> Check:
    return _listening("/tmp/messy.sock")


@thing
def abstract_unix_socket() -> Check:
    return _listening("\0messy")


@thing
def unix_socket_with_a_relative_name() -> Check:
    """Bound to a name relative to the working directory of the child that made it."""
    home("relative").mkdir()

    def listen() -> None:
        global listener  # noqa: PLW0603 - in the child
        os.chdir(home("relative"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("name.sock")
        listener.listen()

    peer = Peer(lambda _: listener.accept()[0].recv(10), listen)

    def check() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(home("relative/name.sock")))
            client.send(b"hello")
            equal(peer.ask(), b"hello")

    return check


listener: socket.socket


@thing
def bound_datagram_socket() -> Check:
    """As syslog's: clients send to its path."""
    path = str(home("datagram.sock"))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    server.settimeout(5)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.connect(path)

    def check() -> None:
        client.send(b"datagram")
        equal(server.recv(20), b"datagram")

    return check


@thing
def descriptors_in_flight() -> Check:
    """Sent over a unix socket and not yet received: a pipe's reading end, and an eventfd."""
    one, other = socket.socketpair()
    other.settimeout(5)

    def send() -> int:
        (reader, writer), counter = os.pipe(), os.eventfd(7)
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader, counter]))])
        os.close(reader)
        os.close(counter)
        return writer

    writer = send()

    def check() -> None:
        nonlocal writer
        _, [(_, _, data)], _, _ = other.recvmsg(1, socket.CMSG_SPACE(8))
        reader, counter = array.array("i", data)
        os.write(writer, b"through")
        equal((os.read(reader, 100), os.eventfd_read(counter)), (b"through", 7))
        for descriptor in (reader, counter, writer):
            os.close(descriptor)
        writer = send()

    return check


@thing
def eventfd() -> Check:
    descriptor = os.eventfd(5, os.EFD_NONBLOCK)

    def check() -> None:
        equal(os.eventfd_read(descriptor), 5)
        os.eventfd_write(descriptor, 5)

    return check


@thing
def signalfd() -> Check:
    """A blocked signal that is pending is read from the descriptor."""
    mask = ctypes.c_ulong(1 << (signal.SIGRTMIN + 4))

    def set_up() -> None:
        global signals  # noqa: PLW0603 - in the child
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 5])
        signals = libc.signalfd(-1, ctypes.byref(mask), 0)
        os.kill(os.getpid(), signal.SIGRTMIN + 5)

    def answer(_: bytes) -> bytes:
        number = struct.unpack("I", os.read(signals, 128)[:4])[0]
        os.kill(os.getpid(), signal.SIGRTMIN + 5)
        return b"%d" % (number - signal.SIGRTMIN)

    peer = Peer(answer, set_up)
    return lambda: equal(peer.ask(), b"5")


signals: int


@thing
def pidfd() -> Check:
    peer = Peer(lambda line: line)
    descriptor = os.pidfd_open(peer.pid)

    def check() -> None:
        equal(select.select([descriptor], [], [], 0)[0], [])
        signal.pidfd_send_signal(descriptor, 0)
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            equal(f"Pid:\t{peer.pid}" in file.read(), True)

    return check


@thing
def inotify() -> Check:
    """A watch of a directory and of a file, both of the container's own layer."""
    directory = home("watched")
    directory.mkdir()
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(descriptor, str(directory).encode(), 0x100)  # IN_CREATE
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        (directory / f"f{count}").touch()
        equal(f"f{count}".encode() in os.read(descriptor, 1000), True)

    return check


@thing
def inotify_of_the_image() -> Check:
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(descriptor, b"/etc/passwd", 0x4)  # IN_ATTRIB

    def check() -> None:
        os.utime("/etc/passwd")
        equal(len(os.read(descriptor, 1000)) >= 16, True)

    return check


@thing
def epoll() -> Check:
    """Level and edge triggered, with another epoll below it."""
    reader, writer = os.pipe()
    inner, outer = select.epoll(), select.epoll()
    inner.register(reader, select.EPOLLIN | select.EPOLLET)
    outer.register(inner.fileno(), select.EPOLLIN)

    def check() -> None:
        equal(outer.poll(0), [])
        os.write(writer, b"x")
        equal(outer.poll(5), [(inner.fileno(), select.EPOLLIN)])
        equal(inner.poll(5), [(reader, select.EPOLLIN)])
        equal(os.read(reader, 1), b"x")

    return check


@thing
def epoll_of_a_closed_descriptor() -> Check:
    """Registered, duplicated, closed: the registration lives on under a number that is gone."""
    reader, writer = os.pipe()
    watched = select.epoll()
    watched.register(reader, select.EPOLLIN)
    other = os.dup(reader)
    os.close(reader)

    def check() -> None:
        os.write(writer, b"x")
        equal([event for _, event in watched.poll(5)], [select.EPOLLIN])
        equal(os.read(other, 1), b"x")

    return check


@thing
def terminal() -> Check:
    """A pseudo terminal with a shell in a session of its own."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "stty -echo; echo begin; exec cat"])
    _read_until(master, b"begin")

    def check() -> None:
        os.write(master, b"typed\n")
        _read_until(master, b"typed")

    return check


@thing
def terminal_in_one_process() -> Check:
    master, slave = pty.openpty()
    libc.ioctl(slave, 0x5414, struct.pack("HHHH", 33, 77, 0, 0))  # TIOCSWINSZ

    def check() -> None:
        os.write(slave, b"out\n")
        _read_until(master, b"out")
        equal(tuple(os.get_terminal_size(slave)), (77, 33))

    return check


def _read_until(descriptor: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], 5)
        if not ready:
            raise AssertionError(f"{seen!r} has no {text!r}")
        seen += os.read(descriptor, 1000)


@thing
def signal_handling() -> Check:
    """Dispositions, the mask, and signals that are pending: for the process and for a thread."""
    caught = []

    def set_up() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: caught.append("usr1"))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGRTMIN])
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGRTMIN)
        os.kill(os.getpid(), signal.SIGRTMIN)

    def answer(_: bytes) -> bytes:
        os.kill(os.getpid(), signal.SIGUSR1)
        ignored = signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        return repr((caught[-1:], ignored, sorted(signal.sigpending()))).encode()

    peer = Peer(answer, set_up)
    expected = repr((["usr1"], True, [signal.SIGTERM, signal.SIGRTMIN])).encode()
    return lambda: equal(peer.ask(), expected)


@thing
def interval_timer() -> Check:
    """setitimer: goes off again and again."""

    def set_up() -> None:
        signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

    def answer(_: bytes) -> bytes:
        before = len(ticks)
        deadline = time.time() + 5
        while len(ticks) == before and time.time() < deadline:
            time.sleep(0.01)
        return b"ticks" if len(ticks) > before else b"stands"

    ticks: list[int] = []
    peer = Peer(answer, set_up)
    return lambda: equal(peer.ask(), b"ticks")


@thing
def posix_timer() -> Check:
    """timer_create with a signal."""

    def set_up() -> None:
        signal.signal(signal.SIGRTMIN, lambda *_: ticks.append(1))
        event = (ctypes.c_char * 64)(*struct.pack("qii", 0, signal.SIGRTMIN, 0))  # SIGEV_SIGNAL
        timer = ctypes.c_void_p()
        assert libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
        libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 20_000_000, 0, 20_000_000), None)

    def answer(_: bytes) -> bytes:
        before = len(ticks)
        deadline = time.time() + 5
        while len(ticks) == before and time.time() < deadline:
            time.sleep(0.01)
        return b"ticks" if len(ticks) > before else b"stands"

    ticks: list[int] = []
    peer = Peer(answer, set_up)
    return lambda: equal(peer.ask(), b"ticks")
