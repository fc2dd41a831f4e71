"""The demonstration behind scripts/demo dynamo: a worker behind Dynamo's frontend, cold, restored twice, and restored wrong."""

from __future__ import annotations

import json
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import containers
import real
from containers import CREATE, RESTORE, Container, Containers
from report import IDENTITY, LOCATION, damage, phases, say

#: A cold start on a busy machine takes minutes.
LIMIT_S = 600

_WORKER = real.compiled(real.WORKER)


def demonstrate(directory: Path) -> dict[str, str]:
    containers.LIFE_S = 2 * LIMIT_S
    started = Containers(directory)
    try:
        with containers.network() as network:
            return _Demo(started, network).run()
    except AssertionError as error:
        sys.exit(f"demo: {error}")
    finally:
        started.close()


def _parts(began: datetime, restored_s: float, report: dict[str, Any]) -> str:
    """Where a replica's time to the first answer went."""
    said = datetime.fromisoformat(report["ts"].replace("Z", "+00:00"))
    until_said, launcher = (said - began).total_seconds(), sum(report["seconds"].values())
    return f"pod and launcher start {until_said - launcher:.2f}, restore {launcher:.2f}, until answered {restored_s - until_said:.2f}"


class _Demo:
    def __init__(self, started: Containers, network: str) -> None:
        self._containers = started
        self._network = network
        self._plane = started.start(
            "-c", real.PLANE, image=real.IMAGE, options=("--entrypoint", "sh"), network=network, env=real.DYNAMO_ENV
        )  # fmt: skip
        self._workers = 0

    def run(self) -> dict[str, str]:
        say("dynamo: etcd and the frontend")
        self._plane.wait_for_text("Starting HTTP(S) service", limit_s=LIMIT_S)
        self._address = self._plane.run_inside("hostname", "-I").split()[0]

        say("dynamo: cold start of a worker, without a checkpoint")
        cold = self._worker({})
        cold_s, expected = self._first_answer(cold)
        self._stop(cold)

        say(f"dynamo: creation, with nothing to register with (cold start took {cold_s:.1f} s)")
        creator = self._containers.start(
            *_WORKER, image=real.IMAGE, options=(*CREATE, *real.MEMORY), env=real.DYNAMO_ENV,
            settings={**LOCATION, "MODE": "create"},
        )  # fmt: skip
        if creator.exit_code(LIMIT_S):
            raise AssertionError(creator.output())
        published = creator.event("Checkpoint published") or {}

        say("dynamo: two replicas in new pods")
        began = datetime.now(timezone.utc)
        first = self._worker(LOCATION)
        restored_s, answer = self._first_answer(first)
        second = self._worker(LOCATION)
        both_s = self._until_registered(second, 2)
        report = first.wait_for_event("Restored")
        answers = {self._ask()["choices"][0]["text"] for _ in range(6)}
        for worker in (first, second):
            self._stop(worker)

        say(f"dynamo: a damaged archive (the restore took {restored_s:.1f} s)")
        damage(self._containers.checkpoints / f"{IDENTITY}.tar")
        fallback = self._worker(LOCATION)
        fallback_s, fallback_answer = self._first_answer(fallback)
        line = fallback.wait_for_event("Falling back to cold start")
        print(f"   {line['event']}: {line['message']}")
        self._stop(fallback)

        return {
            "cold: first answer": f"{cold_s:.2f} s",
            "restored: first answer": f"{restored_s:.2f} s, 1/{cold_s / restored_s:.0f}",
            "of that": _parts(began, restored_s, report),
            "second replica: known": f"{both_s:.2f} s",
            "damaged: first answer": f"{fallback_s:.2f} s",
            "archive": f"{published['size_bytes'] / 2**20:.0f} MiB",
            "creation phases": phases(published),
            "restore phases": phases(report),
            "answers identical": "yes" if {expected, answer, fallback_answer} == answers else "NO",
        }

    def _worker(self, settings: dict[str, str]) -> Container:
        """In a pod's network of its own: every replica has the ports that the frozen one had."""
        self._workers += 1
        self._began = time.monotonic()
        return self._containers.start(
            *_WORKER, image=real.IMAGE, options=(*RESTORE, *real.MEMORY), network=self._network, settings=settings,
            env={
                **real.DYNAMO_ENV, "ETCD_ENDPOINTS": f"http://{self._address}:2379", "DYN_SYSTEM_PORT": "9090",
                "POD_UID": f"pod-{self._workers}",
            },
        )  # fmt: skip

    def _ask(self) -> Any:
        return json.loads(self._plane.get("/v1/completions", body=json.dumps(real.COMPLETION).encode()))

    def _first_answer(self, worker: Container) -> tuple[float, str]:
        """Seconds from the worker's start to the first answer through the frontend, and the answer."""

        def asked() -> Any:
            try:
                return self._ask()
            except AssertionError:
                return None

        text = worker.wait(asked, "answer", LIMIT_S)["choices"][0]["text"]
        return time.monotonic() - self._began, text

    def _instances(self) -> int:
        found = self._plane.json("/health")["instances"]
        return len({one["instance_id"] for one in found if one["endpoint"] == "generate"})

    def _until_registered(self, worker: Container, count: int) -> float:
        worker.wait(lambda: self._instances() == count, f"{count} instances", LIMIT_S)
        return time.monotonic() - self._began

    def _stop(self, worker: Container) -> None:
        """By TERM, as a pod is ended: it leaves the frontend by itself."""
        before = self._instances()
        worker.signal(signal.SIGTERM)
        worker.exit_code(LIMIT_S)
        self._plane.wait(lambda: self._instances() < before, "worker that left", LIMIT_S)
