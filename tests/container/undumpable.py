"""An engine that holds one thing that cannot be dumped: named by its argument."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p

#: System calls of x86_64 and of arm64 that libc has no function for.
IO_URING_SETUP = 425
USERFAULTFD = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]  # of the thread alone

PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
IPPROTO_MPTCP = 262

kept: list[object] = []


def checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        sys.exit(f"undumpable: not on this machine: {os.strerror(error)}")
    return result


def io_uring() -> None:
    checked(libc.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(120)))


def sysv_shm() -> None:
    identifier = checked(libc.shmget(0, 4096, 0o1600))  # IPC_CREAT
    if libc.shmat(identifier, None, 0) == ctypes.c_void_p(-1).value:
        sys.exit("undumpable: shmat")
    libc.shmctl(identifier, 0, None)  # IPC_RMID: gone with its last user


def userfaultfd() -> None:
    checked(libc.syscall(USERFAULTFD, 1))  # UFFD_USER_MODE_ONLY


def multipath_tcp() -> None:
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP))


def device() -> None:
    kept.append(os.open("/dev/fuse", os.O_RDWR))


def debugger() -> None:
    if (child := os.fork()) == 0:
        time.sleep(300)
    checked(libc.ptrace(16, child, None, None))  # PTRACE_ATTACH
    os.waitpid(child, 0)
    libc.ptrace(7, child, None, None)  # PTRACE_CONT


def seccomp_filter() -> None:
    allow = (ctypes.c_uint64 * 1)(0x7FFF0000_00000006)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    kept.append(allow)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(libc.syscall(SECCOMP, 1, 0, ctypes.byref(program)))  # SECCOMP_SET_MODE_FILTER


def other_user() -> None:
    if os.fork() == 0:
        os.setresuid(1234, 1234, 1234)
        time.sleep(300)


def other_group_for_a_while() -> None:
    os.setegid(1234)


def own_namespace() -> None:
    if os.fork() == 0:
        checked(libc.unshare(CLONE_NEWUSER))
        time.sleep(300)


def main_thread_that_ended() -> None:
    if os.fork() == 0:
        threading.Thread(target=time.sleep, args=[300]).start()
        libc.syscall(EXIT, 0)


def peer_outside() -> None:
    kept.append(made := socket.socket(socket.AF_UNIX))
    made.connect("/outside/socket")


def watch_of_a_removed_directory() -> None:
    directory = Path("/var/tmp/watched")
    directory.mkdir()
    kept.append(os.open(directory, os.O_RDONLY))  # it stays a while
    checked(libc.inotify_add_watch(checked(libc.inotify_init()), bytes(directory), 0x2))
    directory.rmdir()


THINGS: dict[str, Callable[[], None]] = {
    name: made
    for name, made in list(globals().items())
    if callable(made) and getattr(made, "__module__", "") == "__main__" and name != "checked"
}


def main() -> None:
    THINGS[sys.argv[1]]()
    time.sleep(0.2)  # children are where they are going to be
    Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
    signal.pause()


if __name__ == "__main__":
    main()
