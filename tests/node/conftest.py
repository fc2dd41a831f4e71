"""Container runtimes of two Debian suites, which ``scripts/test node`` builds."""

import subprocess

import pytest
from containers import WORKER
from runtime import SANDBOX, SUITES, Runtime, image


@pytest.fixture(scope="session", params=SUITES)
def runtime(request, tmp_path_factory):
    """A Runtime that has the worker image."""
    for name in (image(request.param), SANDBOX, WORKER):
        if subprocess.run(["podman", "image", "exists", name], check=False).returncode:
            pytest.skip(f"needs the image {name}: scripts/test node")
    with Runtime(request.param, tmp_path_factory.mktemp("node")) as running:
        running.load(WORKER)
        yield running
