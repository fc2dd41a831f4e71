"""``python -m dynamo_entry.worker VERB``: PID 1 starts it, people do not."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from typing import Any

from dynamo_entry.criu import options
from dynamo_entry.errors import CheckpointError, RestoreFailed
from dynamo_entry.init import process
from dynamo_entry.linux import capabilities
from dynamo_entry.protocol import Outcomes, Result, Verbs
from dynamo_entry.report import Log
from dynamo_entry.settings import read
from dynamo_entry.worker.channel import CalledOff, Channel

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

#: Modules that others import if they exist, although nothing here needs them: msgspec imports typing_extensions where typing
#: suffices, which takes 10 ms of a restore; shutil and tarfile import bz2 and lzma for compressed files, 1 ms.
_NEEDLESS = ("typing_extensions", "bz2", "lzma")

#: After how many new objects Python looks for garbage (2 000 by default). A restore makes many objects, and they stay: the plan
#: of 40 000 mappings takes 250 ms with this, and 290 ms by default.
_OBJECTS = 50_000

#: Much more than the result object has room for.
_MESSAGE_CHARS = 4000

#: Errors with which a full or restricted system may answer any call; they are no defects.
_REFUSALS = {
    errno.EACCES: "PermissionDenied", errno.EPERM: "PermissionDenied", errno.EROFS: "ReadOnly",
    errno.ENOSPC: "DiskFull", errno.EDQUOT: "DiskFull",
}  # fmt: skip

#: Refusals that may pass by themselves.
_PASSING = (errno.ENOSPC, errno.EDQUOT)

#: Errors of a container's limits → the remedy.
_LIMITS = {
    errno.EMFILE: "raise the limit of open files (--ulimit nofile, LimitNOFILE of the container runtime) to 1024 or more",
    errno.ENFILE: "the node has no more room for open files: raise fs.file-max there",
    errno.EAGAIN: "raise the limit of processes (pids.max of the cgroup, --ulimit nproc)",
    errno.ENOMEM: "give the container more memory",
}


def main() -> None:
    """Run one verb and send its result; the exit code matters only if no result could be sent."""
    verb = sys.argv[1]
    capabilities.take_effect(frozenset(options.REQUIRED))
    process.reveal()
    os.environ["PATH"] = absolute(os.environ.get("PATH", os.defpath))
    settings = read(os.environ).settings  # PID 1 has already reported mistakes
    channel = Channel(Log(settings.log_level, settings.log_format))
    if verb in (Verbs.CREATE, Verbs.RESTORE):
        _end_with_parent()
    try:
        result = _loaded(verb).run(settings, channel)
    except CheckpointError as error:
        result = _failed(channel, verb, error)
    except Exception as error:  # the outermost frame: a defect must end in a cold start, and be seen
        result = _failed(channel, verb, _refusal(error) or _defect(channel, error))
    try:
        if not channel.has_handed_over:
            channel.send(result)
    except CalledOff:  # PID 1 was killed, so this process has to undo the restore
        if verb == Verbs.RESTORE:
            _loaded(Verbs.UNDO).run(settings, channel)
    os._exit(0)  # without waiting for threads that wait for a store or for CRIU


def _end_with_parent() -> None:
    """Request SIGTERM for the end of PID 1: under another init, container and unfinished work outlive it."""
    import ctypes  # noqa: PLC0415 - others need it as well, later

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def absolute(path: str) -> str:
    """Return PATH without relative entries: an engine, or an upload to it, could have put a ``criu`` there."""
    return os.pathsep.join(filter(os.path.isabs, path.split(os.pathsep)))


def _loaded(verb: str) -> Any:
    """Import the module of a verb, and exempt all objects made so far from garbage collection."""
    sys.modules.update(dict.fromkeys(_NEEDLESS))  # type: ignore[arg-type]
    try:
        return importlib.import_module(f"dynamo_entry.worker.{verb}")
    finally:
        for name in _NEEDLESS:
            del sys.modules[name]
        gc.freeze()
        gc.set_threshold(_OBJECTS)
        gc.enable()


def _refusal(error: Exception) -> CheckpointError | None:
    """Return what the system refused about a file or a limit, if that is what happened."""
    number = _limit(error)
    if number:
        return CheckpointError(
            os.strerror(number), hint=_LIMITS[number], reason="LimitReached", retry=number != errno.EMFILE
        )
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _REFUSALS:
        return None
    return CheckpointError(
        f"{error.filename}: {error.strerror}", reason=_REFUSALS[error.errno], retry=error.errno in _PASSING
    )


def _limit(error: Exception) -> int:
    """Return the errno of a limit that was reached, or 0. For threads, Python only says "can't start new thread"."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return errno.EAGAIN
    return error.errno if isinstance(error, OSError) and error.errno in _LIMITS else 0


def _defect(channel: Channel, error: Exception) -> CheckpointError:
    import traceback  # noqa: PLC0415 - 13 ms that no restore is to wait for

    channel.log.error("unexpected error", traceback=traceback.format_exc(limit=-8))
    return CheckpointError(f"{type(error).__name__}: {error}", reason="InternalError")


def _failed(channel: Channel, verb: str, error: CheckpointError) -> Result:
    # A plain error (of a hook, or the system) gets the exit code of the verb that it made fail.
    is_plain = type(error) is CheckpointError
    code = RestoreFailed.exit_code if is_plain and verb == Verbs.RESTORE else error.exit_code
    return Result(
        Outcomes.FAILED, channel.phase_name, reason=error.reason, message=_shown(str(error)), retry=error.retry,
        exit_code=code, seconds=channel.seconds,
    )  # fmt: skip


def _shown(message: str) -> str:
    """Shorten a message, so that its line, with all escapes, is not longer than PID 1 takes."""
    return message if len(message) <= _MESSAGE_CHARS else message[:_MESSAGE_CHARS] + "…"


if __name__ == "__main__":
    main()
