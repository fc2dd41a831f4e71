"""What CRIU's error messages mean to somebody who runs an engine, and what to do about them.

Every pattern is part of a message of CRIU 4.2 or 4.3 (its sources: pr_err, pr_perror), after its ``inet: ``-like prefix;
``tests/container/test_criu_log.py`` looks for them in the program itself.
"""

from __future__ import annotations

import re

#: Errors of a dump.
_DUMP = (
    (
        "suspending seccomp failed",
        (
            "a process of the engine is under a seccomp filter: switch its sandbox off; where it is the container's profile, "
            "set seccompProfile: {type: Unconfined}"
        ),
    ),
    (
        "Unseizable non-zombie",
        (
            "a process may not be traced: detach its debugger, and run the whole engine as one user; SYS_PTRACE reaches no "
            "other user namespace"
        ),
    ),
    (
        "Zombies with threads",
        "the main thread of a process has ended while others go on: let it wait for them",
    ),
    ("Individually stopped threads", "one thread of a process is stopped alone: let it go on"),
    (
        "Can't dump file .* of that type",
        "the engine holds something open that CRIU does not know: let it, or PRE_DUMP, close it",
    ),
    (
        "Dump eventpoll",
        (
            "an epoll instance watches a descriptor that is only on its way to another process (SCM_RIGHTS): let the engine "
            "receive it before the dump"
        ),
    ),
    (
        "Unknown shit",
        (
            "the engine has just mapped what CRIU does not know, an io_uring for example: let it be ready no sooner than all "
            "of its processes are, and try again"
        ),
    ),
    (
        "send_fds failed|Can't retrieve FDs from socket",
        "the engine holds a descriptor that cannot be passed on, an io_uring for example: switch that off",
    ),
    (
        "Can't dump half of stream unix connection|Can't dump name-less external socket",
        "a unix socket leads out of the engine, to another container or the node: let it, or PRE_DUMP, close it",
    ),
    (
        "Can't dump corked dgram socket",
        "a UDP socket holds back what was written to it: let the engine send it",
    ),
    (
        "Control messages in queue",
        "a unix socket that asks for credentials (SO_PASSCRED) has unread messages: let the engine read them",
    ),
    (
        "Found a closed in-flight socket|Non-empty write queue on an in-flight socket",
        "a client of a unix socket waits to be accepted: let the engine accept it, and try again",
    ),
    ("Can't lookup mount=", "the engine holds a mount of its own (open_tree, fsmount): let it close that"),
    (
        "Can't read link of fd .*File name too long",
        "the engine holds a file whose path has more than 4095 bytes: let it close that",
    ),
    ("Unknown inet socket .* state", "a connection was just being made: try again"),
    (
        "netlink: The socket has data to read",
        "a netlink socket has unread messages: let the engine read them",
    ),
    (
        "Can't link remap to|Can't create link remap",
        "an open file was deleted where no other name can be made for it: make its directory writable",
    ),
    (
        "Unaccessible path opened|overmounted mounts",
        "something was mounted over an open file: let mounts come before the engine",
    ),
    (
        "Can't find suitable path for handle|Can't dump that handle",
        "the path of an inotify watch cannot be found: let the engine watch what is there",
    ),
    (
        "A session leader of|ctty inheritance detected|Found dangling tty",
        (
            "the engine belongs to a terminal outside of it, or one session has another's terminal open: run the container "
            "without one (tty: false), and let a child's terminal be open in its session alone"
        ),
    ),
    (
        "can't get /proc/self/cgroup fd",
        "a process of the engine may not open files any more, for a Landlock sandbox of its own: switch it off",
    ),
    ("SysVIPC", "SysV shared memory cannot be dumped from inside a container"),
    ("Can't dump ghost file", "an unlinked file is too large"),
    (
        "was killed by 9 unexpectedly",
        (
            "the kernel ended a process, most likely as memory ran out: see the pod's OOMKilled, and raise the memory limit "
            "where there is one"
        ),
    ),
)

#: Errors of a restore.
_RESTORE = (
    (
        r"Can't fork for \d+: File exists|Pid \d+ do not match",
        "a pid of the engine is taken in this container",
    ),
    (
        r"Can't fork for \d+: Resource temporarily unavailable|Unable to create a thread: -11",
        "more tasks than the container may have: raise its pids limit (podPidsLimit, --pids-limit)",
    ),
    (
        r"Can't fork for \d+: (Operation not permitted|Function not implemented)|ns_last_pid|Can't set last_pid",
        "the container may not choose pids: CHECKPOINT_RESTORE and clone3 in the seccomp profile allow it",
    ),
    (
        "Can't bind inet socket .*: Permission denied",
        "the engine's port takes NET_BIND_SERVICE: add it, or let the engine listen above 1023",
    ),
    (
        "Can't bind inet socket .*: Address already in use|Can't listen on a socket",
        "something else listens on the engine's port",
    ),
    ("Can't bind inet socket", "the engine listens on an address that this pod does not have"),
    ("Can't connect inet socket", "a peer of the engine is out of reach from this pod"),
    (
        "unix: Can't bind id .*: Address already in use",
        "the name of a unix socket is taken by another process: containers of one pod need names of their own",
    ),
    (
        "unix: Can't bind id",
        "the directory of a unix socket is not here, or not writable: mount the same volumes",
    ),
    (
        r"Unable to change \S+ ownership",
        "a socket's file cannot be given to the engine's user here: add CHOWN, or use the same user and group",
    ),
    (
        "sockets: Can't set .*: Operation not permitted",
        "a socket option takes NET_ADMIN: add it, or do without",
    ),
    (
        "Can not set (flock|posix lock|ofd lock)",
        "another process, maybe on another node, holds a file lock that the engine had on a shared volume",
    ),
    (
        "Can't create inotify (fd )?for|Can't add (inotify )?watch for",
        "the node's fs.inotify.max_user_instances or max_user_watches is used up, or a watched path is not here",
    ),
    (
        "Failed to send packet: Resource temporarily unavailable",
        (
            "a unix datagram socket had more unread messages of a sender that was closed than net.unix.max_dgram_qlen: let the "
            "engine read them before the dump"
        ),
    ),
    (
        "Empty list on file desc",
        "descriptors were on their way inside others (SCM_RIGHTS): let the engine receive them before the dump",
    ),
    (
        r"Can't open file \S+|File \S+ has bad (size|mode|build-ID)",
        "a file of the engine is missing or differs here",
    ),
    (
        r"Can't restore EXE link|PR_SET_MM_MAP\) failed",
        "the engine's program cannot be run from where it is: mount it without noexec, as at creation",
    ),
    (
        "Unable to (restore capabilities|drop capability|raise ambient capability)",
        (
            "a process of the engine has capabilities that are not in this container's bounding set: add those of the "
            "creating one"
        ),
    ),
    (
        "Can't setgroups|Unable to set real, effective and saved",
        "the engine has users that this container may not become: add SETUID and SETGID",
    ),
    (
        "seccomp: SECCOMP_SET_MODE_FILTER returned",
        (
            "the engine's own seccomp filter cannot be put back: it takes no_new_privs (allowPrivilegeEscalation: false) or "
            "SYS_ADMIN"
        ),
    ),
    (
        r"killed by signal 9|: Cannot allocate memory|mapping with fffffffffffffff4|Unable to reserve memory",
        (
            "most likely memory ran out: raise the container's memory limit; where it has none, it is the node's memory, or "
            "vm.overcommit_memory, that refuses"
        ),
    ),
    (
        "cpu: .*do not match run time|FPU feature required by image|CPU xsave (max )?size mismatch|CPU xfeatures",
        "this CPU lacks what the engine may be using: create a checkpoint on the least capable one",
    ),
    ("vdso: |vdso VMAs", "this CRIU does not know this kernel's vdso: use a newer CRIU"),
)

#: What passes with time, or differs from place to place: a name, a lock or a pid that is taken, space, permissions.
_OF_THIS_PLACE = re.compile(
    r"Address already in use|Can't fork for \d+: (File exists|Resource temporarily unavailable)|Pid \d+ do not match"
    r"|Unable to create a thread: -11|Can not set (flock|posix lock|ofd lock)|Can't create inotify (fd )?for"
    r"|killed by signal 9|Cannot allocate memory|No space left|Operation not permitted|Permission denied"
)


#: Errors of a dump that the next one may not meet: what was under way at the freeze, or was short then.
_OF_THE_MOMENT = re.compile(
    r"Individually stopped threads|Unknown inet socket .* state|in-flight socket|Control messages in queue"
    r"|The socket has data to read|corked dgram socket|Unknown shit|killed by (signal )?9|Cannot allocate memory|No space left"
)


def may_pass(error: str) -> bool:
    """Whether another dump may succeed although nobody changed anything: the error is of the moment, or unknown."""
    is_known = any(re.search(pattern, error) for pattern, _ in REMEDIES)
    return not is_known or _OF_THE_MOMENT.search(error) is not None


def is_of_this_place(error: str) -> bool:
    """Whether an error of a restore is due to the place, and says nothing about the archive."""
    return _OF_THIS_PLACE.search(error) is not None


#: (pattern, what it means and what to do): of two that match, the first counts, so more particular ones come first.
REMEDIES = (*_DUMP, *_RESTORE)
