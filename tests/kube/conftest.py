"""A real Kubernetes API for the tests below: one control plane and one node a session."""

import subprocess
import uuid

import pytest

from cluster.control_plane import ControlPlane, NotInstalled
from node.process import Node


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running ControlPlane; no node."""
    try:
        plane = ControlPlane(tmp_path_factory.mktemp("cluster"))
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with plane:
        yield plane


@pytest.fixture(scope="session")
def node(cluster, tmp_path_factory):
    """A Node that runs the pods of the cluster."""
    if subprocess.run(["podman", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("needs podman: scripts/test kube")
    with Node(cluster, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def namespace(cluster):
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
