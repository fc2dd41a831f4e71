"""GPU memory through a creation and a restore on this machine's GPUs; one JSON object with what was measured.

The engine is a small program over the CUDA driver API (tests/cuda/gpu_engine.py): it fills device memory with
random bytes, and says their digest before the checkpoint, after it, and after the restore.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import CREATE, ENGINE, RESTORE, WORKER, Container, Containers

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = "/checkpoints/gpu-check.tar"
SETTINGS = {"LOCATION": ARCHIVE, "PATH": ARCHIVE, "STATUS_FILE": "/checkpoints/status"}

#: Loading gigabytes through Python takes a while.
READY_S = 600

#: What hands all GPUs to a container; the libraries come with them.
GPU_OPTIONS = {
    "docker": ["--gpus", "all"],
    "podman": ["--device", "nvidia.com/gpu=all"],
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument(
        "--image", default=WORKER, help="an image with the launcher and python3 (%(default)s)"
    )
    parser.add_argument(
        "--ranks", type=int, default=0, help="processes, one a GPU in turn (as many as there are GPUs)"
    )
    parser.add_argument("--gpu-mib", type=int, default=1024, help="device memory of each (%(default)s)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="OPTION",
        help="option of the container engine that hands out the GPUs, in place of "
        + " ".join(GPU_OPTIONS[ENGINE]),
    )  # fmt: skip
    return parser.parse_args()


class Check:
    """A creation that serves on and a restore, with the same program and the same options."""

    def __init__(self, containers: Containers, wanted: argparse.Namespace) -> None:
        self._containers = containers
        self._wanted = wanted
        canary = {
            "url": "http://127.0.0.1:8000/generate", "body": {"prompt": "gpu-check"}, "compare": ["text"],
            "timeout": READY_S,
        }  # fmt: skip
        (containers.checkpoints / "canary.json").write_text(json.dumps(canary))

    def _start(self, base: tuple[str, ...], settings: dict[str, str]) -> Container:
        env = {
            "RANKS": str(self._wanted.ranks or count_gpus()), "GPU_MIB": str(self._wanted.gpu_mib),
            "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        }  # fmt: skip
        return self._containers.start(
            "python3", "/gpu_engine.py", image=self._wanted.image, env=env, settings={**SETTINGS, **settings},
            options=(*base, *(self._wanted.option or GPU_OPTIONS[ENGINE])),
            volumes=(f"{ROOT}/tests/cuda/gpu_engine.py:/gpu_engine.py:ro",),
        )  # fmt: skip

    def create(self) -> tuple[dict, list[str]]:
        container = self._start(
            CREATE,
            {"SIGNAL_FILE": "/tmp/ready", "AFTER_DUMP": "continue", "CANARY": "/checkpoints/canary.json"},
        )
        published = container.wait_for_event("Checkpoint published", READY_S)
        attached, back = container.event("GPU attached"), container.event("GPU given back")
        if attached is None or back is None:
            raise AssertionError(f"no GPU was used\n{container.output()}")
        digests = container.json("/digest")
        container.json("/work")
        container.kill()
        return {
            "driver": attached["driver"],
            "way": attached["way"],
            "gpus": attached["gpus"],
            "archive_bytes": published["size_bytes"],
            "create": {
                "seconds": published["seconds"],
                "given_back_s": back["seconds"],
                "processes": rows(container, "GPU process checkpointed"),
            },
        }, digests

    def restore(self, expected: list[str]) -> dict:
        began = time.monotonic()
        container = self._start(RESTORE, {"ON_FAILURE": "fail"})
        restored = container.wait_for_event("Restored", READY_S)
        container.json("/health")
        answered_s = round(time.monotonic() - began, 3)
        digests = container.json("/digest")
        works = container.json("/work") == [1] * len(digests)
        container.kill()
        return {
            "restore": {
                "seconds": restored["seconds"],
                "first_answer_s": answered_s,
                "processes": rows(container, "GPU process restored"),
            },
            "identical": digests == expected,
            "works": works,
        }


def rows(container: Container, event: str) -> list[dict]:
    found = [line for line in container.events() if line["event"] == event]
    return [
        {name: value for name, value in line.items() if name not in ("ts", "level", "event")}
        for line in found
    ]


def count_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        sys.exit(
            "gpu-check: no nvidia-smi here: is there an NVIDIA GPU? (--ranks and --option say otherwise)"
        )
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    return max(1, listed.count("\nGPU ") + listed.startswith("GPU "))


def main() -> None:
    wanted = arguments()
    directory = Path(tempfile.mkdtemp(prefix="dynamo-entry-gpu-check-"))
    containers = Containers(directory)
    try:
        check = Check(containers, wanted)
        created, digests = check.create()
        found = check.restore(digests)
    except AssertionError as error:
        sys.exit(f"gpu-check: {error}")
    finally:
        containers.close()
        shutil.rmtree(directory)
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "container_engine": ENGINE}
    print(json.dumps({"gpu_mib": wanted.gpu_mib, "machine": machine, **created, **found}, indent=2))
    if not (found["identical"] and found["works"]):
        sys.exit("gpu-check: what came back is not what was there")


if __name__ == "__main__":
    main()
