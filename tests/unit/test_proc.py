"""What proc(5) tells: whether anything below a process gets anywhere."""

import os
import subprocess
import sys
import time

import pytest

from dynamo_entry.checks import left_behind
from dynamo_entry.linux import proc

WORK = {
    "reads": "open('/dev/zero', 'rb').read(1 << 16)",
    "maps": "import mmap; kept.append(mmap.mmap(-1, 1 << 20))",
    "starts threads": "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "forks": "os.fork() or os.read(0, 1)",
}

SCRIPT = """
import os
kept = []
print("there", flush=True)
os.read(0, 1)
{work}
print("done", flush=True)
os.read(0, 1)
"""


@pytest.mark.parametrize("work", WORK)
def test_steps_change_with_what_is_done_and_with_nothing_else(work):
    with subprocess.Popen(
        [sys.executable, "-uc", SCRIPT.format(work=WORK[work])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            before = _settled()
            process.stdin.write(b"x")
            process.stdin.flush()
            process.stdout.readline()
            assert _settled() != before
        finally:
            process.kill()


def _settled():
    """Once it is asleep, and it stays the same."""
    deadline = time.monotonic() + 10
    while (steps := proc.steps(proc.children(os.getpid()))) != (
        time.sleep(0.05),
        proc.steps(proc.children(os.getpid())),
    )[1]:
        assert time.monotonic() < deadline, "steps of sleeping processes change"
    return steps


@pytest.mark.parametrize("name", [b"model\x0c", b"a\x1c b", "\u2028".encode(), b"\xff\r"])
def test_a_mapped_file_may_have_any_name(tmp_path, name):
    """The kernel ends lines by a newline alone; str.splitlines() at ten others, too."""
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(bytes(8192))
    script = "import mmap, os, sys; m = mmap.mmap(os.open(os.fsencode(sys.argv[1]), 2), 8192); print(m[0], flush=True); os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"0\n"
        assert isinstance(proc.shared_mappings(process.pid), list)
        assert not [
            thing for thing in left_behind.find(proc.tables([process.pid])) if "memory policy" in thing
        ]
        process.stdin.close()


def test_smaps_tells_what_is_shared():
    text = b"""\
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Size:               1024 kB
Shared_Clean:         12 kB
Shared_Dirty:        512 kB
Shared_Hugetlb:        0 kB
VmFlags: rd wr mr mw me ac sd
7f0000100000-7f0000200000 rw-p 00000000 00:00 0                          [heap]
Size:               1024 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Shared_Hugetlb:     2048 kB
VmFlags: rd wr mr mw me ac sd
7f0000200000-7f0000300000 r--p 00000000 08:01 7                          /a file
Size:               1024 kB
Shared_Clean:          4 kB
Shared_Dirty:          0 kB
VmFlags: rd mr mw me sd
"""
    assert proc.parse_shared(text) == [(0x7F0000000000, 0x7F0000100000), (0x7F0000200000, 0x7F0000300000)]
    assert proc.parse_shared(b"") == []


def test_smaps_is_read_as_this_kernel_writes_it():
    """Every mapping and its fields one after another: our libraries are shared with whoever else has them."""
    text = proc.read(os.getpid(), "smaps")
    found, area = [], ""
    for line in text.decode("utf-8", "replace").splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            area = name
        elif name in ("Shared_Clean:", "Shared_Dirty:") and values[0] != "0" and area not in found[-1:]:
            found.append(area)
    assert found
    assert [f"{start:x}-{end:x}" for start, end in proc.parse_shared(text)] == [
        "-".join(f"{int(edge, 16):x}" for edge in area.split("-")) for area in found
    ]
