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

    def __init__(self, python=sys.executable, **settings):
        env = {**os.environ, **{f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()}}
        argv = [python, "-I", "-m", "dynamo_entry", "--", *ENGINE]
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


def measure(sides, *, rounds, size, inputs=()):
    """Each side in turn, ``rounds`` times: {name: [{"seconds": …, "cpu_s": …, …}]}.

    With COLD set, ``inputs`` (files and directories) are not in the page cache when a trial begins.
    """
    found = {name: [] for name in sides}
    for number in range(rounds):
        for name, (prepare, act) in sides.items():
            context = prepare()
            start_pids_anew()
            is_cold = int(os.environ["COLD"])
            touch((1 + is_cold) * size + (512 << 20))  # for the page cache, too
            if is_cold:
                evict(inputs)
            before, began = cpu_s(), time.monotonic()
            more = act(context) or {}
            seconds = more.pop("seconds", time.monotonic() - began)
            end_everything()
            row = {"seconds": round(seconds, 4), "cpu_s": round(cpu_s() - before, 3), **more}
            found[name].append(row)
            print(f"# {number + 1}/{rounds} {name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return found


def footprints(sides, inputs=()):
    """What each side reads and takes, in a trial more that is not timed: {name: {"read_mib": …, "disk_mib": …}}.

    Read is what came from disks (``inputs`` are not in the page cache) and over the network; the disk is the most
    that it had in use beyond what it began with.
    """
    found = {}
    for name, (prepare, act) in sides.items():
        context = prepare()
        start_pids_anew()
        evict(inputs)
        before = read_bytes()
        with Watched() as disk:
            act(context)
        found[name] = {"read_mib": read_bytes() - before >> 20, "disk_mib": disk.most >> 20}
        end_everything()
    return found


def evict(inputs):
    for top in inputs:
        files = (
            [top]
            if os.path.isfile(top)
            else [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]
        )
        for path in files:
            with open(path, "rb") as file:
                os.fdatasync(file)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes():
    """From every disk (Documentation/admin-guide/iostats.rst: sectors of 512 bytes) and network device."""
    with open("/proc/diskstats") as file:
        disks = [line.split() for line in file]
    with open("/proc/net/dev") as file:
        received = [int(line.split(":")[1].split()[0]) for line in file if ":" in line]
    return sum(512 * int(fields[5]) for fields in disks if os.path.exists(f"/sys/block/{fields[2]}")) + sum(
        received
    )


class Watched(threading.Thread):
    """How much more of WORK's disk is in use, at most, than in the beginning."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0
        self._over = threading.Event()

    def __enter__(self):
        self._before = self._used()
        self.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self.join()

    def run(self):
        while not self._over.wait(0.02):
            self.most = max(self.most, self._used() - self._before)

    @staticmethod
    def _used():
        status = os.statvfs(WORK)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


def summary(rows):
    seconds = sorted(row["seconds"] for row in rows)
    return {
        "median_s": round(statistics.median(seconds), 3),
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "cpu_s": round(statistics.median(row["cpu_s"] for row in rows), 2),
    }
