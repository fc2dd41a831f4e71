"""A machine with NVIDIA GPUs, without them: the stub driver, and a directory that stands for the hardware."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "stub"
BUILT = HERE.parents[2] / ".build" / "cuda-stub"
ENGINE = HERE / "gpu_engine.py"

H100 = "NVIDIA_H100_80GB_HBM3"


def uuid(number: int) -> str:
    """The UUID of a GPU of a test, as nvidia-smi shows it."""
    return f"GPU-{number:08x}-0000-0000-0000-000000000000"


def header_directory() -> Path:
    """Where NVIDIA's cuda.h is (PyPI: nvidia-cuda-runtime); the newest, if there are several."""
    found = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu[0-9]*/include/cuda.h")
    for path in sorted(found, reverse=True):
        return path.parent
    pytest.skip("needs cuda.h: scripts/test venv")


def build() -> Path:
    """The directory with the stub libraries and program, built when their sources changed."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    sources = sorted(SOURCES.iterdir())
    stamp, wanted = (
        BUILT / "stamp",
        hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(),
    )
    if stamp.exists() and stamp.read_text() == wanted:
        return BUILT
    BUILT.mkdir(parents=True, exist_ok=True)
    library = [SOURCES / f"{name}.c" for name in ("node", "memory", "engine", "process", "nvml")]
    shared = ("-shared", "-fPIC", "-fvisibility=hidden")
    _compile(*shared, *library, "-o", BUILT / "libcuda.so.1", "-lpthread")
    _compile(*shared, "-DWITHOUT_CHECKPOINT_API", *library, "-o", BUILT / "libcuda-old.so.1", "-lpthread")
    _compile(SOURCES / "program.c", SOURCES / "node.c", "-o", BUILT / "cuda-checkpoint", "-ldl")
    shutil.copy(BUILT / "libcuda.so.1", BUILT / "libnvidia-ml.so.1")
    stamp.write_text(wanted)
    return BUILT


def _compile(*arguments: str | Path) -> None:
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{header_directory()}", *arguments], check=True
    )


@dataclass
class Node:
    """The hardware of one machine: change it, break it, read what was asked of it."""

    directory: Path
    driver: str = "580.65.06"
    api: int = 13000
    gpus: tuple[str, ...] = (f"device {uuid(1)[4:]} {H100} 256 0",)
    more: tuple[str, ...] = ()
    has_program: bool = False

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "mem").mkdir(exist_ok=True)
        self.write()

    @property
    def has_checkpoint_api(self) -> bool:
        return self.api >= 12080

    def write(self) -> None:
        lines = (f"driver {self.driver}", f"api {self.api}", *self.more, *self.gpus)
        (self.directory / "config").write_text("\n".join(lines) + "\n")

    def faults(self, *lines: str) -> None:
        """From now on; see stub.h for what a line says."""
        for marker in self.directory.glob("once.*"):
            marker.unlink()
        (self.directory / "faults").write_text("\n".join(lines) + "\n")

    def occupy(self, number: int, mib: int) -> None:
        """Somebody else's memory on a GPU."""
        with (self.directory / "mem" / f"{uuid(number)[4:]}.0.0").open("wb") as file:
            file.truncate(mib << 20)

    def calls(self) -> list[tuple[str, int, int, int]]:
        """(call, pid, rank, result) of every call that reached a process."""
        log = self.directory / "log"
        rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(row[0], int(row[1]), int(row[2]), int(row[3])) for row in rows]

    def actions(self) -> list[tuple[str, int, int]]:
        """(action, rank, result) of every call that changes something."""
        return [
            (call, rank, result) for call, _, rank, result in self.calls() if call not in ("state", "tid")
        ]

    def memory(self, pids: Sequence[int] = ()) -> dict[str, int]:
        """Bytes in use on the GPUs, by UUID; only those of ``pids``, since nobody sweeps after a killed process."""
        found: dict[str, int] = {}
        for path in (self.directory / "mem").iterdir():
            gpu_uuid, pid = path.name.split(".")[:2]
            if not pids or int(pid) in pids:
                found[f"GPU-{gpu_uuid}"] = found.get(f"GPU-{gpu_uuid}", 0) + path.stat().st_size
        return found


def gpu(number: int, *, name: str = H100, mib: int = 256, minor: int | None = None, mig: bool = False) -> str:
    """A line of a node's configuration."""
    return f"device {uuid(number)[4:]} {name} {mib} {number - 1 if minor is None else minor}{' mig' if mig else ''}"
