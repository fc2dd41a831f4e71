"""Errors as CRIU 4.2 and 4.3 print them: its format, what it is filled with, and words of the remedy that is given."""

from __future__ import annotations

#: From its sources, with the prefix of the file it is in; what comes of pr_perror has ``: %s`` at its end.
MESSAGES = [
    ("suspending seccomp failed: %s", ("Operation not permitted",), "Unconfined"),
    ("Unseizable non-zombie %d found, state %c, err %d/%d", (1001, "S", -1, 1), "debugger"),
    ("Zombies with threads are not supported", (), "main thread"),
    ("Individually stopped threads not supported", (), "one thread"),
    (
        "Can't dump file %d of that type [%o] (%s %s)",
        (7, 0o20600, "chr 10:229", "/dev/fuse"),
        "does not know",
    ),
    ("Dump eventpoll (pid: %d) failed with %d", (1000, -1), "SCM_RIGHTS"),
    ("Unknown shit %o (%s)", (0o600, "anon_inode:[io_uring]"), "try again"),
    ("send_fds failed (%d)", (-22,), "io_uring"),
    ("Can't retrieve FDs from socket", (), "io_uring"),
    (
        "unix: Can't dump half of stream unix connection. name: %s; peer name: %s",
        ("(null)", "/run/nvidia-persistenced/socket"),
        "leads out of the engine",
    ),
    ("unix: Can't dump name-less external socket.", (), "leads out of the engine"),
    ("inet: Can't dump corked dgram socket %x", (0x1F,), "UDP socket"),
    ("inet: Unknown inet socket %x state %d", (0x1F, 3), "try again"),
    ("netlink: The socket has data to read", (), "netlink"),
    ("skqueue: Failed to send packet: %s", ("Resource temporarily unavailable",), "datagram"),
    ("Empty list on file desc id %#x(%d)", (0x10, 5), "SCM_RIGHTS"),
    ("Can't link remap to %s: %s", ("/data/x", "Read-only file system"), "deleted"),
    ("Can't create link remap for %s. ", ("/data/x",), "deleted"),
    ("Unaccessible path opened %u:%u, need %u:%u", (1, 2, 3, 4), "mounted over"),
    (
        "Open files on overmounted mounts are not supported yet; mount=%d fd=%d path=%s",
        (5, 6, "/data/x"),
        "mounted over",
    ),
    (
        "fsnotify: Can't find suitable path for handle (dev %#x ino %#lx): %d",
        (0x801, 0x11, -2),
        "watch what is there",
    ),
    ("A session leader of %d(%d) is outside of its pid namespace", (1000, 1000), "tty: false"),
    ("can't get /proc/self/cgroup fd", (), "Landlock"),
    ("Control messages in queue, not supported", (), "SO_PASSCRED"),
    ("Found a closed in-flight socket to %#x", (7,), "accept"),
    ("Non-empty write queue on an in-flight socket %#x", (7,), "accept"),
    ("Can't lookup mount=%d for fd=%d path=%s", (96, 3, "/"), "open_tree"),
    ("Can't read link of fd %d: %s", (18, "File name too long"), "4095"),
    ("Task %d with SysVIPC shmem map @%lx doesn't live in IPC ns", (1000, 0x7F00), "SysV"),
    ("Can't dump ghost file %s of %lu size, increase limit", ("/dev/shm/x", 1 << 30), "unlinked"),
    ("%d was killed by %d unexpectedly: %s", (1000, 9, "Killed"), "memory limit"),
    ("Can't fork for %d: %s", (1000, "File exists"), "a pid of the engine is taken"),
    ("Can't fork for %d: %s", (1000, "Resource temporarily unavailable"), "pids limit"),
    ("Can't fork for %d: %s", (1000, "Operation not permitted"), "clone3"),
    ("Pid %d do not match expected %d", (1005, 1001), "a pid of the engine is taken"),
    ("Unable to create a thread: %ld", (-11,), "pids limit"),
    (
        "Failed to write %s to /proc/%s: %s",
        ("999", "sys/kernel/ns_last_pid", "Read-only file system"),
        "clone3",
    ),
    (
        "inet: Can't bind inet socket (id %d): %s",
        (19, "Address already in use"),
        "listens on the engine's port",
    ),
    ("inet: Can't bind inet socket (id %d): %s", (19, "Permission denied"), "NET_BIND_SERVICE"),
    ("inet: Can't bind inet socket (id %d): %s", (19, "Cannot assign requested address"), "does not have"),
    ("inet: Can't listen on a socket: %s", ("Address already in use",), "listens on the engine's port"),
    ("inet: Can't connect inet socket back: %s", ("Network is unreachable",), "out of reach"),
    (
        "unix: Can't bind id %#x ino %u addr %s: %s",
        (7, 9, "@engine", "Address already in use"),
        "names of their own",
    ),
    (
        "unix: Can't bind id %#x ino %u addr %s: %s",
        (0x12, 77, "/data/engine.sock", "No such file or directory"),
        "mount the same volumes",
    ),
    (
        "Unable to change [%d]/%s ownership to (%d, %d): %s",
        (5, "run/engine.sock", 1000, 1000, "Operation not permitted"),
        "add CHOWN",
    ),
    ("sockets: Can't set %d:%d (len %d): %s", (1, 36, 4, "Operation not permitted"), "NET_ADMIN"),
    ("Can not set flock!", (), "file lock"),
    ("Can not set posix lock!", (), "file lock"),
    ("Can not set ofd lock!", (), "file lock"),
    ("fsnotify: Can't create inotify for %#08x: %s", (0x1F, "Too many open files"), "max_user_instances"),
    (
        "fsnotify: Can't add watch for 0x%x with 0x%x: %s",
        (5, 1, "No space left on device"),
        "max_user_watches",
    ),
    (
        "fsnotify: Can't create inotify fd for id %#08x (flags %#x): %s",
        (0x1F, 0, "Too many open files"),
        "max_user_instances",
    ),
    (
        "fsnotify: Can't add inotify watch for fd %d wd %#x (dev %#x ino %#lx mask %#x): %s",
        (5, 1, 0x801, 0x11, 2, "No space left on device"),
        "max_user_watches",
    ),
    ("Can't open file %s: %s", ("data/x", "No such file or directory"), "missing or differs"),
    ("File %s has bad size %lu (expect %lu)", ("data/x", 1, 2), "missing or differs"),
    ("File %s has bad build-ID", ("usr/lib/libc.so.6",), "missing or differs"),
    ("Can't restore EXE link (%d)", (-13,), "noexec"),
    ("sys_prctl(PR_SET_MM, PR_SET_MM_MAP) failed with %d", (-13,), "noexec"),
    ("Unable to restore capabilities: %d", (-1,), "capabilities"),
    ("Unable to drop capability %d: %d", (2, -1), "capabilities"),
    ("Unable to raise ambient capability %d: %d", (40, -1), "capabilities"),
    ("Can't setgroups([%zu gids]): %d", (2, -1), "SETGID"),
    ("Unable to set real, effective and saved user ID: %d", (-1,), "SETUID"),
    ("seccomp: SECCOMP_SET_MODE_FILTER returned %d on tid %d", (-13, 1000), "allowPrivilegeEscalation"),
    ("%d killed by signal %d: %s", (1000, 9, "Killed"), "memory ran out"),
    ("Unable to reserve memory (%lu bytes): %s", (4096, "Cannot allocate memory"), "memory ran out"),
    ("Can't restore %lx mapping with %lx", (0x7F00, 0xFFFFFFFFFFFFFFF4), "memory ran out"),
    ("cpu: CPU capabilities do not match run time", (), "least capable"),
    ("cpu: CPU xsave size mismatch (%u/%u)", (2440, 832), "least capable"),
    ("Can't fixup vdso VMAs (pid: %d)", (1000,), "newer CRIU"),
    ("vdso: Can't find vDSO/VVAR bounds", (), "newer CRIU"),
]

#: How 4.3 prints what 4.2 prints otherwise.
SINCE_4_3 = {
    "fsnotify: Can't create inotify for %#08x: %s": "fsnotify: Can't create inotify fd for id %#08x (flags %#x): %s",
    "fsnotify: Can't add watch for 0x%x with 0x%x: %s": (
        "fsnotify: Can't add inotify watch for fd %d wd %#x (dev %#x ino %#lx mask %#x): %s"
    ),
}


def printed(text: str, values: tuple[object, ...]) -> str:
    """A line of CRIU's log."""
    return f"(00.012345)   1000: Error (criu/where.c:123): {text.replace('%zu', '%d') % values}\n"
