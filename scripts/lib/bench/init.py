"""What PID 1 costs: the time to start and end `true` below it, and its memory while the engine runs.

`python3 -I -c pass` is the interpreter alone; tini, dumb-init and catatonit (Debian packages) are for scale.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

NULL = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PYTHON = sys.executable

#: side → how a command is started below it
SIDES = {
    "python3 -I -c pass": lambda _command: [PYTHON, "-I", "-c", "pass"],
    "dynamo_entry": lambda command: [PYTHON, "-m", "dynamo_entry", "--", *command],
    "tini": lambda command: ["tini", "-s", "--", *command],
    "dumb-init": lambda command: ["dumb-init", *command],
    "catatonit": lambda command: ["catatonit", "--", *command],
}


def seconds(argv):
    began = time.perf_counter()
    subprocess.run(argv, check=True, **NULL)
    return time.perf_counter() - began


def idle(argv):
    """Resident MiB and voluntary context switches over five seconds, while the command sleeps."""
    running = subprocess.Popen(argv, **NULL)
    try:
        time.sleep(1)
        before = status(running.pid)
        time.sleep(5)
        after = status(running.pid)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait()
    return int(after["VmRSS"].split()[0]) / 1024, int(after["voluntary_ctxt_switches"]) - int(
        before["voluntary_ctxt_switches"]
    )


def status(pid):
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args()
    sides = {
        name: start
        for name, start in SIDES.items()
        if start is SIDES["dynamo_entry"] or shutil.which(start([])[0])
    }
    runs = {name: [] for name in sides}
    for _ in range(options.rounds):  # in turns, so that whatever else the machine does hits all of them
        for name, start in sides.items():
            runs[name].append(seconds(start(["true"])))
    base = statistics.median(runs["python3 -I -c pass"])
    summary = {}
    print(
        f"{'':22}{'median ms':>10}{'min':>8}{'max':>8}{'over python3':>14}{'RSS MiB':>9}{'wake-ups in 5 s':>17}"
    )
    for name, times in runs.items():
        rss, switches = ("", "")
        if name != "python3 -I -c pass":
            rss, switches = idle(sides[name](["sleep", "60"]))
        median = statistics.median(times)
        summary[name] = {
            "median_s": median,
            "over_python_s": median - base,
            "rss_mib": rss,
            "switches": switches,
        }
        shown = f"{rss:9.1f}{switches:>17}" if rss else ""
        print(
            f"{name:22}{median * 1e3:10.1f}{min(times) * 1e3:8.1f}{max(times) * 1e3:8.1f}{(median - base) * 1e3:14.1f}{shown}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"part": "init", "summary": summary, "runs": runs}, indent=1) + "\n"
        )


if __name__ == "__main__":
    os.chdir("/")
    main()
