"""The demonstration behind scripts/demo, of one container at a time: cold start, creation, restore, a damaged archive; then a table."""

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import demo_dynamo
import real
import timeline
from report import IDENTITY, LOCATION, damage, phases, say

ENGINE = os.environ["CONTAINER_ENGINE"]
TAG = os.environ.get("DYNAMO_ENTRY_TAG", "latest")

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


def completion_text(answer: bytes) -> object:
    """vLLM's answer without its id and time."""
    return json.loads(answer)["choices"][0]["text"]


class Engine(NamedTuple):
    """How one is run and asked; ``essence``: what of an answer must be the same every time."""

    command: str
    path: str
    body: dict[str, object]
    essence: Callable[[bytes], object] = bytes
    env: dict[str, str] = {}  # noqa: RUF012 - never changed
    options: tuple[str, ...] = ()
    #: Whether the request is the canary: it is asked before the freeze, and what it computed is in the archive.
    is_canary: bool = False


#: Reading it is most of the first answer, and what was read is in the archive.
PROMPT = "You are a helpful assistant. " * 20 + "Once upon a time"

ENGINES = {
    "embed": Engine(
        "python3 server.py", "/embed", {"text": "Reduce cold start times for LLM inference workers."}
    ),
    "llama": Engine(
        "llama-server --model /models/random.gguf --parallel 1 --port {port}", "/completion",
        {"prompt": PROMPT, "n_predict": 2, "temperature": 0, "seed": 1}, completion, is_canary=True,
    ),
    "vllm": Engine(
        " ".join((*real.compiled(real.SERVE), "--port", "{port}")), "/v1/completions", real.COMPLETION, completion_text,
        real.SERVE_ENV, real.MEMORY,
    ),
}  # fmt: skip


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
        engine = ENGINES[name]
        own = {"PORT": str(port), **engine.env}
        variables = {f"DYNAMO_CHECKPOINT_{key}": value for key, value in settings.items()} | own
        command = engine.command.format(port=port).split()
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
        argv += ["-v", f"{checkpoints}:/checkpoints", *engine.options, *options]
        argv += [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
        self.began = time.monotonic()
        self.port = port
        self.process = subprocess.Popen(
            [*argv, f"localhost/dynamo-entry/{name}:{TAG}", *command],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def first_answer(self, name: str) -> tuple[float, object]:
        """Seconds from the container's start to the first answer, and the answer."""
        _, path, body, essence, *_ = ENGINES[name]
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


def demonstrate(name: str, directory: Path) -> dict[str, str]:
    checkpoints = directory / "checkpoints"
    checkpoints.mkdir()
    port = free_port()
    create = {**LOCATION, "MODE": "create", "READY_URL": f"http://127.0.0.1:{port}/health"}
    engine = ENGINES[name]
    if engine.is_canary:
        canary = {"url": f"http://127.0.0.1:{port}{engine.path}", "body": engine.body, "compare": ["content"]}
        (checkpoints / "canary.json").write_text(json.dumps(canary))
        create["CANARY"] = "/checkpoints/canary.json"

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
    restored = Container(name, checkpoints, port, LOCATION, restore_options)
    restored_s, answer = restored.first_answer(name)
    report = restored.event("Restored")
    restored.stop()

    say(f"{name}: restore from a damaged archive (the restore took {restored_s:.2f} s)")
    damage(archive)
    fallback = Container(name, checkpoints, port, LOCATION, restore_options)
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


def main() -> None:
    tables = {}
    for name in sys.argv[1:]:
        directory = Path(tempfile.mkdtemp(prefix="dynamo-entry-demo-"))
        try:
            show = demo_dynamo.demonstrate if name == "dynamo" else partial(demonstrate, name)
            tables[name] = show(directory)
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
