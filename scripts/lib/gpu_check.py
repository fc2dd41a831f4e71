"""GPU memory through creations and restores on this machine's GPUs; one JSON object with what was measured.

The engine is a small program over the CUDA driver API (tests/support/cuda/gpu_engine.py): it fills device memory with
random bytes, runs a kernel on them, and says their digest before the checkpoint, after it, and after the restore.
Each round is a creation whose engine serves on, and a restore in a new container: one process on one GPU; one
process on every GPU; from the first GPU onto another one. A round that fails does not keep the others.
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
from typing import NamedTuple

import containers
from containers import CREATE, ENGINE, MACHINE, RESTORE, WORKER, Container, Containers

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = "/checkpoints/gpu-check.tar"
SETTINGS = {"LOCATION": ARCHIVE, "PATH": ARCHIVE, "STATUS_FILE": "/checkpoints/status"}

#: Loading gigabytes through Python takes a while.
READY_S = 600
containers.LIFE_S = 3 * READY_S

FACTS = """
import json, msgspec
from dynamo_entry.cuda.session import Session
session = Session(lambda: None)
here = session.present()
print(json.dumps(msgspec.to_builtins(here) if here else {"absence": session.absence}))
session.close()
"""


class Round(NamedTuple):
    """Where an engine is created and where it is restored, as positions in the list of GPUs."""

    name: str
    created_on: tuple[int, ...]
    restored_on: tuple[int, ...]
    ranks: int


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument(
        "--image", default=WORKER, help="an image with the launcher and python3 (%(default)s)"
    )
    parser.add_argument(
        "--gpu-mib", type=int, default=1024, help="device memory of each process (%(default)s)"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="OPTION",
        help="option of the container engine that hands out the GPUs, in place of "
        + " ".join(gpu_options((), everything=True)) + "; NVIDIA_VISIBLE_DEVICES says which",
    )  # fmt: skip
    parser.add_argument(
        "--driver-only", action="store_true",
        help="without containers and CRIU: only the driver's calls, on processes of this machine",
    )  # fmt: skip
    return parser.parse_args()


def gpu_options(positions: tuple[int, ...], *, everything: bool) -> list[str]:
    """What hands GPUs to a container; the driver's libraries come with them."""
    if ENGINE == "docker":
        return ["--gpus", "all" if everything else f"device={positions[0]}"]
    names = ["all"] if everything else map(str, positions)
    return [part for name in names for part in ("--device", f"nvidia.com/gpu={name}")]


def rounds(devices: list[dict]) -> list[Round]:
    """What can be tried on these GPUs."""
    every = tuple(range(len(devices)))
    found = [Round("one GPU", every[:1], every[:1], 1)]
    if len(devices) > 1:
        found.append(Round("every GPU", every, every, len(devices)))
    found += [
        Round("another GPU", every[:1], (position,), 1)
        for position in every[1:]
        if devices[position]["name"] == devices[0]["name"]
    ][:1]
    return found


class Check:
    """The rounds, with the same program and the same image."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self._wanted = wanted
        self.devices: list[dict] = []

    def _environment(self, positions: tuple[int, ...]) -> dict[str, str]:
        uuids = [self.devices[position]["uuid"] for position in positions]
        return {
            "NVIDIA_VISIBLE_DEVICES": ",".join(uuids) or "all",
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        }

    def _options(self, positions: tuple[int, ...]) -> list[str]:
        everything = len(positions) == len(self.devices)
        return self._wanted.option or gpu_options(positions, everything=everything)

    def facts(self) -> dict:
        """Driver and devices as a container sees them. Ends the program where there are none."""
        environment = [f"--env={name}={value}" for name, value in self._environment(()).items()]
        argv = [
            ENGINE, "run", "--rm", *MACHINE, *(("--runtime", "runc") if ENGINE == "podman" else ()), *CREATE,
            *environment, *self._options(()), "--entrypoint", "/opt/dynamo_entry/bin/python",
            self._wanted.image, "-c", FACTS,
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=READY_S, check=False)
        if done.returncode:
            sys.exit(
                f"gpu-check: no container with GPUs can be started: {done.stderr.strip()[-2000:]}\n"
                "Is there an NVIDIA GPU, and nvidia-container-toolkit? Podman needs a CDI specification: "
                "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml. --option says how GPUs are handed out here "
                "otherwise, --driver-only does without containers."
            )
        found: dict = json.loads(done.stdout.splitlines()[-1])
        if absence := found.get("absence"):
            sys.exit(f"gpu-check: {absence}")
        if not found["way"]:
            sys.exit(
                f"gpu-check: driver {found['driver']} cannot checkpoint processes: 570 or newer is needed"
            )
        self.devices = found["devices"]
        return found

    def run(self, this: Round, parent: Path) -> dict:
        """One round: what was measured, or what went wrong and where its logs are."""
        directory = parent / this.name.replace(" ", "-")
        directory.mkdir()
        containers = Containers(directory)
        print(f"gpu-check: {this.name} …", file=sys.stderr, flush=True)
        said = {
            "name": this.name,
            "created_on": [self.devices[position]["uuid"] for position in this.created_on],
            "restored_on": [self.devices[position]["uuid"] for position in this.restored_on],
        }
        try:
            created, digests = self._create(containers, this)
            said |= created
            said |= self._restore(containers, this, digests)
            said["ok"] = said["identical"] and said["works"]
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            said |= {"ok": False, "error": str(error)[-4000:]}
        finally:
            containers.close()
        if not said["ok"]:
            (directory / "checkpoints" / "gpu-check.tar").unlink(missing_ok=True)
            said["logs"] = str(directory)
        return said

    def _start(self, containers: Containers, this: Round, base: tuple[str, ...], settings: dict) -> Container:
        positions = this.created_on if base is CREATE else this.restored_on
        sizes = {"RANKS": str(this.ranks), "GPU_MIB": str(self._wanted.gpu_mib)}
        return containers.start(
            "python3", "/gpu_engine.py", image=self._wanted.image, env=self._environment(positions) | sizes,
            settings={**SETTINGS, **settings}, options=(*base, *self._options(positions)),
            volumes=(f"{ROOT}/tests/support/cuda/gpu_engine.py:/gpu_engine.py:ro",),
        )  # fmt: skip

    def _create(self, containers: Containers, this: Round) -> tuple[dict, list[str]]:
        canary = {
            "url": "http://127.0.0.1:8000/generate", "body": {"prompt": "gpu-check"}, "compare": ["text"],
            "timeout": READY_S,
        }  # fmt: skip
        (containers.checkpoints / "canary.json").write_text(json.dumps(canary))
        settings = {
            "SIGNAL_FILE": "/tmp/ready", "AFTER_DUMP": "continue", "CANARY": "/checkpoints/canary.json"
        }  # fmt: skip
        container = self._start(containers, this, CREATE, settings)
        published = outcome(container, "Checkpoint published", "Checkpoint not created")
        back = container.event("GPU given back")
        if back is None:
            raise AssertionError(f"no GPU was used\n{container.output()}")
        digests = container.json("/digest")
        works = container.json("/work") == [1] * this.ranks
        container.kill()
        return {
            "archive_bytes": published["size_bytes"],
            "create": {
                "seconds": published["seconds"],
                "given_back_s": back["seconds"],
                "works_on": works,
                "processes": rows(container, "GPU process checkpointed"),
            },
        }, digests

    def _restore(self, containers: Containers, this: Round, expected: list[str]) -> dict:
        began = time.monotonic()
        container = self._start(containers, this, RESTORE, {"ON_FAILURE": "fail"})
        restored = outcome(container, "Restored", "Restore failed")
        container.json("/health")
        answered_s = round(time.monotonic() - began, 3)
        digests = container.json("/digest")
        works = container.json("/work") == [1] * this.ranks
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


def outcome(container: Container, good: str, bad: str) -> dict:
    """The event that was hoped for. Raises AssertionError with the reason of the other one."""
    found: dict = container.wait(lambda: container.event(good) or container.event(bad), good, READY_S)
    if found["event"] == bad:
        raise AssertionError(f"{found['reason']} in phase {found['phase']}: {found['message']}")
    return found


def rows(container: Container, event: str) -> list[dict]:
    found = [line for line in container.events() if line["event"] == event]
    return [
        {name: value for name, value in line.items() if name not in ("ts", "level", "event")}
        for line in found
    ]


def main() -> None:
    wanted = arguments()
    check = Check(wanted)
    facts = check.facts()
    directory = Path(tempfile.mkdtemp(prefix="dynamo-entry-gpu-check-"))
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "container_engine": ENGINE}
    done = [check.run(this, directory) for this in rounds(check.devices)]
    print(json.dumps({"machine": machine, **facts, "gpu_mib": wanted.gpu_mib, "rounds": done}, indent=2))
    if all(this["ok"] for this in done):
        shutil.rmtree(directory)
        print("gpu-check: all is well; the JSON is what to report", file=sys.stderr)
        return
    failed = ", ".join(this["name"] for this in done if not this["ok"])
    sys.exit(f"gpu-check: failed: {failed}; report the JSON and {directory}")


if __name__ == "__main__":
    main()
