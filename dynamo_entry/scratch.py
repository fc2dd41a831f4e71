"""Handles files of a pod safely: the launcher's own directories, and small files that a user names."""

from __future__ import annotations

import errno
import os
import stat

from dynamo_entry.errors import CheckpointError
from dynamo_entry.settings import Settings

#: Files that a restore keeps in a scratch directory until it is over or undone: the engine's context, and the journal.
CONTEXT, JOURNAL = "context.json", "undo.json"

_CANDIDATES = ("/run/dynamo_entry", "/tmp/dynamo_entry", "/var/tmp/dynamo_entry", "/dev/shm/dynamo_entry")

#: The longest path of a scratch directory: sockets lie in it, and a socket's address takes at most 107 bytes (unix(7)).
_LONGEST_PATH = 80

#: How the names of files in a STATE_DIR begin and end: records of failures and attempts (checks/refusals.py), and CRIU's logs
#: (criu/log.py).
REFUSED, ATTEMPT, KEPT_LOG = "refused-", "attempt-", "criu-"
_KEPT = ((REFUSED, ".json"), (ATTEMPT, ".json"), (KEPT_LOG, ".log"))

#: The largest key, certificate bundle or request.
GIVEN_LIMIT_BYTES = 1 << 20

#: Flags to create a new file where others may write: never open an existing one, never follow a link.
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def work_directory(settings: Settings) -> str:
    """Return a private directory for sockets, CRIU's log and the undo journal.

    None of it is captured: in WORK_DIR, which may hold files of the engine, it is a directory of the launcher's own.
    Raises CheckpointError.
    """
    if settings.work_dir:
        return _below_work_dir(settings.work_dir)
    if found := next(filter(is_usable, _CANDIDATES), ""):
        return found
    raise CheckpointError(
        "no scratch directory that belongs to this user alone can be created",
        hint="mount a tmpfs at /run or set DYNAMO_CHECKPOINT_WORK_DIR",
        reason="NoWorkDir",
        retry=False,
    )


def _below_work_dir(work_dir: str) -> str:
    """Return the launcher's directory in WORK_DIR. Raises CheckpointError."""
    found = own_directory(work_dir)
    if len(os.fsencode(found)) > _LONGEST_PATH:
        raise CheckpointError(
            f"the scratch directory {found} has a path of more than {_LONGEST_PATH} bytes: no socket can be made there",
            hint="set DYNAMO_CHECKPOINT_WORK_DIR to a shorter one", reason="NoWorkDir", retry=False,
        )  # fmt: skip
    if not is_usable(found):
        raise CheckpointError(
            f"the scratch directory {found} cannot be created, or does not belong to this user alone",
            hint="set DYNAMO_CHECKPOINT_WORK_DIR to a directory that this user may write to, or unset it",
            reason="NoWorkDir", retry=False,
        )  # fmt: skip
    return found


def has_leftovers(work_dir: str) -> bool:
    """Whether an earlier restore may have left something to undo. Creates no directory, unlike ``work_directory``."""
    own = (own_directory(work_dir),) if work_dir else ()
    return any(
        os.path.lexists(f"{directory}/{name}")
        for directory in (*_CANDIDATES, *own)
        for name in (CONTEXT, JOURNAL)
    )


def private_directory(path: str) -> str:
    """Return ``path`` if it is private to this user, else a private directory in it; empty if there is none."""
    return next(filter(is_private, places(path)), "")


def places(path: str) -> tuple[str, str]:
    """Return the paths that ``private_directory`` may return."""
    return path, own_directory(path)


def own_directory(path: str) -> str:
    """Return the path of the launcher's own directory, for this user, in another directory."""
    return f"{path}/dynamo_entry-{os.geteuid()}"


def own_paths(settings: Settings) -> tuple[str, ...]:
    """Return the directories and files that are the launcher's own, none of them the engine's. Raises CheckpointError."""
    state = private_directory(settings.state_dir) if settings.state_dir else ""
    in_state = _kept_files(state) if state == settings.state_dir else (state,)
    return (work_directory(settings), *filter(None, in_state))


def _kept_files(directory: str) -> tuple[str, ...]:
    """Return the launcher's files in a STATE_DIR that may be the engine's, too."""
    try:
        return tuple(f"{directory}/{name}" for name in os.listdir(directory) if _is_kept(name))
    except OSError:
        return ()


def _is_kept(name: str) -> bool:
    name = name.removesuffix(partial_of(""))
    return any(name.startswith(begin) and name.endswith(end) for begin, end in _KEPT)


def is_private(path: str) -> bool:
    """Create the directory if it is missing; return whether nobody else owns it or may write to it."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def is_usable(path: str) -> bool:
    """Like ``is_private``, and this user can create files in it, which a read-only filesystem prevents."""
    return is_private(path) and os.access(path, os.W_OK)


def vacate(path: str) -> None:
    """Remove the file at ``path``, after checking that a new one can be created there. Raises OSError."""
    remove(path)
    os.close(os.open(path, NEW_FILE, 0o600))
    os.unlink(path)


def remove(path: str) -> None:
    """Remove a file if it exists. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def partial_of(path: str) -> str:
    """Return the temporary path that ``write_new`` writes first."""
    return f"{path}.new"


def write_new(path: str, text: str, mode: int = 0o600) -> None:
    """Write a new file and rename it to ``path``, replacing what is there. Raises OSError."""
    partial = partial_of(path)
    remove(partial)
    with open(os.open(partial, NEW_FILE, mode), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(partial, path)


def read_given(path: str) -> bytes:
    """Read a small file that a user names (a key, a canary, a credential) without ever blocking.

    Raises OSError, also for anything that is not a regular file (a fifo would block) or is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(GIVEN_LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > GIVEN_LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"larger than {GIVEN_LIMIT_BYTES >> 20} MiB", path)
    return data
