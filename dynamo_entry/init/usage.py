"""The launcher's own command line: ``--help``, ``--version``, and mistakes."""

from __future__ import annotations

import os

from dynamo_entry import __version__
from dynamo_entry.init import signals
from dynamo_entry.report import write_line
from dynamo_entry.settings import PREFIX, VARIABLES, Settings

USAGE = """usage: dynamo-entry [--help | --version] [--] COMMAND [ARGUMENT ...]

Starts COMMAND (an inference engine) as a correct init would; creates a checkpoint of it, or restores it
from one, as the environment says. One single argument with blanks is a shell command line."""

EXIT_USAGE = 2

#: The usual exit code of a program that cannot write its output.
EXIT_UNWRITTEN = 1


def answer(arguments: list[str]) -> int:
    """Answer a command line without a command; returns the exit code."""
    signals.ignore(signals.signal.SIGTTOU)  # a background process of a terminal prints, too (stty tostop)
    if arguments[:1] in (["-h"], ["--help"]):
        return _print(USAGE + "\n\nenvironment:\n" + "\n".join(_variables()))
    if arguments[:1] == ["--version"]:
        return _print(f"dynamo-entry {__version__}")
    problem = f"unknown option {arguments[0]!r}" if arguments else "no command given"
    write_line(f"dynamo-entry: {problem}\n{USAGE}")
    return EXIT_USAGE


def _print(text: str) -> int:
    """Write to standard output, in UTF-8 in any locale; returns the exit code."""
    rest = f"{text}\n".encode()
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except BrokenPipeError:  # the user left the pager
        return EXIT_UNWRITTEN
    except OSError as error:
        write_line(f"dynamo-entry: cannot write: {error.strerror}")
        return EXIT_UNWRITTEN
    return 0


def _variables() -> list[str]:
    defaults = Settings()._asdict()
    return [
        f"  {PREFIX}{name:<18}{variable.help}{_shown(defaults[name.lower()])}"
        for name, variable in VARIABLES.items()
    ]


def _shown(default: object) -> str:
    if not default:
        return ""
    if isinstance(default, tuple):
        default = ",".join(default)
    return f" [{default:g}]" if isinstance(default, float | int) else f" [{default}]"
