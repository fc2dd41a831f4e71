"""Operators as processes of this machine, with the settings and the rights that the chart gives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import Self

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "dynamo-entry"

#: What any of them lives at most.
LIFE_S = 1200

#: What the tests use in place of pods of the operator's own.
_LEFT_OUT = (
    "Deployment",
    "DaemonSet",
    "Service",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
)


def install(cluster: Any, namespace: str, values: dict[str, Any]) -> dict[str, Any]:
    """Apply the chart without its workloads; the operator's settings."""
    rendered = cluster.run(
        "helm", "template", "x", CHART, "-n", namespace, "--kube-version", cluster.version, "-f", "-",
        stdin=yaml.safe_dump(values),
    ).stdout  # fmt: skip
    objects = [one for one in yaml.safe_load_all(rendered) if one]
    kept = [one for one in objects if one["kind"] not in _LEFT_OUT]
    for where in {one["metadata"].get("namespace", namespace) for one in kept}:
        there = [one for one in kept if one["metadata"].get("namespace", namespace) == where]
        cluster.apply(*there, namespace=where)
    cluster.kubectl("wait", "--for=condition=Established", "crd/dynamocheckpoints.nvidia.com")
    (found,) = (one for one in objects if one["kind"] == "ConfigMap")
    settings: dict[str, Any] = yaml.safe_load(found["data"]["operator.yaml"])
    settings["webhook"]["enabled"] = False
    return settings


class Operator:
    """One replica. ``directory`` gets its settings and its log."""

    def __init__(self, cluster: Any, settings: dict[str, Any], directory: Path, name: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        operator = settings["operator"] | {"metricsPort": self.port}
        file = directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings | {"operator": operator}))
        kubeconfig = cluster.service_account_kubeconfig(operator["namespace"], operator["name"])
        self._environ = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": name,
            "PYTHONPATH": str(ROOT),
        }
        self._argv = [sys.executable, "-m", "dynamo_entry.kube", "operator", str(file)]
        self._log = directory / f"{name}.log"
        self.name = name

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                ["timeout", "--foreground", "-s", "KILL", str(LIFE_S), *self._argv],
                env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            for number in (signal.SIGCONT, signal.SIGKILL):
                self.send(number)
        self.process.wait()

    @property
    def pid(self) -> int:
        """Of the operator itself: `timeout` is its parent."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def log(self) -> str:
        return self._log.read_text()

    def metrics(self) -> dict[str, float]:
        """What it tells Prometheus; nothing while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}
