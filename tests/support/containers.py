"""Containers for tests: started with no more than the README asks for, bounded in time, spoken to over HTTP."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGINE = os.environ.get("CONTAINER_ENGINE", "podman")
TAG = os.environ.get("DYNAMO_ENTRY_TAG", "latest")
WORKER = f"localhost/dynamo-entry/worker:{TAG}"
TINY = ROOT / "images" / "engines" / "tiny" / "engine.py"

#: The longest any container of a test lives.
LIFE_S = 240

#: What the README asks for, and nothing else. A dump cannot run under a seccomp profile, a restore can;
#: but Docker's default profile lacks clone3.
LEAST = ("--cap-add", "CHECKPOINT_RESTORE", "--cap-add", "SYS_PTRACE")
CREATE = (*LEAST, "--security-opt", "seccomp=unconfined")
RESTORE = LEAST if ENGINE == "podman" else CREATE

#: The test machines have no CAP_SYS_RESOURCE; runc would fail to raise these.
MACHINE = ("--pids-limit=0", "--ulimit", "nofile=1024:20000", "--ulimit", "nproc=32768:32768")

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


@dataclass
class Container:
    """One running or ended container; its output is in files, readable at any time."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes]
    _pid: int = field(default=0)

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The launcher's log lines."""
        found = []
        for line in self.stderr.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                found.append(event)
        return found

    def event(self, name: str) -> dict[str, Any] | None:
        return next((event for event in self.events() if event["event"] == name), None)

    def wait_for_event(self, name: str, limit_s: float = 60) -> dict[str, Any]:
        return self.wait(lambda: self.event(name), f"event {name!r}", limit_s)

    def wait_for_text(self, text: str, limit_s: float = 60) -> None:
        self.wait(lambda: text in self.stdout + self.stderr, f"text {text!r}", limit_s)

    def wait(self, condition: Callable[[], Any], what: str, limit_s: float = 30) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            ended = self.process.poll()
            if time.monotonic() > deadline or (ended is not None and not condition()):
                raise AssertionError(f"no {what}; exit code {ended}\n{self.output()}")
            time.sleep(0.02)
        return found

    def output(self) -> str:
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def exit_code(self, limit_s: float = 60) -> int:
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running\n{self.output()}") from None

    @property
    def pid(self) -> int:
        """The host's pid of the container's PID 1."""
        if not self._pid:
            self._pid = self.wait(self._inspect_pid, "pid")
        return self._pid

    def _inspect_pid(self) -> int:
        done = subprocess.run(
            [ENGINE, "inspect", "--format", "{{.State.Pid}}", self.name],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(done.stdout.strip() or 0) if done.returncode == 0 else 0

    def get(self, path: str, port: int = 8000, limit_s: float = 30, body: bytes | None = None) -> bytes:
        """One HTTP request from inside the container's network namespace; waits until somebody listens."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                return self._request(path, port, body)
            except (ConnectionError, FileNotFoundError, http.client.HTTPException):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError(f"no answer to {path}\n{self.output()}") from None
                time.sleep(0.02)

    def json(self, path: str, **options: Any) -> Any:
        return json.loads(self.get(path, **options))

    def _request(self, path: str, port: int, body: bytes | None) -> bytes:
        outcome: list[Any] = []

        def ask() -> None:
            try:
                with open(f"/proc/{self.pid}/ns/net") as namespace:
                    if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {"Content-Type": "application/json"} if body else {}
                connection.request("POST" if body else "GET", path, body, headers)
                response = connection.getresponse()
                outcome.append((response.status, response.read()))
                connection.close()
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)  # a network namespace belongs to a thread
        thread.start()
        thread.join()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        status, data = outcome[0]
        assert status == 200, f"{path}: {status} {data[:500]!r}"
        return bytes(data)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def run_inside(self, *argv: str) -> str:
        """Run a command in the container and return its output."""
        done = subprocess.run(
            [ENGINE, "exec", self.name, *argv], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Host pid → command line of everything in the container's pid namespace."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for entry in os.listdir("/proc"):
            try:
                if entry.isdecimal() and os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                    found[int(entry)] = (
                        Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
            except OSError:
                continue
        return found

    def kill(self) -> None:
        subprocess.run(
            [ENGINE, "rm", "-f", *(("-t", "0") if ENGINE == "podman" else ()), self.name],
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.process.wait(30)


class Containers:
    """Starts containers and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.checkpoints.mkdir(mode=0o777, exist_ok=True)
        self._started: list[Container] = []

    def start(
        self,
        *command: str,
        image: str = WORKER,
        options: tuple[str, ...] = (),
        settings: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        volumes: tuple[str, ...] = (),
        network: str = "none",
        under: tuple[str, ...] = (),
    ) -> Container:
        """``under`` is a command that runs the engine's client, and so the container, in other surroundings."""
        name = f"dynamo-entry-test-{uuid.uuid4().hex[:12]}"
        directory = self.directory / name
        directory.mkdir()
        variables = {f"DYNAMO_CHECKPOINT_{key}": value for key, value in (settings or {}).items()} | (
            env or {}
        )
        argv = [
            "timeout", "-s", "KILL", str(LIFE_S + 30), *under, ENGINE, "run", "--rm", "--name", name,
            "--network", network, *MACHINE,
            # Killing the client would leave the container.
            *(("--runtime", "runc", f"--timeout={LIFE_S}") if ENGINE == "podman" else ()),
            "-v", f"{self.checkpoints}:/checkpoints", "-v", f"{TINY}:/tiny.py:ro",
            *(part for volume in volumes for part in ("-v", volume)),
            *(part for key, value in variables.items() for part in ("-e", f"{key}={value}")),
            *options, image, *command,
        ]  # fmt: skip
        with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        container = Container(name, directory, process)
        self._started.append(container)
        return container

    def close(self) -> None:
        for container in self._started:
            if container.process.poll() is None:
                container.kill()


@contextmanager
def network() -> Iterator[str]:
    """A bridge on which every container gets an IPv4 and an IPv6 address of its own."""
    tag = uuid.uuid4().hex[:8]
    third, group = int(tag[:2], 16), tag[:4]
    name = f"dynamo-entry-test-{tag}"
    subnets = ("--subnet", f"10.{200 + third % 50}.{third}.0/24", "--ipv6", "--subnet", f"fd00:{group}::/64")
    subprocess.run([ENGINE, "network", "create", *subnets, name], check=True, capture_output=True, timeout=60)
    try:
        yield name
    finally:
        subprocess.run([ENGINE, "network", "rm", "-f", name], check=False, capture_output=True, timeout=60)
