"""Which processes have to do with a GPU, as /proc shows it."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_entry.linux import proc

#: Device nodes that CRIU cannot dump: of GPUs, of GDRCopy, of RDMA.
_DEVICES = ("/dev/nvidia", "/dev/gdrdrv", "/dev/infiniband/")

_JOB_FILE = b"CUDA_CHECKPOINT_JOB_FILE="


def candidates(pids: Iterable[int]) -> list[int]:
    """Those that may have something for the driver to checkpoint: they have loaded it, or hold a GPU."""
    return [pid for pid in pids if any(map(_is_of_driver, proc.mapped_files([pid]))) or _held(pid)]


def leftovers(pids: Iterable[int]) -> list[tuple[int, str]]:
    """(pid, device node) of descriptors and mappings that are left although every context is checkpointed."""
    return [(pid, path) for pid in pids for path in _held(pid)]


def job_file(pid: int) -> str:
    """The file that the processes of a ``cuda-checkpoint --launch-job`` share, as other processes reach it."""
    for variable in proc.read(pid, "environ").split(b"\0"):
        if variable.startswith(_JOB_FILE):
            path = variable[len(_JOB_FILE) :].decode("utf-8", "replace")
            return path.replace("/proc/self/", f"/proc/{pid}/", 1)
    return ""


def _is_of_driver(path: str) -> bool:
    return "/libcuda.so" in path or "/libnvidia-ml.so" in path


def _held(pid: int) -> list[str]:
    return sorted(
        path
        for path in {*proc.descriptors(pid).values(), *proc.mapped_files([pid])}
        if path.startswith(_DEVICES)
    )
