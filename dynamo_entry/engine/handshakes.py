"""Engines that pause by themselves and wait until the launcher lets them continue: recognises their handshakes.

At creation ``PROTOCOL`` decides, else the command; at a restore the archive's record does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from dynamo_entry.engine import dynamo, vllm_snapshot
from dynamo_entry.engine.dynamo import is_plain
from dynamo_entry.engine.sleep_protocols import is_named
from dynamo_entry.errors import SettingsError


class Handshake(Protocol):
    """The launcher's half of a handshake."""

    #: the engine's part, for the log
    who: str
    #: what a restoring pod needs besides the archive; for people
    needs: str
    #: what an engine may do if it is let go before it has paused; for people; empty if it just continues
    early: str
    #: the directory of the handshake's files
    directory: str

    @property
    def expected(self) -> str:
        """What the engine must do to be ready; for messages."""

    @property
    def lack(self) -> str:
        """Why an engine that was let go may not answer; for messages."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the handshake; the archive contains none of them."""

    def facts(self, environ: Mapping[str, str], pids: Iterable[int]) -> dict[str, dict[str, Any]]:
        """Return the facts that an archive records of the tree ``pids``, which was started with ``environ``."""

    def environment(self) -> dict[str, str | None]:
        """Return the variables for an engine that is going to be frozen; None withholds a variable."""

    def prepare_creation(self) -> None:
        """Prepare the files before the engine starts. Raises NotDumpable."""

    def ready(self, open_files: Callable[[], Iterable[str]]) -> bool:
        """Return whether the engine has paused: its file is complete and, according to ``open_files``, closed."""

    def prepare_restore(self) -> None:
        """Prepare the files before the frozen engine is back. Raises RestoreFailed."""

    def let_go(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> None:
        """Give the engine its new identity and let it continue; ``pids`` is its tree. Raises OSError, SettingsError."""

    def has_reacted(self) -> bool:
        """Return whether the engine has noticed that it may continue."""

    def health_url(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> str:
        """Return the URL that answers 200 once the engine serves; empty if that is unknown.

        ``environ`` and ``argv`` are this pod's; ``pids`` is the engine's tree.
        """


def of_pod(protocol: str, argv: Sequence[str], environ: Mapping[str, str], scratch: str) -> Handshake | None:
    """Return the handshake of the engine that ``argv`` starts, or None. Raises SettingsError."""
    directory = _directory(environ) or f"{scratch}/control"
    if protocol == "vllm-snapshot" or (protocol == "auto" and vllm_snapshot.is_server(argv)):
        return vllm_snapshot.Handshake.of_pod(argv, environ, directory)
    if protocol == "dynamo" or (protocol == "auto" and dynamo.is_spoken(argv, environ)):
        if name := dynamo.set_by(argv):
            raise SettingsError(
                f"the command sets {name}: a cold start by it would pause, and wait for ever",
                hint="set it in the environment of the pod, from which cold starts do not get it",
            )
        return dynamo.Handshake(directory)
    return None


def offered(protocol: str, scratch: str) -> Handshake | None:
    """Return the handshake for an engine whose command shows none; None if it is not to have one.

    A worker that a script starts takes it up; others do not notice it.
    """
    if protocol != "auto":
        return None
    found = dynamo.Handshake(f"{scratch}/control")
    found.early = ""  # most likely the engine is no worker, and waits for nothing
    return found


def _directory(environ: Mapping[str, str]) -> str:
    """Return the pod's directory for the handshake. Raises SettingsError for one that a restore could not find."""
    name = next((name for name in dynamo.DIRECTORY_VARIABLES if environ.get(name)), "")
    given = environ[name] if name else ""
    if given and not is_plain(given):
        raise SettingsError(
            f"{name}={given!r:.200}: expected an absolute path of printable characters without '..'",
            hint=f"name the directory of a writable emptyDir, or unset {name}",
        )
    return os.path.normpath(given) if given else ""


def pauses(argv: Sequence[str], protocol: str) -> bool:
    """Return whether an engine pauses before it has a server, as its command or PROTOCOL says."""
    if protocol in ("", "auto"):
        return dynamo.is_worker(argv) or vllm_snapshot.is_server(argv)
    return protocol in ("dynamo", "vllm-snapshot")


def recorded(facts: Mapping[str, Any]) -> Handshake | None:
    """Return the handshake that an archive's ``facts`` record, or None. Raises Corrupt."""
    return dynamo.recorded(facts) or vllm_snapshot.recorded(facts)


def check_settings(who: str, *, ready_url: str, canary: str, pre_dump: str) -> None:
    """Refuse what needs a server, which a paused engine has only after a restore. Raises SettingsError."""
    needs = {"READY_URL": ready_url, "CANARY": canary, "PRE_DUMP": is_named(pre_dump)}
    if found := [f"DYNAMO_CHECKPOINT_{name}" for name, value in needs.items() if value]:
        raise SettingsError(
            f"{' and '.join(found)} cannot be used to create a checkpoint of a {who}: it pauses itself, and has "
            "no HTTP server until it is restored",
            hint="unset on the creating pod; the engine tells the launcher when it is ready",
        )


def let_go_or_warn(
    handshake: Handshake, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int], log: Any
) -> None:
    """Call ``let_go``; log a failure, since nothing depends on it."""
    if not handshake.ready(tuple) and handshake.early:
        log.warning("engine let go before it paused", hint=handshake.early)
    try:
        handshake.let_go(environ, argv, pids)
    except (OSError, SettingsError) as error:
        log.warning("engine still paused", directory=handshake.directory, message=str(error))
