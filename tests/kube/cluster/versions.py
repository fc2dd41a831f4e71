"""What the servers of a Kubernetes version are told, where versions differ: this project's own build, and others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any


def version_of(binaries: Path) -> str:
    """1.20.2, say."""
    argv = [binaries / "kube-apiserver", "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"v([0-9]+\.[0-9]+\.[0-9]+)", said)
    assert found, said
    return found[1]


def minor_of(version: str) -> int:
    """20 of 1.20.2."""
    return int(version.split(".")[1])


def gates(minor: int) -> dict[str, bool]:
    """What is on by default in the servers of today."""
    return ({"TTLAfterFinished": True} if minor < 21 else {}) | (
        {"ProcMountType": True} if minor < 33 else {}
    )


def gate_flags(minor: int) -> list[str]:
    """The same for a server's command line."""
    pairs = [f"{name}={str(value).lower()}" for name, value in gates(minor).items()]
    return [f"--feature-gates={','.join(pairs)}"] if pairs else []


def without_plain_http(minor: int) -> list[str]:
    """Controllers and scheduler had a second port, which two of them would fight for."""
    return ["--port=0"] if minor < 24 else []


def kubelet_flags(minor: int) -> list[str]:
    """That there is a runtime at all had to be said."""
    return ["--container-runtime=remote"] if minor < 24 else []


def kubelet_settings(minor: int) -> dict[str, Any]:
    """Of the kubelet's configuration file. Where the tests run, control groups may be of version 1."""
    features = {"featureGates": {name: True for name in gates(minor) if name == "ProcMountType"}}
    return features | ({"failCgroupV1": False} if minor >= 31 else {})
