"""Process trees as engines have them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from messy.things import Check, equal, thing


class Peer:
    """A process on the other end of two pipes that answers every line with what ``answer`` makes of it.

    It is there, and done with ``before``, when this returns.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        before: Callable[[], None] = lambda: None,
        fork: Callable[[], int] = os.fork,
    ) -> None:
        theirs, self._out = os.pipe()
        self._in, out = os.pipe()
        self.pid = fork()
        if self.pid:
            os.close(theirs)
            os.close(out)
            os.read(self._in, 1)
            return
        os.close(self._out)
        os.close(self._in)
        before()
        os.write(out, b"!")
        while line := os.read(theirs, 4096):
            os.write(out, answer(line))
        os._exit(0)

    def ask(self, line: bytes = b"?") -> bytes:
        os.write(self._out, line)
        return os.read(self._in, 4096)


@thing
def forked_worker() -> Check:
    peer = Peer(lambda line: line[::-1])
    return lambda: equal(peer.ask(b"abc"), b"cba")


@thing
def process_group() -> Check:
    """A child that leads a group, with a child of its own in it."""

    def answer(_: bytes) -> bytes:
        return f"{os.getpgrp()} {grandchild.ask().decode()}".encode()

    def before() -> None:
        global grandchild  # noqa: PLW0603 - in the child
        os.setpgrp()
        grandchild = Peer(lambda _: str(os.getpgrp()).encode())

    peer = Peer(answer, before)
    return lambda: equal(peer.ask().decode(), f"{peer.pid} {peer.pid}")


grandchild: Peer


@thing
def session_leader() -> Check:
    peer = Peer(lambda _: str(os.getsid(0)).encode(), os.setsid)
    return lambda: equal(int(peer.ask()), peer.pid)


@thing
def daemon() -> Check:
    """Forked twice: its parent, the leader of its session, is gone."""

    def daemonize() -> None:
        os.setsid()
        if os.fork():
            os._exit(0)

    peer = Peer(lambda _: str(os.getsid(0)).encode(), daemonize)
    os.waitpid(peer.pid, 0)
    return lambda: equal(int(peer.ask()), peer.pid)


@thing
def group_without_a_leader() -> Check:
    """The leader of a process group has ended, a process of the group goes on; another group's is a zombie."""
    found = []
    for is_reaped in (True, False):

        def lead() -> None:
            os.setpgrp()
            if os.fork():
                os._exit(0)

        peer = Peer(lambda _: f"{os.getpid()} {os.getpgrp()}".encode(), lead)
        os.waitid(os.P_PID, peer.pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
        found.append((peer, peer.ask()))

    def check() -> None:
        for peer, answer in found:
            equal(peer.ask(), answer)
            equal(answer.split()[1], str(peer.pid).encode())

    return check


@thing
def pid_that_was_used_before() -> Check:
    """Of a process and of a thread that ended: now two processes have them."""
    with ThreadPoolExecutor(1) as threads:
        of_a_thread = threads.submit(threading.get_native_id).result()
    of_a_process = os.fork()
    if of_a_process == 0:
        os._exit(0)
    os.waitpid(of_a_process, 0)
    peers = [
        (pid, Peer(lambda _: str(os.getpid()).encode(), fork=lambda pid=pid: fork_as(pid)))
        for pid in (of_a_thread, of_a_process)
    ]

    def check() -> None:
        for pid, peer in peers:
            equal(int(peer.ask()), pid)

    return check


def fork_as(pid: int) -> int:
    """fork(2) with a choice of pid (clone3(2): set_tid), which takes CAP_CHECKPOINT_RESTORE."""
    chosen = (ctypes.c_int * 1)(pid)
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1, 0)
    made = int(ctypes.CDLL(None, use_errno=True).syscall(435, arguments, ctypes.sizeof(arguments)))
    if made < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return made


@thing
def zombie() -> Check:
    def make() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    pid = make()

    def check() -> None:
        nonlocal pid
        equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 7)
        pid = make()

    return check


@thing
def stopped_child() -> Check:
    peer = Peer(lambda line: line)

    def check() -> None:
        os.kill(peer.pid, signal.SIGCONT)
        equal(peer.ask(b"x"), b"x")
        stop()

    def stop() -> None:
        os.kill(peer.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, peer.pid, os.WSTOPPED)

    stop()
    return check


@thing
def shell_with_a_child() -> Check:
    """`sh -c "a; b"`: the shell waits for its first command."""
    shell = subprocess.Popen(["sh", "-c", "cat; echo after"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def check() -> None:
        shell.stdin.write(b"through\n")
        shell.stdin.flush()
        equal(shell.stdout.readline(), b"through\n")

    return check


@thing
def spawned_workers() -> Check:
    """multiprocessing's spawn: semaphores, a resource tracker, queues, feeder threads."""
    context = multiprocessing.get_context("spawn")
    requests, answers = context.Queue(), context.SimpleQueue()
    for _ in range(2):
        context.Process(target=_square, args=(requests, answers), daemon=True).start()

    def check() -> None:
        for number in range(10):
            requests.put(number)
        equal(sorted(answers.get() for _ in range(10)), [number**2 for number in range(10)])

    return check


def _square(requests, answers) -> None:
    while True:
        answers.put(requests.get() ** 2)


@thing
def pool_of_a_fork_server() -> Check:
    """concurrent.futures over multiprocessing's fork server, which listens on a unix socket in /tmp."""
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))
    return lambda: equal(list(pool.map(abs, range(-4, 0))), [4, 3, 2, 1])


@thing
def working_directory() -> Check:
    """A child in a directory of its own, another in one that was removed."""
    os.makedirs("/var/tmp/messy/cwd", exist_ok=True)
    os.makedirs("/var/tmp/messy/gone", exist_ok=True)

    def gone() -> None:
        os.chdir("/var/tmp/messy/gone")
        os.rmdir("/var/tmp/messy/gone")

    there = Peer(lambda _: os.getcwd().encode(), lambda: os.chdir("/var/tmp/messy/cwd"))
    lost = Peer(lambda _: os.readlink("/proc/self/cwd").encode(), gone)

    def check() -> None:
        equal(there.ask(), b"/var/tmp/messy/cwd")
        equal(b"gone" in lost.ask(), True)

    return check


@thing
def credentials() -> Check:
    """A child that gave root up."""

    def drop() -> None:
        os.setgroups([4, 24])
        os.setresgid(1234, 1234, 1234)
        os.setresuid(1234, 1234, 1234)
        os.umask(0o027)

    def answer(_: bytes) -> bytes:
        mask = os.umask(0)
        os.umask(mask)
        return repr((os.getresuid(), os.getresgid(), os.getgroups(), mask)).encode()

    peer = Peer(answer, drop)
    return lambda: equal(peer.ask(), repr(((1234,) * 3, (1234,) * 3, [4, 24], 0o027)).encode())


@thing
def nice_and_limits() -> Check:
    import resource

    def before() -> None:
        os.nice(5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

    def answer(_: bytes) -> bytes:
        return repr(
            (os.nice(0), resource.getrlimit(resource.RLIMIT_NOFILE), len(os.sched_getaffinity(0)))
        ).encode()

    peer = Peer(answer, before)
    return lambda: equal(peer.ask(), repr((5, (200, 1000), 1)).encode())


@thing
def name_of_the_process() -> Check:
    peer = Peer(
        lambda _: open("/proc/self/comm", "rb").read(),  # noqa: SIM115
        lambda: ctypes.CDLL(None).prctl(15, b"renamed", 0, 0, 0),  # PR_SET_NAME
    )
    return lambda: equal(peer.ask(), b"renamed\n")
