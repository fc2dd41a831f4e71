"""The demonstration behind scripts/demo: cold start, creation, restore, a damaged archive; then a table."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timeline

ENGINE = os.environ["CONTAINER_ENGINE"]
TAG = os.environ.get("DYNAMO_ENTRY_TAG", "latest")
IDENTITY = "d936422b4f953f99"
ARCHIVE = f"/checkpoints/{IDENTITY}.tar"

#: All that the launcher asks of a pod. A dump cannot run under a seccomp profile; a restore can, but
#: Docker's default profile lacks clone3, which podman's and CRI-O's have.
CAPABILITIES = ["--cap-add", "CHECKPOINT_RESTORE", "--cap-add", "SYS_PTRACE"]
UNCONFINED = ["--security-opt", "seccomp=unconfined"]

LIFE_S = 900

EVENT_LIMIT_S = 30


def completion(answer: bytes) -> object:
    """llama-server's answer without its timings."""
    fields = json.loads(answer)
    return {name: fields[name] for name in ("content", "tokens_predicted", "tokens_evaluated")}


REQUESTS = {
    "embed": (
        "/embed",
        {"text": "Reduce cold start times for LLM inference workers."},
        lambda answer: answer,
    ),
    "llama": (
        "/completion",
        {"prompt": "Once upon a time", "n_predict": 24, "temperature": 0, "seed": 1},
        completion,
    ),
}


COMMANDS = {
    "embed": "python3 server.py",
    "llama": "llama-server --model /models/random.gguf --port {port}",
}


def say(text: str) -> None:
    print(f"\033[1m== {text}\033[0m", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Container:
    """One container of an engine's image; its log is shown when something goes wrong."""

    def __init__(
        self, name: str, checkpoints: Path, port: int, settings: dict[str, str], options: list[str]
    ) -> None:
        self.log = Path(checkpoints.parent / f"{time.monotonic_ns()}.log").open("w+b")  # noqa: SIM115 - open for the container's life
        self.name = f"dynamo-entry-demo-{os.getpid()}-{time.monotonic_ns()}"
        variables = {f"DYNAMO_CHECKPOINT_{key}": value for key, value in settings.items()} | {
            "PORT": str(port)
        }
        command = COMMANDS[name].format(port=port).split()
        argv = [
            "timeout",
            "-s",
            "KILL",
            str(LIFE_S),
            ENGINE,
            "run",
            "--rm",
            "--name",
            self.name,
            "--network=host",
        ]
        if ENGINE == "podman":
            argv += [
                "--runtime",
                "runc",
                "--pids-limit=0",
                "--ulimit",
                "nofile=1024:20000",
                "--ulimit",
                "nproc=32768:32768",
            ]
        argv += ["-v", f"{checkpoints}:/checkpoints", *options]
        argv += [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
        self.began = time.monotonic()
        self.port = port
        self.process = subprocess.Popen(
            [*argv, f"localhost/dynamo-entry/{name}:{TAG}", *command],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def first_answer(self, name: str) -> tuple[float, object]:
        """Seconds from the container's start to the first answer, and the answer."""
        path, body, essence = REQUESTS[name]
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                data = response.read()
                if response.status == 200:
                    return time.monotonic() - self.began, essence(data)
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() - self.began > LIFE_S:
                self.fail("the engine does not answer")
            time.sleep(0.02)

    def wait(self) -> None:
        if self.process.wait():
            self.fail("the container failed")

    def text(self) -> str:
        """The log so far; the container writes at this file's own position, which must not move."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def event(self, name: str) -> dict:
        """An engine answers a moment before the launcher says so."""
        deadline = time.monotonic() + EVENT_LIMIT_S
        while True:
            for line in self.text().splitlines(keepends=True):
                if line.startswith("{") and line.endswith("\n") and json.loads(line).get("event") == name:
                    return json.loads(line)
            if time.monotonic() > deadline:
                return self.fail(f"no log line {name!r}")
            time.sleep(0.05)

    def stop(self) -> None:
        subprocess.run([ENGINE, "stop", "-t", "20", self.name], check=False, capture_output=True)
        self.process.wait()

    def fail(self, why: str) -> None:
        sys.stderr.write(self.text())
        self.stop()
        sys.exit(f"demo: {why}")


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def demonstrate(name: str, directory: Path) -> dict[str, str]:
    checkpoints = directory / "checkpoints"
    checkpoints.mkdir()
    location = {"STORAGE_TYPE": "pvc", "LOCATION": ARCHIVE, "PATH": ARCHIVE, "HASH": IDENTITY}
    port = free_port()
    create = {**location, "MODE": "create", "READY_URL": f"http://127.0.0.1:{port}/health"}

    say(f"{name}: cold start, without a checkpoint")
    cold = Container(name, checkpoints, port, {}, CAPABILITIES)
    cold_s, expected = cold.first_answer(name)
    cold.stop()

    say(f"{name}: creation (cold start took {cold_s:.2f} s)")
    creator = Container(name, checkpoints, port, create, [*CAPABILITIES, *UNCONFINED])
    creator.wait()
    published = creator.event("Checkpoint published")
    archive = checkpoints / f"{IDENTITY}.tar"

    say(f"{name}: restore in a new container ({archive.stat().st_size / 2**20:.0f} MiB)")
    restore_options = CAPABILITIES if ENGINE == "podman" else [*CAPABILITIES, *UNCONFINED]
    restored = Container(name, checkpoints, port, location, restore_options)
    restored_s, answer = restored.first_answer(name)
    report = restored.event("Restored")
    restored.stop()

    say(f"{name}: restore from a damaged archive (the restore took {restored_s:.2f} s)")
    damage(archive)
    fallback = Container(name, checkpoints, port, location, restore_options)
    fallback_s, fallback_answer = fallback.first_answer(name)
    line = fallback.event("Falling back to cold start")
    fallback.stop()
    print(f"   {line['event']}: {line['message']}")

    if picture := os.environ.get("TIMELINE"):
        title = f"{name}: from container start to the first answer"
        Path(picture).write_text(timeline.svg(title, cold_s, restored_s, report["seconds"]))
    return {
        "cold: first answer": f"{cold_s:.2f} s",
        "restored: first answer": f"{restored_s:.2f} s",
        "damaged: first answer": f"{fallback_s:.2f} s",
        "archive": f"{published['size_bytes'] / 2**20:.0f} MiB",
        "creation phases": phases(published),
        "restore phases": phases(report),
        "answers identical": "yes" if expected == answer == fallback_answer else "NO",
    }


def phases(event: dict) -> str:
    return ", ".join(
        f"{phase} {seconds:.2f}" for phase, seconds in event["seconds"].items() if seconds >= 0.005
    )


def main() -> None:
    tables = {}
    for name in sys.argv[1:]:
        directory = Path(tempfile.mkdtemp(prefix="dynamo-entry-demo-"))
        try:
            tables[name] = demonstrate(name, directory)
        finally:
            shutil.rmtree(directory)
    for name, table in tables.items():
        say(name)
        for row, value in table.items():
            print(f"   {row:<24}{value}")
    if any(table["answers identical"] != "yes" for table in tables.values()):
        sys.exit("demo: the answers differ")


if __name__ == "__main__":
    main()
