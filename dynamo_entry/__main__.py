"""``python -m dynamo_entry -- COMMAND ARGS…``: the entrypoint of a worker image."""

from __future__ import annotations

import os
import sys

if (
    sys.path
    and sys.path[0] in ("", os.getcwd())
    and not os.path.isdir(os.path.join(sys.path[0], "dynamo_entry"))
):
    del sys.path[0]  # `python -m` put it there: the engine's directory must not shadow a module of PID 1

from dynamo_entry.init.loop import Loop

USAGE = """usage: dynamo-entry [--help | --version] [--] COMMAND [ARGUMENT ...]

Starts COMMAND (an inference engine) as a correct init would; creates a checkpoint of it, or restores it
from one, as the environment says. One single argument with blanks is a shell command line."""


def main() -> None:
    """Parse the command line, run the engine, exit with its status."""
    loop = Loop()  # first of all: from here on no signal is lost
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        _help()
    if arguments and arguments[0] == "--version":
        from dynamo_entry import __version__  # noqa: PLC0415

        print(f"dynamo-entry {__version__}")
        sys.exit(0)
    if arguments and arguments[0] == "--":
        del arguments[0]
    elif arguments and arguments[0].startswith("-"):
        _usage_error(f"unknown option {arguments[0]!r}")
    if not arguments:
        _usage_error("no command given")

    from dynamo_entry.init import run  # noqa: PLC0415

    code = run.launch(loop, arguments)
    os._exit(code)  # nothing is buffered, and a closed stdout must not turn the engine's status into 120


def _usage_error(problem: str) -> None:
    sys.stderr.write(f"dynamo-entry: {problem}\n{USAGE}\n")
    sys.exit(2)


def _help() -> None:
    from dynamo_entry.settings import PREFIX, VARIABLES, Settings  # noqa: PLC0415

    print(USAGE + "\n\nenvironment:")
    defaults = Settings()._asdict()
    for name, variable in VARIABLES.items():
        default = defaults[name.lower()]
        shown = (
            f" [{default:g}]"
            if isinstance(default, float | int) and default
            else f" [{default}]"
            if default
            else ""
        )
        print(f"  {PREFIX}{name:<18}{variable.help}{shown}")
    sys.exit(0)


if __name__ == "__main__":
    main()
