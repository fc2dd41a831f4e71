"""Containers of the worker image, which ``scripts/test container`` builds."""

import shutil
import subprocess

import pytest
from containers import ENGINE, WORKER, Containers


@pytest.fixture(scope="session", autouse=True)
def worker_image():
    if shutil.which(ENGINE) is None:
        pytest.skip(f"needs {ENGINE}: scripts/test container")
    if subprocess.run([ENGINE, "image", "inspect", WORKER], capture_output=True, check=False).returncode:
        pytest.skip(f"needs the image {WORKER}: scripts/image worker")


@pytest.fixture
def containers(tmp_path):
    started = Containers(tmp_path)
    yield started
    started.close()
