#!/usr/bin/env bash
# tenacity 9.2.1: retry_if_not_exception_type(X) also retries when the task is cancelled, and on Ctrl-C and sys.exit().
#
# Expected: as with retry_if_exception_type(), which is about Exception: what ends a task or a program goes through.
# Seen: all that is not an X is retried, CancelledError, KeyboardInterrupt and SystemExit, too. asyncio.wait_for(job(), 0.1)
# ends after 0.6 s with a result instead of TimeoutError; sys.exit(3) is called three times, and then a RetryError.
# retry_unless_exception_type(X) does the same.
# Who meets it: whoever excludes his permanent errors in this way, in a server that cancels requests or is to stop.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tenacity==9.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import signal
import sys

from tenacity import RetryError, retry, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt

attempts = []


def job(condition):
    @retry(retry=condition, stop=stop_after_attempt(3))
    async def attempt():
        attempts.append("job")
        await asyncio.sleep(0.5)
        return "done"

    return attempt()


async def limited(condition):
    try:
        return await asyncio.wait_for(job(condition), 0.1)
    except asyncio.TimeoutError:
        return "TimeoutError"


usual = asyncio.run(limited(retry_if_exception_type(Exception)))
negated = asyncio.run(limited(retry_if_not_exception_type(ValueError)))
print(f"a limit of 0.1 s: usually {usual}, negated {negated}, attempts {len(attempts)}")
assert (usual, negated, len(attempts)) == ("TimeoutError", "done", 3)

for end in (lambda: signal.raise_signal(signal.SIGINT), lambda: sys.exit(3)):
    attempts.clear()

    @retry(retry=retry_if_not_exception_type(ValueError), stop=stop_after_attempt(3))
    def program():
        attempts.append("program")
        end()

    try:
        program()
    except RetryError as error:
        last = error.last_attempt.exception()
        print(f"{type(last).__name__}: RetryError after {len(attempts)} attempts")
    assert len(attempts) == 3, attempts
PYTHON
