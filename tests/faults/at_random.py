"""PID 1 of a container: starts launchers one after another, kills a part of each at a random moment, and looks what is left.

Prints one line for each round; ends with 1 if anything was not as it should be.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

VERB, SEED, ROUNDS, SCRATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), {*sys.argv[4].split(",")}
LAUNCHER = ["/opt/dynamo_entry/bin/python", "-I", "-m", "dynamo_entry", "--", "python3", "/tiny.py"]
LOG = Path("/checkpoints/log")  # not in a directory that travels
OUTCOMES = {
    "restore": ("Restored", "Falling back"),
    "create": ("Checkpoint published", "Checkpoint not created"),
}[VERB]

#: Part → words of its command line, and for how long after its start it may be killed.
PARTS = {
    "worker": ("dynamo_entry.worker", 1.5),
    "criu": (f"criu {'dump' if VERB == 'create' else 'restore'}", 0.5),
    "launcher": ("-m dynamo_entry --", 2.5),
}

#: An engine in which CRIU ran code of its own when it was killed.
SIGTRAP = 128 + signal.SIGTRAP

ended = {}
chance = random.Random(SEED)


def reap():
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])


def processes():
    """Everything but this one, by pid."""
    reap()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with suppress(OSError):
                found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait(condition, limit_s):
    deadline = time.monotonic() + limit_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def kill_all():
    while found := processes():
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def serves():
    with suppress(OSError, http.client.HTTPException, ValueError):
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read()) == {"status": "ok"}
    return False


def places():
    """Mount points, and files that anybody may have left."""
    find = "find /dev/shm /tmp /var/tmp /run -mindepth 1; find / -xdev '(' -name 'link_remap.*' -o -name '*.cr.*.ghost' ')'"
    done = subprocess.run(["sh", "-c", find], check=False, capture_output=True, text=True)
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return mounts | {line for line in done.stdout.splitlines() if not line.startswith("/proc/")}


def strike(part):
    """Kill it at a random moment after its start; returns whether anything was hit."""
    words, span_s = PARTS[part]
    wait(lambda: any(words in line for line in processes().values()), 20)
    time.sleep(chance.uniform(0, span_s))
    found = [pid for pid, line in processes().items() if words in line]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def is_engine(line):
    return line.startswith("python3 /tiny.py")


def without_launcher():
    """What is wrong after the launcher was killed: its engine serves, or nothing is left."""

    def settled():
        left = [*processes().values()]
        return not left or (len(left) == 1 and is_engine(left[0]) and serves())

    return "" if wait(settled, 30) else f"left: {processes()}"


def with_launcher(launcher, part):
    """What is wrong beside a launcher that goes on: it serves, and ends when it is asked to."""
    told = wait(lambda: [one for one in OUTCOMES if one in LOG.read_text()] or launcher in ended, 60)
    if part == "criu" and f'"engine_code": {SIGTRAP}' in LOG.read_text():
        return "" if wait(lambda: not processes(), 20) else f"left of a dead engine: {processes()}"
    if not told or launcher in ended or not wait(serves, 20):
        return f"does not serve; launcher: {ended.get(launcher, 'there')}"
    if not wait(lambda: all(is_engine(line) or pid == launcher for pid, line in processes().items()), 10):
        return f"beside launcher and engine: {processes()}"
    os.kill(launcher, signal.SIGTERM)
    return "" if wait(lambda: not processes(), 20) else f"left after TERM: {processes()}"


def play(number):
    """One round; returns what was wrong."""
    part = chance.choice([*PARTS])
    with LOG.open("w") as log:
        started = subprocess.Popen(LAUNCHER, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    hit = strike(part)
    is_killed = part == "launcher" and hit
    wrong = without_launcher() if is_killed else with_launcher(started.pid, part)
    kill_all()
    print(number, part, "hit" if hit else "missed", wrong or "ok", flush=True)
    if wrong:
        print(LOG.read_text(), flush=True)
    return wrong


def main():
    before = places()
    wrong = []
    for number in range(ROUNDS):
        wrong.append(play(number))
        Path("/tmp/ready").unlink(missing_ok=True)
        left = {path for path in places() ^ before if Path(path).name not in SCRATCH}
        if left:
            print("left in files:", *sorted(left), flush=True)
            wrong.append("files")
            before = places()
    sys.exit(any(wrong))


main()
