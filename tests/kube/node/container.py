"""One container of a pod through all its restarts, and what a kubelet would say of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from node import probes, spec
from node.network import run
from node.spec import Object, Place, Refused
from node.volumes import NotYet

#: A kubelet begins with 10 s and ends with 5 min; tests have less time.
BACKOFF_S = (1, 2, 4, 8)

#: What any container lives at most.
LIFE_S = 1800

_RETRY_S = 1.0


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """``run`` returns when the container has ended for good."""

    def __init__(self, pod: Any, definition: Object, *, is_init: bool = False) -> None:
        self._pod = pod
        self.definition = definition
        self.name: str = definition["name"]
        self._is_init = is_init
        self.podman_name = f"k8s-{pod.uid[:13]}-{self.name}"
        self._directory: Path = pod.directory / "containers" / self.name
        self._directory.mkdir(parents=True)
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.is_started = self.is_ready = False
        self._image_id = self._container_id = ""
        self._stopping = asyncio.Event()
        self.changed: Callable[[], None] = pod.changed

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        return self.state.get("terminated", {}).get("exitCode")

    def log(self, *, previous: bool = False) -> Path:
        return self._directory / f"{self.restarts - (1 if previous else 0)}.log"

    def status(self) -> Object:
        """The ContainerStatus."""
        found = {
            "name": self.name, "image": self.definition["image"], "imageID": self._image_id,
            "containerID": self._container_id, "restartCount": self.restarts, "state": self.state,
            "lastState": self.last_state,
            "ready": self.exit_code == 0 if self._is_init else self.is_ready,
        }  # fmt: skip
        return found if self._is_init else found | {"started": self.is_started}

    def _set(self, kind: str, **fields: Any) -> None:
        self.state = {kind: fields}
        self.changed()

    def _wait(self, reason: str, message: str = "") -> None:
        if self.state.get("waiting", {}).get("reason") != reason:
            self._set("waiting", reason=reason, **({"message": message} if message else {}))

    async def run(self, policy: str) -> None:
        """Start, and start again as ``policy`` (Always, OnFailure, Never) says."""
        while not self._stopping.is_set():
            await self._once()
            if (
                self._stopping.is_set()
                or policy == "Never"
                or (policy == "OnFailure" and self.exit_code == 0)
            ):
                return
            self.last_state = self.state
            delay = BACKOFF_S[min(self.restarts, len(BACKOFF_S) - 1)]
            self._wait("CrashLoopBackOff", f"back-off {delay}s restarting failed container")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                self.state = self.last_state
                return
            self.restarts += 1

    async def _once(self) -> None:
        started = now()
        place = await self._prepare()
        if place is None:
            return
        argv = spec.podman(self._pod.object, self.definition, place)
        with self.log().open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        watchers: list[asyncio.Task[None]] = []
        ended = asyncio.create_task(process.wait())
        while not ended.done() and not Path(place.pidfile).exists():  # noqa: ASYNC110 - podman writes it
            await asyncio.sleep(0.02)
        has_run = Path(place.pidfile).exists()
        if has_run and not ended.done():
            started = now()
            self._container_id = f"podman://{self.podman_name}"
            self.is_started = "startupProbe" not in self.definition
            self.is_ready = self.is_started and "readinessProbe" not in self.definition
            self._set("running", startedAt=started)
            watchers = [asyncio.create_task(probes.watch(self, self._pod.ip))]
        code = await ended
        for watcher in watchers:
            watcher.cancel()
        self.is_started = self.is_ready = False
        self._set("terminated", **self._ending(code, has_run, place), startedAt=started, finishedAt=now())

    async def _prepare(self) -> Place | None:
        """All that a start needs, waited for; None when the pod is stopped meanwhile."""
        while not self._stopping.is_set():
            try:
                return await self._place()
            except NotYet as problem:
                self._wait("CreateContainerConfigError", str(problem))
            except Refused as problem:
                self._wait("CreateContainerError", str(problem))
            except LookupError:
                self._wait(
                    "ErrImagePull", f"image {self._pod.image(self.definition['image'])!r} is not on this node"
                )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY_S)
        return None

    async def _place(self) -> Place:
        image = self._pod.image(self.definition["image"])
        try:
            found = json.loads(await run("podman", "image", "inspect", image))[0]
        except RuntimeError:
            raise LookupError(image) from None
        self._image_id = f"sha256:{found['Id']}"
        context = self._pod.object["spec"].get("securityContext", {})
        if problem := spec.may_start(self.definition, context, found.get("User", "")):
            raise NotYet(problem)
        env = await self._pod.volumes.environment(self.definition, self._pod.service_env)
        pidfile = self._directory / f"{self.restarts}.pid"
        termination = self._directory / f"{self.restarts}.termination"
        termination.touch()
        termination.chmod(0o666)
        return Place(
            name=self.podman_name, image=image, namespace_path=f"/run/netns/{self._pod.netns}",
            pod_ip=self._pod.ip, pidfile=str(pidfile), termination_log=str(termination), life_s=LIFE_S, env=env,
            mounts=self._pod.volumes.mounts(self.definition, dict(env)),
        )  # fmt: skip

    def _ending(self, code: int, has_run: bool, place: Place) -> Object:
        log = self.log().read_bytes()
        message = Path(place.termination_log).read_bytes()[:4096]
        if not has_run:  # the runtime could not start it; containerd says it this way
            return {"exitCode": 128, "reason": "StartError", "message": log[-1024:].decode(errors="replace")}
        if (
            not message
            and code
            and self.definition.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        ):
            message = b"".join(log[-2048:].splitlines(keepends=True)[-80:])
        fields: Object = {"exitCode": code, "reason": "Error" if code else "Completed"}
        if message:
            fields["message"] = message.decode(errors="replace")
        return fields

    async def exec(self, *argv: str) -> int:
        """A command's exit code, for probes."""
        process = await asyncio.create_subprocess_exec(
            "podman", "exec", self.podman_name, *argv,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await process.wait()

    async def restart(self, grace_s: int) -> None:
        """End this run; ``run`` goes on with the next."""
        with contextlib.suppress(RuntimeError):  # it may have ended by itself
            await run("podman", "stop", f"--time={grace_s}", self.podman_name)

    async def stop(self, grace_s: int) -> None:
        """End it for good: TERM, and KILL after ``grace_s``."""
        self._stopping.set()
        with contextlib.suppress(RuntimeError):
            await run("podman", "stop", "--ignore", f"--time={grace_s}", self.podman_name)

    async def kill(self) -> None:
        """Do not wait for ``stop``'s grace."""
        with contextlib.suppress(RuntimeError):
            await run("podman", "kill", "--signal=KILL", self.podman_name)
