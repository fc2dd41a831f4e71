"""An engine that wants to die with its parent (PR_SET_PDEATHSIG): its parent is PID 1, before and after."""

import pytest
from containers import CREATE, RESTORE
from launcher import published, restored

ENGINE = """
import ctypes, os, pathlib, sys, time
libc = ctypes.CDLL(None)
child = 0
if sys.argv[1] == "root":
    libc.prctl(1, 9, 0, 0, 0)
if sys.argv[1] == "child" and not (child := os.fork()):
    libc.prctl(1, 9, 0, 0, 0)
    time.sleep(300)
pathlib.Path("/tmp/ready").touch()
while True:
    time.sleep(0.1)
    alive = os.waitpid(child, os.WNOHANG) == (0, 0) if child else True
    print("alive" if alive else "child is gone", flush=True)
"""

COMMANDS = {
    "root": ("python3", "-c", ENGINE, "root"),
    "setpriv": ("setpriv", "--pdeathsig", "TERM", "python3", "-c", ENGINE, "setpriv"),
    "child": ("python3", "-c", ENGINE, "child"),
}


@pytest.mark.parametrize("who", COMMANDS)
def test_an_engine_that_dies_with_its_parent_outlives_the_worker(containers, who):
    published(containers, command=COMMANDS[who], options=CREATE)
    container = restored(containers, command=COMMANDS[who], options=RESTORE)
    before = container.stdout.count("alive\n")
    container.wait(lambda: container.stdout.count("alive\n") > before + 5, "engine that goes on", 10)
    assert "child is gone" not in container.stdout
    assert container.run_inside("grep", "PPid:", "/proc/1000/status").split() == ["PPid:", "1"]
