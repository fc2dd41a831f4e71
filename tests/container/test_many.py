"""Many processes with memory of their own: CRIU opens the pages of many before it has read those of the first."""

from containers import CREATE, RESTORE
from launcher import published, restored

#: Each has its own memory, and changed pages of a memfd, of which CRIU reads the other pages first.
ENGINE = """
import mmap, os, pathlib, random, time
for number in range(40):
    if not os.fork():
        own, other = (random.Random(f"{number} {what}").randbytes(3 << 20) for what in ("own", "memfd"))
        memory = os.memfd_create("")
        os.write(memory, other)
        mapped = mmap.mmap(memory, 0, mmap.MAP_PRIVATE)
        mapped[:4] = b"mine"
        while True:
            time.sleep(0.5)
            if own != random.Random(f"{number} own").randbytes(3 << 20) or mapped[:] != b"mine" + other[4:]:
                os._exit(1)
pathlib.Path("/tmp/ready").touch()
while True:
    time.sleep(0.1)
    print("all" if os.waitpid(-1, os.WNOHANG) == (0, 0) else "one is gone", flush=True)
"""


def test_many_processes_come_back_with_their_memory(containers):
    command = ("python3", "-c", ENGINE)
    published(containers, command=command, options=CREATE)
    container = restored(containers, command=command, options=RESTORE)
    before = container.stdout.count("all\n")
    container.wait(lambda: container.stdout.count("all\n") > before + 20, "engine that goes on", 30)
    assert "one is gone" not in container.stdout
