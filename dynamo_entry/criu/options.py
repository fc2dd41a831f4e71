"""CRIU's command line. Pure: capabilities and paths in, argv out."""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_entry.criu import gate
from dynamo_entry.linux import capabilities
from dynamo_entry.value import NamedTuple

#: ``--unprivileged`` needs at least these to dump and to restore.
REQUIRED = {capabilities.SYS_PTRACE: "SYS_PTRACE", capabilities.CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE"}

#: Unlinked files that are still open travel inside the images, whatever their size (criu: 1 MiB).
_GHOST_LIMIT_BYTES = str((1 << 63) - 1)

#: CRIU always runs ``--unprivileged``, so there is one way of working, which is tested with two capabilities and with all.
#: What further capabilities allow (clocks) is done by us. cgroups belong to the container runtime.
_COMMON = ("--unprivileged", "--file-locks", "--ext-unix-sk", "--link-remap", "--manage-cgroups=ignore")

#: Established connections are closed, so that clients reconnect, or kept, which needs CAP_NET_ADMIN. Both ends of a
#: connection that is kept are frozen, so the network need not be locked.
_CLOSE, _KEEP = ("--tcp-close",), ("--tcp-established", "--network-lock", "skip")

#: The engine's standard input is never our terminal, but its session may have begun above it.
_SHELL_JOB = "--shell-job"


class Places(NamedTuple):
    """Directories and files of one CRIU run."""

    images: str  # where the streamer's sockets are
    work: str  # log, statistics, pid file
    log: str  # file name below ``work``


def pid_file(places: Places) -> str:
    """Where a restore writes the root's pid; CRIU refuses to replace a file."""
    return f"{places.work}/root.pid"


class Hints(NamedTuple):
    """What CRIU cannot find out by itself: resources outside the container, paths of watched inodes."""

    external: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    keeps_connections: bool = False


def missing_capabilities(effective: frozenset[int]) -> list[str]:
    """The names of the missing capabilities without which CRIU cannot work at all."""
    return [name for number, name in REQUIRED.items() if number not in effective]


def dump(pid: int, places: Places, hints: Hints) -> list[str]:
    """argv of a streamed dump of the tree below ``pid``. A connection that waits to be accepted is dropped."""
    argv = [
        *_base("dump", places, keeps_connections=hints.keeps_connections),
        "--tree", str(pid), "--skip-in-flight", "--ghost-limit", _GHOST_LIMIT_BYTES,
    ]  # fmt: skip
    for resource in hints.external:
        argv += ["--external", resource]
    for path in hints.watched:
        argv += ["--irmap-scan-path", path]
    return argv


def restore(
    places: Places, *, inherit: Mapping[int, str], keeps_connections: bool, lazy_pages: bool
) -> list[str]:
    """argv of a streamed restore whose root becomes a child of the caller.

    ``inherit`` maps our descriptors (3 and up) to what they replace, as ``--inherit-fd`` names it. CRIU compares the
    sizes of files, as we do, but not their permissions, which may differ from volume to volume.
    """
    argv = [
        *_base("restore", places, keeps_connections=keeps_connections),
        "--restore-detached", "--restore-sibling", "--pidfile", pid_file(places), "--skip-file-rwx-check",
    ]  # fmt: skip
    for descriptor, resource in inherit.items():
        argv += ["--inherit-fd", f"fd[{descriptor}]:{resource}"]
    return [*argv, "--lazy-pages"] if lazy_pages else argv


def _base(verb: str, places: Places, *, keeps_connections: bool) -> list[str]:
    return [
        "criu", verb, "--stream", "--images-dir", places.images, "--work-dir", places.work,
        "--log-file", places.log, "-v2", "--no-default-config", "--action-script", gate.SCRIPT,
        *_COMMON, *(_KEEP if keeps_connections else _CLOSE), _SHELL_JOB,
    ]  # fmt: skip
