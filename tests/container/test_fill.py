"""Memory that is filled in parallel is the memory that was: every kind of it, in every process."""

import json
import os
import signal
from pathlib import Path

import pytest
from containers import CREATE, LEAST, ROOT
from gate import RESTORE_PHASES, begin, hold, release
from launcher import create, published, restore, restored

#: By which call private memory is filled → what allows it, or withholds it.
WAYS = {
    "userfaultfd": CREATE,
    "process_vm_writev": (*LEAST, "--security-opt", f"seccomp={ROOT}/images/seccomp/restore.json"),
}

KINDS = {"BALLAST_MIB": "48", "SHARED_MIB": "24", "MEMFD_MIB": "24", "SHM_MIB": "8", "UNLINKED_MIB": "8"}


def created(containers, env, **settings):
    """An archive, and the digests of the memory of the engine that was frozen and goes on."""
    container = create(containers, env=env, settings={"AFTER_DUMP": "continue", **settings})
    container.wait_for_event("Checkpoint published")
    digests = container.json("/state?digest=1")["sha256"]
    container.kill()
    return digests


def pss_mib(container):
    """Proportional set size of everything in the container but its PID 1."""
    total = 0
    for pid in container.processes():
        if pid == container.pid:
            continue
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fill", ["random", "text"])
@pytest.mark.parametrize("children", ["0", "2"])
def test_every_kind_of_memory_comes_back(containers, fill, children, way):
    """Compressible or not, with relatives or without; most of it was filled, not left to CRIU."""
    env = {**KINDS, "BALLAST_FILL": fill, "CHILDREN": children}
    before = created(containers, env)
    container = restored(containers, options=WAYS[way])
    assert container.json("/state?digest=1")["sha256"] == before
    assert container.event("fill").get("way") == (way if children == "0" else None)
    filled = container.event("fill")["bytes"] >> 20
    assert filled >= (100 if children == "0" else 56), container.output()
    assert container.event("restore")["bytes"] >> 20 < (8 if children == "0" else 200)
    ticks = container.json("/state")["ticks"]
    container.wait(
        lambda: (
            all(a > b for a, b in zip(container.json("/state")["ticks"], ticks, strict=True)) or not ticks
        ),
        "children whose own pages are what they wrote",
    )


def test_zero_pages_take_no_memory(containers):
    """They are not written, so they are not there."""
    before = created(containers, {"BALLAST_MIB": "128", "BALLAST_FILL": "zero"})
    container = restored(containers)
    assert pss_mib(container) < 60, "128 MiB of zeros and a small engine"
    assert container.json("/state?digest=1")["sha256"] == before


def test_pages_that_relatives_share_stay_shared(containers):
    """A parent of 96 MiB and three children that changed a little of it, copy on write."""
    env = {"BALLAST_MIB": "96", "CHILDREN": "3"}
    container = create(containers, env=env, settings={"AFTER_DUMP": "continue"})
    container.wait_for_event("Checkpoint published")
    size_mib = next((containers.checkpoints).glob("*.tar")).stat().st_size >> 20
    before = pss_mib(container)
    digests = container.json("/state?digest=1")["sha256"]
    assert size_mib < 1.15 * before, "every page is stored once"
    container.kill()
    container = restored(containers)
    assert pss_mib(container) < 1.05 * before + 10, container.output()
    assert container.json("/state?digest=1")["sha256"] == digests


def test_a_stopped_task_stays_stopped(containers):
    """The tasks go on as they were, not by a SIGCONT."""
    command = ("sh", "-c", "sleep 1000 & sleep 0.5; kill -STOP $!; exec python3 /tiny.py")
    published(containers, command=command, env={"BALLAST_MIB": "8"})
    container = restored(containers, command=command)
    states = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        for pid, line in container.processes().items()
        if line.startswith("sleep")
    ]
    assert states == ["T"]


#: Mappings of every kind that lie side by side, threads, and what their bytes are, again and again.
MAPPINGS = """
import ctypes, hashlib, mmap, os, pathlib, random, threading, time
libc = ctypes.CDLL(None, use_errno=True)
size = 1 << 20
held = mmap.mmap(-1, 16 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write(random.Random(1).randbytes(16 * size))
at = ctypes.addressof(ctypes.c_char.from_buffer(held))
for number in range(0, 16, 4):
    libc.mprotect(ctypes.c_void_p(at + number * size), ctypes.c_size_t(size // 2), 1)
    libc.madvise(ctypes.c_void_p(at + (number + 1) * size), ctypes.c_size_t(size), 14)
libc.mlock(ctypes.c_void_p(at + 2 * size), ctypes.c_size_t(32768))
libc.madvise(ctypes.c_void_p(at + 7 * size), ctypes.c_size_t(size), 4)
fresh = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for _ in range(16):
    threading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)], daemon=True).start()
print("digest", hashlib.sha256(held[:]).hexdigest(), flush=True)
frozen_by = time.monotonic() + 10  # what a child shared would be left to CRIU
pathlib.Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
while True:
    print("digest", hashlib.sha256(held[:]).hexdigest(), flush=True)
    fresh[:] = held[:4 * size]
    fresh = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if time.monotonic() > frozen_by:
        if os.fork() == 0:
            os._exit(hashlib.sha256(fresh[:]).digest() != hashlib.sha256(bytes(4 * size)).digest())
        assert os.wait()[1] == 0
        print("forked", flush=True)
    time.sleep(0.1)
"""


@pytest.mark.parametrize("way", WAYS)
def test_mappings_that_lie_side_by_side_come_back_and_are_ordinary_memory_again(containers, way):
    """Read-only, locked, of huge pages, given back: each is filled in the way that fits, and nothing waits afterwards."""
    command = ("python3", "-c", MAPPINGS)
    creator = published(containers, command=command)
    container = restored(containers, command=command, options=WAYS[way])
    assert container.event("fill")["way"] == way
    container.wait(lambda: container.stdout.count("forked") > 3, "an engine that goes on")
    assert set(container.stdout.split("\n")[:-1]) == {creator.stdout.split("\n")[0], "forked"}


#: A thread that waits with a stack pointer of which the last twelve bits are zero.
ALIGNED = """
import ctypes, hashlib, mmap, os, pathlib, struct, threading, time
held = b"text" * (16 << 20)
wait = {
    "x86_64": bytes.fromhex("4881e400f0ffff" "b822000000" "0f05" "ebf7"),
    "aarch64": struct.pack("<7I", 0x910003E9, 0x9274CD29, 0x9100013F, 0xD2800928, 0xD2800000, 0xD4000001, 0x17FFFFFD),
}[os.uname().machine]
code = mmap.mmap(-1, 4096, prot=7)
code.write(wait)
call = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
threading.Thread(target=call, daemon=True).start()
time.sleep(0.5)
print("held", hashlib.sha256(held).hexdigest(), flush=True)
pathlib.Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
while True:
    time.sleep(0.1)
    print("held", hashlib.sha256(held).hexdigest(), flush=True)
"""


#: Half of its memory is locked.
LOCKED = """
import ctypes, hashlib, mmap, os, pathlib, time
size = 32 << 20
held = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
for one in held:
    one.write(b"text" * (size // 4))
at = ctypes.addressof(ctypes.c_char.from_buffer(held[0]))
assert not ctypes.CDLL(None).mlock(ctypes.c_void_p(at), ctypes.c_size_t(size))
said = lambda: (hashlib.sha256(held[0][:] + held[1][:]).hexdigest(), open("/proc/self/status").read().split("VmLck:")[1].split()[0])
print("held", *said(), flush=True)
pathlib.Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
while True:
    time.sleep(0.1)
    print("held", *said(), flush=True)
"""


@pytest.mark.parametrize("way", WAYS)
def test_locked_memory_is_filled_and_stays_locked(containers, way):
    command, right = ("python3", "-c", LOCKED), ("--cap-add", "IPC_LOCK")
    creator = published(containers, command=command, options=(*CREATE, *right))
    container = restored(containers, command=command, options=(*WAYS[way], *right))
    assert container.event("restore")["bytes"] >> 20 < 8, container.output()
    container.wait_for_text("held ")
    assert set(container.stdout.split("\n")[:-1]) == {creator.stdout.split("\n")[0]}
    assert creator.stdout.split()[2] == str(32 << 10)


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_filled_although_criu_takes_every_page_for_the_stack_of_a_thread(containers, way):
    """CRIU 4.2 and 4.3 compare the wrong bits, and then call no page lazy: one thread of 256 on average is enough."""
    command = ("python3", "-c", ALIGNED)
    creator = published(containers, command=command)
    container = restored(containers, command=command, options=WAYS[way])
    assert container.event("fill").get("way") == way, container.output()
    assert container.event("restore")["bytes"] >> 20 < 8
    container.wait_for_text("held ")
    assert set(container.stdout.split("\n")[:-1]) == {creator.stdout.split("\n")[0]}


#: Says how often its parent was told about it, and it that it goes on.
TOLD = """
import os, pathlib, signal, time
told = {signal.SIGCHLD: 0, signal.SIGCONT: 0}
def count(number, frame):
    told[number] += 1
signal.signal(signal.SIGCHLD, count)
if os.fork() == 0:
    time.sleep(1000)
held = bytearray(200 << 20)
pathlib.Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
while True:
    time.sleep(0.1)
    print("told", told[signal.SIGCHLD], flush=True)
"""


def is_to_stop(pid):
    pending = Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0]
    return int(pending, 16) & 1 << signal.SIGSTOP - 1


def test_tasks_would_stop_if_criu_died_and_nobody_is_told_that_they_did_not(containers):
    """While memory is filled a stop signal is pending; afterwards it is gone without a trace."""
    command = ("python3", "-c", TOLD.replace("bytearray(200 << 20)", "b'text' * (200 << 20)"))
    published(containers, command=command)
    container = begin(containers, restore, RESTORE_PHASES["rebuilt"], command=command, CONCURRENCY="1")
    hold(container, containers, RESTORE_PHASES["rebuilt"])
    tasks = [pid for pid, line in container.processes().items() if line.startswith("python3 -c")]
    assert len(tasks) == 2
    release(containers)
    while not all(map(is_to_stop, tasks)):
        assert not container.event("fill"), "no stop signal is pending while memory is filled"
    container.wait_for_event("Restored")
    container.wait_for_text("told")
    assert "told 1" not in container.stdout


HANDLED = """
import os, pathlib, signal, time
told = []
signal.signal(signal.SIGCONT, lambda *_: told.append(1))
held = bytearray(b'text') * (20 << 20)
pathlib.Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
while True:
    time.sleep(0.1)
    print("told", len(told), flush=True)
"""


def test_a_handler_for_sigcont_is_not_called_by_a_restore(containers):
    """Workers of ai-dynamo 1.0 take it for the word that their GPU is back."""
    command = ("python3", "-c", HANDLED)
    published(containers, command=command)
    container = restored(containers, command=command)
    container.wait_for_text("told")
    assert "told 1" not in container.stdout


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("victim", ["worker", "criu", "root"])
def test_whoever_dies_while_memory_is_filled_costs_a_cold_start(containers, victim, way):
    """And nothing of the half-filled engine is left or was seen running."""
    created(containers, {"BALLAST_MIB": "1000", "BALLAST_FILL": "text"})
    phase = RESTORE_PHASES["rebuilt"]
    container = begin(containers, restore, phase, options=WAYS[way], CONCURRENCY="1")
    hold(container, containers, phase)
    names = {"worker": "dynamo_entry.worker", "criu": "criu restore", "root": "python3 /tiny.py"}
    victims = [
        pid
        for pid, line in container.processes().items()
        if names[victim] in line and "-m dynamo_entry" not in line
    ]
    assert len(victims) == 1, container.processes()
    release(containers)
    container.wait_for_event("restore")
    os.kill(victims[0], signal.SIGKILL)
    event = container.wait_for_event("Falling back to cold start")
    assert event["phase"] == "fill"
    state = container.json("/state")
    container.wait_for_text(state["nonce"])
    assert state["pid"] < 1000
    engines = [line for line in container.processes().values() if line.startswith("python3 /tiny.py")]
    assert len(engines) == 1


@pytest.mark.parametrize("way", WAYS)
def test_damage_that_shows_while_memory_is_filled_costs_a_cold_start(containers, way):
    published(containers, env={"BALLAST_MIB": "64"}, options=CREATE)
    path = next(containers.checkpoints.glob("*.tar"))
    import tarfile

    with tarfile.open(path) as tar:
        last = [member for member in tar if "pages-" in member.name and member.size > 1 << 20][-1]
    with path.open("r+b") as file:
        file.seek(last.offset_data + last.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    container = restore(containers, options=WAYS[way])
    event = container.wait_for_event("Falling back to cold start")
    assert event["reason"] == "ChunkDigestMismatch", json.dumps(event)
    container.wait_for_text(container.json("/state")["nonce"])
