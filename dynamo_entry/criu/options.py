"""What CRIU is called with. Pure: capabilities and paths in, argv out."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_entry.criu import hold

#: linux/capability.h
CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_TIME, CAP_CHECKPOINT_RESTORE = 12, 19, 21, 25, 40

#: What stock CRIU needs when it is not told ``--unprivileged``: network locks, time namespaces.
_PRIVILEGED = {CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_TIME, CAP_CHECKPOINT_RESTORE}

#: The least with which ``--unprivileged`` dumps and restores.
REQUIRED = {CAP_SYS_PTRACE: "SYS_PTRACE", CAP_CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE"}

#: Unlinked files that are still open travel inside the images, whatever their size (criu: 1 MiB).
_GHOST_LIMIT_BYTES = str((1 << 63) - 1)

#: Established connections are closed, so that clients reconnect; one in an accept queue is dropped.
_COMMON = ("--tcp-close", "--file-locks", "--ext-unix-sk", "--link-remap")

#: Standard input of what is dumped is never a terminal of ours, but a session may begin above it.
_SHELL_JOB = "--shell-job"


class Places(NamedTuple):
    """Directories and files of one CRIU run."""

    images: str  # where the streamer's sockets are
    work: str  # log, statistics, pid file
    log: str  # file name below ``work``


def pid_file(places: Places) -> str:
    """Where a restore writes the root's pid; CRIU refuses to replace a file."""
    return f"{places.work}/root.pid"


def missing_capabilities(effective: frozenset[int]) -> list[str]:
    """Names of the capabilities without which CRIU cannot work at all."""
    return [name for number, name in REQUIRED.items() if number not in effective]


def is_privileged(effective: frozenset[int]) -> bool:
    """Whether CRIU may use all it knows; otherwise it runs with ``--unprivileged``."""
    return effective >= _PRIVILEGED


def dump(pid: int, places: Places, *, privileged: bool) -> list[str]:
    """argv of a streamed dump of the tree below ``pid``."""
    return [
        *_base("dump", places, privileged=privileged),
        "--tree", str(pid), "--skip-in-flight", "--ghost-limit", _GHOST_LIMIT_BYTES,
    ]  # fmt: skip


def restore(places: Places, *, privileged: bool, inherit: dict[int, str]) -> list[str]:
    """argv of a streamed restore whose root becomes a child of the caller.

    ``inherit`` maps our descriptors (3 and up) to what they replace, in CRIU's words: ``pipe:[123]``.
    """
    argv = [
        *_base("restore", places, privileged=privileged),
        "--restore-detached", "--restore-sibling", "--pidfile", pid_file(places),
    ]  # fmt: skip
    for descriptor, resource in inherit.items():
        argv += ["--inherit-fd", f"fd[{descriptor}]:{resource}"]
    return argv


def _base(verb: str, places: Places, *, privileged: bool) -> list[str]:
    argv = [
        "criu", verb, "--stream", "--images-dir", places.images, "--work-dir", places.work,
        "--log-file", places.log, "-v2", "--action-script", hold.SCRIPT, *_COMMON, _SHELL_JOB,
    ]  # fmt: skip
    return argv if privileged else [*argv, "--unprivileged"]
