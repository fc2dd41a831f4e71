"""PRE_DUMP and POST_RESTORE: a command or a URL that prepares the engine, or wakes it. A hook that fails makes its phase fail."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

from dynamo_entry.engine import protocols, sleep
from dynamo_entry.errors import CheckpointError
from dynamo_entry.linux import proc

#: What poll(2), which waits for commands and for sockets, can count: 24 days.
_LONGEST_S = 0x7FFF_FFFF // 1000

#: The container's own, with the loader's variables, which this process was not given.
_ENVIRONMENT = {**os.environ, **proc.loader_variables(os.getppid())}


def call(
    name: str,
    hook: str,
    limit_s: float,
    context: Mapping[str, str] | None = None,
    commands: Sequence[Sequence[str]] = (),
) -> None:
    """Run a shell command, POST to a URL, or what ``protocols`` knows by name.

    ``context`` is the ``path`` of context.json and the ``activation_id``: a command finds the path in
    DYNAMO_ENTRY_CONTEXT, a URL gets both as JSON. ``commands`` are the command lines of the engine's processes, for
    protocols. Raises CheckpointError unless exit 0 or a 2xx answer.
    """
    if not hook:
        return
    limit_s = min(limit_s, _LONGEST_S)
    if engine := protocols.find(hook):
        try:
            sleep.run(engine, limit_s, commands)
        except (OSError, ValueError) as error:
            raise _failed(f"{name} hook {hook}", str(error)) from None
    elif hook.startswith(("http://", "https://")):
        _post(name, hook, limit_s, context or {})
    else:
        _run(name, hook, limit_s, context or {})


def _post(name: str, url: str, limit_s: float, context: Mapping[str, str]) -> None:
    import urllib.error  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    import urllib.request  # noqa: PLC0415

    body = json.dumps(dict(context)).encode() if context else b""
    headers = {"Content-Type": "application/json"} if context else {}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=limit_s):
            pass
    except (OSError, urllib.error.HTTPError) as error:
        raise _failed(f"{name} hook", str(error)) from None


def _run(name: str, command: str, limit_s: float, context: Mapping[str, str]) -> None:
    told = {"DYNAMO_ENTRY_CONTEXT": context["path"]} if context else {}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**_ENVIRONMENT, **told}, timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _failed(f"{name} hook", f"did not end within {limit_s:g} s") from None
    if done.returncode:
        said = done.stdout[-500:].decode("utf-8", "replace").strip()
        raise _failed(f"{name} hook", f"exit code {done.returncode}" + (f": {said}" if said else ""))


def _failed(what: str, why: str) -> CheckpointError:
    """``what`` has no command and no URL of the user's: a token may be in there."""
    return CheckpointError(
        f"{what} failed: {why}",
        hint="the hook must succeed: fix it, or unset the variable",
        reason="HookFailed",
    )
