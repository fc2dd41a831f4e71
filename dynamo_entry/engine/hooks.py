"""PRE_DUMP and POST_RESTORE: a command or a URL that prepares or wakes the engine. If it fails, so does its phase."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from dynamo_entry.engine import http, sleep, sleep_protocols
from dynamo_entry.errors import CheckpointError, SettingsError
from dynamo_entry.linux import proc

#: The longest timeout of poll(2), which waits for commands and sockets: 24 days.
_LONGEST_S = 0x7FFF_FFFF // 1000

#: How much of a command's output a message repeats.
_SAID_BYTES = 500

_SHELL = "/bin/sh"

_URLS = ("http://", "https://")

#: The container's environment, with the loader's variables, which this process does not have.
_ENVIRONMENT = {**os.environ, **proc.loader_variables(os.getppid())}


def check(name: str, hook: str) -> None:
    """Check a hook: its URL, the port of a named protocol, and that the protocol fits. Raises SettingsError."""
    engine = sleep_protocols.find(hook)
    if engine and engine.is_wake == (name == "PRE_DUMP"):
        what = "wakes an engine" if engine.is_wake else "puts an engine to sleep"
        raise SettingsError(
            f"DYNAMO_CHECKPOINT_{name}={hook!r:.200}: {what}",
            hint="PRE_DUMP is called before the dump, POST_RESTORE after a restore",
        )
    if sleep_protocols.is_named(hook) and not engine:
        raise SettingsError(
            f"DYNAMO_CHECKPOINT_{name}={hook!r:.200}: expected a port from 1 to 65535 after the colon",
            hint="without a port it is the engine's usual one",
        )
    if hook.startswith(_URLS) and not _can_be_posted_to(hook):
        raise SettingsError(
            f"DYNAMO_CHECKPOINT_{name} is not a valid URL",
            hint="it looks like http://127.0.0.1:8000/path; blanks are written as %20",
        )


def _can_be_posted_to(url: str) -> bool:
    return http.is_askable(url) if http.is_loopback(url) else http.is_valid(url)


def call(
    name: str,
    hook: str,
    limit_s: float,
    context: Mapping[str, str] | None = None,
    commands: Sequence[Sequence[str]] = (),
) -> None:
    """Run a shell command, POST to a URL, or run a protocol of ``sleep_protocols``.

    ``context`` has the ``path`` of context.json and the ``activation_id``: a command gets the path in
    DYNAMO_ENTRY_CONTEXT, a URL gets both as JSON. ``commands`` are the command lines of the engine's
    processes, for protocols. Raises CheckpointError unless the exit code is 0 or the status is 2xx.
    """
    limit_s = min(limit_s, _LONGEST_S)
    if engine := sleep_protocols.find(hook):
        try:
            sleep.run(engine, limit_s, commands)
        except (OSError, ValueError) as error:
            raise _refused(f"{name} hook {hook}", str(error), is_wake=engine.is_wake) from None
    elif hook.startswith(_URLS):
        _post(name, hook, limit_s, context or {})
    else:
        _run(name, hook, limit_s, context or {})


def wake(
    recorded: str,
    post_restore: str,
    limit_s: float,
    commands: Sequence[Sequence[str]],
    context: Mapping[str, str] | None = None,
) -> None:
    """Wake a sleeping engine by the hook that the archive ``recorded``, and by POST_RESTORE. Raises CheckpointError."""
    for hook in sleep_protocols.wake_hooks(recorded, post_restore):
        call("POST_RESTORE", hook, limit_s, context, commands)


def _post(name: str, url: str, limit_s: float, context: Mapping[str, str]) -> None:
    from http.client import HTTPException  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need

    check(name, url)
    body = json.dumps(dict(context)).encode() if context else b""
    try:
        if http.is_loopback(url):
            http.ask(url, method="POST", body=body, limit_s=limit_s)
        else:
            _post_elsewhere(url, body, limit_s)
    except (OSError, ValueError, HTTPException) as error:
        raise _failed(f"{name} hook", str(error) or type(error).__name__) from None


def _post_elsewhere(url: str, body: bytes, limit_s: float) -> None:
    """POST to another host, which may need a proxy. Raises OSError, ValueError, HTTPException."""
    import urllib.request  # noqa: PLC0415 - as above

    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=limit_s):
        pass


def _run(name: str, command: str, limit_s: float, context: Mapping[str, str]) -> None:
    told = {"DYNAMO_ENTRY_CONTEXT": context["path"]} if context else {}
    try:
        started = subprocess.Popen(
            [_SHELL, "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**_ENVIRONMENT, **told}, start_new_session=True,
        )  # fmt: skip
    except (FileNotFoundError, PermissionError) as error:
        raise _failed(f"{name} hook", f"{_SHELL}: {error.strerror}") from None
    with started as process:
        try:
            said = _last_words(process, limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise _failed(f"{name} hook", f"did not end within {limit_s:g} s") from None
            raise
    if process.returncode:
        text = said.decode("utf-8", "replace").strip()
        raise _failed(f"{name} hook", f"exit code {process.returncode}" + (f": {text}" if text else ""))


def _last_words(process: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """Return the end of the shell's output. Raises TimeoutError.

    Background processes that keep the output open are not waited for.
    """
    assert process.stdout is not None
    output, said = process.stdout.fileno(), b""
    os.set_blocking(output, False)
    deadline = time.monotonic() + limit_s
    ended = os.pidfd_open(process.pid)
    try:
        watched = select.poll()
        watched.register(ended, select.POLLIN)
        watched.register(output, select.POLLIN)
        while True:
            ready = [number for number, _ in watched.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if output in ready:
                data = os.read(output, 1 << 16)
                said = (said + data)[-_SAID_BYTES:]
                if not data:
                    watched.unregister(output)
            if ended in ready:
                return said
            if time.monotonic() > deadline:
                raise TimeoutError
    finally:
        os.close(ended)


def _failed(what: str, why: str) -> CheckpointError:
    """Return the error of a hook. ``what`` does not repeat the user's command or URL, which may contain a token."""
    return CheckpointError(
        f"{what} failed: {why}",
        hint="the hook must succeed: fix it, or unset the variable",
        reason="HookFailed",
    )


def _refused(what: str, why: str, *, is_wake: bool) -> CheckpointError:
    """Return the error of an engine that refuses a protocol, which the engine or the archive may have chosen."""
    if is_wake:
        hint = "the engine's log may say why; an archive that was created with PRE_DUMP=none needs no waking"
    else:
        hint = "the engine must offer it, and its log may say why not; PRE_DUMP=none dumps it as it is"
    return CheckpointError(f"{what} failed: {why}", hint=hint, reason="HookFailed")
