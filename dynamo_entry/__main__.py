"""``python -m dynamo_entry -- COMMAND ARGS…``: the entrypoint of a worker image."""

import os
import sys

# ruff: noqa: PLC0415 - what is imported when is what this file is about


def main() -> None:
    """Parse the command line, run the engine, exit with its status."""
    _forget_engines_directories()
    from dynamo_entry.init import process
    from dynamo_entry.init.loop import Loop

    process.occupy_closed()
    loop = Loop()  # first of all: from here on no signal is lost

    arguments = sys.argv[1:]
    has_options = bool(arguments) and arguments[0].startswith("-") and arguments[0] != "--"
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if has_options or not command:
        from dynamo_entry.init import usage

        sys.exit(usage.answer(command))

    from dynamo_entry.init import run

    # Nothing is buffered, and a closed stdout must not turn the engine's status into 120.
    os._exit(run.launch(loop, command))


def _forget_engines_directories() -> None:
    """Drop the working directory and PYTHONPATH, which come first without ``-I``: they may shadow PID 1's modules."""
    if sys.flags.isolated:
        return
    theirs = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    try:
        theirs |= {"", os.getcwd()}
    except OSError:  # deleted
        theirs.add("")
    sys.path[:] = [
        path for path in sys.path if path not in theirs or os.path.isdir(os.path.join(path, "dynamo_entry"))
    ]


if __name__ == "__main__":
    main()
