"""The snapshot handshake of NVIDIA Dynamo's workers: ai-dynamo 1.0 to 1.6, and ai-dynamo/snapshot.

A worker that finds a control directory in its environment loads the model, pauses itself, and writes a ready file. It
has no server and no connection yet. It then waits, without a limit, for ``restore-complete``, takes its new identity
from ``restore-context.json`` beside it, registers, and serves. Sources, all in the wheels of ai-dynamo:
dynamo/common/snapshot/{constants,lifecycle,restore_context}.py (1.3 to 1.6.1), dynamo/common/utils/snapshot.py (1.1,
1.2), dynamo/vllm/snapshot.py (1.0); file names also in ai-dynamo/snapshot, api/podcontract/protocol.go.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dynamo_entry.engine import http
from dynamo_entry.engine.http import is_port
from dynamo_entry.errors import Corrupt, NotDumpable, RestoreFailed
from dynamo_entry.scratch import partial_of, vacate, write_new
from dynamo_entry.value import NamedTuple

#: The mode of files that the engine reads.
_READABLE = 0o644


class Release(NamedTuple):
    """What differs between releases: name of the ready file, signal at release, whether a worker takes its new pod's ports."""

    ready: str
    is_signalled: bool = False
    takes_environment: bool = False


#: Newest first: 1.3 and later, 1.1 and 1.2, 1.0. The latter is given the name in a variable.
RELEASES = (
    Release("ready-for-snapshot", takes_environment=True),
    Release("ready-for-checkpoint"),
    Release("ready", is_signalled=True),
)

#: 1.1 to 1.6 read the first name, ai-dynamo/snapshot's contract has the second one as well.
DIRECTORY_VARIABLES = ("DYN_SNAPSHOT_CONTROL_DIR", "SNAPSHOT_CONTROL_DIR")

#: A worker with one of these set to 1 does nothing but sleep: it waits to be replaced by NVIDIA's node agent.
STANDBY_VARIABLES = ("SNAPSHOT_RESTORE_STANDBY", "DYN_SNAPSHOT_RESTORE_STANDBY")

#: 1.0 creates a checkpoint if the first variable is set, and insists on a location that is not a directory in the second.
_READY_VARIABLE, _LOCATION_VARIABLE = "DYN_READY_FOR_CHECKPOINT_FILE", "DYN_CHECKPOINT_LOCATION"

#: With any of these a worker that starts cold would pause and wait for ever.
WITHHELD_FROM_COLD = (*DIRECTORY_VARIABLES, *STANDBY_VARIABLES, _READY_VARIABLE)

_SET = rf"(?:^|[\s'\";&|(])({'|'.join(WITHHELD_FROM_COLD)})=(?:['\"](?!['\"])|[^\s'\";&|)])"

_CONTEXT, _COMPLETE, _ABANDONED = "restore-context.json", "restore-complete", "snapshot-complete"

#: All files of a control directory.
_NAMES = (*(release.ready for release in RELEASES), _CONTEXT, _COMPLETE, _ABANDONED)

#: The names that 1.6.1 takes; earlier releases ignore those that they do not know.
CONTEXT_NAMES = (
    "DYN_NAMESPACE", "DYN_COMPONENT", "DYN_PARENT_DGD_K8S_NAME", "DYN_PARENT_DGD_K8S_NAMESPACE",
    "POD_NAME", "POD_NAMESPACE", "POD_UID", "DYN_NAMESPACE_WORKER_SUFFIX",
    "DYN_DISCOVERY_BACKEND", "DYN_REQUEST_PLANE", "DYN_EVENT_PLANE", "DYN_EVENT_PLANE_HOST",
    "DYN_TCP_RPC_HOST", "DYN_TCP_RPC_PORT", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_TCP_RESPONSE_STREAM_PORT",
    "DYN_TCP_LISTEN_BACKLOG", "NATS_SERVER", "ETCD_ENDPOINTS",
    "DYN_SYSTEM_PORT", "DYN_HEALTH_CHECK_ENABLED", "DYN_SYSTEM_STARTING_HEALTH_STATUS",
    "DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS", "DYN_SYSTEM_HOST", "DYN_SYSTEM_HEALTH_PATH", "DYN_SYSTEM_LIVE_PATH",
    "DYN_KUBE_DISCOVERY_MODE", "CONTAINER_NAME", "ENGINE_ID", "FAILOVER_LOCK_PATH",
    "DYN_VLLM_GMS_SHADOW_MODE", "DYN_GMS_USE_V1", "MODEL_EXPRESS_URL", "PROMETHEUS_ENDPOINT",
)  # fmt: skip

_BACKENDS, _MAIN = "vllm|sglang|trtllm", "(?:__main__|main)"

#: Regular expression: the option before a Python module in a command line, also combined with other one-letter options.
MODULE_OPTION = r"(?<![\w-])-\w*m|--module"

#: ``python -m dynamo.vllm``, the path of its main module, or ``python`` and that of the package, anywhere in a command or
#: shell line.
_WORKER = (
    rf"(?:(?:{MODULE_OPTION})[\s=]*['\"]?dynamo\.(?:{_BACKENDS})(?:\.{_MAIN})?|(?:^|[\s'\"/])dynamo/(?:{_BACKENDS})/{_MAIN}\.py"
    rf"|(?:^|[\s'\"/])python[\d.]*(?:\s-[bBdEiIOPqsSuv]+)*\s['\"]?(?:[^\s'\"]*/)?dynamo/(?:{_BACKENDS})/?)"
    r"(?=$|[\s'\";&|)<>`}])"
)

#: ``python -m dynamo.…``: any part of it.
_PART = rf"(?:{MODULE_OPTION})[\s=]*['\"]?dynamo\.\w"


def is_worker(argv: Sequence[str]) -> bool:
    """Return whether a command starts a Dynamo worker that can be checkpointed: vLLM, SGLang or TensorRT-LLM."""
    return bool(re.search(_WORKER, " ".join(argv)))


def is_part(argv: Sequence[str]) -> bool:
    """Return whether a command starts a part of Dynamo, be it one that can be checkpointed or not."""
    return is_worker(argv) or bool(re.search(_PART, " ".join(argv)))


def is_spoken(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether an engine is checkpointed by this handshake, as its command or its environment says."""
    return is_worker(argv) or any(environ.get(name) for name in DIRECTORY_VARIABLES)


def is_plain(path: str) -> bool:
    """Whether a path is absolute, leads nowhere else than it looks, and can be written down."""
    return path.startswith("/") and ".." not in path.split("/") and path.isprintable()


def set_by(argv: Sequence[str]) -> str:
    """Return the control variable that a command itself sets, which a cold start could not withhold; usually empty."""
    found = re.search(_SET, " ".join(argv))
    return found[1] if found else ""


class Handshake:
    """The launcher's half, in one control directory, whose path a frozen engine remembers."""

    who = "dynamo worker"
    needs = ""
    early = "ai-dynamo 1.0 will wait for ever: send SIGCONT to its process once it has paused; later releases go on"

    def __init__(
        self, directory: str, release: Release = RELEASES[0], sets: frozenset[str] | None = None
    ) -> None:
        """``sets`` are the names of the context that the engine's command sets itself; None if its processes show them."""
        self.directory = directory
        self.release = release
        self._set = sets

    @property
    def expected(self) -> str:
        """What the engine must do to be ready; for messages."""
        return f"write a ready file to {self.directory}"

    @property
    def lack(self) -> str:
        """Why the engine may not answer yet; for messages."""
        return "it has not registered"

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the handshake; the archive contains none of them."""
        names = [self._path(name) for name in _NAMES]
        return (*names, *map(partial_of, names))

    def facts(self, environ: Mapping[str, str], pids: Iterable[int]) -> dict[str, dict[str, Any]]:
        """Return the facts that an archive records of the tree ``pids``, which was started with ``environ``."""
        told = {"directory": self.directory, "ready": self.release.ready}
        return {"dynamo": {**told, "sets": sorted(self._sets(environ, _environment(pids)))}}

    def environment(self) -> dict[str, str | None]:
        """Return the variables for an engine that is going to be frozen; None withholds a variable."""
        return {
            **dict.fromkeys(DIRECTORY_VARIABLES, self.directory),
            **dict.fromkeys(STANDBY_VARIABLES),
            _READY_VARIABLE: self._path(RELEASES[-1].ready),
            _LOCATION_VARIABLE: self._path("none"),
        }

    def prepare_creation(self) -> None:
        """Empty the directory, since files of an earlier engine mean nothing for this one. Raises NotDumpable."""
        try:
            self._clear()
        except OSError as error:
            raise NotDumpable(
                f"the control directory {self.directory} cannot be prepared: {error.strerror}",
                hint=f"mount a writable emptyDir there, or unset {DIRECTORY_VARIABLES[0]}",
                reason="ControlDirectoryInvalid",
            ) from None

    def ready(self, open_files: Callable[[], Iterable[str]]) -> bool:
        """Return whether a release's ready file is written and, by ``open_files``, closed; remembers that release."""
        for release in RELEASES:
            try:
                is_written = os.path.getsize(self._path(release.ready)) > 0
            except OSError:
                continue
            if is_written and os.path.realpath(self._path(release.ready)) not in open_files():
                self.release = release
                return True
        return False

    def prepare_restore(self) -> None:
        """Fill the directory as the frozen engine knows it. Raises RestoreFailed.

        The engine removes the ready file to show that it continues.
        """
        try:
            self._clear()
            self._write(self.release.ready, "ready")
        except OSError as error:
            raise RestoreFailed(
                f"the control directory {self.directory} cannot be prepared: {error.strerror}",
                hint="mount a writable emptyDir there, as on the creating pod",
                reason="ControlDirectoryInvalid",
            ) from None

    def let_go(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> None:
        """Write a paused engine's new identity and let it continue; ``pids`` is its tree. Raises OSError."""
        del argv
        pids = list(pids)
        kept = self._sets(environ, _environment(pids))
        env = {name: environ.get(name) for name in CONTEXT_NAMES if name not in kept}
        self._write(_CONTEXT, json.dumps({"env": env}))
        self._write(_COMPLETE, "done\n")
        if self.release.is_signalled:
            from dynamo_entry.linux import proc  # noqa: PLC0415 - PID 1 imports this module for its names alone

            for pid in pids:
                if proc.catches(pid, signal.SIGCONT):
                    os.kill(pid, signal.SIGCONT)

    def has_reacted(self) -> bool:
        """Return whether the engine has noticed that it may continue."""
        return not os.path.exists(self._path(self.release.ready))

    def health_url(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> str:
        """Return the URL at which a worker answers 200 once it has registered; empty if that is unknown.

        With FAILOVER_LOCK_PATH it registers only after another engine has ended, which may be never. A host that only the
        archive names must be loopback.
        """
        del argv
        frozen = _environment(pids)
        kept = self._sets(environ, frozen) if self.release.takes_environment else CONTEXT_NAMES
        its = {name: (frozen if name in kept else environ).get(name, "") for name in CONTEXT_NAMES}
        port = its["DYN_SYSTEM_PORT"]
        if not is_port(port) or its["FAILOVER_LOCK_PATH"]:
            return ""
        path = its["DYN_SYSTEM_HEALTH_PATH"] or "/health"
        url = http.loopback_url(its["DYN_SYSTEM_HOST"], port, f"/{path.lstrip('/')}")
        is_known = "DYN_SYSTEM_HOST" not in kept or http.is_loopback(url)
        return url if is_known and http.is_valid(url) else ""

    def _sets(self, environ: Mapping[str, str], its: Mapping[str, str]) -> frozenset[str]:
        """Return the names that the engine's command sets, or unsets, itself: a cold start would have them, too."""
        if self._set is not None:
            return self._set
        return frozenset(name for name in CONTEXT_NAMES if its and its.get(name) != environ.get(name))

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def _clear(self) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for name in _NAMES:
            vacate(self._path(name))

    def _write(self, name: str, text: str) -> None:
        """Write the complete file in one step, since the engine polls; it may run as another user."""
        write_new(self._path(name), text, _READABLE)


def _environment(pids: Iterable[int]) -> dict[str, str]:
    """Return the environment in which a worker of the tree ``pids`` was started; that of the root if none is known."""
    from dynamo_entry.linux import proc  # noqa: PLC0415 - PID 1 imports this module for its names alone

    pids = list(pids)
    workers = [pid for pid in pids if is_worker(proc.command(pid))]
    found: dict[str, str] = {}
    for pid in workers or pids[:1]:  # the worker comes after a shell that starts it, and so counts
        with suppress(OSError):
            found |= {os.fsdecode(name): os.fsdecode(value) for name, value in proc.environment(pid)}
    return found


def recorded(facts: Mapping[str, Any]) -> Handshake | None:
    """Return the handshake that an archive's ``facts`` record; None for another engine. Raises Corrupt."""
    if not (found := facts.get("dynamo")):
        return None
    try:
        directory, ready = str(found["directory"]), found["ready"]
        release = next(release for release in RELEASES if release.ready == ready)
        sets = frozenset(map(str, found.get("sets", ())))
    except (TypeError, KeyError, AttributeError, StopIteration):
        raise Corrupt(f"the archive's record of the Dynamo handshake is invalid: {found!r:.200}") from None
    if not is_plain(directory):
        raise Corrupt(f"the archive names an invalid control directory: {directory!r:.200}")
    return Handshake(directory, release, sets)
