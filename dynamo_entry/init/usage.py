"""What the command line has besides the engine's command: ``--help``, ``--version``, and mistakes."""

from __future__ import annotations

from dynamo_entry import __version__
from dynamo_entry.init import signals
from dynamo_entry.report import write_line
from dynamo_entry.settings import PREFIX, VARIABLES, Settings

USAGE = """usage: dynamo-entry [--help | --version] [--] COMMAND [ARGUMENT ...]

Starts COMMAND (an inference engine) as a correct init would; creates a checkpoint of it, or restores it
from one, as the environment says. One single argument with blanks is a shell command line."""

EXIT_USAGE = 2


def answer(arguments: list[str]) -> int:
    """Answer a command line without a command; returns the exit code."""
    signals.ignore(signals.signal.SIGTTOU)  # in the background of a terminal, too (stty tostop)
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE + "\n\nenvironment:\n" + "\n".join(_variables()))
        return 0
    if arguments[:1] == ["--version"]:
        print(f"dynamo-entry {__version__}")
        return 0
    problem = f"unknown option {arguments[0]!r}" if arguments else "no command given"
    write_line(f"dynamo-entry: {problem}\n{USAGE}")
    return EXIT_USAGE


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
