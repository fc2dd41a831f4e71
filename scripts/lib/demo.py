"""The demonstration behind scripts/demo, of one container at a time: cold start, creation, restore, a damaged archive; then a table."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import demo_dynamo
import timeline
from report import IDENTITY, LOCATION, damage, phases, say

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import containers
import real
from containers import CREATE, ENGINE, LEAST, RESTORE, TAG, Container, Containers
from servers.process import free_port

LIFE_S = 900


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


class _Demo:
    """Containers of one engine's image, which answer on one port of the host."""

    def __init__(self, name: str, started: Containers, port: int) -> None:
        self.engine = ENGINES[name]
        self._image = f"localhost/dynamo-entry/{name}:{TAG}"
        self._containers = started
        self._port = port

    def start(self, settings: dict[str, str], options: tuple[str, ...]) -> Container:
        self._began = time.monotonic()
        return self._containers.start(
            *self.engine.command.format(port=self._port).split(), image=self._image, network="host",
            settings=settings, env={"PORT": str(self._port), **self.engine.env}, options=(*self.engine.options, *options),
        )  # fmt: skip

    def first_answer(self, container: Container) -> tuple[float, object]:
        """Seconds from the container's start to the first answer, and the answer."""
        body = json.dumps(self.engine.body)

        def asked() -> tuple[float, bytes] | None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                connection.request("POST", self.engine.path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException):
                return None
            return (time.monotonic() - self._began, data) if response.status == 200 else None

        answered_s, data = container.wait(asked, "answer", LIFE_S)
        return answered_s, self.engine.essence(data)


def stop(container: Container) -> None:
    """By TERM, as a pod is ended."""
    subprocess.run([ENGINE, "stop", "-t", "20", container.name], check=False, capture_output=True)
    container.exit_code()


def demonstrate(name: str, directory: Path) -> dict[str, str]:
    containers.LIFE_S = LIFE_S
    started = Containers(directory)
    try:
        return _demonstrate(name, started)
    except AssertionError as error:
        sys.exit(f"demo: {error}")
    finally:
        started.close()


def _demonstrate(name: str, started: Containers) -> dict[str, str]:
    checkpoints, port = started.checkpoints, free_port()
    demo = _Demo(name, started, port)
    engine = demo.engine
    create = {**LOCATION, "MODE": "create", "READY_URL": f"http://127.0.0.1:{port}/health"}
    if engine.is_canary:
        canary = {"url": f"http://127.0.0.1:{port}{engine.path}", "body": engine.body, "compare": ["content"]}
        (checkpoints / "canary.json").write_text(json.dumps(canary))
        create["CANARY"] = "/checkpoints/canary.json"

    say(f"{name}: cold start, without a checkpoint")
    cold = demo.start({}, LEAST)
    cold_s, expected = demo.first_answer(cold)
    stop(cold)

    say(f"{name}: creation (cold start took {cold_s:.2f} s)")
    creator = demo.start(create, CREATE)
    if creator.exit_code(LIFE_S):
        raise AssertionError(creator.output())
    published = creator.wait_for_event("Checkpoint published")
    archive = checkpoints / f"{IDENTITY}.tar"

    say(f"{name}: restore in a new container ({archive.stat().st_size / 2**20:.0f} MiB)")
    restored = demo.start(LOCATION, RESTORE)
    restored_s, answer = demo.first_answer(restored)
    report = restored.wait_for_event("Restored")
    stop(restored)

    say(f"{name}: restore from a damaged archive (the restore took {restored_s:.2f} s)")
    damage(archive)
    fallback = demo.start(LOCATION, RESTORE)
    fallback_s, fallback_answer = demo.first_answer(fallback)
    line = fallback.wait_for_event("Falling back to cold start")
    stop(fallback)
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
