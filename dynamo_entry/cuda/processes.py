"""Which processes have to do with a GPU, as /proc shows it."""

from __future__ import annotations

import os
from collections.abc import Iterable

#: Device nodes that CRIU cannot dump: of GPUs, of GDRCopy, of RDMA.
_DEVICES = ("/dev/nvidia", "/dev/gdrdrv", "/dev/infiniband/")

_JOB_FILE = b"CUDA_CHECKPOINT_JOB_FILE="


def candidates(pids: Iterable[int]) -> list[int]:
    """Those that may have something for the driver to checkpoint: they have loaded it, or hold a GPU."""
    return [pid for pid in pids if any(map(_is_of_driver, _mapped(pid))) or _held(pid)]


def leftovers(pids: Iterable[int]) -> list[tuple[int, str]]:
    """(pid, device node) of descriptors and mappings that are left although every context is checkpointed."""
    return [(pid, path) for pid in pids for path in _held(pid)]


def job_file(pid: int) -> str:
    """The file that the processes of a ``cuda-checkpoint --launch-job`` share, as other processes reach it."""
    for variable in _read(pid, "environ").split(b"\0"):
        if variable.startswith(_JOB_FILE):
            path = variable[len(_JOB_FILE) :].decode("utf-8", "replace")
            return path.replace("/proc/self/", f"/proc/{pid}/", 1)
    return ""


def resident_bytes(pid: int) -> int:
    """Memory of a process that is not of a file: what a dump has to hold. 0 for one that is gone."""
    fields = dict(line.split(":", 1) for line in _read(pid, "status").decode("utf-8", "replace").splitlines())
    return sum(int(fields.get(name, "0 kB").split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def _is_of_driver(path: str) -> bool:
    return "/libcuda.so" in path or "/libnvidia-ml.so" in path


def _held(pid: int) -> list[str]:
    return sorted(path for path in {*_descriptors(pid), *_mapped(pid)} if path.startswith(_DEVICES))


def _mapped(pid: int) -> set[str]:
    """Files and devices in the address space, from the sixth column of maps."""
    lines = _read(pid, "maps").decode("utf-8", "replace").splitlines()
    return {columns[5] for line in lines if len(columns := line.split(None, 5)) == 6}


def _descriptors(pid: int) -> list[str]:
    found = []
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
            except OSError:
                continue
    except OSError:
        pass
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
