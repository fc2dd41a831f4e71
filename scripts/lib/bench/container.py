"""Runs a bench inside a container of the worker image, on a directory of its own, and reports what it found."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ENGINE = os.environ.get("CONTAINER_ENGINE", "podman")
IMAGE = f"localhost/dynamo-entry/worker:{os.environ.get('DYNAMO_ENTRY_TAG', 'latest')}"
LIFE_S = 3600

RIGHTS = (
    "--cap-add", "CHECKPOINT_RESTORE", "--cap-add", "SYS_PTRACE",
    "--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL",
)  # fmt: skip

MEMORY = {"private": "BALLAST_MIB", "shared": "SHARED_MIB", "memfd": "MEMFD_MIB", "unlinked": "UNLINKED_MIB"}


def parser(description, sides):
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--size", type=int, default=1024, metavar="MIB", help="memory that the engine holds (1024)"
    )
    made.add_argument("--memory", choices=MEMORY, default="private", help="what kind of memory (private)")
    made.add_argument("--content", choices=("random", "half", "text", "zero"), default="random")
    made.add_argument("--children", type=int, default=0, help="processes that share it copy on write (0)")
    made.add_argument("--processes", type=int, default=1, help="processes among which it is divided (1)")
    made.add_argument("--mappings", type=int, default=0, help="mappings of a page in every process (0)")
    made.add_argument("--files", type=int, default=0, help="files that it has written (0)")
    made.add_argument("--compression", default="auto")
    made.add_argument("--concurrency", type=int, default=0, help="threads (one a core)")
    made.add_argument("--cold", action="store_true", help="what is read is not in the page cache")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--sides", default=sides, help=f"comma-separated ({sides})")
    made.add_argument(
        "--baseline", default="", metavar="REF", help="a side more: the launcher of that commit"
    )
    made.add_argument("--directory", default="/var/tmp", help="where archives and images go")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return made


def with_peers():
    """Builds the image for the sides ``podman`` and ``criu+zstd``; returns its name."""
    name = IMAGE.replace("/worker:", "/bench-peers:")
    file = Path(__file__).with_name("Containerfile.peers")
    extra = ("--isolation=chroot", "--network=host") if ENGINE == "podman" else ()
    subprocess.run(
        [ENGINE, "build", "-q", *extra, "--build-arg", f"WORKER={IMAGE}", "-f", file, "-t", name, file.parent],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return name


def source_of(reference):
    """A directory with the package as it was in that commit."""
    git = ["git", "-C", ROOT]
    commit = subprocess.run(
        [*git, "rev-parse", f"{reference}^{{commit}}"], check=True, stdout=subprocess.PIPE, text=True
    )
    target = ROOT / ".build/baseline" / commit.stdout.strip()
    if not target.exists():
        packed = subprocess.run(
            [*git, "archive", target.name, "dynamo_entry"], check=True, stdout=subprocess.PIPE
        )
        target.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", target], input=packed.stdout, check=True)
    return target


def run(part, options, *arguments):
    """Run inside/PART.py, with more ``arguments`` for the container; returns what it printed, with the options."""
    subprocess.run([ROOT / "scripts/image", "worker"], check=True, stdout=sys.stderr)
    if options.baseline:
        options.sides += ",baseline"
        arguments = *(arguments or ["--network=none"]), "-v", f"{source_of(options.baseline)}:/baseline:ro"
    sides = set(options.sides.split(","))
    image = with_peers() if sides & {"podman", "criu+zstd"} else IMAGE
    rights = ("--privileged",) if "podman" in sides else RIGHTS
    work = Path(tempfile.mkdtemp(prefix="dynamo-entry-bench-", dir=options.directory))
    shm_size = f"{options.size + 64}m"
    variables = {
        "SIZE_MIB": options.size, "ROUNDS": options.rounds, "SIDES": options.sides,
        "COMPRESSION": options.compression, MEMORY[options.memory]: options.size, "BALLAST_FILL": options.content,
        "COLD": int(options.cold), "CHILDREN": options.children, "PROCESSES": options.processes,
        "MAPPINGS": options.mappings, "WRITTEN": options.files, "DYNAMO_CHECKPOINT_CONCURRENCY": options.concurrency,
        "DYNAMO_CHECKPOINT_LOG_FORMAT": "json", "SHM_SIZE": shm_size,
    }  # fmt: skip
    argv = [
        "timeout", "-s", "KILL", str(LIFE_S + 30), ENGINE, "run", "--rm", "--name", work.name, "--pids-limit=0",
        *(arguments or ["--network=none"]),
        *(("--runtime", "runc", f"--timeout={LIFE_S}", "--ulimit", "nofile=1024:20000", "--ulimit", "nproc=32768:32768")
          if ENGINE == "podman" else ()),
        *rights, "--shm-size", shm_size,
        "-v", f"{work}:/work", "-v", f"{ROOT}/scripts/lib/bench/inside:/bench:ro",
        "-v", f"{ROOT}/images/engines/tiny/engine.py:/tiny.py:ro",
        *(word for name, value in variables.items() for word in ("-e", f"{name}={value}")),
        "--entrypoint", "/opt/dynamo_entry/bin/python", image, f"/bench/{part}.py",
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    finally:
        # Whatever ended the client did not end the container.
        subprocess.run([ENGINE, "rm", "-f", work.name], capture_output=True, timeout=60, check=False)
        shutil.rmtree(work)
    asked = {name: value for name, value in vars(options).items() if name not in ("json", "directory")}
    found = {"part": part, "options": asked, **json.loads(done.stdout)}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found, base):
    """A line a side, with its ratio to ``base``'s median."""
    of_base = found["summary"].get(base, {}).get("median_s")
    ratio = f"{base} = {'1' if of_base else '-'}"
    print(f"{'':14}{'median':>9}{'min':>8}{'max':>8}{'cpu s':>8}{'read':>9}{'disk MiB':>9}   {ratio}")
    for name, row in found["summary"].items():
        ratio = f"{row['median_s'] / of_base:.2f}" if of_base else ""
        print(
            f"{name:14}{row['median_s']:9.3f}{row['min_s']:8.3f}{row['max_s']:8.3f}{row['cpu_s']:8.2f}"
            f"{row['read_mib']:9}{row['disk_mib']:9}   {ratio}"
        )
