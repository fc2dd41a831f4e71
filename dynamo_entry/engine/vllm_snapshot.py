"""vLLM's own snapshot server, ``vllm.snapshot.server`` (vLLM 0.31 and newer): archives without weights.

The server loads the model, drops weights and KV cache, writes a ready file, and waits for a release file,
which tells it where to listen. It then reads the weights again and serves. Its cold start is ``vllm serve``
with the same arguments. Source: vllm/snapshot/{server,manifest}.py of the wheel. PID 1 rewrites commands with
this module.
"""

from __future__ import annotations

import json
import os
import re

from dynamo_entry.engine import http
from dynamo_entry.engine.dynamo import MODULE_OPTION, is_plain
from dynamo_entry.engine.http import is_port
from dynamo_entry.errors import Corrupt, NotDumpable, RestoreFailed, SettingsError
from dynamo_entry.scratch import partial_of, vacate, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

_SERVER, _SERVE, _DEFAULT_PORT = "vllm.snapshot.server", "vllm.entrypoints.cli.main", 8000

_READY_OPTION, _RELEASE_OPTION = "--ready-file", "--release-file"

#: Separates the words of a command, or of a shell line in it.
_GAP = r"[\s\0]+"

#: The option of a Python before a module, also combined with other one-letter options.
_MODULE = rf"(?P<option>{MODULE_OPTION})"

#: The ways to start vLLM's server: its command, or a module; the last one is new in 0.32.
_ORDINARY = re.compile(
    rf"(?:(?<![^\s\0;&|(])(?P<program>[^\s\0]*/)?vllm{_GAP}serve"
    rf"|{_MODULE}{_GAP}vllm\.entrypoints\.(?:cli\.main{_GAP}serve|openai\.api_server|launchers\.api_server\.entry))(?=[\s\0]|$)"
)
_SNAPSHOT = re.compile(rf"{_MODULE}{_GAP}vllm\.snapshot\.server(?=[\s\0]|$)")

#: Options of servers that speak TLS, or have no port. vLLM takes ``_`` for ``-``.
_TLS, _UNIX = (re.compile(rf"[\s\0]--(?:{names})(?=[=\s\0])") for names in ("ssl[-_](?:cert|key)file", "uds"))

#: A variable in a shell line.
_VARIABLE = re.compile(r"\$(?:(?=\w)|\{(?=\w+\}))(\w+)\}?")

_CONTROL = re.compile(rf"{_GAP}--(?:ready-file|release-file|release-timeout-s)(?:=|{_GAP})[^\s\0]+")


def is_server(argv: Sequence[str]) -> bool:
    """Return whether a command starts the snapshot server."""
    return bool(_SNAPSHOT.search("\0".join(argv)))


def paused(argv: Sequence[str], directory: str, environ: Mapping[str, str]) -> list[str]:
    """Return the command that pauses in ``directory`` instead of serving; other commands stay as they are."""
    line = "\0".join(argv)
    if not (found := _ORDINARY.search(line)):
        return list(argv)
    gap = "\0" if "\0" in found[0] else " "
    option = found["option"]
    run = [option] if option else [_interpreter(found["program"] or "", environ), "-m"]
    files = [_READY_OPTION, f"{directory}/vllm-ready", _RELEASE_OPTION, f"{directory}/vllm-release"]
    words = gap.join([*run, _SERVER, *files, "--"])
    return (line[: found.start()] + words + line[found.end() :]).split("\0")


def cold(argv: Sequence[str]) -> list[str]:
    """Return the command that serves at once instead of waiting for a release; other commands stay as they are."""
    line = "\0".join(argv)
    if not (found := _SNAPSHOT.search(line)):
        return list(argv)
    gap = "\0" if "\0" in found[0] else " "
    rest = re.sub(rf"{_GAP}--(?=[\s\0]|$)", "", _CONTROL.sub("", line[found.end() :]), count=1)
    return (line[: found.start()] + gap.join([found["option"], _SERVE, "serve"]) + rest).split("\0")


def _interpreter(folder: str, environ: Mapping[str, str]) -> str:
    """Return the Python that runs the ``vllm`` of ``folder``, or of PATH."""
    for place in [folder] if folder else environ.get("PATH", os.defpath).split(":"):
        try:
            with open(os.path.join(place, "vllm"), "rb") as script:
                head = script.read(1024).decode("utf-8", "replace")
        except OSError:
            continue
        # A path too long for the kernel's "#!" line is in the second line of a shell script.
        found = re.match(r"#!(?:/bin/sh\n'''exec' )?\"?(?:\S*/env )?([^\s\"]+)", head)
        return found[1] if found else "python3"
    return "python3"


class Handshake:
    """The launcher's half: two files whose paths a frozen engine remembers."""

    who = "vllm snapshot server"
    needs = "the archive has no weights: mount the model where the creating pod had it"
    early = ""

    def __init__(self, ready: str, release: str) -> None:
        self._ready = ready
        self._release = release
        self.directory = os.path.dirname(release)

    @classmethod
    def of_pod(cls, argv: Sequence[str], environ: Mapping[str, str], directory: str) -> Handshake:
        """Return the handshake by the files that the command names, else by ``paused``. Raises SettingsError."""
        line = "\0".join(argv)
        if is_server(argv):
            ready, release = (_value(line, option) for option in (_READY_OPTION, _RELEASE_OPTION))
            if not (_is_plain(ready) and _is_plain(release)):
                raise SettingsError(
                    f"vllm.snapshot.server has no absolute paths for {_READY_OPTION} and {_RELEASE_OPTION}",
                    hint="give both in the command, without '..' and without variables",
                )
        elif _ORDINARY.search(line):
            ready, release = f"{directory}/vllm-ready", f"{directory}/vllm-release"
        else:
            raise SettingsError(
                "DYNAMO_CHECKPOINT_PROTOCOL='vllm-snapshot': the command starts neither vllm serve nor "
                "vllm.snapshot.server",
                hint="start vLLM by vllm serve, or unset the variable",
            )
        _listener(argv, environ)  # refuses a command whose listener is unknown
        return cls(ready, release)

    @property
    def expected(self) -> str:
        """What the engine must do to be ready; for messages."""
        return f"write {self._ready}"

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the handshake; the archive contains none of them."""
        return self._ready, self._release, partial_of(self._release)

    def facts(self, environ: Mapping[str, str], pids: Iterable[int]) -> dict[str, dict[str, Any]]:
        """Return the facts that an archive records."""
        del environ, pids
        return {"vllm_snapshot": {"ready": self._ready, "release": self._release}}

    def environment(self) -> dict[str, str | None]:
        """Return no variables, since the command names the files."""
        return {}

    def prepare_creation(self) -> None:
        """Remove the files of an earlier engine, which mean nothing for this one. Raises NotDumpable."""
        try:
            self._clear()
        except OSError as error:
            raise NotDumpable(
                f"{error.filename} of vLLM's snapshot server cannot be prepared: {error.strerror}",
                hint="mount a writable emptyDir there", reason="ControlDirectoryInvalid",
            ) from None  # fmt: skip

    def ready(self, open_files: Callable[[], Iterable[str]]) -> bool:
        """Return whether the ready file exists; vLLM writes it in one step, by a rename."""
        return os.path.exists(self._ready) and os.path.realpath(self._ready) not in open_files()

    def prepare_restore(self) -> None:
        """Remove a stale release, which would wake the engine before its GPU is back. Raises RestoreFailed."""
        try:
            self._clear()
        except OSError as error:
            raise RestoreFailed(
                f"{error.filename} of vLLM's snapshot server cannot be prepared: {error.strerror}",
                hint="mount a writable emptyDir there, as on the creating pod", reason="ControlDirectoryInvalid",
            ) from None  # fmt: skip

    def let_go(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> None:
        """Tell a paused engine where to listen, as this pod's own command says. Raises OSError, SettingsError."""
        del pids
        host, port = _listener(argv, environ)
        write_new(self._release, json.dumps({"release": True, "host": host, "port": port}), 0o644)

    def has_reacted(self) -> bool:
        """Return True: the server shows nothing before it serves."""
        return True

    def health_url(self, environ: Mapping[str, str], argv: Sequence[str], pids: Iterable[int]) -> str:
        """Return the URL that answers 200 once the weights are back; empty for a unix socket."""
        del pids
        line = "\0".join(argv)
        if _UNIX.search(line):
            return ""
        host, port = _listener(argv, environ)
        url = http.loopback_url(host or "", port, "/health")
        return url.replace("http:", "https:", 1) if _TLS.search(line) else url

    @property
    def lack(self) -> str:
        """Why the engine may not answer yet; for messages."""
        return "its weights may take longer than STALL_TIMEOUT to read"

    def _clear(self) -> None:
        for path in (self._ready, self._release):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            vacate(path)


def _is_plain(path: str) -> bool:
    """Return whether the launcher can know a path of a command or shell line."""
    return is_plain(path) and "$" not in path


def recorded(facts: Mapping[str, Any]) -> Handshake | None:
    """Return the handshake that an archive's ``facts`` record; None for another engine. Raises Corrupt."""
    if not (found := facts.get("vllm_snapshot")):
        return None
    try:
        paths = [str(found[name]) for name in ("ready", "release")]
    except (TypeError, KeyError):
        raise Corrupt(f"the archive's record of vLLM's snapshot server is invalid: {found!r:.200}") from None
    if not all(map(is_plain, paths)):
        raise Corrupt(f"the archive names invalid files of vLLM's snapshot server: {found!r:.200}")
    return Handshake(*paths)


def _listener(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str | None, int]:
    """Return host (None: all interfaces) and port of a command, or of a shell line in it. Raises SettingsError."""
    line = "\0".join(argv)
    host, port = (
        _VARIABLE.sub(lambda found: environ.get(found[1], found[0]), _value(line, option))
        for option in ("--host", "--port")
    )
    if "$" in host or (port and not is_port(port)) or (not port and _value(line, "--config")):
        raise SettingsError(
            f"where vLLM listens cannot be read from its command: --host {host!r}, --port {port!r}",
            hint="give --port, and --host where it is needed, in the command: as numbers, names or variables of the pod",
        )
    return host or None, int(port or _DEFAULT_PORT)


def _value(line: str, option: str) -> str:
    """Return the last value that a command gives to an option."""
    found = re.findall(rf"(?<=[\s\0]){option}(?:=|{_GAP})['\"]?([^\s\0'\";&|)]+)", line)
    return found[-1] if found else ""
