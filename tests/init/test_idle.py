"""What the launcher costs while the engine runs: nothing but a little memory."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launchers import LAUNCHER
from processes import status, wait_until

#: The goal is none in a minute; scripts/bench init looks for that long.
WINDOW_S = 5

RSS_LIMIT_KIB = 16 << 10


def settled(run):
    """The launcher has nothing to do any more."""
    wait_until(lambda: status(run.engine)["Name"] == "sleep", "engine")
    time.sleep(0.5)
    return run.pid


def switches(pid):
    return int(status(pid)["voluntary_ctxt_switches"]) + int(status(pid)["nonvoluntary_ctxt_switches"])


def test_it_never_wakes_up(start):
    pid = settled(start("sleep", "60"))
    before = switches(pid)
    time.sleep(WINDOW_S)
    assert switches(pid) == before


def test_it_is_small(start):
    pid = settled(start("sleep", "60"))
    assert int(status(pid)["VmRSS"].split()[0]) <= RSS_LIMIT_KIB
    assert status(pid)["Threads"] == "1"


def test_it_holds_a_pipe_to_itself_and_nothing_else(start):
    pid = settled(start("sleep", "60"))
    held = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    extra = {name for number, name in held.items() if number > 2}
    assert len(extra) == 1, held
    assert next(iter(extra)).startswith("pipe:"), held


#: The standard library's part of PID 1, beyond what `python -m` itself has loaded by then.
MODULES = {"__future__", "select", "errno", "_signal"}

#: Of this package, and nothing else: not the two flows with a worker, not what they load.
OURS = {
    "dynamo_entry", "dynamo_entry.errors", "dynamo_entry.init", "dynamo_entry.init.engine",
    "dynamo_entry.init.loop", "dynamo_entry.init.process", "dynamo_entry.init.run", "dynamo_entry.init.signals",
    "dynamo_entry.init.supervisor", "dynamo_entry.init.terminal", "dynamo_entry.init.tree", "dynamo_entry.plan",
    "dynamo_entry.report", "dynamo_entry.settings", "dynamo_entry.value",
}  # fmt: skip

#: Writes down what is imported and opened; Python loads it by itself when it is found.
SPY = """
import atexit, os, sys
opened = []
def spy(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and not isinstance(arguments[0], int):
        opened.append(str(arguments[0]))
    if event == "os.fork":
        said = repr((sorted(sys.modules), opened))
        with open({report!r}, "w") as file:
            file.write(said)
sys.addaudithook(spy)
"""


needs_python = pytest.mark.skipif(not LAUNCHER.python, reason="about a launcher written in Python")


@pytest.fixture
def spied(installed, tmp_path):
    """(modules, files opened) of the launcher at the moment it forks the engine."""

    def run(*python):
        report = tmp_path / "report"
        (tmp_path / "sitecustomize.py").write_text(SPY.format(report=str(report)))
        subprocess.run(
            python, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": f"{installed}:{tmp_path}"},
            check=True, timeout=30,
        )  # fmt: skip
        modules, opened = ast.literal_eval(report.read_text())
        return set(modules), opened

    return run


@needs_python
def test_what_it_imports(spied, tmp_path):
    """As little of the standard library as it can, and nothing else: a cold start is what every fallback comes to."""
    (tmp_path / "nothing_but_a_fork.py").write_text("import os\nif os.fork(): os.wait()\n")
    baseline, _ = spied(sys.executable, "-m", "nothing_but_a_fork")
    modules, _ = spied(*LAUNCHER.group, "true")
    ours = {name for name in modules if name.startswith("dynamo_entry")}
    assert ours == OURS
    subreaper = {name for name in modules if name.split(".")[0] in ("ctypes", "_ctypes", "struct", "_struct")}
    assert modules - baseline - ours - subreaper <= MODULES


@needs_python
def test_what_it_opens(spied):
    """Its own modules, in /proc itself and its variables, and /dev/null in case that 0, 1 or 2 is closed."""
    _, opened = spied(*LAUNCHER.group, "true")
    outside = [
        name for name in opened
        if not name.endswith((".py", ".pyc", ".so", ".pth", ".cfg", ".zip", ".egg-link", ".dist-info"))
        and not Path(name).is_dir()
    ]  # fmt: skip
    assert set(outside) <= {"/proc/self/fd", "/proc/self/environ", "/dev/null"}
