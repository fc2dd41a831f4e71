"""What CRIU made in filesystems before a restore failed is gone before the engine is started cold."""

import shutil

import pytest
from containers import CREATE
from gate import RESTORE_PHASES, begin, hold, kill
from launcher import FALLBACK, NAME, published, restore

#: Sockets on every mount there is, a file that is held open and was deleted on each; a name that is taken ends it.
ENGINE = """
import os, pathlib, socket, sys, time
directories = ["/tmp", "/var/tmp", "/run", "/dev/shm", "/srv", "/volume"]
kept = []
for directory in directories:
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(f"{directory}/engine.sock")
    kept[-1].listen()
    kept.append(open(f"{directory}/deleted", "w+"))
    kept[-1].write("x" * 100_000)
    kept[-1].flush()
    os.unlink(f"{directory}/deleted")
print("bound", flush=True)
pathlib.Path("/tmp/ready").touch()
while True:
    time.sleep(0.2)
    print("serving", flush=True)
"""
COMMAND = ("python3", "-c", ENGINE)
LEFT = "find /tmp /var/tmp /run /dev/shm /srv /volume -mindepth 1 -not -type d -not -path '/run/dynamo_entry*' -not -path '/run/.*'"
OWN = {"engine.sock", "ready"}


@pytest.fixture
def mounted(tmp_path):
    """A directory of the host's as a volume, anew for every container."""

    def mount(name):
        volume = tmp_path / f"volume-{name}"
        volume.mkdir()
        return ("-v", f"{volume}:/volume")

    return mount


@pytest.mark.parametrize("victim", ["criu", "worker", "hangs"])
def test_what_criu_made_is_undone(containers, side_by_side, mounted, victim):
    published(containers, command=COMMAND, options=(*CREATE, *mounted("created")))
    (place,) = side_by_side(victim).values()
    shutil.copy(containers.checkpoints / NAME, place.checkpoints)
    phase = RESTORE_PHASES["rebuilt"]
    container = begin(
        place, restore, phase, mounted("restored"), command=COMMAND, STALL_TIMEOUT="1",
    )  # fmt: skip
    hold(container, place, phase)
    assert "engine.sock" in container.run_inside("ls", "/tmp"), "CRIU made it"
    kill(container, victim)
    container.wait_for_event(FALLBACK, limit_s=30)
    container.wait_for_text("serving", limit_s=10)
    assert container.stdout.count("bound") == 1
    found = {
        line for line in container.run_inside("sh", "-c", LEFT).split() if line.rpartition("/")[2] not in OWN
    }
    assert not found
