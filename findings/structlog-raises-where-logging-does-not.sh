#!/usr/bin/env bash
# structlog 26.1.0, as it is imported: a message whose placeholders do not fit its arguments raises, out of the log call.
#
# Expected: the program goes on, as with logging, which prints "--- Logging error ---" to stderr and returns.
# Seen: info("%s: 100%", path) raises ValueError and info("50% of %s", path) TypeError, to the caller. Where the level is filtered
# out nothing is raised, so it is not seen until somebody lowers the level. Without arguments a "%" is kept as it is.
# Who meets it: whoever moves a program from logging to structlog: a log line of an error path replaces the error by its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q structlog==26.1.0
"$folder/venv/bin/python" - 2>"$folder/stderr" <<'PYTHON'
import logging

import structlog

MESSAGES = ("%s: 100%", "50% of %s", "%d bytes")


def outcome(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return type(error).__name__
    return "fine"


logging.basicConfig(level=logging.INFO)
standard = [outcome(logging.info, message, "path") for message in MESSAGES]
log = structlog.get_logger()
raised = [outcome(log.info, message, "path") for message in MESSAGES]
filtering = structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
filtered = [outcome(filtering.info, message, "path") for message in MESSAGES]
print("logging:", standard, "structlog:", raised, "filtered out:", filtered, "no arguments:", outcome(log.info, "100%"))
assert standard == filtered == ["fine"] * 3
assert raised == ["ValueError", "TypeError", "TypeError"], raised
assert outcome(log.info, "100%") == "fine"
PYTHON
[[ $(grep -c -- '--- Logging error ---' "$folder/stderr") == 3 ]]
