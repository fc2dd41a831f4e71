"""Decides what to do from the settings and from what is there. Pure: all decisions at start are made here."""

from __future__ import annotations

import os

from dynamo_entry.settings import PREFIX, Settings
from dynamo_entry.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


class Cold(Value):
    """Start the engine. ``reason`` is empty if no checkpoint was requested."""

    reason: str = ""
    message: str = ""


class Create(Value):
    """Start the engine, freeze it once it is ready, and publish the archive at ``location``."""

    location: str


class Restore(Value):
    """Restore the engine from the first of ``sources`` that holds a valid archive."""

    sources: tuple[str, ...]


Plan = Cold | Create | Restore


def local_places(settings: Settings) -> list[str]:
    """Return the local paths that a restore reads from: PATH, which may be a copy, comes before LOCATION."""
    return [
        place for place in dict.fromkeys((settings.path, settings.location)) if place and "://" not in place
    ]


def decide(settings: Settings, *, there: Collection[str] = ()) -> Plan:
    """Decide what the settings ask for, given at which of its ``local_places`` a file may be ``there``."""
    mode = kind(settings)
    if mode == "cold":
        return Cold()
    if mode == "create":
        return Create(settings.location)
    sources = [place for place in local_places(settings) if place in there]
    is_local = "://" not in settings.location
    if settings.location not in sources and (not is_local or settings.wait > 0):
        sources.append(settings.location)
    return Restore(tuple(sources)) if sources else Cold("NotFound", f"no archive at {settings.location}")


def kind(settings: Settings, invalid: frozenset[str] = frozenset()) -> str:
    """Return create, restore or cold; an empty string if nobody can tell because MODE is ``invalid``."""
    if "MODE" in invalid:
        return ""
    if settings.mode == "auto" and "SIGNAL_FILE" in invalid:
        return "create"
    if settings.mode != "auto":
        return settings.mode
    if settings.signal_file:
        return "create"
    return "restore" if settings.path or settings.location else "cold"


#: Keywords and built-ins of the shell that a command or a shell script follows.
_BUILTINS = frozenset(("exec", "eval", "command", "source", "time", "!", "."))


def engine_command(argv: list[str]) -> list[str]:
    """Return the argv to execute: a list as it is, a single string with blanks as a shell command line.

    ``exec`` keeps the shell from staying between the launcher and the engine. A line that is more than one
    simple command cannot be exec'ed and is left to the shell, as is one that begins with a shell built-in.
    """
    if len(argv) != 1 or len(words := argv[0].split()) < 2:
        return argv
    is_compound = any(c in argv[0] for c in ";|&\n(){}`") or "=" in words[0] or words[0] in _BUILTINS
    return ["/bin/sh", "-c", argv[0] if is_compound else f"exec {argv[0]}"]


def environment_changes(
    names: Iterable[bytes],
    settings: Settings,
    *,
    additions: dict[str, str],
    is_create: bool,
    forced: Mapping[str, str | None],
) -> dict[bytes, bytes | None]:
    """Return how the engine's environment differs from the launcher's (``names``); None withholds a variable.

    The engine's memory is part of the archive, so it must not contain what only the launcher needs.
    ``SIGNAL_FILE`` stays in creation mode, because the engine has to know which file to create. An engine
    that is itself a launcher gets a variable that makes it a plain init, and then passes ``SIGNAL_FILE`` on.
    ``additions`` apply where a variable is unset; ``forced`` always applies, and withholds a variable if its
    value is None.
    """
    given = set(names)
    kept = {PREFIX.encode() + b"SIGNAL_FILE"} if is_create or settings.mode == "cold" else set()
    dropped = set(map(os.fsencode, settings.drop_env))
    dropped |= {name for name in given if name.startswith(PREFIX.encode())} - kept
    added = {os.fsencode(name): os.fsencode(text) for name, text in additions.items()}
    return {
        **{name: text for name, text in added.items() if name not in given},
        **dict.fromkeys(
            sorted((dropped | {os.fsencode(name) for name, text in forced.items() if text is None}) & given)
        ),
        **{os.fsencode(name): os.fsencode(text) for name, text in forced.items() if text is not None},
        **({PREFIX.encode() + b"MODE": b"cold"} if is_create else {}),
    }
