"""The images of the Kubernetes tests, which ``scripts/test kube`` builds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAG = os.environ.get("DYNAMO_ENTRY_TAG", "latest")
BASE = "localhost/dynamo-entry/base:trixie"
OPERATOR = f"localhost/dynamo-entry/operator:{TAG}"
DYNAMO = f"localhost/dynamo-entry/dynamo-vllm:{TAG}"

#: Whether the guide runs with ai-dynamo's own worker: `scripts/test kube-e2e`. Else with a stand-in, which is cold in seconds.
IS_REAL = os.environ.get("DYNAMO_ENTRY_WORKER") == "real"
WORKER = f"localhost/dynamo-entry/guide-worker:{TAG}" if IS_REAL else DYNAMO

#: What the node is made of, and what its pods are.
MACHINE = f"localhost/dynamo-entry/node:{TAG}"
SANDBOX = f"localhost/dynamo-entry/sandbox:{TAG}"
ON_THE_NODE = (BASE, OPERATOR, WORKER)

#: The image that the guide's YAML names → the one that is pulled.
GUIDE = {"nvcr.io/nvidia/ai-dynamo/dynamo-vllm:latest": WORKER}


def need(*images: str) -> None:
    """Skip the test where an image is missing, and say what builds it."""
    for image in images:
        if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
            pytest.skip(f"needs the image {image}: scripts/test {'kube-e2e' if IS_REAL else 'kube'}")
