"""One timed run after another, in a container of the worker image whose PID 1 this is."""

import contextlib
import http.client
import json
import mmap
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time

ENGINE = ["python3", "/tiny.py"]
WORK = "/work"

#: The pids of an engine begin at 1000: whatever a bench starts itself has to stay below.
FIRST_PID = 100


def touch(size):
    """Touch and free memory: the host takes idle pages back, and the first touch costs ten times the usual."""
    pid = os.fork()
    if pid == 0:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        os._exit(0)
    os.waitpid(pid, 0)


def start_pids_anew():
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(FIRST_PID))


def answers(port=8000):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_until_answering(limit_s=120):
    deadline = time.monotonic() + limit_s
    while not answers():
        if time.monotonic() > deadline:
            raise TimeoutError("the engine does not answer")
        time.sleep(0.002)


def end_everything():
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def cpu_s():
    """Of everything that was reaped so far; the time is read when a trial has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(argv, **options):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} {argv[1]} failed: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    return done.stdout


class Launcher:
    """The launcher in front of the engine, and the lines it logs."""

    def __init__(self, **settings):
        env = {**os.environ, **{f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()}}
        argv = [sys.executable, "-m", "dynamo_entry", "--", *ENGINE]
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.events = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            with contextlib.suppress(ValueError):
                self.events.append(json.loads(line))

    def wait_for(self, name, limit_s=300):
        """The event of this name. Raises where it does not come."""
        deadline = time.monotonic() + limit_s
        while not (found := [event for event in self.events if event["event"] == name]):
            if time.monotonic() > deadline or any("alling back" in event["event"] for event in self.events):
                raise RuntimeError(self.events)
            if self.process.poll():
                raise RuntimeError(self.events)
            time.sleep(0.005)
        return found[0]


def measure(sides, *, rounds, size):
    """Each side in turn, ``rounds`` times: {name: [{"seconds": …, "cpu_s": …, …}]}."""
    found = {name: [] for name in sides}
    for number in range(rounds):
        for name, (prepare, act) in sides.items():
            context = prepare()
            start_pids_anew()
            touch(size + (512 << 20))
            before, began = cpu_s(), time.monotonic()
            more = act(context) or {}
            seconds = more.pop("seconds", time.monotonic() - began)
            end_everything()
            row = {"seconds": round(seconds, 4), "cpu_s": round(cpu_s() - before, 3), **more}
            found[name].append(row)
            print(f"# {number + 1}/{rounds} {name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return found


def summary(rows):
    seconds = sorted(row["seconds"] for row in rows)
    return {
        "median_s": round(statistics.median(seconds), 3),
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "cpu_s": round(statistics.median(row["cpu_s"] for row in rows), 2),
    }
